"""A volume whose cells say where they are, and loaders over it."""

import numpy as np
import xarray as xr

from datasets.config import DataConfig
from datasets.samples.loader import Loader, Pair
from datasets.samples.parts import TRAIN
from datasets.volume import Volume


def coded(rows: int, columns: int) -> Volume:
    """Make a volume whose first channel and labels both hold the number of the cell."""
    number = np.arange(rows * columns).reshape(rows, columns)
    names = [str(k) for k in range(rows * columns)]
    dataset = xr.Dataset(
        {
            "data": (("band", "y", "x"), np.stack([number, -number, number % 3]).astype(np.float32)),
            "labels": (("x", "y"), number.T.astype(np.uint8), {"class_names": names, "class_values": names}),
        }
    )
    return Volume.of(dataset, DataConfig(source="coded.zarr", space=["y", "x"]))


def everywhere(volume: Volume, code: int = TRAIN) -> xr.DataArray:
    return xr.DataArray(np.full(volume.shape, code, np.uint8), dims=["y", "x"])


def loader(volume: Volume, split: xr.DataArray | None = None, **changed: object) -> Loader:
    chosen = {key: changed.pop(key) for key in ("block", "halo", "labelled_share") if key in changed}
    data = DataConfig(space=list(volume.space), **{"block": [4, 4], **chosen})  # type: ignore[arg-type]
    given = {"factor": 1, "batch": 3, "seed": 0, "augment_until": None, **changed}
    return Loader(volume, everywhere(volume) if split is None else split, data, **given)  # type: ignore[arg-type]


def blocks_of(found: Loader) -> list[tuple[slice, ...]]:
    return [window.block for window in found.windows]


def same(left: list[Pair], right: list[Pair]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a, b, equal_nan=True) and np.array_equal(k, m)
        for (a, k), (b, m) in zip(left, right, strict=True)
    )


def samples_of(found: Loader, step: int) -> list[Pair]:
    return next(found.steps(step, step + 1))
