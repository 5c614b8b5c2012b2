"""The table of `inspect`: measured values, and what it says."""

from pathlib import Path

import numpy as np
import xarray as xr

from datasets.describe import Description, describe
from datasets.maps.geometry import geometry
from datasets.statistics import read_summary
from datasets.store import open_volume, write_volume


def described(path: Path) -> Description:
    summary = read_summary(path)
    assert summary is not None
    ds = open_volume(path)
    return describe(path, ds, summary, geometry(ds).crs)


def test_measures_and_prints(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    values[0, 0, 0] = np.nan
    valid = np.ones(values.shape, bool)
    valid[1, 2, 3] = False
    attrs = {"class_names": ["rock", "water"], "class_values": [4, 7], "unlabelled": 255}
    ds = xr.Dataset(
        {
            "data": (("time", "y", "x"), values, {"long_name": "NDVI", "units": "mV"}),
            "valid": (("time", "y", "x"), valid),
            "labels": (("y", "x"), np.array([[0, 1, 1, 255]] * 3, np.uint8), attrs),
            "wells": (("well", "axis"), np.array([[0, 1]])),
        },
        coords={
            "time": np.array(["2020-01-01", "2020-03-01"], "datetime64[ns]"),
            "y": ("y", [0, 10, 20], {"units": "m"}),
            "x": ("x", np.arange(4), {"names": ["a", "b", "c", "d"]}),
            "spatial_ref": ((), 0, {"projected_crs_name": "WGS 84 / UTM zone 33N"}),
        },
        attrs={"title": "Test survey", "source": "cube.npy", "licence": "CC0"},
    )
    description = described(write_volume(ds, tmp_path / "v.zarr", chunks={"y": 2}))
    held = values.ravel()[1:-1].astype(np.float64)
    assert description.valid_share == 22 / 24
    assert (description.minimum, description.maximum) == (1, 22)
    np.testing.assert_allclose((description.mean, description.deviation), (held.mean(), held.std()))
    assert description.chunks == [2, 2, 4]
    assert description.labels is not None
    assert description.labels.counts == {"rock": 3, "water": 6}
    assert description.labels.unlabelled == 3
    text = str(description)
    for words in (
        "Test survey",
        "CC0",
        "time 2 x y 3 x x 4",
        "2020-01-01 to 2020-03-01",
        "0 to 20 m, step 10",
        "a, b, c, d",
        "WGS 84 / UTM zone 33N",
        "NDVI, in mV",
        "chunks 2 x 2 x 4",
        "8.33% of 24 cells",
        "(y, x) 9 cells labelled, 75.00%",
        "6 (66.67%)",
    ):
        assert words in text
    assert "labels" in str(described(write_volume(ds.drop_vars("labels"), tmp_path / "u.zarr")))


def test_an_empty_volume_is_described(tmp_path: Path) -> None:
    ds = xr.Dataset({"data": ("x", np.full(5, np.nan))})
    description = described(write_volume(ds, tmp_path / "v.zarr"))
    assert description.valid_share == 0
    assert "100.00% of 5 cells" in str(description)
