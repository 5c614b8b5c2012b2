"""What the tests of the readers share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.store import open_volume


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., xr.Dataset]:
    """Convert a source with the settings given, and load the volume."""

    def run(source: Path | str, **settings: object) -> xr.Dataset:
        config = ConvertConfig(source=str(source), out=str(tmp_path / "volume.zarr"), overwrite=True, **settings)  # type: ignore[arg-type]
        return open_volume(convert(config)).load()

    return run
