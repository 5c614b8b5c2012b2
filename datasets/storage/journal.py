"""What of a store is written, kept beside it, so that whoever is killed goes on where he was."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np

from datasets.errors import InputError


class Journal:
    """Finished pieces of one volume: a note each, with what was measured of it, in files that appear whole or not.

    A journal that `resumes` can be gone on with later; one that `goes_on` was begun by an earlier process.
    """

    def __init__(self, folder: Path, *, resumes: bool, goes_on: bool) -> None:
        self._folder, self._resumes, self.goes_on = folder, resumes, goes_on
        self.finished = goes_on  # whether any piece is
        self.kept = False

    def keep(self) -> None:
        """Keep the journal beyond its context, if it resumes."""
        self.kept = self._resumes

    def __contains__(self, name: str) -> bool:
        return self._has(_file(name))

    def note(self, name: str, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Note that a piece is finished."""
        packed = BytesIO()
        np.savez_compressed(packed, **dict(arrays or {}))  # type: ignore[arg-type]
        self._put(_file(name), packed.getvalue())
        self.finished |= self._resumes and "-" in name  # the name of a piece

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Read what was measured of a finished piece."""
        with np.load(BytesIO(self._get(_file(name))), allow_pickle=False) as arrays:
            return dict(arrays)

    def refuse_other_owner(self) -> None:
        """Stop where another process has taken the store over, which none can in a folder."""

    def _put(self, file: str, data: bytes) -> None:
        aside = self._folder / f"{file}.part"
        aside.write_bytes(data)
        aside.replace(self._folder / file)

    def _get(self, file: str) -> bytes:
        return (self._folder / file).read_bytes()

    def _has(self, file: str) -> bool:
        return (self._folder / file).is_file()


def _file(name: str) -> str:
    return f"{name.replace('/', '.')}.npz"


@contextmanager
def open_journal(place: Path, key: str | None, *, begun: bool) -> Iterator[Journal]:
    """Open the journal of a volume that is being written, for this process alone; removed at the end unless kept.

    It is a hidden neighbour of the volume's folder. Where something was begun, it goes on if its key, a hash of what is
    being written, is the same; without a key never. `InputError` where another process writes the same volume.
    """
    folder = place.with_name(f".{place.name}.journal")
    with locked(folder, place):
        known = folder / "key"
        goes_on = key is not None and begun and known.is_file() and known.read_text() == key
        journal = Journal(folder, resumes=key is not None, goes_on=goes_on)
        try:
            if not goes_on:
                forget(folder)
                known.write_text(key or "")
            yield journal
        finally:
            if not journal.kept:
                shutil.rmtree(folder, ignore_errors=True)


def forget(folder: Path) -> None:
    """Remove all notes from a folder that this process has locked."""
    for entry in folder.iterdir():
        if entry.name != "lock":
            entry.unlink()


@contextmanager
def locked(folder: Path, place: str | Path) -> Iterator[None]:
    """Let no other process of this machine write `place`, by a lock in `folder`: `InputError` where one does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder.mkdir(exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(folder / "lock")):
                break
        except FileNotFoundError:
            pass  # the process before us has just removed it
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise InputError(
                    f"another process is writing {place}; wait for its end, or choose another place"
                ) from error
            raise
        os.close(file)
    try:
        yield
    finally:
        os.close(file)  # which gives up the lock, as the end of the process does however it ends
