"""The only door to Zarr: open a volume lazily, write one whole or not at all."""

import errno
import math
import shutil
import sys
import warnings
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dask
import xarray as xr
import zarr
from dask.diagnostics import ProgressBar
from dask.system import CPU_COUNT

from datasets.errors import InputError

FORMAT = "telegrapher-volume"
FORMAT_VERSION = 1
_CHUNK_BYTES = 2 * 2**20
_SHARD_BYTES = 64 * 2**20


def plan_chunks(
    sizes: Mapping[Hashable, int], itemsize: int, preferred: Mapping[str, int] | None = None
) -> tuple[dict[Hashable, int], dict[Hashable, int] | None]:
    """Choose chunks of 1 to 2 MiB with edges as even as they can be, and shards of up to 64 MiB for large arrays.

    Parameters
    ----------
    sizes
        Cells along each dimension.
    itemsize
        Bytes of one cell.
    preferred
        Edges that the user asks for along some of the dimensions.

    Returns
    -------
    chunks, shards
        Edges in cells; shards are none for an array that fits into one shard, otherwise multiples of the chunks.
    """
    fixed = {dim: min(edge, sizes[dim]) for dim, edge in (preferred or {}).items() if dim in sizes}
    chunks = {dim: max(1, fixed.get(str(dim), size)) for dim, size in sizes.items()}
    free = [dim for dim in sizes if dim not in fixed]
    while free and math.prod(chunks.values()) * itemsize > _CHUNK_BYTES:
        longest = max(free, key=lambda dim: chunks[dim])
        if chunks[longest] == 1:
            break
        chunks[longest] = -(-chunks[longest] // 2)
    if math.prod(sizes.values()) * itemsize <= _SHARD_BYTES:
        return chunks, None
    shards = dict(chunks)
    while True:
        growing = [
            dim
            for dim in sizes
            if shards[dim] < sizes[dim]
            and math.prod(shards.values()) // shards[dim] * (shards[dim] + chunks[dim]) * itemsize <= _SHARD_BYTES
        ]
        if not growing:
            return chunks, shards
        shortest = min(growing, key=lambda dim: shards[dim] / chunks[dim])
        shards[shortest] += chunks[shortest]


def open_volume(uri: str | Path) -> xr.Dataset:
    """Open a converted volume lazily; stored values are not masked or scaled.

    Parameters
    ----------
    uri
        Folder of the store, or a URI that fsspec understands.

    Returns
    -------
    xarray.Dataset
        ``data`` and, where the volume has them, ``valid``, ``labels``, ``truth`` and ``wells``, backed by Dask.

    Raises
    ------
    InputError
        Where there is nothing, or something that is not a converted volume.
    """
    where = str(uri)
    way_out = "make a volume from it with `python -m pipeline convert`"
    if "://" not in where and not Path(where).exists():
        raise InputError(f"no volume at {where}; check the path, or make one with `python -m pipeline convert`")
    try:
        ds = xr.open_zarr(where, chunks={}, mask_and_scale=False, decode_coords="all", decode_timedelta=False)
    except (FileNotFoundError, NotADirectoryError, zarr.errors.GroupNotFoundError, zarr.errors.ContainsArrayError) as e:
        raise InputError(f"{where} is not a Zarr store; {way_out}") from e
    if ds.attrs.get("format") != FORMAT or "data" not in ds:
        raise InputError(f"{where} is a Zarr store, but not a converted volume; {way_out}")
    if ds.attrs["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{where} has version {ds.attrs['format_version']} of the volume format, this program reads up to "
            f"{FORMAT_VERSION}; update the program, or convert the source again"
        )
    return ds


def write_volume(
    ds: xr.Dataset,
    path: str | Path,
    *,
    overwrite: bool = False,
    progress: str | None = None,
    chunks: Mapping[str, int] | None = None,
) -> Path:
    """Write a dataset as a Zarr v3 store through Dask, aside first and then renamed: all of it appears, or nothing.

    Parameters
    ----------
    ds
        Variables as `open_volume` describes them; Dask-backed ones are computed shard by shard.
    path
        Folder of the store, made together with its parents.
    overwrite
        Whether an existing store is replaced (after the new one is complete).
    progress
        Words printed before a progress bar; none writes in silence.
    chunks
        Preferred chunk edges of some dimensions; `plan_chunks` chooses the others.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        Where the store exists and `overwrite` is not set, or where it cannot be written, as on a full disk.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    ds, encoding = _lay_out(ds, chunks)
    if progress is not None:
        print(progress, flush=True)
    bar = ProgressBar(minimum=0.5) if progress is not None and sys.stdout.isatty() else nullcontext()

    def write(aside: Path) -> None:
        # A pool of our own: leaving it waits for the threads, so that after Ctrl-C none still writes what we remove.
        with ThreadPoolExecutor(CPU_COUNT) as pool, dask.config.set(pool=pool), bar, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
            ds.to_zarr(aside, mode="w", zarr_format=3, consolidated=True, encoding=encoding)

    return write_aside(path, write)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise `InputError` where `path` exists and is not to be replaced."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another place, or pass --overwrite to replace it")
    if path.is_dir() and not (path / "zarr.json").is_file():
        raise InputError(f"{path} is a folder of other things, which --overwrite leaves alone; choose another place")


def write_aside(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a hidden neighbour of `path`, then put it in the place of `path`.

    Whatever stops it, a full disk and Ctrl-C included, the neighbour is removed and `path` is as it was.

    Raises
    ------
    InputError
        Where the operating system refuses to write.
    """
    aside = path.with_name(f".{path.name}.writing")
    old = path.with_name(f".{path.name}.replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        write(aside)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        aside.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"the disk is full: {path} could not be written, and nothing of it was kept; "
                "free some space or choose a place on another disk"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EDQUOT):
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another place") from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
    return path


def _lay_out(ds: xr.Dataset, preferred: Mapping[str, int] | None) -> tuple[xr.Dataset, dict[Hashable, dict[str, Any]]]:
    """Chunk every variable as it will be stored, and say so in its attributes and in the encoding for xarray."""
    ds = ds.drop_encoding()
    encoding: dict[Hashable, dict[str, Any]] = {name: {"_FillValue": None} for name in ds.variables}
    for stored in ds.variables.values():
        stored.attrs.pop("_FillValue", None)
    for name, var in ds.data_vars.items():
        if not var.ndim:
            continue
        # Masks and dense labels are laid out as the data is, so that both are computed from the same pieces.
        like = ds["data"] if "data" in ds and ds["data"].dims == var.dims else var
        chunks, shards = plan_chunks(var.sizes, like.dtype.itemsize, preferred)
        shape = tuple(chunks[dim] for dim in var.dims)
        encoding[name]["chunks"] = shape
        var.attrs["chunks"] = list(shape)
        var.attrs.pop("shards", None)
        if shards is not None:
            encoding[name]["shards"] = tuple(shards[dim] for dim in var.dims)
            var.attrs["shards"] = list(encoding[name]["shards"])
        if "spatial_ref" in ds.coords and name in ("data", "valid", "labels", "truth"):
            encoding[name]["grid_mapping"] = "spatial_ref"
        if var.chunks is not None:
            ds[name] = var.chunk(shards or chunks)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    ds.attrs = {"created": created, **ds.attrs, "format": FORMAT, "format_version": FORMAT_VERSION}
    return ds, encoding
