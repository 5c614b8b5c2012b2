"""A run's numbers as Ray's gauges, which Prometheus reads and Grafana shows."""

from ray.util.metrics import Gauge

from pipeline.tracking.listener import Listener

SHOWN = {
    "step": "Steps taken.",
    "loss": "Training loss of the last step.",
    "validation/miou": "Mean IoU of the last validation.",
    "waiting_share": "Share of the step time spent waiting for samples.",
    "voxels_per_second": "Cells trained on in a second, over all workers.",
    "peak_memory_mib": "Peak memory of the worker so far, in MiB.",
    "inversion_error": "Relative error of the input that the last backward pass recovered.",
}


class Gauges(Listener):
    """Shows numbers, tagged by the run's name, and passes all on to another listener."""

    def __init__(self, listener: Listener, run: str) -> None:
        self.listener = listener
        self._tags = {"run": run}
        self._gauges = {
            key: Gauge(f"telegrapher_{key.replace('/', '_')}", text, ("run",)) for key, text in SHOWN.items()
        }

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Show a step's numbers; those of the last validation stay."""
        self.listener.metrics(step, values)
        for key, value in {"step": step, **values}.items():
            if key in self._gauges:
                self._gauges[key].set(value, self._tags)

    def progress(self, line: str) -> None:
        """Pass a line on."""
        self.listener.progress(line)
