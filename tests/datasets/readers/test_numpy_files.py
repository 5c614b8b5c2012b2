"""NumPy files whose names are in capitals."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr


def test_capitals_are_the_same_format(tmp_path: Path, converted: Callable[..., xr.Dataset]) -> None:
    values = np.arange(24.0).reshape(4, 6)
    for name, array in (("cube", values), ("rows", np.arange(4.0) * 2)):
        np.save(tmp_path / f"{name}.npy", array)
        (tmp_path / f"{name}.npy").rename(tmp_path / f"{name.upper()}.NPY")
    ds = converted(tmp_path / "CUBE.NPY", dims=["y", "x"], coordinates={"y": str(tmp_path / "ROWS.NPY")})
    np.testing.assert_array_equal(ds["data"], values)
    np.testing.assert_array_equal(ds["y"], [0, 2, 4, 6])
