import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from datasets.errors import InputError
from models.config import ConfigError
from pipeline.checkpoints.checkpoint import (
    all_checkpoints,
    best_checkpoint,
    latest_checkpoint,
    load_segmenter,
    read_meta,
)
from pipeline.checkpoints.storage import directory_storage
from pipeline.config import ClusterConfig
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.context import Context
from pipeline.training.loop import fit, new_segmenter
from pipeline.training.prepare import class_weights, prepare
from pipeline.training.train import Interrupted, train

pytestmark = pytest.mark.usefixtures("blank_pictures")


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return load_segmenter(latest_checkpoint(run.checkpoints)).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_states_that_leave_their_grid_stop_the_run_in_one_sentence(recipe):
    config = recipe(steps=2)
    network = replace(config.network, states="exact", grid_bits=29)
    message = (
        r"^step 1: the input reaches .*, but states are kept exactly only up to 1\.5; set network\.grid_bits to 25 "
    )
    with pytest.raises(InputError, match=message):
        train(replace(config, network=network))


def test_a_run_in_bfloat16_has_no_inversion_error(recipe):
    config = recipe(steps=2)
    run = train(replace(config, network=replace(config.network, force_dtype="bfloat16")))
    assert run.read("metrics.json")["inversion_error"] == 0


def test_a_run_learns_and_leaves_everything_behind(recipe, capsys):
    run = train(recipe(steps=40))
    metrics = run.read("metrics.json")
    assert metrics["test/miou"] > 0.75
    assert metrics["inversion_error"] < 1e-5
    pictures = {"split.png", "prediction.png", "confusion.png", "curves.png", "leaks.png"}
    assert {path.name for path in run.pictures.iterdir()} == pictures
    history = read_history(run)
    assert [row["step"] for row in history] == list(range(1, 41))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    client = MlflowClient(run.tracking_uri)
    logged = client.get_run(run.read("tracking.json")["run_id"])
    assert logged.info.status == "FINISHED"
    expected = {"loss", "test/oa", "test/aa", "test/kappa", "test/miou", "test/iou/water", "inversion_error"}
    expected |= {"peak_memory_mib", "voxels_per_second", "waiting_share", "epoch", "validation/miou"}
    expected |= {"reading/waiting_share", "reading/samples", "reading/read_mib", "reading/step_s"}
    expected |= {"leaks/violations", "leaks/train-test/cells", "leaks/train-test/metres"}
    assert logged.data.metrics["leaks/violations"] == 0
    assert run.read("leaks.json")["proven"] is True
    assert "split:       no leak: every test cell is more than 0 cells from every train cell" in capsys.readouterr().out
    assert expected <= logged.data.metrics.keys()
    assert logged.data.params["training.steps"] == "40"
    assert {"code_version", "volume_digest", "split_digest"} <= logged.data.tags.keys()
    artifacts = {item.path for item in client.list_artifacts(logged.info.run_id, "pictures")}
    assert "pictures/prediction.png" in artifacts
    assert {"config.yaml", "metrics.json", "leaks.json", "model-card.md", "split.zarr"} <= {
        item.path for item in client.list_artifacts(logged.info.run_id)
    }


def test_what_reading_cost_is_reported_and_survives_a_restart(recipe, capsys):
    config = recipe("blocks", steps=12, batch=3)
    config = replace(config, data=replace(config.data, block=[8, 8], halo=[4, 4], labelled_share=None))
    run = prepare(config)
    asked = iter(range(1, 100))
    fit(run, Context(store=directory_storage(run.checkpoints), interrupted=lambda: next(asked) == 6))
    loud = replace(config, cluster=replace(config.cluster, loader_workers=1, prefetch_bytes=1))
    reading = train(loud, resume=True).read("metrics.json")["reading"]
    assert reading["samples"] == 3 * 6  # the first six steps had no journal
    sample = 4 * 4 * 16 * 16 + 2 * 16 * 16
    assert reading["read_mib"] == pytest.approx(18 * sample / 2**20)
    assert 0 <= reading["warm_waiting_share"] <= 1
    shown = capsys.readouterr().out
    assert re.search(r"reading:     waited [\d.]+% of the step time \([\d.]+% once warm\), 18 samples, 0.1 MiB", shown)


@pytest.mark.parametrize("workers", [0, 3])
def test_blocks_with_a_halo_resume_to_the_very_same_weights_whoever_reads_them(recipe, workers):
    def blocks(name, loader_workers):
        config = recipe(name, batch=3)
        return replace(
            config,
            data=replace(config.data, block=[8, 8], halo=[4, 4], labelled_share=None),
            cluster=replace(config.cluster, loader_workers=loader_workers),
        )

    plain = train(blocks("undisturbed", 1))
    run = prepare(blocks("disturbed", workers))
    asked = iter(range(1, 100))
    fit(run, Context(store=directory_storage(run.checkpoints), interrupted=lambda: next(asked) == 5))
    assert same(weights_of(plain), weights_of(train(blocks("disturbed", workers), resume=True)))


