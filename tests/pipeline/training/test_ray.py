"""Ray for real: data-parallel workers, a killed worker, a killed driver, Ctrl-C."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.checkpoints.checkpoint import latest_checkpoint, read_meta
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.train import train
from tests.pipeline.processes import command, largest_difference, wait_for_step, weights_of, workers_now

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ray_here():
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=150_000_000, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.parametrize(("micro_batch", "turns"), [(1, 1), (2, 1), (1, 3)])
def test_two_workers_train_to_the_weights_of_one_process(recipe, ray_here, tmp_path, micro_batch, turns):
    def trained(name: str, workers: int) -> Run:
        config = recipe(name, workers=workers, batch=3, micro_batch=micro_batch)
        scratch = str(tmp_path) if turns > 1 else None
        return train(replace(config, cluster=replace(config.cluster, turns=turns, scratch=scratch)))

    alone, together = trained("alone", 0), trained("together", 2)
    assert largest_difference(weights_of(alone), weights_of(together)) == 0
    losses = [[row["loss"] for row in read_history(run)] for run in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert len(losses[1]) == 12


def test_two_workers_share_the_validation(recipe, ray_here):
    def blocked(name: str, workers: int) -> Run:
        config = recipe(name, workers=workers, batch=2, memory="0.04MB")
        return train(
            replace(
                config,
                network=replace(config.network, layers="4p*2"),
                data=replace(config.data, block=[8, 8]),
            )
        )

    alone, together = blocked("alone", 0), blocked("together", 2)
    assert together.prepared.tiling is not None, "it was mapped in one piece, of which one worker has nothing"
    seen = [
        [row["validation/miou"] for row in read_history(run) if "validation/miou" in row] for run in (alone, together)
    ]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 3


@pytest.mark.usefixtures("team")
def test_a_killed_worker_is_replaced_and_ends_with_the_same_weights(recipe, ray_here):
    settings = {"steps": 200, "validate_every": 40}
    plain = train(recipe("plain", **settings))
    config = recipe("struck", workers=1, **settings)
    done = threading.Event()
    killed = []

    def strike():
        wait_for_step(Path(config.runs) / "struck", 90)
        for pid in workers_now():
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        done.set()

    thread = threading.Thread(target=strike)
    thread.start()
    struck = train(config)
    thread.join()
    assert done.is_set()
    assert len(killed) == 1
    assert largest_difference(weights_of(plain), weights_of(struck)) == 0
    taken = len((struck.folder / "history.jsonl").read_text().splitlines())
    assert 200 <= taken < 200 + 90, "some steps were taken twice, but it did not begin anew"
    assert MlflowClient(struck.tracking_uri).get_run(struck.read("tracking.json")["run_id"]).info.status == "FINISHED"


@pytest.mark.usefixtures("team")
def test_ctrl_c_and_a_killed_driver_lose_nothing(recipe, tmp_path):
    settings = {"steps": 400, "validate_every": 50}
    plain = train(recipe("plain", **settings))
    config = recipe("broken", workers=1, **settings)
    path = tmp_path / "broken.yaml"
    path.write_text(dump_recipe(config))
    folder = Path(config.runs) / "broken"

    process = command(path)
    wait_for_step(folder, 60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    run = Run.open(folder)
    stopped = run.read("outcome.json")["step"]
    assert read_meta(latest_checkpoint(run.checkpoints)).step == stopped < 250
    client, run_id = MlflowClient(run.tracking_uri), run.read("tracking.json")["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"

    process = command(path, "--resume")
    wait_for_step(folder, stopped + 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "metrics.json").exists()

    train(replace(config, cluster=replace(config.cluster, workers=0)), resume=True)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
