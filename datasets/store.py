"""Open a volume lazily, write one whole or not at all."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import ObjectStore

from datasets.errors import AwayError, InputError
from datasets.provenance import now
from datasets.sources.foreign import is_view, open_foreign
from datasets.storage.journal import Journal, open_journal
from datasets.storage.layout import encoding_of, pieces, plan_chunks
from datasets.storage.lazy import open_lazily
from datasets.storage.objects import Ask, MissingObjectError, Objects, T, is_remote
from datasets.storage.overviews import Encoding
from datasets.storage.upload import BEGUN, ROOT, clear_begun, open_upload, refuse_existing_upload
from datasets.storage.writing import Target, write_arrays

PathOrUri = TypeVar("PathOrUri", str, Path, str | Path)
FORMAT = "telegrapher-volume"
FORMAT_VERSION = 2
_DENSE_SINCE = 2  # every chunk is written and has a checksum; before, a chunk of zeros could be left out
_COMPRESSORS = (ZstdCodec(level=3), Crc32cCodec())
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of the disk is used up"}
_NO_STORE = "{} is not a Zarr store; make a volume from it with `python -m pipeline convert`"


def open_volume(uri: str | Path, *, missing: Literal["error", "mask"] = "error") -> xr.Dataset:
    """Open the volume in a folder or at a URI (``s3://``, ``gs://``, ``az://``, ``https://``) lazily.

    It has ``data`` and, where there are such, ``valid``, ``labels``, ``truth`` and ``wells``, backed by Dask, of a
    converted one with the stored values, not masked or scaled. Any other Zarr or MDIO store, or a view of one, is
    opened as `datasets.sources.foreign` says. A `missing` or broken chunk of the data is an ``error`` that names it,
    once it is read, or of a converted one no data (``mask``); labels and masks must be whole. `InputError` where there
    is no volume.
    """
    where = str(uri)
    if is_view(where):
        return _foreign(where, missing)
    _refuse_nothing(where)
    if not is_remote(where) and not Path(where).is_dir():
        raise InputError(_NO_STORE.format(where))
    objects = Objects(where)
    try:
        root = objects.get(Ask("zarr.json"))
    except MissingObjectError:
        return _foreign(where, missing)
    try:
        group = json.loads(bytes(root.data))
    except ValueError as error:
        raise InputError(f"{objects.name('zarr.json')} is broken ({error}); convert the source again") from error
    attrs = group.get("attributes") or {}
    arrays = (group.get("consolidated_metadata") or {}).get("metadata") or {}
    if attrs.get("format") != FORMAT or "data" not in arrays:
        return _foreign(where, missing)
    if attrs["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{objects.uri} has version {attrs['format_version']} of the volume format, this program reads up to "
            f"{FORMAT_VERSION}; update the program, or convert the source again"
        )
    sparse = attrs["format_version"] < _DENSE_SINCE
    if missing != "mask":
        return open_lazily(objects, group, version=root.etag, sparse=sparse)
    ds = open_lazily(objects, group, version=root.etag, sparse=sparse, lenient=["data"])
    there = ~ds["data_gone"].reset_coords(drop=True)
    return ds.drop_vars("data_gone").assign(valid=there & ds["valid"] if "valid" in ds else there)


def _foreign(where: str, missing: str) -> xr.Dataset:
    ds = open_foreign(where, open_node)
    if missing == "mask":
        raise InputError(
            f"data.missing is mask, but {where} is no converted volume; take it out, or mask cells by valid in a view"
        )
    return ds


def _refuse_nothing(uri: str) -> None:
    if not is_remote(uri) and not Path(uri).exists():
        raise InputError(f"no volume at {uri}; check the path, or make one with `python -m pipeline convert`")


def open_node(uri: str) -> zarr.Group | zarr.Array:
    """Open the group or array at a path or URI for reading; `InputError` where there is none."""
    _refuse_nothing(uri)
    try:
        return _by_zarr(uri, partial(zarr.open, mode="r"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(_NO_STORE.format(uri)) from error


def _by_zarr(uri: str, act: Callable[[Any], T]) -> T:
    if not is_remote(uri):
        return act(uri)
    objects = Objects(uri)
    return objects.attempt("read", lambda: act(ObjectStore(objects.store, read_only=True)))


def open_part(uri: str | Path, group: str) -> xr.Dataset | None:
    """Open a group beside a volume's own arrays, such as its statistics, if it is there."""
    try:
        raw: Any = dict.fromkeys(("mask_and_scale", "decode_timedelta", "consolidated"), False)
        return _by_zarr(str(uri), partial(xr.open_zarr, group=group, chunks={}, **raw))
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return None


def write_volume(
    ds: xr.Dataset,
    path: PathOrUri,
    *,
    overwrite: bool = False,
    progress: str | None = None,
    chunks: Mapping[str, int] | None = None,
    block: Mapping[str, int] | None = None,
    key: str | None = None,
    overviews: bool = False,
    no_data: str | None = None,
) -> PathOrUri:
    """Write a dataset, with statistics of its data, as a Zarr v3 store: all of it appears, or nothing.

    Parameters
    ----------
    ds, path
        Variables as `open_volume` describes them, Dask-backed or not; a folder or URI, returned.
    overwrite
        Whether an existing store is replaced (after the new one is complete).
    progress
        Words printed before a progress bar; none writes in silence.
    chunks, block
        Edges of chunks and of the blocks that will be read, along some dimensions; see `plan_chunks`.
    key
        Hash of what is written and how, stored with it: only with one is kept what a stopped process finished.
    overviews
        Whether coarser copies for viewing are made of data larger than one piece.
    no_data
        Words of the refusal where no cell holds data; a mask that is true everywhere is then left out.

    Raises
    ------
    InputError
        Where the store exists and may not be replaced, another process writes it, it would hold no data, or it cannot
        be written, as on a full disk.
    """
    refuse_existing(path, overwrite, store=True)
    ds, encoding = _lay_out(ds, chunks, block)
    if key is not None:
        ds.attrs["key"] = key
    if speak := progress is not None:
        print(progress, flush=True)
    with open_new(path, key, overwrite=overwrite, speak=speak) as (target, journal):
        write_arrays(ds, target, encoding=encoding, journal=journal, overviews=overviews, no_data=no_data, speak=speak)
    return path


@contextmanager
def open_new(
    path: str | Path, key: str | None, *, overwrite: bool = True, speak: bool = False
) -> Iterator[tuple[Target, Journal]]:
    """Open a folder or store for writing, and the journal of what an earlier process finished of it.

    All of it appears, or nothing; parameters and errors as of `write_volume`.
    """
    begun = speak and bool(begun_attributes(path))
    if is_remote(path):
        upload = open_upload(str(path), key, overwrite=overwrite)
        with upload as (store, journal), _spoken(journal, speak, begun), _kept(journal):
            yield store, journal
        return
    refuse_existing(path, overwrite, store=True)
    path = Path(path)
    journal_of = open_journal(path, key, begun=_aside(path).is_dir())
    with _refusals(path), journal_of as journal, _spoken(journal, speak, begun), _open_aside(path, journal) as aside:
        yield aside, journal


def begun_attributes(path: str | Path) -> dict[str, Any]:
    """Read the attributes of a store that is only begun; empty where there is none."""
    return _attributes(path, f"{BEGUN}/{ROOT}") if is_remote(path) else _attributes(_aside(Path(path)), ROOT)


def _attributes(place: str | Path, key: str) -> dict[str, Any]:
    root = Objects(place).find(key) if is_remote(place) or Path(place).is_dir() else None
    try:
        return dict(json.loads(root or b"{}").get("attributes") or {})
    except ValueError:
        return {}


@contextmanager
def _spoken(journal: Journal, speak: bool, begun: bool) -> Iterator[None]:
    """Say whether writing goes on from an earlier process, and what is kept where it stops."""
    if journal.goes_on and speak:
        print("  this was begun and stopped before: going on with it", flush=True)
    elif begun:
        print("  what was begun here is thrown away: only the same source, settings and program go on", flush=True)
    try:
        yield
    finally:
        if journal.kept and speak:
            print("\n  stopped: what is finished is kept, and the same command goes on with it", flush=True)


def stored_attributes(path: str | Path) -> dict[str, Any]:
    """Read the attributes of a finished volume; empty where there is none."""
    attrs = _attributes(path, ROOT)
    return attrs if attrs.get("format") == FORMAT else {}


def is_made(path: str | Path, key: str) -> bool:
    """Whether the finished volume of this key is there; what writing left beside it goes."""
    made = stored_attributes(path).get("key") == key
    if made and is_remote(path):
        clear_begun(Objects(path))
    return made


def refuse_existing(path: str | Path, overwrite: bool, *, store: bool = False) -> None:
    """Raise `InputError` where `path` exists and is not to be replaced, as a file is not by a `store`."""
    if is_remote(path):
        return refuse_existing_upload(str(path), overwrite)
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another place, or pass --overwrite to replace it")
    if (store and path.is_file()) or (path.is_dir() and not (path / ROOT).is_file()):
        what = "a file" if path.is_file() else "a folder of other things"
        raise InputError(f"{path} is {what}, which --overwrite leaves alone; choose another place")


@contextmanager
def _open_aside(path: Path, journal: Journal) -> Iterator[Path]:
    """Give a hidden neighbour of `path` to fill, then put it in the place of `path`.

    Whatever stops it, a full disk and Ctrl-C included, `path` is as it was. The neighbour goes unless the journal is
    kept.
    """
    aside, old = _aside(path), path.with_name(f".{path.name}.replaced")
    try:
        with _kept(journal), _refusals(path, journal):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not journal.goes_on:
                shutil.rmtree(aside, ignore_errors=True)
            yield aside
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
            aside.rename(path)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        if not journal.kept:
            shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)


