"""Who hears of a run as it trains."""


class Listener:
    """Where the numbers of a run go: MLflow, the terminal, or, with this one, nowhere."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of one step."""

    def progress(self, line: str) -> None:
        """Take one line for the terminal."""
