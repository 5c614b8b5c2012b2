"""Ray's scheduler itself on GPUs that it is told of: as many trials at once as `trials_at_once` says, and no more.

Nothing is computed on them, so no GPU is needed; Ray hands out shares by number, and hides the other GPUs.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.sweep.shares import trial_share, trials_at_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
GPUS = 2


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Any]:
    import ray

    ray.init(address="local", num_cpus=8, num_gpus=GPUS, include_dashboard=False, object_store_memory=80_000_000)
    yield ray
    ray.shutdown()


@pytest.mark.parametrize(("gpus", "at_once"), [(0.4, 4), (0.5, 4), (1, 2)])
def test_trials_share_gpus(
    recipe: Callable[..., RunConfig], ray_here: Any, tmp_path: Path, gpus: float, at_once: int
) -> None:
    config = recipe("shared", workers=1)
    config = replace(
        config, cluster=replace(config.cluster, gpu=True), sweep=replace(config.sweep, gpus=gpus, trials=2 * at_once)
    )
    assert trials_at_once(config, ray_here.cluster_resources()) == at_once

    present = tmp_path / "present"
    present.mkdir()

    def trial(choice: dict[str, Any]) -> None:
        """Wait, however slow the machine, until all that may run do; then stay, so that one too many would be seen."""
        import os
        import time

        import ray

        began = time.time()
        (present / str(os.getpid())).touch()
        while len(os.listdir(present)) < at_once and time.time() < began + 100:
            time.sleep(0.1)
        time.sleep(3)
        ray.tune.report({"began": began, "ended": time.time(), "seen": os.environ["CUDA_VISIBLE_DEVICES"]})

    results = ray_here.tune.Tuner(
        ray_here.tune.with_resources(trial, trial_share(config)),
        tune_config=ray_here.tune.TuneConfig(num_samples=config.sweep.trials),
        run_config=ray_here.tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors
    spans = [result.metrics for result in results]
    assert {span["seen"] for span in spans} == {"0", "1"}, "each trial sees one GPU, and both are used"
    running = [sum(one["began"] <= each["began"] < one["ended"] for one in spans) for each in spans]
    assert max(running) == at_once
    for own in ("0", "1"):
        mine = [span for span in spans if span["seen"] == own]
        assert (
            max(sum(one["began"] <= each["began"] < one["ended"] for one in mine) for each in mine) == at_once // GPUS
        )
