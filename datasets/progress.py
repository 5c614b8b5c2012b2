"""How far a long piece of work is: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import threading
import time

_FIRST, _EVERY, _BAR_EVERY, _WIDTH = 0.5, 5.0, 0.2, 30


class Progress:
    """Counts bytes as done, from any thread, and says how far it is, if it may speak and the work is long."""

    def __init__(self, label: str, total: int, *, speak: bool = True, done: int = 0) -> None:
        self.label, self.total, self.done, self._begun_with = label, total, done, done
        self._speak, self._terminal = speak, sys.stdout.isatty()
        self._began = self._last = time.monotonic()
        self._lock = threading.Lock()
        self._shown = False

    def __enter__(self) -> "Progress":
        return self

    def add(self, amount: int) -> None:
        """Count bytes as done."""
        with self._lock:
            self.done += amount
            now = time.monotonic()
            every = _BAR_EVERY if self._terminal else _EVERY
            if self._speak and now - self._began > _FIRST and now - self._last > every:
                self._last = now
                self._show(now)

    def skip(self, amount: int) -> None:
        """Count bytes as done by an earlier process."""
        self.done += amount
        self._begun_with += amount

    def _show(self, now: float) -> None:
        share = self.done / max(self.total, 1)
        rate = (self.done - self._begun_with) / max(now - self._began, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        words = f"{share:4.0%} of {_size(self.total)}, {_size(rate)}/s, {_clock(left)} left"
        if self._terminal:
            bar = "#" * int(share * _WIDTH)
            print(f"\r{self.label} [{bar:<{_WIDTH}}] {words}\x1b[K", end="", flush=True)
        else:
            print(f"  {self.label} {words}", flush=True)
        self._shown = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._shown and kind is None:
            self._show(time.monotonic())
        if self._shown and self._terminal:
            print(flush=True)


def _size(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"


def _clock(seconds: float) -> str:
    whole = round(min(seconds, 360_000))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"
