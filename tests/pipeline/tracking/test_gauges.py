"""A run's numbers as gauges of Ray: passed on, named, and there where Prometheus asks for them."""

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.config_sweep import SweepConfig
from pipeline.run import Run
from pipeline.tracking import gauges
from pipeline.tracking.gauges import Gauges
from pipeline.tracking.journal import read_history
from pipeline.training.train import Interrupted, train
from tests.pipeline.processes import workers_now


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


def page() -> str:
    """Return what Prometheus is answered by the one node."""
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return answer.read().decode()
    except OSError:  # the node's agent is still starting
        return ""


def wait_for_numbers(run: str, wanted: set[str], work: threading.Thread) -> dict[str, float]:
    """Wait until the gauges of a run are all there, while it trains."""
    found: dict[str, float] = {}
    end = time.monotonic() + 240
    while not wanted <= found.keys():
        assert work.is_alive(), f"it ended before its gauges were there: {found}"
        assert time.monotonic() < end, f"only these came: {found}"
        time.sleep(0.5)
        lines = [line for line in page().splitlines() if line.startswith("ray_telegrapher_") and f'run="{run}' in line]
        found = {line.split("{")[0].removeprefix("ray_telegrapher_"): float(line.rsplit(" ", 1)[1]) for line in lines}
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_prometheus_finds_a_run_and_the_trial_of_a_sweep_while_they_train(recipe: Callable[..., RunConfig]) -> None:
    import ray

    from pipeline.sweep.tune import tune

    wanted = {"step", "loss", "validation_miou", "waiting_share", "voxels_per_second", "peak_memory_mib"}
    ray.init(
        address="local", num_cpus=2, include_dashboard=True, object_store_memory=80_000_000, log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 500},
    )  # fmt: skip
    try:
        config = recipe("deep", workers=1, steps=10**6, validate_every=20)

        def go() -> None:
            with suppress(Interrupted):
                train(config)

        work = threading.Thread(target=go)
        work.start()
        found = wait_for_numbers("deep", wanted | {"inversion_error"}, work)
        (worker,) = workers_now()
        os.kill(worker, signal.SIGTERM)
        work.join(120)
        history = read_history(Run.open(Path(config.runs) / "deep"))
        assert found["step"] in {row["step"] for row in history}
        assert found["loss"] in {row["loss"] for row in history}

        search = SweepConfig(depth=[3], rank=[2], levels=[1], trials=1)
        sweep = replace(recipe("wide", steps=1500, validate_every=500), sweep=search)
        work = threading.Thread(target=lambda: tune(sweep))
        work.start()
        wait_for_numbers("trial-", wanted - {"validation_miou"}, work)
        work.join(300)
        assert not work.is_alive()
    finally:
        ray.shutdown()
