"""What headers of SEG-Y say badly: where samples lie, and where traces do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import segyio
import xarray as xr

from datasets.errors import InputError
from tests.datasets.readers.test_segy_layouts import CELLS, IEEE, VALUES, write

Convert = Callable[..., xr.Dataset]
INTERVAL, TRACE_INTERVAL, DELAY, SAMPLES, SCALAR = 3217, 117, 109, 115, 215
X, Y, UNITS, DEAD = 181, 185, 89, 29


def survey(folder: Path, binary: int, headers: Callable[[int], dict[int, int]], start: int = 0) -> Path:
    """A survey of 3 x 4 traces of 10 samples, whose headers hold what is said of each trace."""
    path = folder / "a.sgy"
    write(path, CELLS, VALUES, IEEE, "big", (189, 193), start=start)
    with segyio.open(path, "r+", ignore_geometry=True) as file:
        file.bin[INTERVAL] = binary
        for number in range(len(CELLS)):
            file.header[number].update(headers(number))
    return path


@pytest.mark.parametrize(
    ("binary", "trace", "step"), [(2000, 0, 2), (0, 3000, 3), (3000, 3000, 3), (40000 - 2**16, 0, 40)]
)
def test_either_interval_counts_and_has_no_sign(
    tmp_path: Path, converted: Convert, binary: int, trace: int, step: int
) -> None:
    ds = converted(survey(tmp_path, binary, lambda number: {TRACE_INTERVAL: trace}))
    np.testing.assert_array_equal(ds["twt"], step * np.arange(10))


@pytest.mark.parametrize("scalar", [0, 1, 10, -10])
def test_a_dead_first_trace_does_not_say_where_samples_start(tmp_path: Path, converted: Convert, scalar: int) -> None:
    def padded(number: int) -> dict[int, int]:
        empty = {DELAY: 0, SAMPLES: 0} if number < 2 else {DELAY: 200, SCALAR: scalar}
        return empty | ({DEAD: 2, DELAY: 7} if number == 5 else {})

    ds = converted(survey(tmp_path, 4000, padded))
    start = {0: 200, 1: 200, 10: 2000, -10: 20}[scalar]
    np.testing.assert_array_equal(ds["twt"], start + 4 * np.arange(10))


@pytest.mark.parametrize(
    ("binary", "headers", "words"),
    [
        (2000, {TRACE_INTERVAL: 3000}, r"states intervals of 2 and 3 ms between samples"),
        (0, {}, r"states no interval between samples"),
        (4000, {DELAY: 200}, r"has traces that start at 0 and 200 ms"),
        (4000, {DELAY: 200, SCALAR: 10}, r"has traces that start at 0 and 2000 ms"),
    ],
)
def test_what_headers_contradict_is_asked_for(
    tmp_path: Path, converted: Convert, binary: int, headers: dict[int, int], words: str
) -> None:
    scaled = {SCALAR: headers.get(SCALAR, 0)}
    path = survey(tmp_path, binary, lambda number: headers if number > 5 else scaled)
    with pytest.raises(
        InputError, match=rf"a\.sgy {words}; say where samples lie with coordinates, such as \{{twt: '0"
    ):
        converted(path)
    np.testing.assert_array_equal(converted(path, coordinates={"twt": "8:2"})["twt"], 8 + 2 * np.arange(10))


def placed(number: int) -> dict[int, int]:
    inline, crossline = CELLS[number]
    return {X: 50000 + 25 * inline, Y: 60000 + 25 * crossline, DEAD: 1}


def test_dead_traces_at_nowhere_have_no_position(tmp_path: Path, converted: Convert) -> None:
    nowhere = {X: 0, Y: 0, DEAD: 2}
    ds = converted(survey(tmp_path, 4000, lambda number: placed(number) | (nowhere if number in (0, 7) else {})))
    lost = np.isin(np.arange(12), (0, 7)).reshape(3, 4)
    np.testing.assert_array_equal(np.isnan(ds["x"].values), lost)
    np.testing.assert_array_equal(np.isnan(ds["y"].values), lost)
    assert ds["x"].values[1, 1] == 50050


def test_angles_are_not_taken_for_metres(tmp_path: Path, converted: Convert) -> None:
    ds = converted(survey(tmp_path, 4000, lambda number: placed(number) | {UNITS: 2}))
    assert not {"x", "y"} & set(ds.coords)