def test_a_batch_without_labels_is_refused_before_any_work(recipe):
    config = recipe("empty", batch=1)
    config = replace(config, data=replace(config.data, block=[2, 2], labelled_share=0.5))
    with pytest.raises(InputError, match=r"data.labelled_share is 0.5 and \d+ of 144 blocks .* a batch of at least 2"):
        prepare(config)
    assert not (Path(config.runs) / "empty").exists()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kill_after", [1, 4, 7, 12])
def test_a_killed_run_resumes_to_the_very_same_weights(recipe, kill_after):
    plain = train(recipe("undisturbed"))
    config = recipe("disturbed")
    run = prepare(config)
    storage = directory_storage(run.checkpoints)
    taken = 0

    class DiesAtStep:
        def metrics(self, step, values):
            nonlocal taken
            taken += 1
            if taken == kill_after:
                raise KilledError

        def progress(self, line):
            pass

    with pytest.raises(KilledError):
        fit(run, Context(store=storage, listener=DiesAtStep()))
    torch.manual_seed(12345)
    np.random.seed(1)  # noqa: NPY002  the global state is what must not matter
    resumed = train(config, resume=True)
    assert same(weights_of(plain), weights_of(resumed))
    assert plain.read("metrics.json")["confusion"] == resumed.read("metrics.json")["confusion"]


