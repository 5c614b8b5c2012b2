"""A run's numbers as gauges of Ray: passed on, named, and there where Prometheus asks for them."""

import time
import urllib.request

import pytest

from pipeline.tracking import gauges
from pipeline.tracking.gauges import Gauges


class Heard:
    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.lines: list[str] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.steps.append((step, values))

    def progress(self, line: str) -> None:
        self.lines.append(line)


def test_numbers_are_shown_and_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, tuple[float, dict[str, str]]] = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            assert tag_keys == ("run",)
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            shown[self.name] = (value, tags)

    monkeypatch.setattr(gauges, "Gauge", Gauge)
    heard = Heard()
    speaker = Gauges(heard, "deep")
    speaker.metrics(1, {"loss": 2.0, "validation/miou": 0.5, "rate": 0.1})
    speaker.metrics(2, {"loss": 1.0, "rate": 0.1})
    speaker.progress("step 2/2")
    assert heard.steps == [(1, {"loss": 2.0, "validation/miou": 0.5, "rate": 0.1}), (2, {"loss": 1.0, "rate": 0.1})]
    assert heard.lines == ["step 2/2"]
    tags = {"run": "deep"}
    assert shown == {
        "telegrapher_step": (2, tags), "telegrapher_loss": (1.0, tags), "telegrapher_validation_miou": (0.5, tags)
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_prometheus_finds_them_on_a_node() -> None:
    import ray

    ray.init(
        address="local", num_cpus=1, include_dashboard=True, object_store_memory=80_000_000, log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 500},
    )  # fmt: skip
    try:
        speaker = Gauges(Heard(), "deep")  # every process of Ray's reports to its node, this one too
        (node,) = ray.nodes()
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        lines: list[str] = []
        end = time.monotonic() + 240
        while len(lines) < 3 and time.monotonic() < end:
            speaker.metrics(7, {"loss": 0.25, "waiting_share": 0.125})
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(address, timeout=20) as answer:
                    page = answer.read().decode()
            except OSError:  # the node's agent is still starting
                continue
            lines = [line for line in page.splitlines() if line.startswith("ray_telegrapher_") and 'run="deep"' in line]
        found = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
        assert found == {
            "ray_telegrapher_step": 7, "ray_telegrapher_loss": 0.25, "ray_telegrapher_waiting_share": 0.125
        }  # fmt: skip
    finally:
        ray.shutdown()
