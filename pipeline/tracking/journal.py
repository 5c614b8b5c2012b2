"""What rank 0 writes down of each step."""

from collections.abc import Mapping

from pipeline.run import Run
from pipeline.tracking.lines import Lines, rows_of
from pipeline.tracking.listener import Listener
from pipeline.tracking.session import note_machine
from pipeline.tracking.tracker import Tracker

_NAME = "history.jsonl"


def read_history(run: Run) -> list[dict[str, float]]:
    """Read every step's numbers, oldest first; of a step taken twice, the later."""
    path = run.folder / _NAME
    if not path.is_file():
        return []
    rows = {row["step"]: row for row in rows_of(path.read_text().splitlines())}
    return [rows[step] for step in sorted(rows)]


def measured_peak(run: Run) -> int:
    """Return the bytes that training took on rank 0: CUDA's peak, else what its process grew by."""
    held = 0 if run.config.cluster.gpu else run.read("machine.json")["resident"] or 0
    return round(max(row["peak_memory_mib"] for row in read_history(run)) * 2**20 - held)


class Journal(Listener):
    """Writes to a run's folder and to MLflow."""

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self.tracker = tracker
        self._lines = Lines(run.folder / _NAME)

    @classmethod
    def open(cls, run: Run, run_id: str) -> "Journal":
        """Open the journal of a run, `run_id` in MLflow, and note on which machine it goes on."""
        note_machine(run)
        return cls(run, Tracker(run.tracking_uri, run_id, run.outbox))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one step."""
        self._lines.add({"step": step, **values})
        self.tracker.metrics(step, values)

    def progress(self, line: str) -> None:
        """Print one line."""
        print(line, flush=True)

    def close(self) -> None:
        """Hand MLflow what waits, if it answers."""
        self._lines.close()
        self.tracker.close()
