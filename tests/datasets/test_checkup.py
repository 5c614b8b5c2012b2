"""Every check finds the fault that is planted for it, and nothing in a volume without faults."""

from collections.abc import Callable

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from datasets.checkup import check_classes, check_layout, check_values
from datasets.maps.geometry import geometry
from datasets.measures.measuring import Gathered, Measuring
from datasets.measures.summary import summarise

CRS = {"projected_crs_name": "WGS 84 / UTM zone 33N", "geographic_crs_name": "WGS 84"}


def scene() -> xr.Dataset:
    """Three bands of a sound map, float32."""
    values = np.random.default_rng(0).normal(100, 10, (3, 40, 50)).astype(np.float32)
    return xr.Dataset(
        {"data": (("band", "y", "x"), values)},
        {
            "y": ("y", 5_000_000.0 - 20 * np.arange(40), {"units": "m"}),
            "x": ("x", 400_000.0 + 20 * np.arange(50), {"units": "m"}),
            "spatial_ref": ((), 0, CRS),
        },
    )


def cube(turn: float = 30.0, bin_: tuple[float, float] = (25.0, 12.5)) -> xr.Dataset:
    """A sound seismic cube whose inlines follow each other towards `turn` degrees, float32."""
    values = np.random.default_rng(1).normal(0, 10, (20, 30, 40)).astype(np.float32)
    row, column = np.meshgrid(np.arange(20) * bin_[0], np.arange(30) * bin_[1], indexing="ij")
    angle = np.deg2rad(turn)
    x = 4e5 + row * np.sin(angle) + column * np.cos(angle)
    y = 6e6 + row * np.cos(angle) - column * np.sin(angle)
    flat = ("inline", "crossline")
    return xr.Dataset(
        {"data": ((*flat, "twt"), values)},
        {
            "inline": np.arange(100, 120),
            "crossline": np.arange(300, 330),
            "twt": ("twt", np.arange(40) * 4.0, {"units": "ms"}),
            "x": (flat, x.round(1), {"units": "m"}),
            "y": (flat, y.round(1), {"units": "m"}),
            "spatial_ref": ((), 0, CRS),
        },
    )


def found(ds: xr.Dataset) -> list[tuple[str, str, str]]:
    data = ds["data"]
    plan = Measuring.of(data)
    where = {str(dim): slice(0, size) for dim, size in data.sizes.items()}
    valid = ds["valid"].values if "valid" in ds else None
    summary = summarise(plan, Gathered.of(plan, [(where, plan.measure(data.values, valid, where))]))
    return [(finding.check, finding.text, finding.way_out) for finding in check_values(summary, geometry(ds))]


@pytest.mark.parametrize("make", [scene, cube])
def test_nothing_is_wrong_with_what_is_sound(make: Callable[[], xr.Dataset]) -> None:
    assert found(make()) == []


def plant(ds: xr.Dataset, what: str) -> xr.Dataset:
    values = ds["data"].values
    if what == "empty band":
        values[1] = np.nan
    elif what == "constant band":
        values[1] = 7
    elif what == "fill value":
        values[2, :4, :4] = -9999
    elif what == "unusual fill value":
        values[0, :6] = 4000
    elif what == "clipped":
        np.minimum(values, 110, out=values)
    elif what == "no crs":
        ds = ds.drop_vars("spatial_ref")
    elif what == "degrees":
        ds["spatial_ref"].attrs = {"geographic_crs_name": "WGS 84"}
    elif what == "uneven":
        ds = ds.assign_coords(x=("x", np.cumsum(np.linspace(10, 30, 50)), {"units": "m"}))
    elif what == "oblong":
        ds = ds.assign_coords(x=("x", 400_000.0 + 200 * np.arange(50), {"units": "m"}))
    elif what == "unmeasured":
        ds = ds.drop_vars("x")
    elif what == "dead pixel":
        values[:, 3, 4] = 100
    return ds


