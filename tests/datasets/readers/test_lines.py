"""Flight lines: values against the files themselves, positions against PROJ, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyproj import Transformer

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.maps.tables import read_table
from datasets.readers import aseg_gdf
from datasets.store import open_volume


@pytest.fixture
def flown(tmp_path: Path) -> ConvertConfig:
    """Three lines of seven readings, 10 m apart, one in each cell; the value is x + 100 y."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(5.0, 75, 10), np.arange(5.0, 35, 10)))
    table = pd.DataFrame({"Line": y, "Easting": x, "Northing": y, "mag": x + 100 * y, "em[0]": x, "em[1]": y})
    table.to_csv(tmp_path / "lines.csv", index=False)
    return ConvertConfig(
        source=str(tmp_path / "lines.csv"), out=str(tmp_path / "lines.zarr"), columns=["mag"], crs="EPSG:32633",
        cell_size=10.0, blank_distance=1.0, overwrite=True,
    )  # fmt: skip


def test_bands_and_layers(flown: ConvertConfig) -> None:
    ds = open_volume(convert(flown)).load()
    assert ds["data"].dims == ("band", "y", "x")
    assert ds["band"].attrs["names"] == ["mag"]
    np.testing.assert_allclose(ds["data"].values[0], ds["x"].values + 100 * ds["y"].values[:, None])
    assert ds["y"].values.tolist() == [25, 15, 5]
    assert ds.attrs["gridding"] == (
        "medians of cells of 10, linear between them, 21 of 21 readings; no data farther than 1 from any"
    )
    ds = open_volume(convert(replace(flown, columns=["em"], nodata=25.0))).load()
    assert ds["data"].dims == ("layer", "y", "x")
    assert ds["valid"].values[0].all(axis=0).tolist() == [True, True, False, True, True, True, True]
    ds = open_volume(convert(replace(flown, columns=["mag", "em"])))
    assert ds["band"].attrs["names"] == ["mag", "em[0]", "em[1]"]


def test_geosoft_xyz(flown: ConvertConfig, tmp_path: Path) -> None:
    rows = pd.read_csv(flown.source)
    text = ["/ exported", "/ X Y MAG"]
    for line, part in rows.groupby("Line"):
        text.append(f"LINE {line:g}" if line > 5 else f"tie {line:g}")
        text += [f"  {r.Easting:.2f} {r.Northing:.2f} {'*' if r.mag == 1505 else r.mag}" for r in part.itertuples()]
    path = tmp_path / "lines.xyz"
    path.write_text("\n".join(text))
    assert read_table(path, [], "table_columns").columns.tolist() == ["X", "Y", "MAG"]
    ds = open_volume(convert(replace(flown, source=str(path)))).load()
    plain = open_volume(convert(flown)).load()
    assert np.argwhere(~ds["valid"].values).tolist() == [[0, 1, 0]]
    np.testing.assert_array_equal(ds["data"].values[ds["valid"].values], plain["data"].values[ds["valid"].values])
    path.write_text("\n".join(text[2:]))
    with pytest.raises(
        InputError, match=r"lines\.xyz does not name its columns; name its 3 columns with table_columns"
    ):
        convert(replace(flown, source=str(path)))
    named = open_volume(convert(replace(flown, source=str(path), table_columns=["x", "y", "mag"]))).load()
    np.testing.assert_array_equal(named["data"].values, ds["data"].values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": []}, r"columns is empty; name the readings of .*lines\.csv to grid"),
        (
            {"columns": ["tmi"]},
            r"lines\.csv has no column tmi; its columns are Line, Easting, .*; name the right one with c",
        ),
        ({"xy_columns": ["e", "n"]}, r"lines\.csv has no column e; .* name the right one with xy_columns"),
        ({"xy_columns": ["e"]}, r"xy_columns is \['e'\]; name two columns"),
        ({"crs": ""}, r"crs is empty; name the coordinate system to grid .*lines\.csv in"),
        ({"lines_crs": "EPSG:0"}, r"lines_crs is 'EPSG:0', which is no coordinate reference system"),
        ({"cell_size": None}, r"cell_size is None; gridding .*lines\.csv needs it, in the units of crs, above 0"),
        ({"blank_distance": -1.0}, r"blank_distance is -1\.0; gridding .* cells farther than that"),
        ({"blank_distance": 1e-9, "cell_size": 7.0}, r"no cell of 7 lies within blank_distance 1e-09 of a reading"),
        ({"nodata": 25.0, "columns": ["Line"], "source": "one"}, r"has no reading of Line; check columns and nodata"),
    ],
)
def test_broken_settings(flown: ConvertConfig, tmp_path: Path, change: dict, message: str) -> None:
    if change.get("source"):
        (tmp_path / "one.csv").write_text("x,y,Line\n1,1,25\n2,2,25\n")
        change = change | {"source": str(tmp_path / "one.csv")}
    with pytest.raises(InputError, match=message):
        convert(replace(flown, **change))


