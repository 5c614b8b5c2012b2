"""What of a volume is already written, kept beside it, so that a killed conversion goes on where it was."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datasets.errors import InputError


class Journal:
    """Finished pieces of one volume: a small file each, with what was measured of the piece.

    A file appears under its name only when it is complete, and only after its piece is in the store.

    Parameters
    ----------
    folder
        Where the files are.
    resumes
        Whether what is unfinished can be gone on with.
    goes_on
        Whether an earlier process has begun writing the same.
    """

    def __init__(self, folder: Path, *, resumes: bool = False, goes_on: bool = False) -> None:
        self.folder, self.resumes, self.goes_on = folder, resumes, goes_on
        self.kept = False

    def keep(self) -> bool:
        """Keep the journal beyond the end of its context, where what is unfinished can be gone on with."""
        self.kept = self.resumes
        return self.kept

    def __contains__(self, name: str) -> bool:
        return self._file(name).is_file()

    def note(self, name: str, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Write down that a piece is finished."""
        aside = self._file(name).with_suffix(".part")
        with aside.open("wb") as file:
            np.savez_compressed(file, **dict(arrays or {}))  # type: ignore[arg-type]
        aside.replace(self._file(name))

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Read what was measured of a finished piece."""
        with np.load(self._file(name), allow_pickle=False) as arrays:
            return dict(arrays)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '.')}.npz"


@contextmanager
def open_journal(place: str | Path, key: str | None, *, begun: bool) -> Iterator[Journal]:
    """Open the journal of a volume that is being written, for this process alone; removed at the end unless kept.

    Parameters
    ----------
    place
        Folder of the volume, of which the journal is a hidden neighbour, or its URI, whose journal is in the user's
        cache (``$XDG_CACHE_HOME``).
    key
        What is being written, as a hash; none is never gone on with.
    begun
        Whether an earlier process left something that can be gone on with.

    Raises
    ------
    InputError
        Where another process is writing the same volume.
    """
    folder = _folder(place)
    lock = _lock(folder, place)
    journal = None
    try:
        known = folder / "key"
        goes_on = key is not None and begun and known.is_file() and known.read_text() == key
        if not goes_on:
            for entry in folder.iterdir():
                if entry.name != "lock":
                    entry.unlink()
            known.write_text(key or "")
        journal = Journal(folder, resumes=key is not None, goes_on=goes_on)
        yield journal
    finally:
        if journal is None or not journal.kept:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)  # which gives up the lock, as the end of the process does however it ends


def _folder(place: str | Path) -> Path:
    if "://" not in str(place):
        path = Path(place)
        return path.with_name(f".{path.name}.journal")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "telegrapher" / f"{hashlib.sha256(str(place).encode()).hexdigest()[:32]}.journal"


def _lock(folder: Path, place: str | Path) -> int:
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder.mkdir(exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(folder / "lock")):
                return file
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
