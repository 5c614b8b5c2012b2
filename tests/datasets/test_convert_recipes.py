"""The recipes of the real sets: each converts, and what the sets are known for is in the volume."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import yaml

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.store import open_volume

RECIPES = Path(__file__).parents[2] / "pipeline" / "recipes" / "convert"
DATA = "../shared/data"


def converted(name: str, shared_data: Path, tmp_path: Path) -> xr.Dataset:
    """Convert by a recipe, wherever the real data lie."""
    text = (RECIPES / f"{name}.yaml").read_text().replace(DATA, os.fspath(shared_data))
    recipe = ConvertConfig(**yaml.safe_load(text))
    assert recipe.out == f"surveys/{name}.zarr"
    recipe.out = str(tmp_path / f"{name}.zarr")
    return open_volume(convert(recipe)).load()


def test_every_recipe_is_tried_here() -> None:
    tried = {
        "indian-pines",
        "timelapse",
        "parihaka",
        "samson",
        "taizhou",
        "volve",
        "tempest",
        "broken-hill",
        "wisconsin",
    }
    assert {path.stem for path in RECIPES.glob("*.yaml")} == tried


def test_timelapse(shared_data: Path, tmp_path: Path) -> None:
    ds = converted("timelapse", shared_data, tmp_path)
    folder = shared_data / "timelapse"
    np.testing.assert_array_equal(ds["data"].values, np.load(folder / "NDVI.npy")[..., 0])
    np.testing.assert_array_equal(ds["valid"].values, np.load(folder / "IS_VALID.npy")[..., 0])
    assert np.bincount(ds["labels"].values.ravel())[[0, 1, 2, 3, 4, 255]].tolist() == [11, 7601, 1777, 358, 198, 155]
    times = json.loads((folder / "timestamps.json").read_text())
    assert ds["time"].values.astype("datetime64[s]").astype(str).tolist() == times
    corners = np.array(json.loads((folder / "bbox.geojson").read_text())["coordinates"][0])
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    half_x, half_y = (east - west) / 200, (north - south) / 202
    np.testing.assert_allclose(ds["x"][[0, -1]], [west + half_x, east - half_x], rtol=1e-12)
    np.testing.assert_allclose(ds["y"][[0, -1]], [north - half_y, south + half_y], rtol=1e-12)
    assert "UTM zone 33N" in ds["spatial_ref"].attrs["crs_wkt"]


def test_parihaka(shared_data: Path, tmp_path: Path) -> None:
    ds = converted("parihaka", shared_data, tmp_path)
    with np.load(shared_data / "seismic" / "parihaka_west.npz") as source:
        np.testing.assert_array_equal(ds["data"].values, source["amplitude"].transpose(1, 2, 0))
        np.testing.assert_array_equal(ds["labels"].values, source["labels"].transpose(1, 2, 0))
    assert ds["data"].dims == ds["labels"].dims == ds["valid"].dims == ("inline", "crossline", "time")
    missing = ~ds["valid"].values
    assert np.flatnonzero(missing.all(axis=(0, 1))).tolist() == [14, 15, 16, 65, 81, 98, 108, 158]
    assert missing.mean() == 8 / 160
    assert "states no licence" in ds.attrs["licence"]


def test_taizhou(shared_data: Path, tmp_path: Path) -> None:
    ds = converted("taizhou", shared_data, tmp_path)
    assert dict(ds["data"].sizes) == {"date": 2, "band": 6, "y": 400, "x": 400}
    assert np.bincount(ds["labels"].values.ravel())[[0, 1]].tolist() == [17163, 4227]


@pytest.mark.parametrize("name", ["samson", "volve", "tempest", "broken-hill"])
def test_the_others_convert_with_units_and_licence(shared_data: Path, tmp_path: Path, name: str) -> None:
    ds = converted(name, shared_data, tmp_path)
    assert ds.attrs["licence"] != "not stated"
    assert ds["data"].attrs["long_name"]
    assert ("spatial_ref" in ds.coords) == (name in ("volve", "tempest"))
    if name == "broken-hill":
        assert "no licence stated" in ds.attrs["licence"]
        assert (ds["data"].shape, ds["x"].attrs["units"]) == ((467, 399), "m")


def test_lines_beside_a_raster(shared_data: Path, tmp_path: Path) -> None:
    ds = converted("wisconsin", shared_data, tmp_path)
    readings = ["ELEVATION", "RHO_I[4]", "RHO_I[12]", "RHO_I[20]", "RHO_I[28]"]
    assert ds["band"].attrs["names"] == ["bedrock_depth", *readings]
    with rasterio.open(shared_data / "airborne" / "bedrock_depth.tif") as file:
        np.testing.assert_array_equal(ds["data"].values[0], file.read(1))
        np.testing.assert_array_equal(ds["valid"].values[0], file.read(1) != file.nodata)
        table = pd.read_csv(shared_data / "airborne" / "skytem_inverted_models.csv")
        rows, columns = rasterio.transform.rowcol(file.transform, table["E_N83WTM"], table["N_N83WTM"])
    inside = (rows >= 0) & (rows < ds.sizes["y"]) & (columns >= 0) & (columns < ds.sizes["x"])
    assert inside.mean() > 0.9
    at = ds.isel(y=("reading", rows[inside].astype(int)), x=("reading", columns[inside].astype(int)))
    for band, name in enumerate(readings, start=1):
        known = at["valid"].values[band]
        assert known.mean() > 0.95
        found, read = np.log(at["data"].values[band][known]), np.log(table[name].to_numpy()[inside][known])
        assert np.corrcoef(found, read)[0, 1] > 0.97
    assert ds.attrs["gridding"].startswith(
        "bands 2 to 6 (skytem_inverted_models.csv): onto the cells of bedrock_depth.tif, medians of cells of 100"
    )