@pytest.mark.parametrize(
    ("what", "check", "text", "way_out"),
    [
        ("empty band", "no data", "band 1 hold no data at all", "leave them out of the source"),
        ("constant band", "constant", "band 1 hold one value throughout", "check the source"),
        ("fill value", "no-data value", "16 cells hold -9999, far from all others (in band 2)", "nodata: -9999 if"),
        ("unusual fill value", "no-data value", "300 cells hold 4000, far from all others (in band 0)", "nodata: 4000"),
        (
            "clipped",
            "clipping",
            "of the cells lie exactly at the maximum 110 (in band 0; band 1; band 2)",
            "nodata: 110",
        ),
        ("no crs", "CRS", "positions without a coordinate reference system", "convert with crs"),
        ("degrees", "CRS", "cells are measured in degrees (WGS 84)", "reproject the source"),
        ("uneven", "geometry", "the steps along x go from 10.4082 to 30 m", "resample the source to even steps"),
        ("oblong", "geometry", "cells are 20 x 200 m (y x x)", "resample"),
        ("unmeasured", "geometry", "nothing says how far apart cells are along x,", "coordinate_units"),
        ("dead pixel", "dead traces", "1 of 2,000 columns of cells (0.05%) never change", "mask them"),
    ],
)
def test_a_fault_of_a_map_is_found(what: str, check: str, text: str, way_out: str) -> None:
    findings = found(plant(scene(), what))
    assert any(check == a and text in b and way_out in c for a, b, c in findings), findings
    assert len(findings) == 1 + (what == "clipped"), findings  # what is clipped in all bands does not change either


def test_faults_of_a_cube_are_found() -> None:
    ds = cube()
    ds["data"].values[4:6, 7] = 0
    ((check, text, way_out),) = found(ds)
    assert check == "dead traces"
    assert text.startswith(
        "2 of 600 traces (0.33%) never change but count as data; the first is at cell inline 4, cross"
    )
    assert "name their value as nodata" in way_out
    ds["valid"] = xr.ones_like(ds["data"], bool)
    ds["valid"].values[4:6, 7] = False
    assert found(ds) == []
    unlikely = cube().assign_coords(twt=("twt", np.arange(40) * 0.004, {"units": "ms"}))
    ((_, text, way_out),) = found(unlikely)
    assert text == "cells of 0.004 ms along twt are unusual"
    assert "coordinates, such as {twt: '0:4'}" in way_out
    ((_, text, way_out),) = found(cube(bin_=(12500.0, 12500.0)))
    assert text == "cells of 12500 x 12500 m are unusual"
    assert "bytes 71-72" in way_out
    ds = cube()
    ds["y"].values[10:] += 300
    ((_, text, way_out),) = found(ds)
    assert text == "positions jump along inline"
    ds = cube()
    ds["x"].values[:] += np.arange(20)[:, None] * 5
    assert ["apart, not 90" in text for _, text, _ in found(ds)] == [True]


def test_what_is_clipped_is_not_called_no_data_twice() -> None:
    ds = scene()
    ds["data"].values[:, :10] = -9999
    assert [check for check, _, _ in found(ds)] == ["dead traces", "no-data value"][::-1]


def test_chunks_that_are_large_or_very_many() -> None:
    data = xr.DataArray(da.zeros((2000, 1000, 500), dtype=np.float32), dims=("inline", "crossline", "twt"))
    data.encoding = {"chunks": (96, 96, 96), "shards": (192, 192, 192)}
    assert check_layout(data) == []
    data.encoding = {"chunks": (500, 500, 500)}
    assert [finding.text for finding in check_layout(data)] == ["a chunk is 477 MiB, the least that any block reads"]
    data.encoding = {"chunks": (20, 20, 20)}
    assert check_layout(data)[0].text.startswith("the data are 125,000 objects of the store, which is slow")


def test_geometry_in_words() -> None:
    where = geometry(cube(turn=30.0))
    assert where.azimuth["inline"] == pytest.approx(30, abs=0.2)
    assert where.azimuth["crossline"] == pytest.approx(120, abs=0.2)
    assert where.cell["inline"] == pytest.approx(25, abs=0.2)
    lines = dict(where.lines({"inline": 20, "crossline": 30, "twt": 40}))
    assert lines["cell"].endswith("4 ms along twt")
    assert lines["extent"].endswith(" x 160 ms")
    assert "(north-east)" in lines["orientation"]
    lines = dict(geometry(scene()).lines({"y": 40, "x": 50}))
    assert lines == {
        "cell": "20 m along y, 20 m along x",
        "extent": "800 m x 1000 m",
        "orientation": "y towards south, x towards east",
    }


def test_classes_without_a_cell_are_told() -> None:
    ((check, text, way_out),) = [vars(finding).values() for finding in check_classes({"a": 3, "b": 0, "c": 0})]
    assert (check, text) == ("labels", "no cell is labelled b; c")
    assert "units and sign of picks" in way_out
    assert check_classes({"a": 1}) == []
