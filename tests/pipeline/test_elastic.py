"""A node that is lost and one that joins: training goes on with fewer workers, then with more, on the same samples."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from pipeline.config import ClusterConfig
from pipeline.context import Context
from pipeline.journal import read_history
from pipeline.loop import fit
from pipeline.prepare import prepare
from pipeline.run import Run
from pipeline.storage import directory_storage
from pipeline.train import Interrupted, train
from tests.pipeline.processes import weights_of, workers_now


@pytest.mark.parametrize("fewest", [-1, 3])
def test_fewest_workers_beyond_the_most_are_refused(fewest):
    with pytest.raises(InputError, match=rf"cluster.min_workers is {fewest}; it must lie between 0 and .*workers 2"):
        ClusterConfig(workers=2, min_workers=fewest)


def wait_for(condition: Callable[[], bool], training: threading.Thread, limit: float = 400.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert training.is_alive(), "training has ended"
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_lost_node_and_one_that_joins_leave_the_same_weights(recipe, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from pipeline import worker

    monkeypatch.setattr(worker, "_RESIZE_S", 3.0)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    settings = {"steps": 10**6, "batch": 4, "validate_every": 20, "optimiser": "sgd", "rate": 1e-3}
    settings |= {"schedule": "constant"}
    config = recipe("elastic", workers=2, **settings)
    config = replace(config, cluster=replace(config.cluster, min_workers=1))
    run_folder = Path(config.runs) / "elastic"

    def workers_of_last_step() -> int:
        if not (run_folder / "history.jsonl").is_file():
            return 0
        history = read_history(Run.open(run_folder))
        return int(history[-1]["workers"]) if history else 0

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": True},
    )
    failures: list[BaseException] = []

    def go() -> None:
        try:
            train(config)
        except Interrupted:
            pass
        except BaseException as error:
            failures.append(error)
            raise

    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        ray.init(address=cluster.address, log_to_driver=False)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        training = threading.Thread(target=go)
        training.start()
        wait_for(lambda: workers_of_last_step() == 2, training)
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: workers_of_last_step() == 1, training)
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        wait_for(lambda: workers_of_last_step() == 2, training)
        os.kill(workers_now()[0], signal.SIGTERM)
        training.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not failures
    run = Run.open(run_folder)
    step = run.read("outcome.json")["step"]
    undisturbed = prepare(recipe("plain", **settings))
    asked = iter(range(1, step + 1))
    fit(
        undisturbed,
        Context(store=directory_storage(undisturbed.checkpoints), interrupted=lambda: next(asked) == step),
    )
    one, other = weights_of(undisturbed), weights_of(run)
    for name, weight in one.items():
        assert float((weight - other[name]).norm()) <= 1e-5 * float(weight.norm()), name
