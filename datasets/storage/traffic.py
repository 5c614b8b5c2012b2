"""How much was read from a store, and how much of that was wanted."""

import threading
from dataclasses import dataclass


@dataclass
class Traffic:
    """What was read from a store."""

    fetched: int = 0  # bytes that arrived
    used: float = 0.0  # stored bytes of the cells asked for: a chunk of which half the cells are wanted counts half
    requests: int = 0  # repeated ones included

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, *, fetched: int = 0, used: float = 0.0, requests: int = 0) -> None:
        """Count; safe from several threads."""
        with self._lock:
            self.fetched += fetched
            self.used += used
            self.requests += requests