def test_degrees_need_their_system(flown: ConvertConfig, tmp_path: Path) -> None:
    rows = pd.read_csv(flown.source)
    east, north = rows["Easting"] + 5e5, rows["Northing"] + 5e6
    rows["Easting"], rows["Northing"] = Transformer.from_crs(32633, 4326, always_xy=True).transform(east, north)
    path = tmp_path / "degrees.csv.gz"
    rows.rename(columns={"Easting": "longitude", "Northing": "latitude"}).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"gives positions as longitude and latitude; set lines_crs"):
        convert(replace(flown, source=str(path)))
    flown = replace(flown, gridding="nearest")
    ds = open_volume(convert(replace(flown, source=str(path), lines_crs="EPSG:4326"))).load()
    plain = open_volume(convert(flown)).load()
    np.testing.assert_allclose(ds["data"].values, plain["data"].values, atol=1e-3)
    np.testing.assert_allclose(ds["x"].values, plain["x"].values + 5e5)


@pytest.mark.parametrize("names", [("east", "north"), ("X", "Y"), ("EASTING", "NORTHING")])
def test_positions_by_any_of_their_usual_names(flown: ConvertConfig, tmp_path: Path, names: tuple[str, str]) -> None:
    table = pd.read_csv(flown.source).rename(columns=dict(zip(("Easting", "Northing"), names, strict=True)))
    table.to_csv(tmp_path / "named.csv", index=False)
    named = open_volume(convert(replace(flown, source=str(tmp_path / "named.csv")))).load()
    np.testing.assert_allclose(named["data"].values[0], named["x"].values + 100 * named["y"].values[:, None])


def test_aseg_gdf2_against_its_own_words(shared_data: Path) -> None:
    path = shared_data / "airborne" / "Tempest-AusAEM-2020.dat"
    table = aseg_gdf.read_table(path)
    # No field of this file touches its neighbour, so that the blanks between them tell the values independently.
    words = np.loadtxt(path)
    assert words.shape == table.shape
    nulls = table.isna().to_numpy()
    np.testing.assert_array_equal(table.to_numpy()[~nulls], words[~nulls])
    assert table.columns[9:13].tolist() == ["Latitude", "Longitude", "Easting", "Northing"]
    assert sum(column.startswith("EMZ_HPRG[") for column in table.columns) == 15


def test_aseg_gdf2_that_is_broken(tmp_path: Path) -> None:
    dat, dfn = tmp_path / "a.dat", tmp_path / "a.dfn"
    dfn.write_text(
        "DEFN ST=RECD,RT=COMM;RT:A4;COMMENTS:A76\nDEFN 1 ST=RECD,RT=;LINE:I5:NULL=-9999,DESC=Line\n"
        "DEFN 2 ST=RECD,RT=;NAME:A3\nDEFN 3 ST=RECD,RT=;2X\nDEFN 4 ST=RECD,RT=;V:2E8.2,UNIT=nT,NULL=-9.9D+01;END DEFN\n"
    )
    dat.write_text("COMM words\n  101abc  1.50D+01********\n-9999d e  -9.9D+01    2.00\n")
    table = aseg_gdf.read_table(dfn)
    np.testing.assert_array_equal(table, [[101, 15, np.nan], [np.nan, np.nan, 2]])
    assert table.columns.tolist() == ["LINE", "V[0]", "V[1]"]
    dat.write_text("  101abc  1.50D+01        \n")
    np.testing.assert_array_equal(aseg_gdf.read_table(dfn), [[101, 15, np.nan]])
    dat.write_text("  101abc  1.50\n  101abc  1.50          2.00   4\n")
    with pytest.raises(
        InputError, match=r"line 1 of .*a\.dat has 14 characters, but a\.dfn defines 26; check that the two"
    ):
        aseg_gdf.read_table(dat)
    dat.write_text("  101abc  1.x0D+01    2.00\n")
    with pytest.raises(InputError, match=r"a\.dat holds in V\[0\] what is no number"):
        aseg_gdf.read_table(dat)
    dat.unlink()
    with pytest.raises(InputError, match=r"no file at .*a\.dat, the data that a\.dfn defines"):
        aseg_gdf.read_table(dfn)
    dfn.write_text("DEFN 1 ST=RECD,RT=;LINE:Q5\n")
    with pytest.raises(InputError, match=r"a\.dfn defines a field as 'LINE:Q5', which is not understood"):
        aseg_gdf.read_table(dfn)
    dfn.write_text("nothing")
    with pytest.raises(InputError, match=r"a\.dfn defines no fields of data"):
        aseg_gdf.read_table(dfn)


