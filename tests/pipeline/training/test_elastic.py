"""Machines that are reclaimed, join, and are lost: training goes on with fewer workers or more, to the same weights."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import Meta, all_checkpoints, latest_checkpoint, read_meta
from pipeline.checkpoints.storage import stored_behind
from pipeline.config import ClusterConfig
from pipeline.run import Run
from pipeline.training.context import Context
from pipeline.training.loop import fit
from pipeline.training.prepare import prepare
from pipeline.training.state import UNSCORED
from pipeline.training.train import Interrupted, train
from tests.pipeline.processes import largest_difference, weights_of, workers_now


@pytest.mark.parametrize("fewest", [-1, 3])
def test_fewest_workers_beyond_the_most_are_refused(fewest):
    with pytest.raises(InputError, match=rf"cluster.min_workers is {fewest}; it must lie between 0 and .*workers 2"):
        ClusterConfig(workers=2, min_workers=fewest)


def test_a_notice_leaves_one_checkpoint_at_once_and_training_goes_on(recipe):
    run = prepare(recipe())
    told = iter([False, True, True, False] + 8 * [False])
    kept: list[Meta] = []
    fit(run, Context(store=lambda snapshot, meta: kept.append(meta), leaving=lambda: next(told)))
    assert [meta.step for meta in kept] == [2, 4, 8, 12]
    assert kept[0].score == UNSCORED


def wait_for(condition: Callable[[], object], training: threading.Thread, limit: float = 600.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert training.is_alive(), "training has ended"
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.2)


def drain(address: str, node: str, seconds: int) -> None:
    """Tell Ray that a machine will be taken away, as the autoscaler does at a spot instance's notice."""
    from ray._raylet import GcsClient

    accepted, why = GcsClient(address=address).drain_node(
        node, 2, "reclaimed", int((time.time() + seconds) * 1000)
    )  # 2: preemption
    assert accepted, why


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("team")
def test_machines_that_are_reclaimed_join_and_are_lost_leave_the_same_weights(recipe, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    from pipeline.training import worker

    monkeypatch.setattr(worker, "_RESIZE_S", 3.0)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    never = 10**6  # no checkpoint is due, so that the one which the notice asks for is all there is to go on from
    settings = {"steps": never, "batch": 5, "micro_batch": 2, "validate_every": never, "optimiser": "sgd", "rate": 1e-3}
    settings |= {"schedule": "constant"}
    config = recipe("elastic", workers=2, **settings)
    config = replace(config, cluster=replace(config.cluster, min_workers=1))
    folder = Path(config.runs) / "elastic"

    def workers_of_last_step() -> int:
        """Read the line written last, which may be of an earlier step than those before a loss."""
        path = folder / "history.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        whole = [line for line in lines[-2:] if line.endswith("\n")]
        return int(json.loads(whole[-1])["workers"]) if whole else 0

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000},
    )
    failures: list[BaseException] = []

    def go() -> None:
        try:
            train(config)
        except Interrupted:
            pass
        except BaseException as error:
            failures.append(error)

    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        ray.init(address=cluster.address, log_to_driver=False)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        training = threading.Thread(target=go)
        training.start()
        wait_for(lambda: workers_of_last_step() == 2, training)
        assert not all_checkpoints(folder / "checkpoints")
        drain(cluster.address, node.node_id, 60)
        wait_for(lambda: all_checkpoints(folder / "checkpoints"), training, 50)
        at_notice = read_meta(latest_checkpoint(folder / "checkpoints"))
        assert at_notice.score == UNSCORED
        cluster.remove_node(node, allow_graceful=True)  # by SIGTERM, as a machine goes that is shut down
        wait_for(lambda: workers_of_last_step() == 1, training)
        taken = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        alone = next(row["step"] for row in taken if row["workers"] == 1)
        assert alone == at_notice.step + 1, "what was learned before the notice is lost"
        another = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        wait_for(lambda: workers_of_last_step() == 2, training)
        cluster.remove_node(another, allow_graceful=False)  # by SIGKILL, without any notice
        wait_for(lambda: workers_of_last_step() == 1, training)
        os.kill(workers_now()[0], signal.SIGTERM)
        training.join(120)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not failures
    run = Run.open(folder)
    step = run.read("outcome.json")["step"]
    undisturbed = prepare(recipe("plain", **settings))
    asked = iter(range(1, step + 1))
    with stored_behind(undisturbed.checkpoints) as store:
        fit(undisturbed, Context(store=store, interrupted=lambda: next(asked) == step))
    assert largest_difference(weights_of(undisturbed), weights_of(run)) == 0
