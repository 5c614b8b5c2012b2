"""Labels around wells, against distances computed one cell at a time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.store import open_volume

X, Y = 500005 + 10.0 * np.arange(8), 5000055 - 10.0 * np.arange(6)


@pytest.fixture
def drilled(survey: ConvertConfig, tmp_path: Path) -> ConvertConfig:
    return replace(survey, labels=str(tmp_path / "wells.csv"), label_radius=15.0, class_names={1: "sand", 2: "shale"})


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "wells.csv").write_text(text)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), radius=st.floats(6, 60))
def test_points_on_the_map(drilled: ConvertConfig, tmp_path: Path, seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(499990, 500095, 5), rng.uniform(4999990, 5000075, 5)
    x[0], y[0], codes = X[4], Y[3], rng.integers(1, 3, 5)  # a label at least, however small the radius
    write(
        tmp_path,
        "x,y,class\n"
        + "".join(f"{a!r},{b!r},{c}\n" for a, b, c in zip(*map(np.ndarray.tolist, (x, y, codes)), strict=True)),
    )
    labels = open_volume(convert(replace(drilled, label_radius=radius)))["labels"]
    assert labels.dims == ("y", "x")
    for row, column in np.ndindex(6, 8):
        away = np.hypot(x - X[column], y - Y[row])
        expected = codes[away.argmin()] - 1 if away.min() <= radius else 255
        assert labels.values[row, column] == expected


def test_intervals_fill_a_column_and_the_first_of_equals_wins(drilled: ConvertConfig, tmp_path: Path) -> None:
    # The wells are 20 m apart: the column between them is 10 m from both, and belongs to the first.
    write(
        tmp_path,
        "X,Y,FROM,TO,LITHOLOGY\n500005,5000055,0,8,sand\n500005,5000055,8,16,2\n500025,5000055,4,20,shale\n0,0,0,9,1\n",
    )
    labels = open_volume(convert(replace(drilled, label_radius=10.0)))["labels"]
    assert labels.dims == ("y", "x", "twt")
    assert labels.attrs["placed"] == "wells.csv: 2 of 3 wells"
    values = labels.values
    assert values[0, 0].tolist() == values[0, 1].tolist() == values[1, 0].tolist() == [0, 0, 1, 1, 255]
    assert values[0, 2].tolist() == values[0, 3].tolist() == values[1, 2].tolist() == [255, 1, 1, 1, 1]
    assert (values[1, 1] == 255).all()
    assert (values[2:] == 255).all()


def test_single_depths(drilled: ConvertConfig, tmp_path: Path) -> None:
    write(tmp_path, "x,y,z,class\n500005,5000055,9.9,sand\n500005,5000055,18.1,shale\n500075,5000005,0,shale\n")
    values = open_volume(convert(replace(drilled, label_radius=1.0)))["labels"].values
    assert values[0, 0].tolist() == [255, 255, 0, 255, 255]  # 9.9 is nearest to 8; 18.1 is beyond the last sample, 16
    assert values[5, 7].tolist() == [1, 255, 255, 255, 255]


def test_wells_that_label_nothing_are_not_counted(drilled: ConvertConfig, tmp_path: Path) -> None:
    write(tmp_path, "x,y,z,class\n500005,5000055,8,sand\n500075,5000005,,shale\n500045,5000035,4,\n")
    labels = open_volume(convert(replace(drilled, label_radius=1.0)))["labels"]
    assert np.argwhere(labels.values != 255).tolist() == [[0, 0, 2]]
    assert labels.attrs["placed"] == "wells.csv: 1 of 3 wells"


def test_degrees_by_labels_crs(drilled: ConvertConfig, tmp_path: Path) -> None:
    longitude, latitude = Transformer.from_crs(32633, 4326, always_xy=True).transform(500035, 5000025)
    write(tmp_path, f"latitude,longitude,class\n{latitude!r},{longitude!r},shale\n")
    values = open_volume(convert(replace(drilled, label_radius=5.0, labels_crs="EPSG:4326")))["labels"].values
    assert np.argwhere(values == 1).tolist() == [[3, 3]]
    with pytest.raises(
        InputError, match=r"no cell lies within 15 of a well of .*wells\.csv: .*\(EPSG:32633\); set labels"
    ):
        convert(drilled)
    write(tmp_path, "x,y,class\n500035,5000025,shale\n")
    with pytest.raises(InputError, match=r"1 points that cannot be in EPSG:4326, the first at x 500035, y 5.*e\+06"):
        convert(replace(drilled, labels_crs="EPSG:4326"))
    with pytest.raises(InputError, match=r"labels_crs is 'Mars', which is no coordinate reference system"):
        convert(replace(drilled, labels_crs="Mars"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"wells\.csv holds no rows"),
        (
            "x,north,rock\n1,2,sand\n",
            r"wells\.csv has no column class or label or unit or lithology; its columns are x, nor",
        ),
        (
            "x,class\n1,sand\n",
            r"wells\.csv has no column northing or north or y .*; its columns are x, class; .* label_columns",
        ),
        (
            "x,y,class\n500005,5000055,salt\n",
            r"class of .*wells\.csv holds the class 'salt', but class_names has \{1: 'sand'",
        ),
        ("x,y,from,class\n500005,5000055,3,1\n", r"wells\.csv has no column to; its columns are x, y, from, class"),
        ("x,y,from,to,class\n500005,5000055,3,3,1\n", r"an interval from 3 to 3, row 1; from must be less"),
        ("x,y,from,to,class\n500005,5000055,0,8,1\n500005,5000055,,,1\n", r"has an empty from or to in row 2; fill it"),
        (
            "x,y,from,to,class\n500005,5000055,0,,1\n",
            r"wells\.csv has an empty from or to in row 1; fill it in",
        ),
        ("x,y,class\n500005,5000055,1\n500005,5000055,2\n", r"row 2 of .*wells\.csv gives another class to a place"),
        ("x,y,class\n500005,east,1\n", r"wells\.csv holds 'east' in column y, row 1, where a number is needed"),
    ],
)
def test_broken_wells(drilled: ConvertConfig, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(InputError, match=message):
        convert(drilled)


def test_a_radius_is_asked_for(drilled: ConvertConfig, tmp_path: Path) -> None:
    write(tmp_path, "x,y,class\n500005,5000055,1\n")
    with pytest.raises(InputError, match=r"label_radius is None; labels from .*wells\.csv need the radius of a well"):
        convert(replace(drilled, label_radius=None))
    with pytest.raises(InputError, match=r"labels is .*wells\.csv and horizons are \['a'\]; give one of them"):
        convert(replace(drilled, horizons=["a"]))
