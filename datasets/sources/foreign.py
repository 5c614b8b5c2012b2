"""Zarr stores of others, version 2 or 3, and MDIO surveys, opened in place as volumes: nothing is copied.

A store that says enough of itself (one array with named dimensions, or MDIO) is opened by its own path. Of any other, a
view says the rest: a YAML file of a conversion's settings, with the store as its source and no `out`
(``pipeline/recipes/views/survey.yaml``). Chunks that a store leaves out hold its fill value.

A run that goes on notices a chunk that was replaced, added or removed: the attribute ``conversion``, and so
`datasets.volume.Volume.digest`, has a hash of the list of the objects of data and mask, with size and version of each
(of a file, when it was changed: copy a folder with its times). Where there is no listing, as behind ``https://``, it
says so, and changed values go unnoticed. Labels are told apart by their values.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial, reduce
from operator import and_
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from datasets.config_convert import ConvertConfig, changed, read_settings
from datasets.errors import AwayError, InputError
from datasets.label_sources.place import is_placed, place_labels
from datasets.labels import class_codes, label_attrs, unlabel_missing
from datasets.lazy_array import Cut, LazyArray
from datasets.maps.coordinates import add_coordinates
from datasets.provenance import hash_files
from datasets.readers import cf
from datasets.readers.arrays import name_dims
from datasets.sources.foreign_layouts import Layout, attributes, find_layout
from datasets.sources.side_arrays import add_raster_labels, read_mask, refuse_elsewhere, refuse_misfit
from datasets.storage.objects import STORE_ERRORS, Objects, brief, is_remote

Node = zarr.Group | zarr.Array
_SETTINGS = (
    "source", "key", "dims", "labels", "labels_key", "horizons", "label_columns", "label_radius", "label_touched",
    "labels_crs", "label_shape", "label_dims", "labels_dominant", "order", "class_names", "valid", "valid_key",
    "valid_dims", "nodata", "coordinates", "coordinate_units", "crs", "vertical", "name", "units", "title", "licence",
)  # fmt: skip
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_WAY_OUT = "write what it is into a view, such as pipeline/recipes/views/survey.yaml, and name that instead"


def is_view(where: str) -> bool:
    """Whether a source names a view."""
    return where.endswith((".yaml", ".yml"))


def open_foreign(where: str, open_node: Callable[[str], Node]) -> xr.Dataset:
    """Open a store or view that is no converted volume, lazily, as `datasets.store.open_volume` has it.

    `InputError` where neither view nor store says which array is the volume, or it cannot be one.
    """
    config = _read_view(Path(where)) if is_view(where) else ConvertConfig(source=where)
    for option, place in (("labels", config.labels), ("valid", config.valid)):
        if place and not is_remote(place) and not Path(place).exists():
            raise InputError(f"no file or store at {place}; check {option}")
    node = open_node(config.source)
    try:
        layout = find_layout(node, config.key, config.vertical)
    except LookupError as error:
        raise InputError(
            f"{config.source} is a Zarr store, but not a converted volume: {error.args[0]}; {_WAY_OUT}"
        ) from error
    ds, layout = _data(config, layout)
    ds = add_coordinates(ds, config, lambda key: np.asarray(_find(node, key, config.source, "coordinates").array))
    mask, held = _mask(ds["data"], config, layout, node, open_node)
    data = ds["data"].variable
    masks = [data != value for value in ds.attrs["nodata"]]
    if mask is not None:
        refuse_misfit(mask, data, "valid mask")
        mask = mask.chunk({dim: data.chunksizes[dim] for dim in mask.dims}).astype(bool)
        masks.append(mask)
    if masks:
        ds["valid"] = reduce(and_, masks).set_dims(dict(data.sizes)).transpose(*data.dims).chunk(data.chunksizes)
    if is_placed(config):
        ds = place_labels(ds, config)
    elif _is_file(config.labels):
        refuse_elsewhere(ds, config)
        ds = add_raster_labels(ds, config)
    elif config.labels or config.labels_key:
        ds["labels"] = _labels(config, open_node(config.labels) if config.labels else node, ds["data"])
    if "labels" in ds and mask is not None:  # a value for no data would have all data read for their labels
        ds["labels"] = unlabel_missing(ds["labels"].variable, mask)
    described = json.dumps(layout.array.metadata.to_dict(), sort_keys=True, default=str)
    conversion = {
        "in place": changed(config, ("source", "labels", "horizons", "valid", "title", "licence")),
        "array_sha256": hashlib.sha256(described.encode()).hexdigest(),
        "objects": _objects(config.source, layout.array.path),
        **({"mask": held} if held else {}),
    }
    ds.attrs = {
        "title": config.title or layout.title or Path(config.source).stem,
        "source": f"{config.source} {layout.array.path}".strip(),
        "licence": config.licence or "not stated",
        "conversion": json.dumps(conversion, sort_keys=True),
    }
    return ds


def _is_file(place: str) -> bool:
    return not is_remote(place) and Path(place).is_file()


def _data(config: ConvertConfig, layout: Layout) -> tuple[xr.Dataset, Layout]:
    stored = layout.array
    if stored.dtype.kind not in "biuf":
        raise InputError(f"{config.source} holds cells of type {stored.dtype}; a volume needs whole or real numbers")
    data = _variable(stored, config.dims or layout.dims, config.source)
    kept = [axis for axis, size in enumerate(stored.shape) if data.ndim == stored.ndim or size > 1]
    if layout.dims:
        layout = layout.renamed({layout.dims[axis]: str(dim) for axis, dim in zip(kept, data.dims, strict=True)})
    data, nodata = cf.unpacked(data)
    data.attrs = cf.described(data.attrs, config)
    chunks = tuple(stored.chunks[axis] for axis in kept)
    data = data.chunk(dict(zip(data.dims, chunks, strict=True)))
    data.encoding = {"chunks": chunks, "shards": stored.shards and tuple(stored.shards[axis] for axis in kept)}
    coords = {name: at for name, at in layout.coords.items() if set(at.dims) <= set(data.dims)}
    nodata += [] if config.nodata is None else [config.nodata]
    return xr.Dataset({"data": data}, coords, attrs={"nodata": nodata, "crs": layout.crs}), layout


def _read_view(path: Path) -> ConvertConfig:
    if not path.is_file():
        raise InputError(f"no view at {path}; check the path")
    settings = read_settings(path)
    unknown = sorted(set(settings) - set(_SETTINGS)) if isinstance(settings, dict) else settings
    if unknown or not (settings and settings.get("source")):
        problem = f"holds {unknown}, which is no setting of a view" if unknown else "names no source"
        raise InputError(f"{path} {problem}; its settings are {sorted(_SETTINGS)}")
    return ConvertConfig(**settings)


def _find(node: Node, key: str, where: str, option: str) -> Layout:
    try:
        return find_layout(node, key)
    except LookupError as error:
        raise InputError(f"{where}: {error.args[0]}; correct {option}") from error


def _variable(array: zarr.Array, dims: list[str], where: str) -> xr.Variable:
    if not dims:
        raise InputError(
            f"{where} is a Zarr store, but not a converted volume: its array of shape {array.shape} does not name its "
            f"dimensions; {_WAY_OUT}"
        )
    variable = name_dims(LazyArray(array.shape, array.dtype, partial(_read_block, array, where)), dims, [], "C", where)
    variable.attrs = attributes(array)
    return variable


def _read_block(array: zarr.Array, where: str, cut: Cut) -> np.ndarray:
    try:
        return np.asarray(array[cut])
    except MemoryError:
        raise
    except Exception as error:  # of any codec
        cells = ", ".join(f"{part.start or 0}:{part.stop or size}" for part, size in zip(cut, array.shape, strict=True))
        what = f"{where}: cells [{cells}] of {array.path or 'the array'}"
        if isinstance(error, STORE_ERRORS):
            raise AwayError(f"{what} could not be read ({brief(error)}); check the store") from None
        raise InputError(f"{what} lie in a broken chunk ({error}); restore it") from error


def _mask(
    data: xr.DataArray, config: ConvertConfig, layout: Layout, node: Node, open_node: Callable[[str], Node]
) -> tuple[xr.Variable | None, str]:
    if _is_file(config.valid):
        return read_mask(data, config), hash_files([config.valid])[config.valid]
    where, found = config.valid or config.source, layout.valid
    if config.valid or config.valid_key:
        named = _find(open_node(config.valid) if config.valid else node, config.valid_key, where, "valid_key")
        found = named.array, config.valid_dims or named.dims or config.dims
    return (_variable(*found, "the valid mask"), _objects(where, found[0].path)) if found is not None else (None, "")


def _labels(config: ConvertConfig, node: Node, data: xr.DataArray) -> xr.Variable:
    where = config.labels or config.source
    if not config.class_names:
        raise InputError(f"the labels in {where} have values without names; name the classes with class_names")
    if config.label_shape or config.labels_dominant is not None:
        raise InputError(
            f"label_shape and labels_dominant are for labels from a file, but {where} is a store; take them out"
        )
    found = _find(node, config.labels_key, where, "labels_key")
    labels = _variable(found.array, config.label_dims or found.dims, f"{where} {config.labels_key}".strip())
    refuse_misfit(labels, data.variable, "labels array")
    codes = xr.apply_ufunc(
        partial(class_codes, class_names=config.class_names),
        labels.chunk({dim: data.chunksizes[dim] for dim in labels.dims}),
        dask="parallelized",
        output_dtypes=[np.uint8],
    )
    codes.attrs = label_attrs(config.class_names)
    return codes


def _objects(uri: str, array: str) -> str:
    """Count the objects that hold an array and hash their list, where they can be listed."""
    listed = Objects(uri).listing(array)
    if listed is None:
        return "not listed by the store, so changed values go unnoticed"
    chunks = [entry for entry in listed if entry[0].rpartition("/")[2] not in _METADATA]
    return f"{len(chunks)}, sha256 {hashlib.sha256(json.dumps(chunks).encode()).hexdigest()}"
