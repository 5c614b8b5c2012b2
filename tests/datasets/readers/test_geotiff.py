"""What a GeoTIFF says of itself: its mask, and where on the map its cells lie."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.store import open_volume


def geotiff(path: Path, bands: np.ndarray, west: float = 100, north: float = 9, step: float = 1, **how: object) -> str:
    """Write bands [band, y, x], from the north on, or from the south with a negative step."""
    count, height, width = bands.shape
    options = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": bands.dtype, **how}
    with rasterio.open(path, "w", transform=from_origin(west, north, 1, step), **options) as file:
        file.write(bands)
    return str(path)


@pytest.mark.parametrize("option", ["labels", "valid"])
@pytest.mark.parametrize(
    "place",
    [{"west": 104}, {"west": 101}, {"north": 6, "step": -1}, {"north": 9.5}, {"crs": "EPSG:32733", "north": 1},
     {"crs": "EPSG:32634"}, {"crs": "EPSG:4326"}],
)  # fmt: skip
def test_arrays_that_say_they_lie_elsewhere_are_refused(tmp_path: Path, option: str, place: dict) -> None:
    crs = {"crs": "EPSG:32633"}
    source = geotiff(tmp_path / "scene.tif", np.ones((2, 3, 4), np.float32), **crs)
    other = geotiff(tmp_path / "other.tif", np.ones((1, 3, 4), np.uint8), **{**crs, **place})
    names = {"class_names": {1: "a"}} if option == "labels" else {}
    config = ConvertConfig(source=source, out=str(tmp_path / "t.zarr"), **{option: other}, **names)
    dims = {"label_dims": ["y", "x"]} if option == "labels" else {"valid_dims": ["y", "x"]}
    with pytest.raises(InputError, match=rf"the {option} in .*other\.tif lie on other cells, x .* bring them to the"):
        convert(replace(config, **dims))
    assert not (tmp_path / "t.zarr").exists()


@pytest.mark.parametrize("crs", ["EPSG:25833", "+proj=utm +zone=33 +ellps=WGS84 +units=m"])
def test_the_same_cells_under_another_name_of_their_system_are_taken(tmp_path: Path, crs: str) -> None:
    source = geotiff(tmp_path / "scene.tif", np.ones((2, 3, 4), np.float32), west=5e5, north=5e6, crs="EPSG:32633")
    labels = geotiff(tmp_path / "labels.tif", np.ones((1, 3, 4), np.uint8), west=5e5, north=5e6, crs=crs)
    config = ConvertConfig(source, labels=labels, class_names={1: "a"}, label_dims=["y", "x"])
    assert (open_volume(convert(replace(config, out=str(tmp_path / "t.zarr"))))["labels"] == 0).all()


def test_labels_of_rows_and_columns_fit_data_of_columns_and_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
    config = ConvertConfig(
        str(tmp_path / "cube.npy"), out=str(tmp_path / "t.zarr"), dims=["x", "y"], crs="EPSG:32633",
        coordinates={"x": "100.5:1", "y": "8.5:-1"}, class_names={0: "a", 1: "b"}, label_dims=["y", "x"],
        labels=geotiff(tmp_path / "labels.tif", labels[None], crs="EPSG:32633"),
    )  # fmt: skip
    np.testing.assert_array_equal(open_volume(convert(config))["labels"].transpose("y", "x"), labels)


def test_labels_on_the_cells_of_the_data_or_that_do_not_say_where_are_taken(tmp_path: Path) -> None:
    source = geotiff(tmp_path / "scene.tif", np.ones((2, 3, 4), np.float32), crs="EPSG:32633")
    for name, where in (("same", {"crs": "EPSG:32633"}), ("silent", {"west": 0})):
        labels = geotiff(tmp_path / f"{name}.tif", np.ones((1, 3, 4), np.uint8), **where)
        config = ConvertConfig(
            source=source,
            out=str(tmp_path / f"{name}.zarr"),
            labels=labels,
            label_dims=["y", "x"],
            class_names={1: "a"},
        )
        assert (open_volume(convert(config))["labels"] == 0).all()


def test_a_fourth_band_is_no_mask(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 3, (4, 3, 4)).astype(np.uint8)
    source = geotiff(tmp_path / "scene.tif", bands, crs="EPSG:32633")
    assert "valid" not in open_volume(convert(ConvertConfig(source, out=str(tmp_path / "t.zarr"))))


def test_a_geotiffs_own_mask_says_where_there_is_no_data(tmp_path: Path) -> None:
    source = geotiff(tmp_path / "scene.tif", np.ones((2, 3, 4), np.float32), crs="EPSG:32633")
    mask = np.ones((3, 4), bool)
    mask[0, 1:3] = False
    with rasterio.open(source, "r+") as file:
        file.write_mask(mask)
    np.testing.assert_array_equal(
        open_volume(convert(ConvertConfig(source, out=str(tmp_path / "t.zarr"))))["valid"], [mask, mask]
    )
