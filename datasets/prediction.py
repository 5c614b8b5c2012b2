"""The store of a prediction: class and probability on the grid of the volume it was made from.

K classes; dims are the output's dimensions.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datasets.layout import plan_chunks
from datasets.objects import is_remote
from datasets.store import write_aside
from datasets.upload import open_upload

FORMAT = "telegrapher-prediction"
FORMAT_VERSION = 1
NO_DATA = 255


def no_data_cells(raw: np.ndarray, gone: Sequence[int], factor: int) -> np.ndarray:
    """Find the output's cells for which the input says nothing at all.

    Parameters
    ----------
    raw
        float32 [C, *N], NaN = no data.
    gone
        Axes of N that the output lacks: nothing counts as nothing only along the whole of them.
    factor
        How much coarser the output's grid is; a coarse cell is empty where all its cells are.

    Returns
    -------
    numpy.ndarray
        bool [*ceil(remaining N / factor)].
    """
    empty = np.asarray(np.isnan(raw).all(axis=(0, *(axis + 1 for axis in gone))))
    if factor == 1:
        return empty
    padded = np.pad(empty, [(0, -size % factor) for size in empty.shape], constant_values=True)
    cubes = padded.reshape([n for size in padded.shape for n in (size // factor, factor)])
    return np.asarray(cubes.all(axis=tuple(range(1, 2 * empty.ndim, 2))))


def coarsen_coordinates(source: xr.Dataset, dims: Sequence[str], factor: int) -> dict[str, xr.DataArray]:
    """Carry the coordinates of a volume over to a grid that is coarser by `factor`, as cell centres.

    Parameters
    ----------
    source
        The volume.
    dims
        Dimensions of the coarser grid.
    factor
        Cells of the volume in a coarse cell; 1 keeps every coordinate that lives on `dims`.

    Returns
    -------
    dict
        Coordinates by name, attributes kept. A last, incomplete cell is spaced like the others.
    """
    kept = {str(name): coord for name, coord in source.coords.items() if set(coord.dims) <= set(dims)}
    if factor == 1:
        return {name: coord.compute() for name, coord in kept.items()}
    coarse: dict[str, xr.DataArray] = {}
    for name, coord in kept.items():
        if coord.ndim == 0:
            coarse[name] = coord.copy()
            coarse[name].attrs.pop("GeoTransform", None)
        elif coord.ndim == 1 and np.issubdtype(coord.dtype, np.number):
            centres = _centres(coord.values.astype(np.float64), factor)
            coarse[name] = xr.DataArray(centres, dims=coord.dims, attrs=coord.attrs)
        elif coord.ndim == 1:
            coarse[name] = coord.isel({coord.dims[0]: slice(None, None, factor)}).compute()
    return coarse


def _centres(values: np.ndarray, factor: int) -> np.ndarray:
    missing = -len(values) % factor
    step = values[-1] - values[-2] if len(values) > 1 else 1.0
    whole = np.concatenate([values, values[-1] + step * np.arange(1, missing + 1)])
    return whole.reshape(-1, factor).mean(axis=1)


def prediction_dataset(
    probability: np.ndarray,
    *,
    empty: np.ndarray,
    source: xr.Dataset,
    dims: Sequence[str],
    factor: int,
    classes: Sequence[str],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Lay out a prediction with the coordinates of its source.

    Parameters
    ----------
    probability
        float32 [K, *dims].
    empty
        bool [*dims]: cells without data, which get class 255 and probability NaN.
    source
        The volume that was predicted.
    dims
        Dimensions of the output.
    factor
        How much coarser the output's grid is.
    classes
        Names of the K classes.
    attrs
        Provenance for the root.

    Returns
    -------
    xarray.Dataset
        ``class`` uint8 (*dims) and ``probability`` float32 (class_name, *dims).
    """
    winner = probability.argmax(axis=0).astype(np.uint8)
    winner[empty] = NO_DATA
    probability = np.where(empty, np.float32(np.nan), probability)
    meaning = {"class_names": list(classes), "no_data": NO_DATA}
    ds = xr.Dataset(
        {
            "class": (tuple(dims), winner, {"long_name": "most probable class", **meaning}),
            "probability": (
                ("class_name", *dims),
                probability.astype(np.float32),
                {"long_name": "probability of the class", "units": "1"},
            ),
        },
        coords=coarsen_coordinates(source, dims, factor)
        | {"class_name": np.array(classes, dtype=np.dtypes.StringDType())},
        attrs={**attrs, "format": FORMAT, "format_version": FORMAT_VERSION},
    )
    return ds


def write_prediction(ds: xr.Dataset, path: str | Path) -> str | Path:
    """Write a prediction as a Zarr v3 store in the place of what is there: all of it appears, or nothing.

    Raises
    ------
    InputError
        Where the operating system or the store refuses to write, as on a full disk.
    """
    ds = ds.drop_encoding()
    encoding: dict[str, dict[str, Any]] = {}
    for name in ("class", "probability"):
        chunks, shards = plan_chunks(ds[name].sizes, ds[name].dtype.itemsize)
        encoding[name] = {"chunks": tuple(chunks[dim] for dim in ds[name].dims)}
        if shards is not None:
            encoding[name]["shards"] = tuple(shards[dim] for dim in ds[name].dims)
        if "spatial_ref" in ds.coords:
            encoding[name]["grid_mapping"] = "spatial_ref"
    encoding |= {str(name): {"_FillValue": None} for name, coord in ds.coords.items() if coord.dtype.kind == "f"}

    def write(aside: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
            warnings.filterwarnings("ignore", "Object at .* is not recognized")  # folders that some S3 servers keep
            ds.to_zarr(aside, mode="w", zarr_format=3, consolidated=True, encoding=encoding)

    if is_remote(path):
        with open_upload(str(path), None, overwrite=True) as (store, _):
            write(store)
        return path
    return write_aside(Path(path), write)
