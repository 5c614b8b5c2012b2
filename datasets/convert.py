"""A source becomes a labelled Zarr volume: read lazily, name everything, mask what is no data, write aside, rename."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.coordinates import add_coordinates
from datasets.errors import InputError
from datasets.labels import dominant_class, encode_labels
from datasets.readers import geotiff, matlab, numpy, segy, tensorly
from datasets.readers.arrays import name_dims
from datasets.readers.lazy import LazyArray
from datasets.store import plan_chunks, refuse_existing, write_volume

_SUFFIXES = {
    ".mat": "matlab", ".npy": "numpy", ".npz": "numpy",
    ".sgy": "segy", ".segy": "segy", ".tif": "geotiff", ".tiff": "geotiff",
}  # fmt: skip
_READERS: dict[str, Callable[[ConvertConfig], xr.Dataset]] = {
    "matlab": matlab.read,
    "numpy": numpy.read,
    "segy": segy.read,
    "geotiff": geotiff.read,
    "tensorly": tensorly.read,
}
# Settings that say where things lie or how they are stored, not what the volume holds.
_NOT_IDENTITY = (
    "source",
    "more_sources",
    "out",
    "labels",
    "valid",
    "extent",
    "chunks",
    "overwrite",
    "title",
    "licence",
)


def convert(config: ConvertConfig) -> Path:
    """Convert a source.

    Parameters
    ----------
    config
        Source, target, and what the source does not say about itself.

    Returns
    -------
    pathlib.Path
        The Zarr store.

    Raises
    ------
    InputError
        Where the source cannot be read or does not fit the settings, the target exists, or cannot be written.
    """
    if not config.source or not config.out:
        raise InputError("convert needs a source and an out, such as --source cube.sgy --out surveys/cube.zarr")
    kind = _kind(config)
    refuse_existing(Path(config.out), config.overwrite)
    if kind != "tensorly":
        _existing(config.source, "source")
    if kind == "numpy":
        config = numpy.with_sidecar(config)
    ds = _READERS[kind](config)
    if ds["data"].dtype.kind not in "iuf":
        raise InputError(
            f"{config.source} holds cells of type {ds['data'].dtype}; a volume needs whole or real numbers"
        )
    files = ds.attrs.pop("files")
    ds = _add_side_arrays(ds, config)
    ds = add_coordinates(ds, config, lambda key: _loaded(_array(config.source, key, "coordinates")))
    if config.transpose:
        if sorted(config.transpose) != sorted(map(str, ds["data"].dims)):
            raise InputError(f"transpose is {config.transpose}; name all of the dimensions {list(ds['data'].dims)}")
        ds = ds.transpose(*config.transpose, missing_dims="ignore")
    ds = _mask(_chunk(ds, config), config, kind)
    ds["data"].attrs = {key: text for key, text in (("long_name", config.name), ("units", config.units)) if text}
    side_files = [path for path in (config.labels, config.valid, config.extent) if path]
    ds.attrs = _provenance(config, ds.attrs, files, side_files)
    return write_volume(
        ds, config.out, overwrite=config.overwrite, chunks=config.chunks, progress=f"writing {config.out}"
    )


def _kind(config: ConvertConfig) -> str:
    if config.format != "auto":
        return config.format
    if config.source.startswith("tensorly:"):
        return "tensorly"
    suffix = Path(config.source).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{config.source} has the suffix {suffix!r}; set format, or use one of {sorted(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def _existing(path: str, option: str) -> Path:
    if not Path(path).is_file():
        raise InputError(f"no file at {path}; check {option}")
    return Path(path)


def _array(source: str, key: str, option: str) -> np.ndarray | LazyArray:
    """Load an array from a file beside the data, or from the data's own file."""
    path = _existing(source, option)
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return matlab.load(path, key, f"{option}_key")
    if suffix in (".npy", ".npz"):
        return numpy.load(path, key, f"{option}_key")
    if suffix in (".tif", ".tiff"):
        return geotiff.read(ConvertConfig(source=source))["data"].values
    raise InputError(f"{path} is not an array that {option} can be read from; use .npy, .npz, .mat or .tif")


def _loaded(array: np.ndarray | LazyArray) -> np.ndarray:
    return array.load() if isinstance(array, LazyArray) else array


def _add_side_arrays(ds: xr.Dataset, config: ConvertConfig) -> xr.Dataset:
    """Add labels and mask from their own files or keys; labels become class indices."""
    data = ds["data"]
    data_dims = [str(dim) for dim in data.dims]
    if config.valid or config.valid_key:
        array = _array(config.valid or config.source, config.valid_key, "valid")
        valid = name_dims(array, config.valid_dims or data_dims, config.shape, config.order, "the valid mask")
        _check_fit(valid, data, "valid mask")
        ds["valid"] = valid.astype(bool) & ds["valid"].variable if "valid" in ds else valid.astype(bool)
    labels = _raw_labels(ds, config, data_dims)
    if labels is None:
        return ds
    where = config.labels or config.source
    if config.labels_dominant is not None:
        labels = xr.Variable(labels.dims[1:], dominant_class(labels.values, config.labels_dominant))
    _check_fit(labels, data, f"labels array in {where}")
    codes, attrs = encode_labels(labels.values, config.class_names, where)
    return ds.assign(labels=(labels.dims, codes, attrs))


