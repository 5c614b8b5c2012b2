"""A ledger of bytes: what is held now, and the most that was ever held at once."""

from collections.abc import Iterator
from contextlib import contextmanager


class Ledger:
    """Bookkeeping of allocations in the order in which they happen.

    Attributes
    ----------
    now, peak
        Bytes held at this moment, and at the fullest one.
    """

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def hold(self, size: float) -> int:
        """Take bytes; returns how many, to give back later."""
        self.now += int(size)
        self.peak = max(self.peak, self.now)
        return int(size)

    def drop(self, *sizes: int) -> None:
        """Give bytes back."""
        self.now -= sum(sizes)

    def touch(self, size: float) -> None:
        """Take bytes and give them back at once."""
        self.peak = max(self.peak, self.now + int(size))

    @contextmanager
    def holding(self, size: float) -> Iterator[None]:
        """Hold bytes for as long as the context lasts."""
        held = self.hold(size)
        yield
        self.drop(held)
