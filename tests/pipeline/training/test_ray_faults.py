"""Faults injected for real with Ray: one worker of two killed, notices, and refusals of all workers or of one."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import all_checkpoints, latest_checkpoint, read_meta
from pipeline.config import RunConfig
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.train import Interrupted, train
from tests.pipeline.processes import command, largest_difference, wait_for_step, weights_of, workers_now

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("team")]


@pytest.fixture(scope="module")
def ray_here():
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=150_000_000, log_to_driver=False)
    yield ray
    ray.shutdown()


def struck(config: RunConfig) -> Run:
    """Train, and kill one of two workers after 120 steps."""
    killed: list[int] = []

    def strike() -> None:
        wait_for_step(Path(config.runs) / config.name, 120)
        killed.append(workers_now()[-1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    run = train(config)
    thread.join()
    assert killed
    return run


def test_one_worker_of_two_is_killed_and_both_go_on_from_the_same_step(recipe, ray_here):
    settings = {"steps": 300, "validate_every": 50}
    plain = train(recipe("plain", **settings))  # one process: two views have but one sum, on one worker or on two
    run = struck(recipe("halved", workers=2, **settings))
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
    steps = (run.folder / "history.jsonl").read_text().splitlines()
    assert 300 <= len(steps) < 300 + 110, "some steps were taken twice, but it did not begin anew"


def test_one_worker_of_a_shared_sample_is_killed_and_both_go_on_to_the_scores_of_one(recipe, ray_here):
    settings = {"steps": 300, "validate_every": 50}
    plain, config = train(recipe("plain", **settings)), recipe("slabs", workers=2, **settings)
    run = struck(replace(config, cluster=replace(config.cluster, slabs=2)))
    losses: dict[int, list[float]] = {}
    for line in (run.folder / "history.jsonl").read_text().splitlines():
        row = json.loads(line)
        losses.setdefault(row["step"], []).append(row["loss"])
    twice = [found for found in losses.values() if len(found) > 1]
    assert 0 < len(twice) < 110
    assert all(len(set(found)) == 1 for found in twice), "a step that was taken again differs"
    # What rounding leaves apart grows with every step.
    ours, theirs = [found[0] for found in losses.values()], [row["loss"] for row in read_history(plain)]
    assert ours[:20] == pytest.approx(theirs[:20], rel=1e-3)
    scores = [each.read("metrics.json") for each in (plain, run)]
    assert np.sum(scores[0]["confusion"]) == np.sum(scores[1]["confusion"])
    assert scores[1]["test/oa"] == pytest.approx(scores[0]["test/oa"], abs=0.05)
    assert (run.folder / "report.html").is_file()


def test_a_worker_told_to_go_leaves_a_checkpoint_and_loses_nothing(recipe, ray_here):
    settings = {"steps": 400, "validate_every": 200}
    plain = train(recipe("plain", **settings))
    config = recipe("noticed", workers=1, **settings)
    folder = Path(config.runs) / "noticed"

    def give_notice() -> None:
        wait_for_step(folder, 30)
        (pid,) = workers_now()
        os.kill(pid, signal.SIGTERM)

    thread = threading.Thread(target=give_notice)
    thread.start()
    with pytest.raises(Interrupted):
        train(config)
    thread.join()
    run = Run.open(folder)
    step = run.read("outcome.json")["step"]
    assert 30 <= step < 400
    assert step % 200 != 0, "that checkpoint was due anyhow"
    assert read_meta(latest_checkpoint(run.checkpoints)).step == step
    train(replace(config, cluster=replace(config.cluster, workers=0)), resume=True)
    assert largest_difference(weights_of(plain), weights_of(run)) == 0


def test_a_loss_of_nan_on_two_workers_is_refused_once(recipe, ray_here, monkeypatch):
    config = recipe("wild", workers=2, optimiser="sgd", clip=0.0, schedule="constant", drops={5: 1e20})
    config = replace(config, cluster=replace(config.cluster, max_failures=5))
    with pytest.raises(InputError, match=r"^step 7: the loss is nan .* Go on from the newest"):
        train(config)
    run = Run.open(Path(config.runs) / "wild")
    assert [path.name for path in all_checkpoints(run.checkpoints)] == ["step-000004"]
    steps = (run.folder / "history.jsonl").read_text().splitlines()
    assert len(steps) == 6, "the refusal was tried again"


def test_a_refusal_of_one_worker_ends_both(recipe, ray_here):
    run, config = train(recipe("lonely")), recipe("lonely", workers=2)
    for path in all_checkpoints(run.checkpoints):  # only rank 0 looks at them; the other waits for its word
        (path / "model.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"no checkpoint in .* is whole"):
        train(config, resume=True)


def test_a_driver_told_to_go_loses_nothing(recipe, tmp_path):
    settings = {"steps": 400, "validate_every": 200}
    plain = train(recipe("plain", **settings))
    config = recipe("reclaimed", workers=1, **settings)
    path = tmp_path / "reclaimed.yaml"
    path.write_text(dump_recipe(config))
    folder = Path(config.runs) / "reclaimed"
    process = command(path)
    wait_for_step(folder, 30)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    run = Run.open(folder)
    step = run.read("outcome.json")["step"]
    assert read_meta(latest_checkpoint(run.checkpoints)).step == step < 400
    train(replace(config, cluster=replace(config.cluster, workers=0)), resume=True)
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
