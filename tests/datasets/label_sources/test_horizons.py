"""Labels between horizons, against the picks themselves, cell by cell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import segyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.store import open_volume

CLASSES = {0: "water", 1: "sand", 2: "shale"}


def between(first: np.ndarray, second: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Classes by the plainest reading of the rule, one cell at a time."""
    labels = np.full((*first.shape, len(depths)), 255)
    for row, column, z in np.ndindex(labels.shape):
        a, b, v = first[row, column], second[row, column], depths[z]
        if v < a:
            labels[row, column, z] = 0
        elif a <= v < b:
            labels[row, column, z] = 1
        elif v >= b:
            labels[row, column, z] = 2
    return labels


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), missing=st.floats(0, 0.9))
def test_grids_of_two_horizons(survey: ConvertConfig, tmp_path: Path, seed: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    surfaces = np.sort(rng.uniform(-4, 24, (2, 6, 8)), axis=0)
    surfaces[rng.random(surfaces.shape) < missing] = np.nan
    paths = [str(tmp_path / name) for name in ("top.npy", "base.npy")]
    for path, surface in zip(paths, surfaces, strict=True):
        np.save(path, surface)
    ds = open_volume(convert(replace(survey, horizons=paths, class_names=CLASSES))).load()
    assert ds["labels"].dims == ("y", "x", "twt")
    np.testing.assert_array_equal(ds["labels"].values, between(*surfaces, ds["twt"].values))


def test_a_table_of_picks(survey: ConvertConfig, tmp_path: Path) -> None:
    # Two picks of one cell count by their mean, (10 + 6) / 2 = 8, which is a sample: the cell on it is after it.
    (tmp_path / "top.xyz").write_text("500004 5000056 10\n500006 5000054 6\n500075 5000005 17\n0 0 5\n")
    config = replace(
        survey,
        horizons=[str(tmp_path / "top.xyz")],
        label_columns=["x", "y", "twt"],
        class_names={0: "over", 1: "under"},
    )
    labels = open_volume(convert(config))["labels"]
    assert labels.attrs["placed"] == "top.xyz: 3 of 4 picks, 2 cells, twt 8 to 17"
    values = labels.values
    assert values[0, 0].tolist() == [0, 0, 1, 1, 1]
    assert values[5, 7].tolist() == [0, 0, 0, 0, 0]
    assert (values == 255).sum() == 46 * 5
    only = open_volume(convert(replace(config, class_names={1: "under"})))["labels"].values
    assert only[0, 0].tolist() == [255, 255, 0, 0, 0]
    with pytest.raises(InputError, match=r"top\.xyz does not name its columns; name its 3 columns with label_columns"):
        convert(replace(config, label_columns=[]))
    with pytest.raises(InputError, match=r"class_names has \{2: 'x'\}, but 1 horizons part the classes 0 to 1"):
        convert(replace(config, class_names={2: "x"}))


@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_what_says_that_nothing_was_picked_is_no_pick(survey: ConvertConfig, tmp_path: Path, kind: str) -> None:
    picks = np.full((6, 8), 8.0)
    picks[1, 2], picks[2, 5], picks[3, 3] = -999.25, np.float32(1e30), 1.70141e38
    if kind == "npy":
        np.save(tmp_path / "top.npy", picks)
    else:
        y, x = np.meshgrid(5000055 - 10 * np.arange(6), 500005 + 10 * np.arange(8), indexing="ij")
        rows = [f"{a},{b},{z}" for a, b, z in zip(x.flat, y.flat, picks.flat, strict=True)]
        (tmp_path / "top.csv").write_text("\n".join(["x,y,twt", *rows]))
    config = replace(survey, horizons=[str(tmp_path / f"top.{kind}")], class_names={0: "over", 1: "under"}, nodata=8.0)
    labels = open_volume(convert(config))["labels"]
    unlabelled = (labels.values == 255).all(-1)
    assert np.argwhere(unlabelled).tolist() == [[1, 2], [2, 5], [3, 3]]
    assert labels.attrs["placed"].endswith("45 cells, twt 8 to 8")


def test_a_horizon_outside_the_volume_is_told(survey: ConvertConfig, tmp_path: Path) -> None:
    np.save(tmp_path / "top.npy", np.full((6, 8), -8.0))
    config = replace(survey, horizons=[str(tmp_path / "top.npy")], class_names={0: "over", 1: "under"})
    labels = open_volume(convert(config))["labels"]
    assert labels.attrs["placed"] == "top.npy: 48 cells, twt -8 to -8, all outside the volume"
    assert (labels == 1).all()


@pytest.mark.parametrize("text", ["\ufeffx,y,twt\n{}", '"x","y","twt"\n{}', "x,y,twt\n{},\n"])
def test_tables_of_spreadsheets(survey: ConvertConfig, tmp_path: Path, text: str) -> None:
    (tmp_path / "h.csv").write_text(text.format("500005,5000055,4"), encoding="utf-8")
    config = replace(survey, horizons=[str(tmp_path / "h.csv")], class_names={0: "a", 1: "b"})
    assert open_volume(convert(config))["labels"].values[0, 0].tolist() == [0, 1, 1, 1, 1]


def test_fields_that_have_no_column_are_refused(survey: ConvertConfig, tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("x,y,twt\n500005,5000055,4,0.5\n")
    with pytest.raises(InputError, match=r"h\.csv is not a table that can be read \(.*does not match length of data"):
        convert(replace(survey, horizons=[str(tmp_path / "h.csv")], class_names={0: "a", 1: "b"}))


def test_horizons_that_cross_are_refused(survey: ConvertConfig, tmp_path: Path) -> None:
    flat = np.full((6, 8), 8.0)
    np.save(tmp_path / "a.npy", flat)
    flat[2, 3] = 7
    np.save(tmp_path / "b.npy", flat)
    paths = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    with pytest.raises(InputError, match=r"a\.npy crosses .*b\.npy in 1 cells, the first at y 5000035, x 500035: 8 is"):
        convert(replace(survey, horizons=paths, class_names=CLASSES))


def test_broken_horizons(survey: ConvertConfig, tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    config = replace(survey, horizons=[str(path)], class_names={0: "a", 1: "b"})
    with pytest.raises(InputError, match=r"no file at .*h\.csv"):
        convert(config)
    path.write_text("x,y,depth\n500005,5000055,4\n")
    with pytest.raises(InputError, match=r"h\.csv has no column twt or time or z; its columns are x, y, depth; name"):
        convert(config)
    path.write_text("x,y,twt\n5,5,4\n")
    with pytest.raises(InputError, match=r"none of the 1 picks of .*h\.csv is within the volume; check labels_crs"):
        convert(config)
    path.write_text("x,y,twt\n500005,5000055,four\n")
    with pytest.raises(InputError, match=r"h\.csv holds 'four' in column twt, row 1, where a number is needed"):
        convert(config)
    np.save(tmp_path / "h.npy", np.zeros((8, 6)))
    with pytest.raises(
        InputError, match=r"h\.npy has shape \(8, 6\), but the map of the volume, \['y', 'x'\], has \(6, 8"
    ):
        convert(replace(config, horizons=[str(tmp_path / "h.npy")]))


def test_line_numbers_and_map_coordinates_say_the_same_on_a_real_cube(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "seismic" / "f3.sgy"
    with segyio.open(source, ignore_geometry=True) as file:
        inline, crossline, x, y = (file.attributes(byte)[:].astype(float) for byte in (189, 193, 181, 185))
        factor = 1 / abs(float(file.header[0][segyio.TraceField.SourceGroupScalar]))
        middle = file.samples[len(file.samples) // 2]
    picks = {"lines.csv": ("inline,crossline,twt", inline, crossline), "map.csv": ("x,y,z", x * factor, y * factor)}
    labels = []
    for name, (header, first, second) in picks.items():
        table = np.stack([first, second, np.full(len(first), middle)], 1)[::3]
        np.savetxt(tmp_path / name, table, delimiter=",", header=header, comments="", fmt="%.3f")
        config = ConvertConfig(
            source=str(source), out=str(tmp_path / f"{name}.zarr"), horizons=[str(tmp_path / name)],
            class_names={0: "over", 1: "under"},
        )  # fmt: skip
        ds = open_volume(convert(config)).load()
        labels.append(ds["labels"].values)
        labelled = (labels[-1] != 255).any(-1)
        assert labelled.sum() == len(table)
        assert labelled.ravel()[:7].tolist() == [True, False, False, True, False, False, True]
        assert (labels[-1][labelled] == (ds["twt"].values >= middle)).all()
    np.testing.assert_array_equal(*labels)
