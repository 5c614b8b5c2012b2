"""Who hears of a run as it trains."""

from typing import Protocol


class Listener(Protocol):
    """Where the numbers of a run go: MLflow, the terminal, or nowhere."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of one step."""

    def progress(self, line: str) -> None:
        """Take one line for the terminal."""


class Silent:
    """A listener that hears nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Ignore."""

    def progress(self, line: str) -> None:
        """Ignore."""
