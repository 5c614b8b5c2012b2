"""A source becomes a labelled Zarr volume: read lazily, name everything, mask what is no data, write aside, rename."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from datasets.config_convert import ConvertConfig, changed
from datasets.dims import refuse_unknown
from datasets.errors import InputError
from datasets.label_sources.place import place_labels
from datasets.labels import unlabel_missing
from datasets.maps.coordinates import add_coordinates
from datasets.provenance import content_key, hash_files, program
from datasets.readers import cf, numpy
from datasets.readers.formats import READERS, source_kind
from datasets.sources.channels import read_channels
from datasets.sources.masking import add_mask
from datasets.sources.side_arrays import add_side_arrays, load_array, refuse_elsewhere
from datasets.storage.objects import is_remote
from datasets.store import is_made, refuse_existing, stored_attributes, write_volume

# Settings that say where things lie or how they are stored, not what the volume holds.
_NOT_IDENTITY = (
    "source", "more_sources", "out", "labels", "horizons", "valid", "extent", "chunks", "block", "overviews",
    "overwrite", "title", "licence",
)  # fmt: skip


def convert(config: ConvertConfig) -> str | Path:
    """Convert a source to a Zarr store, and return its place; of the same source and settings it is made once only.

    `InputError` where the source cannot be read or does not fit the settings, or the target cannot be written.
    """
    if not config.source or not config.out:
        raise InputError("convert needs a source and an out, such as --source cube.sgy --out surveys/cube.zarr")
    kind = source_kind(config.source, config.format, "source")
    if kind == "numpy":
        config = numpy.with_sidecar(config)
    there = {} if config.overwrite else stored_attributes(config.out)
    if json.loads(there.get("conversion", "{}")).get("settings") != _identity(config):
        refuse_existing(config.out, config.overwrite, store=True)  # at once: what follows may read a large source
    ds = read_channels(config) if config.more_sources else READERS[kind](config)
    if ds["data"].dtype.kind not in "iuf":
        raise InputError(
            f"{config.source} holds cells of type {ds['data'].dtype}; a volume needs whole or real numbers"
        )
    files = ds.attrs.pop("files")
    ds = add_side_arrays(ds, config)
    ds = add_coordinates(ds, config, lambda key: load_array(config.source, key, "coordinates"))
    refuse_elsewhere(ds, config)
    if config.transpose:
        if sorted(config.transpose) != sorted(map(str, ds["data"].dims)):
            raise InputError(f"transpose is {config.transpose}; name all of the dimensions {list(ds['data'].dims)}")
        ds = ds.transpose(*config.transpose, missing_dims="ignore")
    for setting in ("chunks", "block"):
        refuse_unknown(setting, getattr(config, setting), ds["data"].dims, "; correct it")
    # The mask of channels from several sources says already where the value for no data is in each.
    ds = add_mask(ds, replace(config, nodata=None) if config.more_sources else config, kind)
    ds = place_labels(ds, config)
    if "labels" in ds and "valid" in ds:
        ds["labels"] = unlabel_missing(ds["labels"].variable, ds["valid"].variable)
    ds["data"].attrs = cf.described(ds["data"].attrs, config)
    ds.attrs = _provenance(config, ds.attrs, files)
    settings = asdict(replace(config, overwrite=False))
    key = content_key({"attrs": ds.attrs, "settings": settings, "sizes": dict(ds.sizes)})
    out = config.out if is_remote(config.out) else Path(config.out)
    if not config.overwrite and is_made(out, key):
        print(f"{config.out} is there already, of the same source and settings: nothing to do")
        return out
    return write_volume(
        ds.assign_attrs(program=program()),
        out,
        overwrite=config.overwrite,
        chunks=config.chunks,
        block=config.block,
        progress=f"writing {config.out}",
        key=key,
        overviews=config.overviews,
        no_data=f"{config.source} holds no data: every cell is NaN or masked; check nodata, valid and the source",
    )


def _identity(config: ConvertConfig) -> dict[str, object]:
    settings = changed(config, _NOT_IDENTITY)
    others = [changed(other, _NOT_IDENTITY) for other in config.others]
    if any(others):
        settings["more_sources"] = others
    return json.loads(json.dumps(settings))


def _provenance(config: ConvertConfig, known: dict, files: list[str]) -> dict[str, str]:
    beside = [path for path in (config.labels, *config.horizons, config.valid, config.extent) if path]
    beside += [text for text in config.coordinates.values() if isinstance(text, str) and Path(text).is_file()]
    found = hash_files([*files, *beside], speak=True)
    names = [Path(path).name for path in found]
    hashes = {
        name if names.count(name) == 1 else f"{Path(path).parent.name}/{name}": digest
        for name, (path, digest) in zip(names, found.items(), strict=True)
    }
    own = "".join(found[path] for path in files)
    shipped = config.source.startswith("tensorly:")
    return {
        "title": config.title or known.get("title") or Path(config.source).stem,
        "source": config.source if shipped else ", ".join(Path(path).name for path in files),
        "source_sha256": own if len(files) == 1 else hashlib.sha256(own.encode()).hexdigest(),
        "licence": config.licence or known.get("licence") or "not stated",
        **{name: known[name] for name in ("gridding", "resampling") if name in known},
        "conversion": json.dumps({"settings": _identity(config), "sha256": hashes}, sort_keys=True),
    }
