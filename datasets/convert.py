"""A source becomes a labelled Zarr volume: read lazily, name everything, mask what is no data, write aside, rename."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.channels import read_channels
from datasets.config import ConvertConfig
from datasets.config_convert import MoreSource
from datasets.coordinates import add_coordinates
from datasets.errors import InputError
from datasets.label_sources.place import is_placed, place_labels
from datasets.labels import dominant_class, encode_labels
from datasets.masking import add_mask
from datasets.objects import is_remote
from datasets.provenance import content_key, hash_files, program
from datasets.readers import envi, geotiff, matlab, netcdf, numpy
from datasets.readers.arrays import name_dims
from datasets.readers.lazy import LazyArray
from datasets.sources import READERS, existing, source_kind
from datasets.store import refuse_existing, write_volume

# Settings that say where things lie or how they are stored, not what the volume holds.
_NOT_IDENTITY = (
    "source",
    "more_sources",
    "out",
    "labels",
    "horizons",
    "valid",
    "extent",
    "chunks",
    "block",
    "overviews",
    "overwrite",
    "title",
    "licence",
)


def convert(config: ConvertConfig) -> str | Path:
    """Convert a source.

    Parameters
    ----------
    config
        Source, target, and what the source does not say about itself.

    Returns
    -------
    pathlib.Path or str
        The Zarr store.

    Raises
    ------
    InputError
        Where the source cannot be read or does not fit the settings, the target exists, or cannot be written.
    """
    if not config.source or not config.out:
        raise InputError("convert needs a source and an out, such as --source cube.sgy --out surveys/cube.zarr")
    kind = source_kind(config.source, config.format, "source")
    refuse_existing(config.out, config.overwrite)
    if kind == "numpy":
        config = numpy.with_sidecar(config)
    ds = read_channels(config) if config.more_sources else READERS[kind](config)
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
    _check_layout(ds, config)
    # The mask of channels from several sources says already where the value for no data is in each.
    masked = add_mask(ds, replace(config, nodata=None) if config.more_sources else config, kind)
    ds = place_labels(masked, config)
    known = ds["data"].attrs
    names = {"long_name": config.name or known.get("long_name"), "units": config.units or known.get("units")}
    ds["data"].attrs = {key: str(text) for key, text in names.items() if text}
    side_files = [path for path in (config.labels, *config.horizons, config.valid, config.extent) if path]
    side_files += [text for text in config.coordinates.values() if isinstance(text, str) and Path(text).is_file()]
    ds.attrs = _provenance(config, ds.attrs, files, side_files)
    return write_volume(
        ds,
        config.out if is_remote(config.out) else Path(config.out),
        overwrite=config.overwrite,
        chunks=config.chunks,
        block=config.block,
        progress=f"writing {config.out}",
        key=content_key(
            {"attrs": ds.attrs, "settings": asdict(replace(config, overwrite=False)), "sizes": dict(ds.sizes)}
        ),
        overviews=config.overviews,
        no_data=f"{config.source} holds no data: every cell is NaN or masked; check nodata, valid and the source",
    )


def _array(source: str, key: str, option: str) -> np.ndarray | LazyArray:
    """Load an array from a file beside the data, or from the data's own file."""
    path = existing(source, option)
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return matlab.load(path, key, f"{option}_key")
    if suffix in (".npy", ".npz"):
        return numpy.load(path, key, f"{option}_key")
    if suffix in (".tif", ".tiff"):
        return geotiff.read(ConvertConfig(source=source))["data"].values
    if suffix in (".hdr", ".img", ".bsq", ".bil", ".bip"):
        return envi.read(ConvertConfig(source=source))["data"].values
    if suffix in (".nc", ".nc4", ".cdf"):
        return netcdf.load(path, key, f"{option}_key")
    raise InputError(
        f"{path} is not an array that {option} can be read from; use .npy, .npz, .mat, .tif, .nc or an ENVI .hdr"
    )


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
    if is_placed(config):
        return None
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


def _check_layout(ds: xr.Dataset, config: ConvertConfig) -> None:
    """Refuse edges of chunks or blocks along dimensions that the data lack."""
    for setting in ("chunks", "block"):
        unknown = [dim for dim in getattr(config, setting) if dim not in ds["data"].dims]
        if unknown:
            raise InputError(
                f"{setting} names {unknown}, but the data have the dimensions {list(ds['data'].dims)}; correct it"
            )


def _provenance(config: ConvertConfig, known: dict, files: list[str], side_files: list[str]) -> dict[str, str]:
    found = hash_files([*files, *side_files], speak=True)
    names = [Path(path).name for path in found]
    hashes = {
        name if names.count(name) == 1 else f"{Path(path).parent.name}/{name}": digest
        for name, (path, digest) in zip(names, found.items(), strict=True)
    }
    own = [found[path] for path in files]
    settings = _changed(config, ConvertConfig())
    others = [_changed(other, MoreSource(other.source)) for other in config.others]
    if any(others):
        settings["more_sources"] = others
    shipped = config.source.startswith("tensorly:")
    return {
        "title": config.title or known.get("title") or Path(config.source).stem,
        "source": config.source if shipped else ", ".join(Path(path).name for path in files),
        "source_sha256": own[0] if len(own) == 1 else hashlib.sha256("".join(own).encode()).hexdigest(),
        "licence": config.licence or known.get("licence") or "not stated",
        **{name: known[name] for name in ("gridding", "resampling") if name in known},
        "program": program(),
        "conversion": json.dumps({"settings": settings, "sha256": hashes}, sort_keys=True),
    }


def _changed(config: ConvertConfig | MoreSource, plain: ConvertConfig | MoreSource) -> dict[str, object]:
    """Take the settings that decide what the volume holds and are not at their defaults."""
    default = asdict(plain)
    return {
        name: value for name, value in asdict(config).items() if name not in _NOT_IDENTITY and value != default[name]
    }