def test_a_real_aseg_line_becomes_layers(shared_data: Path, tmp_path: Path) -> None:
    for suffix in (".dat", ".dfn"):
        shutil.copy(shared_data / "airborne" / f"Tempest-AusAEM-2020{suffix}", tmp_path / f"t{suffix}")
    config = ConvertConfig(
        source=str(tmp_path / "t.dat"), out=str(tmp_path / "t.zarr"), columns=["EMZ_HPRG"], crs="EPSG:28351",
        cell_size=200.0, blank_distance=150.0, gridding="nearest",
    )  # fmt: skip
    ds = open_volume(convert(config)).load()
    assert dict(ds["data"].sizes)["layer"] == 15
    words = np.loadtxt(tmp_path / "t.dat")
    window = [
        column for column, name in enumerate(aseg_gdf.read_table(tmp_path / "t.dat").columns) if "EMZ_HPRG" in name
    ]
    row = int(np.argmin(np.abs(words[:, 12] - ds["y"].values[0])))
    column = int((words[row, 11] - (ds["x"].values[0] - 100)) // 200)
    cell = (words[:, 11] // 200 == words[row, 11] // 200) & (words[:, 12] // 200 == words[row, 12] // 200)
    line = int((ds["y"].values[0] + 100 - words[row, 12]) // 200)
    np.testing.assert_allclose(ds["data"].values[:, line, column], np.median(words[cell][:, window], axis=0), rtol=1e-6)


def test_real_gravity_stations(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "airborne" / "southern-africa-gravity.csv.xz"
    config = ConvertConfig(
        source=str(source), out=str(tmp_path / "g.zarr"), columns=["gravity_mgal"], lines_crs="EPSG:4326",
        crs="EPSG:32735", cell_size=20000.0, blank_distance=50000.0,
    )  # fmt: skip
    ds = open_volume(convert(config)).load()
    stations = pd.read_csv(source)
    x, y = Transformer.from_crs(4326, 32735, always_xy=True).transform(stations["longitude"], stations["latitude"])
    x_YX, y_YX = np.meshgrid(ds["x"], ds["y"])
    valid = ds["valid"].values[0]
    away = np.array([np.hypot(x - a, y - b).min() for a, b in zip(x_YX[valid], y_YX[valid], strict=True)])
    assert away.max() <= 50000
    # Where stations are dense, a cell is close to the mean of those within it, against a spread of some 100 mGal.
    dense = [(r, c) for r, c in np.argwhere(valid)
             if ((abs(x - x_YX[r, c]) < 1e4) & (abs(y - y_YX[r, c]) < 1e4)).sum() > 15]  # fmt: skip
    means = [
        stations["gravity_mgal"][(abs(x - x_YX[r, c]) < 1e4) & (abs(y - y_YX[r, c]) < 1e4)].mean() for r, c in dense
    ]
    gridded = [ds["data"].values[0, r, c] for r, c in dense]
    assert len(dense) > 20
    assert np.corrcoef(means, gridded)[0, 1] > 0.97


def test_real_soundings_become_forty_layers(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "airborne" / "skytem_inverted_models.csv"
    config = ConvertConfig(
        source=str(source), out=str(tmp_path / "s.zarr"), columns=["RHO_I"], xy_columns=["E_N83WTM", "N_N83WTM"],
        crs="EPSG:3071", cell_size=500.0, blank_distance=600.0, gridding="nearest",
    )  # fmt: skip
    ds = open_volume(convert(config)).load()
    assert dict(ds["data"].sizes)["layer"] == 40
    table = pd.read_csv(source)
    table["column"], table["row"] = table["E_N83WTM"] // 500, table["N_N83WTM"] // 500
    medians = table.groupby(["row", "column"]).median(numeric_only=True).reset_index()
    row = (medians["row"].max() - medians["row"]).astype(int).to_numpy()
    column = (medians["column"] - medians["column"].min()).astype(int).to_numpy()
    expected = medians[[f"RHO_I[{layer}]" for layer in range(40)]].to_numpy().T
    same = np.isclose(ds["data"].values[:, row, column], expected, rtol=1e-6).all(axis=0)
    # The rest are cells whose centre is nearer to the median position of a neighbour.
    assert same.mean() > 0.8


@pytest.mark.slow
def test_a_million_real_readings(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "airborne" / "osborne-magnetic.csv.xz"
    config = ConvertConfig(
        source=str(source), out=str(tmp_path / "o.zarr"), columns=["total_field_anomaly_nt"], lines_crs="EPSG:4326",
        crs="EPSG:28354", cell_size=200.0, blank_distance=400.0,
    )  # fmt: skip
    ds = open_volume(convert(config)).load()
    readings = pd.read_csv(source)
    x, y = Transformer.from_crs(4326, 28354, always_xy=True).transform(readings["longitude"], readings["latitude"])
    row = ((ds["y"].values[0] + 100 - y) // 200).astype(int)
    column = ((x - ds["x"].values[0] + 100) // 200).astype(int)
    medians = readings["total_field_anomaly_nt"].groupby([row, column]).median()
    rows, columns = np.transpose(medians.index.to_list())
    known = ds["valid"].values[0][rows, columns]
    assert known.mean() > 0.95
    assert np.corrcoef(ds["data"].values[0][rows, columns][known], medians.to_numpy()[known])[0, 1] > 0.99
