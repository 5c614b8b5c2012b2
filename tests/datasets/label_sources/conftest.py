"""A small volume to place labels on."""

from pathlib import Path

import numpy as np
import pytest

from datasets.config import ConvertConfig


@pytest.fixture
def survey(tmp_path: Path) -> ConvertConfig:
    """6 rows (north to south) x 8 columns of 10 m cells, 5 samples 4 ms apart, EPSG:32633."""
    np.save(tmp_path / "cube.npy", np.random.default_rng(0).normal(size=(6, 8, 5)).astype(np.float32))
    return ConvertConfig(
        source=str(tmp_path / "cube.npy"),
        out=str(tmp_path / "cube.zarr"),
        dims=["y", "x", "twt"],
        coordinates={"y": "5000055:-10", "x": "500005:10", "twt": "0:4"},
        crs="EPSG:32633",
        overwrite=True,
    )
