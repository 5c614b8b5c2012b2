"""A file that grows by lines of JSON."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def rows_of(lines: Iterable[str | bytes]) -> Iterator[Any]:
    """Read rows, without a line that a killed process cut off."""
    for line in lines:
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


class Lines:
    """Adds whole rows to a file, after an unfinished line's end; what a full disk refuses waits in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        cut = len(self) and os.pread(self._file, 1, len(self) - 1) != b"\n"
        self._waiting = b"\n" if cut else b""
        self._told = False

    def add(self, row: Any) -> None:
        """Add one row."""
        self._waiting += json.dumps(row).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError as error:
            if not self._told:
                self._told = True
                print(f"{self.path} cannot be written ({error.strerror}); its lines wait in memory", flush=True)

    def __len__(self) -> int:
        return os.fstat(self._file).st_size

    @property
    def empty(self) -> bool:
        """Whether no row is in the file or waits for it."""
        return not (len(self) or self._waiting)

    def clear(self) -> None:
        """Empty the file."""
        os.ftruncate(self._file, 0)

    def take(self, start: int) -> bytes:
        """Take the rows that wait, if any, with those in the file from byte `start` on, and empty the file."""
        if not self._waiting:
            return b""
        rest = os.pread(self._file, len(self) - start, start) + self._waiting
        self._waiting = b""
        self.clear()
        return rest

    def put_back(self, rest: bytes) -> None:
        """Undo `take`: its rows come before those added since."""
        self._waiting = rest + os.pread(self._file, len(self), 0) + self._waiting
        self.clear()
        self._write()

    def close(self) -> None:
        """Write what waits, if there is room, and close the file."""
        self._write()
        os.close(self._file)
