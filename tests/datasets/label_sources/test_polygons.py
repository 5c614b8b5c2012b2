"""Labels from polygons, against point-in-polygon tests by shapely and files written by GDAL."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import Transformer

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.store import open_volume

TRIANGLE = [[500002.0, 5000003.0], [500071.0, 5000012.0], [500033.0, 5000058.0], [500002.0, 5000003.0]]
SQUARE = [
    [500050.0, 5000030.0],
    [500079.0, 5000030.0],
    [500079.0, 5000059.0],
    [500050.0, 5000059.0],
    [500050.0, 5000030.0],
]
CLASSES = {7: "granite", 3: "basalt"}


def geojson(path: Path, rings: list, classes: list, crs: str = "EPSG:32633", kind: str = "Polygon") -> str:
    features = [
        {"type": "Feature", "properties": {"unit": unit}, "geometry": {"type": kind, "coordinates": [ring]}}
        for ring, unit in zip(rings, classes, strict=True)
    ]
    content = {"type": "FeatureCollection", "features": features}
    if crs:
        content["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(content))
    return str(path)


def inside(ring: list) -> np.ndarray:
    """Cells whose centre is within a ring."""
    x, y = np.meshgrid(500005 + 10 * np.arange(8), 5000055 - 10 * np.arange(6))
    return np.asarray(shapely.contains_xy(shapely.Polygon(ring), x, y))


def labels_of(config: ConvertConfig) -> np.ndarray:
    labels = open_volume(convert(config))["labels"]
    assert labels.dims == ("y", "x")
    assert labels.attrs["class_names"] == ["granite", "basalt"]
    return labels.values


@pytest.fixture
def mapped(survey: ConvertConfig, tmp_path: Path) -> ConvertConfig:
    path = geojson(tmp_path / "map.geojson", [TRIANGLE, SQUARE], ["granite", 3])
    return replace(survey, labels=path, labels_key="unit", class_names=CLASSES)


def test_centres_count_and_the_later_polygon_wins(mapped: ConvertConfig) -> None:
    expected = np.where(inside(SQUARE), 1, np.where(inside(TRIANGLE), 0, 255))
    assert np.unique(expected).tolist() == [0, 1, 255]
    np.testing.assert_array_equal(labels_of(mapped), expected)
    touched = labels_of(replace(mapped, label_touched=True))
    assert ((touched != 255) >= (expected != 255)).all()
    assert (touched != 255).sum() > (expected != 255).sum()


def test_south_up_rows_are_placed_as_well(mapped: ConvertConfig) -> None:
    turned = replace(mapped, coordinates={**mapped.coordinates, "y": "5000005:10"})
    np.testing.assert_array_equal(labels_of(turned), labels_of(mapped)[::-1])


def test_degrees_are_what_geojson_is_in(mapped: ConvertConfig, tmp_path: Path) -> None:
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    rings = [[list(to_degrees.transform(*point)) for point in ring] for ring in (TRIANGLE, SQUARE)]
    path = geojson(tmp_path / "degrees.geojson", rings, [7, "basalt"], crs="")
    np.testing.assert_array_equal(labels_of(replace(mapped, labels=path)), labels_of(mapped))


def test_geopackage(mapped: ConvertConfig, tmp_path: Path) -> None:
    to_zone = Transformer.from_crs(32633, 32634, always_xy=True)
    rings = [np.stack(to_zone.transform(*np.transpose(ring)), 1) for ring in (TRIANGLE, SQUARE)]
    shapes = np.array([shapely.MultiPolygon([shapely.Polygon(ring)]) for ring in rings])
    path = tmp_path / "map.gpkg"
    fields = [np.array(["granite", "basalt"], object)]
    pyogrio.raw.write(path, shapely.to_wkb(shapes), fields, ["unit"], crs="EPSG:32634", geometry_type="MultiPolygon")
    np.testing.assert_array_equal(labels_of(replace(mapped, labels=str(path))), labels_of(mapped))
    pyogrio.raw.write(
        path, shapely.to_wkb(shapes), fields, ["unit"], crs="EPSG:32634", geometry_type="MultiPolygon",
        layer="other", append=True,
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"map\.gpkg holds the layers map, other; save the one of the labels by itself"
    ):
        convert(replace(mapped, labels=str(path)))
    path.write_text("nothing")
    with pytest.raises(InputError, match=r"map\.gpkg is not a GeoPackage that can be read"):
        convert(replace(mapped, labels=str(path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rings": []}, r"map\.geojson holds no polygons; check the file"),
        ({"kind": "LineString"}, r"map\.geojson holds LineString, where polygons are needed"),
        ({"classes": ["granite", "gneiss"]}, r"unit of .*map\.geojson holds the class 'gneiss', but class_names has"),
        ({"crs": ""}, r"map\.geojson does not say its CRS, and x 500002 to 500079, .* are no degrees; set labels_crs"),
        (
            {"crs": "EPSG:32634"},
            r"none of the 2 polygons of .*map\.geojson covers a cell: they lie at x .* \(EPSG:32633\)",
        ),
        ({"crs": "EPSG:1"}, r"the CRS of .*map\.geojson is 'EPSG:1', which is no coordinate reference system"),
    ],
)
def test_broken_polygons(mapped: ConvertConfig, tmp_path: Path, change: dict, message: str) -> None:
    plain = {"rings": [TRIANGLE, SQUARE], "classes": [7, 3]} | change
    plain["classes"] = plain["classes"][: len(plain["rings"])]
    if plain.get("kind") == "LineString":
        plain["rings"] = [[0, 0], [1, 1]]
    geojson(tmp_path / "map.geojson", **plain)
    with pytest.raises(InputError, match=message):
        convert(mapped)


def test_broken_settings(mapped: ConvertConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"map\.geojson has no attribute 'rock'; set labels_key .* one of: unit"):
        convert(replace(mapped, labels_key="rock"))
    with pytest.raises(InputError, match=r"map\.geojson is in EPSG:32633, but the volume has no CRS; set crs"):
        convert(replace(mapped, crs=""))
    with pytest.raises(
        InputError, match=r"needs the coordinates x and y, but the data have \['twt', 'spatial_ref'\]; give them with"
    ):
        convert(replace(mapped, coordinates={"twt": "0:4"}))
    with pytest.raises(InputError, match=r"x and y are up to .* off a grid of .*; resample the source"):
        convert(replace(mapped, coordinates={**mapped.coordinates, "x": [0, 1, 2, 3, 9, 10, 11, 12]}))
    with pytest.raises(
        InputError, match=r"unit of .* holds the classes 'granite', 3; name the classes with class_names"
    ):
        convert(replace(mapped, class_names={}))
    (tmp_path / "map.geojson").write_text("{")
    with pytest.raises(InputError, match=r"map\.geojson is not GeoJSON that can be read"):
        convert(mapped)


def test_real_outline_covers_its_own_scene(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "timelapse"
    outline = json.loads((folder / "bbox.geojson").read_text())
    west, south = np.min(outline["coordinates"][0], axis=0)
    half = shapely.box(west, south, west + 500, south + 1010)
    path = geojson(tmp_path / "half.geojson", [shapely.geometry.mapping(half)["coordinates"][0]], [7])
    config = ConvertConfig(
        source=str(folder / "NDVI.npy"), out=str(tmp_path / "t.zarr"), dims=["time", "y", "x"], crs="EPSG:32633",
        extent=str(folder / "bbox.geojson"), labels=path, labels_key="unit", class_names={7: "west"},
    )  # fmt: skip
    labels = open_volume(convert(config))["labels"].values
    expected = np.full((101, 100), 255)
    expected[:, :50] = 0
    np.testing.assert_array_equal(labels, expected)
