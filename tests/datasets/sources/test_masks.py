"""Masks of fewer dimensions than flattened data."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.store import open_volume


def flattened(tmp_path: Path, mask: np.ndarray, order: Literal["C", "F"] = "C") -> ConvertConfig:
    """Three bands of 4 x 6 cells, flattened to (3, 24), and a mask of rows and columns."""
    cube = np.arange(72.0).reshape(3, 4, 6)
    np.save(tmp_path / "cube.npy", cube.reshape((3, 24), order=order))
    np.save(tmp_path / "mask.npy", mask)
    return ConvertConfig(
        str(tmp_path / "cube.npy"), out=str(tmp_path / "cube.zarr"), shape=[3, 4, 6], order=order,
        dims=["band", "y", "x"], valid=str(tmp_path / "mask.npy"), valid_dims=["y", "x"],
    )  # fmt: skip


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(4, 6), (24,), (1, 24)])
def test_a_mask_of_the_map_fits_data_that_were_flattened(
    tmp_path: Path, shape: tuple[int, ...], order: Literal["C", "F"]
) -> None:
    valid = np.random.default_rng(0).random((4, 6)) < 0.5
    ds = open_volume(convert(flattened(tmp_path, valid.reshape(shape, order=order), order))).load()
    np.testing.assert_array_equal(ds["valid"].values, np.broadcast_to(valid, (3, 4, 6)))
    np.testing.assert_array_equal(ds["data"].values, np.arange(72.0).reshape(3, 4, 6))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6, 4), r"the valid mask has the shape {'y': 6, 'x': 4}, but the data have .* must agree along \['y', 'x'\]"),
        ((25,), r"the valid mask has shape \(25,\), which cannot become \(4, 6\): 25 cells against 24"),
    ],
)
def test_a_mask_that_fits_nothing_is_refused(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        convert(flattened(tmp_path, np.ones(shape, bool)))