@contextmanager
def _kept(journal: Journal) -> Iterator[None]:
    """Keep what is finished, where the journal resumes, when an interruption or nobody's mistake ends it."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, AwayError) or not isinstance(error, InputError):
            journal.keep()
        raise


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")


@contextmanager
def _refusals(path: Path, journal: Journal | None = None) -> Iterator[None]:
    """Put refusals of the operating system that the user can act on into words."""
    try:
        yield
    except OSError as error:
        if full := _FULL.get(error.errno or 0):
            full, way = f"{full}: {path} could not be written", "choose a place on another disk"
            if journal and journal.finished:
                way = f"free some space, and the same command goes on, or remove {_aside(path)} and {way}"
                raise AwayError(f"{full}; {way}") from error
            raise InputError(f"{full}, and nothing of it was kept; free some space or {way}") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another place") from error
        raise


def _lay_out(
    ds: xr.Dataset, preferred: Mapping[str, int] | None, block: Mapping[str, int] | None
) -> tuple[xr.Dataset, Encoding]:
    """Chunk every variable as it will be stored; its attributes and the encoding for xarray say so."""
    ds = ds.drop_encoding()
    ds = ds.assign_coords({name: coord.load() for name, coord in ds.coords.items()})  # only data go piece by piece
    encoding: Encoding = {name: {"_FillValue": None, "compressors": _COMPRESSORS} for name in ds.variables}
    for stored in ds.variables.values():
        stored.attrs.pop("_FillValue", None)
    for name, var in ds.data_vars.items():
        if not var.ndim:
            continue
        # Masks and dense labels are laid out as the data is, so that both are computed from the same pieces.
        like = ds["data"] if "data" in ds and ds["data"].dims == var.dims else var
        chunks, shards = plan_chunks(var.sizes, like.dtype.itemsize, preferred, block)
        var.attrs.pop("shards", None)
        var.attrs.pop("block", None)
        for key, edges in encoding_of(chunks, shards).items():
            encoding[name][key], var.attrs[key] = edges, list(edges)
        if "spatial_ref" in ds.coords and name in ("data", "valid", "labels", "truth"):
            encoding[name]["grid_mapping"] = "spatial_ref"
        if block:
            var.attrs["block"] = ", ".join(f"{dim} {edge}" for dim, edge in block.items())
        if name in ("data", "valid") or var.chunks is not None:
            ds[name] = var.chunk(pieces(var.sizes, shards))
    ds.attrs = {"created": now(), **ds.attrs, "format": FORMAT, "format_version": FORMAT_VERSION}
    return ds, encoding
