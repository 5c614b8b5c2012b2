"""Text as coordinates: dates, or names beside numbers."""

import numpy as np
import pytest

from datasets.maps.coordinates import coordinate_variable


@pytest.mark.parametrize(
    "names",
    [
        ["10", "20"], ["400", "500"], ["1", "2", "3"], ["2019", "2020"], ["B1", "B2"], ["2020-01-01", "none"],
        ["2020-13-01"], ["1500-01-01", "2020-01-01"], ["2300-01-01"], ["20200101"],
    ],
)  # fmt: skip
def test_text_that_is_no_date_of_our_time_becomes_names(names: list[str]) -> None:
    made = coordinate_variable("band", np.array(names))
    assert made.values.tolist() == list(range(len(names)))
    assert made.attrs["names"] == names


@pytest.mark.parametrize("kind", ["U", "S"])
@pytest.mark.parametrize("dates", [["2020-01-01", "2020-02-01"], ["2020-01"], ["1999-12-31", "2020-02-01T12:00:00.5"]])
def test_dates_are_dates(dates: list[str], kind: str) -> None:
    made = coordinate_variable("time", np.array(dates, kind))
    assert made.dtype == "datetime64[ns]"
    assert not made.attrs
    for value, text in zip(made.values, dates, strict=True):
        assert value == np.datetime64(text)
