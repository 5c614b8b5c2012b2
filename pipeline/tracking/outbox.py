"""What a server is still to be told, however long it is away."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.masking import without_secrets
from pipeline.tracking.lines import Lines, rows_of

Entry = list[Any]
_PATIENCE_S = 5.0
_BATCH = 200


class RefusedError(Exception):
    """The server will never take what it was sent."""


class Outbox:
    """Entries that a thread sends to a server in order, in a file until then.

    A killed process leaves the rest to the next; so an entry may be sent twice, and sending must not mind.

    `send` raises `RefusedError` for entries that may be left out, and anything else where the server does not answer;
    `server` is its name for the user.
    """

    def __init__(self, path: Path, send: Callable[[list[Entry]], None], server: str) -> None:
        self.path, self._send, self._server = path, send, server
        self._lines = Lines(path)
        self._state = threading.Condition()
        self._sent = 0  # bytes of the file
        self._wished = self._served = 0  # deliveries
        self._closing = False
        self._told = self._told_of_refusal = False
        self._thread: threading.Thread | None = None

    def post(self, entry: Entry, *, later: bool = False) -> None:
        """Add an entry; with `later` it waits for the next that opens this outbox."""
        with self._state:
            self._lines.add(entry)
        if not later and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()

    def flush(self) -> bool:
        """Try to send everything now; tells whether that worked."""
        with self._state:
            if self._thread is not None:
                wish = self._wished = self._wished + 1
                self._state.notify_all()
                self._state.wait_for(lambda: self._served >= wish)
            return self._lines.empty

    def close(self) -> bool:
        """Flush, and end the thread."""
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
                self._hand_over(entries)
                self._sent = end
            self._deliver_the_rest()
        except Exception as error:  # of HTTP, SQL, the file system
            if not self._told:
                self._told = True
                print(
                    f"{self._server} does not answer ({reason(error)}); training goes on. What it misses waits in "
                    f"{self.path} and is sent as soon as it answers, or by --resume",
                    flush=True,
                )
            return
        if self._told:
            self._told = False
            print(f"{self._server} answers again and has got what it missed", flush=True)

    def _hand_over(self, entries: list[Entry]) -> None:
        """Send entries; what the server will never take must not hold up all that follows."""
        try:
            self._send(entries)
        except RefusedError as error:
            if len(entries) > 1:
                for entry in entries:
                    self._hand_over([entry])
            elif not self._told_of_refusal:
                self._told_of_refusal = True
                print(f"{self._server} refuses {entries[0][0]} and perhaps more ({reason(error)})", flush=True)

    def _batches(self) -> Iterator[tuple[list[Entry], int]]:
        with self.path.open("rb") as file:
            file.seek(self._sent)
            while True:
                lines: list[bytes] = []
                while len(lines) < _BATCH and (line := file.readline()).endswith(b"\n"):
                    lines.append(line)
                if lines:
                    yield list(rows_of(lines)), self._sent + sum(map(len, lines))
                    continue
                with self._state:
                    if len(self._lines) == self._sent:
                        self._lines.clear()
                        self._sent = 0
                        return
                file.seek(self._sent)
                if not file.readline().endswith(b"\n"):
                    return  # a full disk has cut the last line
                file.seek(self._sent)

    def _deliver_the_rest(self) -> None:
        with self._state:
            if not (rest := self._lines.take(self._sent)):  # what a full disk has left in memory
                return
            self._sent = 0
        try:
            self._hand_over(list(rows_of(rest.splitlines())))
        except Exception:
            with self._state:
                self._lines.put_back(rest)
            raise


def reason(error: Exception) -> str:
    """Put an error into one line without secrets."""
    return without_secrets((str(error).splitlines() or [type(error).__name__])[0])
