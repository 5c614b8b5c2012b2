"""A small volume for the tests of the cloud store."""

import numpy as np
import xarray as xr

EDGES = {"inline": 16, "crossline": 16, "depth": 16}


def survey(size: int = 40) -> xr.Dataset:
    draw = np.random.default_rng(0)
    values = draw.normal(0, 1, (size, size, size)).astype(np.float32)
    dims = ("inline", "crossline", "depth")
    return xr.Dataset(
        {
            "data": (dims, values, {"units": "mV"}),
            "valid": (dims, values > -2.5),
            "labels": (dims, (values > 0).astype(np.uint8), {"class_names": ["rock", "salt"]}),
        },
        coords={"depth": ("depth", np.arange(size) * 4.0, {"units": "m"}), "spatial_ref": ((), 0, {"crs_wkt": "X"})},
        attrs={"title": "a survey"},
    )
