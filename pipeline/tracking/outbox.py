"""What a server is still to be told: entries in a file, sent in order by a thread, however long the server is away."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.tracking.lines import Lines

Entry = list[Any]
_PATIENCE_S = 5.0
_BATCH = 200


class Outbox:
    """Entries on their way to a server.

    Every entry is on disk before it is sent and stays there until it was; a process that is killed leaves the rest to
    the next. So an entry may be sent twice, and sending must not mind.

    Parameters
    ----------
    path
        File of the entries, in the run's folder; empty where nothing waits.
    send
        Sends some entries, in order, or raises.
    server
        Name of the server for the user.
    """

    def __init__(self, path: Path, send: Callable[[list[Entry]], None], server: str) -> None:
        self.path, self._send, self._server = path, send, server
        self._lines = Lines(path)
        self._state = threading.Condition()
        self._sent = 0  # bytes of the file
        self._wished = self._served = 0  # deliveries
        self._closing = False
        self._told = False
        self._thread: threading.Thread | None = None

    def post(self, entry: Entry, *, later: bool = False) -> None:
        """Add an entry; with `later` it waits for the next process that opens this outbox."""
        with self._state:
            self._lines.add(entry)
        if not later and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()

    def flush(self) -> bool:
        """Try to send everything now; tells whether the server has got it all."""
        with self._state:
            if self._thread is None:
                return not len(self._lines)
            self._wished += 1
            wish = self._wished
            self._state.notify_all()
            self._state.wait_for(lambda: self._served >= wish)
            return not len(self._lines)

    def close(self) -> bool:
        """Try to send everything and end the thread; tells whether the server has got it all."""
        done = self.flush()
        with self._state:
            self._closing = True
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._lines.close()
        return done

    def _work(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._closing or self._wished > self._served, timeout=_PATIENCE_S)
                if self._closing:
                    return
                wished = self._wished
            self._deliver()
            with self._state:
                self._served = wished
                self._state.notify_all()

    def _deliver(self) -> None:
        try:
            for entries, end in self._batches():
                self._send(entries)
                self._sent = end
        except Exception as error:  # the server's client decides the type: HTTP, SQL, file system
            if not self._told:
                self._told = True
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(
                    f"{self._server} does not answer ({reason}); training goes on. What it misses waits in {self.path} "
                    "and is sent as soon as it answers, or by --resume",
                    flush=True,
                )
            return
        if self._told:
            self._told = False
            print(f"{self._server} answers again and has got what it missed", flush=True)

    def _batches(self) -> Iterator[tuple[list[Entry], int]]:
        """Yield what waits, some entries at a time with the place where they end; empty the file at its end."""
        with self.path.open("rb") as file:
            file.seek(self._sent)
            while True:
                entries: list[Entry] = []
                end = self._sent
                while len(entries) < _BATCH and (line := file.readline()).endswith(b"\n"):
                    end += len(line)
                    try:
                        entries.append(json.loads(line))
                    except json.JSONDecodeError:  # cut off when a process was killed
                        continue
                if end > self._sent:
                    yield entries, end
                    continue
                with self._state:
                    if len(self._lines) == self._sent:
                        self._lines.clear()
                        self._sent = 0
                        return
                file.seek(self._sent)