def _raw_labels(ds: xr.Dataset, config: ConvertConfig, data_dims: list[str]) -> xr.Variable | None:
    """Take the labels as the source has them, from their own file or key, or from what the reader brought."""
    if not (config.labels or config.labels_key):
        return ds["labels"].variable if "labels" in ds else None
    where = config.labels or config.source
    array = _array(where, config.labels_key, "labels")
    dims = config.label_dims or data_dims
    if config.labels_dominant is not None:
        dims = ["class", *dims]
    if not config.label_dims and len(array.shape) < len(dims) and not config.label_shape:
        raise InputError(f"the labels in {where} have shape {array.shape}; name their dimensions with label_dims")
    return name_dims(array, dims, config.label_shape, config.order, f"the labels array in {where}")


def _check_fit(array: xr.Variable, data: xr.DataArray, what: str) -> None:
    strange = [dim for dim in array.dims if array.sizes[dim] != data.sizes.get(dim)]
    if strange:
        raise InputError(
            f"the {what} has the shape {dict(array.sizes)}, but the data have {dict(data.sizes)}; "
            f"they must agree along {strange}"
        )


def _chunk(ds: xr.Dataset, config: ConvertConfig) -> xr.Dataset:
    """Hand the arrays to Dask in the pieces that will be stored."""
    unknown = [dim for dim in config.chunks if dim not in ds["data"].dims]
    if unknown:
        raise InputError(f"chunks names {unknown}, but the data have the dimensions {list(ds['data'].dims)}")
    chunks, shards = plan_chunks(ds["data"].sizes, ds["data"].dtype.itemsize, config.chunks)
    for name in ("data", "valid"):
        if name in ds:
            pieces = {dim: edge for dim, edge in (shards or chunks).items() if dim in ds[name].dims}
            # The token spares Dask the hashing of the whole array.
            ds[name] = ds[name].chunk(pieces, token=f"{name}-{config.source}")
    return ds


def _mask(ds: xr.Dataset, config: ConvertConfig, kind: str) -> xr.Dataset:
    """Combine all that says "no data" into ``valid``, and leave it out where everything is valid.

    Raises
    ------
    InputError
        Where nothing is valid.
    """
    data = ds["data"]
    masks: list[xr.DataArray] = [ds["valid"]] if "valid" in ds else []
    if data.dtype.kind == "f":
        masks.append(data.copy(data=np.isfinite(data.data)))
    if config.nodata is not None:
        masks.append(data != config.nodata)
    if config.constant_pieces:
        unknown = [dim for dim in config.constant_pieces if dim not in data.dims]
        if unknown:
            raise InputError(f"constant_pieces names {unknown}, but the data have the dimensions {list(data.dims)}")
        masks.append(data.max(config.constant_pieces) != data.min(config.constant_pieces))
    if kind == "segy":
        # Processing systems write dead traces as zeros and do not always flag them.
        masks.append((data != 0).any(config.vertical))
    if not masks:
        return ds
    valid = masks[0]
    for mask in masks[1:]:
        valid = valid & mask
    (cells,) = dask.compute(valid.data.sum())
    if cells == 0:
        raise InputError(
            f"{config.source} holds no data: every cell is NaN or masked; check nodata, valid and the source"
        )
    if cells == valid.size:
        return ds.drop_vars("valid", errors="ignore")
    full = valid.broadcast_like(data).transpose(*data.dims).reset_coords(drop=True)
    return ds.assign(valid=full.variable)


def _provenance(config: ConvertConfig, known: dict, files: list[str], side_files: list[str]) -> dict[str, str]:
    hashes = {}
    for path in [*files, *side_files]:
        with Path(path).open("rb") as file:
            hashes[Path(path).name] = hashlib.file_digest(file, "sha256").hexdigest()
    own = [hashes[Path(path).name] for path in files]
    plain = asdict(ConvertConfig())
    settings = {
        name: value for name, value in asdict(config).items() if name not in _NOT_IDENTITY and value != plain[name]
    }
    shipped = config.source.startswith("tensorly:")
    return {
        "title": config.title or known.get("title") or Path(config.source).stem,
        "source": config.source if shipped else ", ".join(Path(path).name for path in files),
        "source_sha256": own[0] if len(own) == 1 else hashlib.sha256("".join(own).encode()).hexdigest(),
        "licence": config.licence or known.get("licence") or "not stated",
        "conversion": json.dumps({"settings": settings, "sha256": hashes}, sort_keys=True),
    }