def test_the_comparison_of_weights_sees_one_step_more(recipe):
    assert not same(weights_of(train(recipe("one"))), weights_of(train(recipe("two", steps=13))))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_checkpoint_and_a_killed_run_that_goes_on(recipe, number, capsys):
    config = recipe("stopped", steps=2000, validate_every=1000)
    journal = Path(config.runs) / "stopped" / "history.jsonl"

    def interrupt_a_running_step() -> None:
        for _ in range(600):
            if journal.is_file() and journal.read_text().count("\n") >= 2:
                os.kill(os.getpid(), number)
                return
            time.sleep(0.1)

    watcher = threading.Thread(target=interrupt_a_running_step)
    watcher.start()
    with pytest.raises(Interrupted):
        train(config)
    watcher.join()
    run = Run.open(Path(config.runs) / "stopped")
    step = run.read("outcome.json")["step"]
    assert 0 < step < 2000
    assert read_meta(latest_checkpoint(run.checkpoints)).step == step
    client = MlflowClient(run.tracking_uri)
    run_id = run.read("tracking.json")["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"
    shown = capsys.readouterr().out
    assert f"stopped at step {step} with a checkpoint; go on with the same command and --resume" in shown


def test_early_stopping_keeps_the_best_the_newest_and_the_one_before(recipe):
    run = train(recipe("patient", steps=400, validate_every=2, patience=3, rate=0.05))
    steps = [read_meta(path).step for path in all_checkpoints(run.checkpoints)]
    assert len(steps) == 3
    assert steps[-1] < 400
    assert run.read("metrics.json")["best_step"] == read_meta(best_checkpoint(run.folder)).step == steps[0]
    assert steps[-1] == steps[0] + 6


@pytest.mark.parametrize("name", ["loader_workers", "prefetch_bytes", "cpus_per_worker"])
def test_reading_settings_below_zero_are_refused(name):
    with pytest.raises(InputError, match=rf"cluster.{name} is -1; it must not be negative"):
        ClusterConfig(**{name: -1})


def test_resume_refuses_another_recipe(recipe):
    train(recipe("fixed", steps=4))
    with pytest.raises(InputError, match=r"--resume: training.steps is 5 but .*fixed was started with 4"):
        train(recipe("fixed", steps=5), resume=True)


def test_a_run_goes_on_with_as_much_kept_as_it_is_now_told(recipe):
    """A network's layers that keep their hidden layers are a matter of memory, not of what is computed."""
    config = recipe("lean", steps=4)
    train(config)
    stopped = Run.open(Path(config.runs) / "lean")
    assert any(layer.keeps for layer in new_segmenter(stopped).network.plan.layers)
    lean = replace(config, network=replace(config.network, kept_hidden=0))
    run = train(lean, resume=True)
    assert Run.open(run.folder).config.network.kept_hidden == 0, "the workers read it there"
    assert not any(layer.keeps for layer in new_segmenter(run).network.plan.layers)
    with pytest.raises(InputError, match=r"--resume: network\.layers is '4 d4 u8' but"):
        train(replace(lean, network=replace(lean.network, layers="4 d4 u8")), resume=True)


def test_an_existing_run_is_refused_and_replaced_on_demand(recipe):
    first = train(recipe("again", steps=4))
    with pytest.raises(InputError, match=r"again exists already; .*--overwrite to replace it"):
        train(recipe("again", steps=4))
    assert (first.folder / "metrics.json").exists()
    train(recipe("again", steps=4), overwrite=True)


def test_resuming_what_never_started_is_refused(recipe):
    with pytest.raises(InputError, match="is not the folder of a run"):
        train(recipe("never"), resume=True)


def test_an_unreachable_tracking_server_is_refused_before_any_work(recipe):
    config = recipe("lonely")
    config = replace(config, tracking=replace(config.tracking, uri="http://127.0.0.1:9"))
    with pytest.raises(InputError, match=r"MLflow does not answer at http://127.0.0.1:9 .*tracking.uri"):
        train(config)
    assert not (Path(config.runs) / "lonely").exists()


def test_a_size_that_does_not_divide_is_refused_with_the_sizes_that_do(recipe):
    config = recipe("odd")
    config = replace(config, network=replace(config.network, padding="refuse", layers="4 d4 d4 d4 d4"))
    with pytest.raises(ConfigError, match=r"16.*32"):
        train(config)
    assert not (Path(config.runs) / "odd").exists()


def test_more_workers_than_samples_are_refused(recipe):
    with pytest.raises(
        InputError, match=r"training.batch 4 in micro-batches of 4 makes 1, fewer than cluster.workers 2"
    ):
        train(recipe("crowd", workers=2, batch=4, micro_batch=4))


def test_nothing_is_left_when_preparing_fails(recipe, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.prepare.dump_recipe", full)
    config = recipe("full")
    with pytest.raises(OSError, match="No space left"):
        prepare(config)
    assert list(Path(config.runs).iterdir()) == []


def test_class_weights_average_to_one_over_the_labels():
    counts = np.array([900, 90, 0, 10])
    for kind in ("none", "sqrt", "inverse"):
        weights = np.array(class_weights(counts, kind))
        assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    inverse = np.array(class_weights(counts, "inverse"))
    assert inverse[1] / inverse[0] == pytest.approx(10)
    assert class_weights(counts, "sqrt")[3] / class_weights(counts, "sqrt")[0] == pytest.approx(90**0.5)


def test_two_fresh_networks_of_one_seed_are_equal(recipe):
    run = prepare(recipe("seeded"))
    torch.manual_seed(99)
    one = new_segmenter(run).state_dict()
    torch.manual_seed(7)
    assert same(one, new_segmenter(run).state_dict())


def test_a_coarse_output_needs_a_buffer_as_wide_as_its_cells(recipe):
    config = recipe("coarse")
    config = replace(config, network=replace(config.network, layers="4 d4 d4"))
    with pytest.raises(InputError, match=r"split.buffer is 0, .* covers 4 cells .* take a buffer of at least 3"):
        prepare(config)


def test_an_output_finer_than_the_labels_is_refused(recipe):
    config = recipe("fine")
    config = replace(config, network=replace(config.network, layers="4 u4", repeat=8))
    with pytest.raises(InputError, match=r"a grid 2 times finer than the labels.; refine fewer times"):
        prepare(config)


def test_blocks_off_the_output_grid_are_refused_before_any_work(recipe):
    config = recipe("blocks")
    config = replace(
        config,
        data=replace(config.data, block=[7, 7]),
        network=replace(config.network, layers="4 d4"),
        split=replace(config.split, buffer=1),
    )
    with pytest.raises(InputError, match=r"which is not on the network's output grid"):
        prepare(config)
    assert not (Path(config.runs) / "blocks").exists()


@pytest.mark.parametrize("stop", [8, 12])
def test_an_interruption_on_a_validation_step_keeps_the_validation(recipe, stop):
    plain = train(recipe("calm"))
    config = recipe("poked")
    run = prepare(config)
    asked = iter(range(1, 100))
    fit(run, Context(store=directory_storage(run.checkpoints), interrupted=lambda: next(asked) == stop))
    assert read_meta(latest_checkpoint(run.checkpoints)).step == stop
    resumed = train(config, resume=True)
    assert same(weights_of(plain), weights_of(resumed))
    assert plain.read("metrics.json")["validation_miou"] == resumed.read("metrics.json")["validation_miou"]
    assert plain.read("metrics.json")["best_step"] == resumed.read("metrics.json")["best_step"]
