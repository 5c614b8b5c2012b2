import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from datasets.volume import Volume
from models.config import NetworkConfig, SegmenterConfig
from models.segmenter import Segmenter
from pipeline.checkpoints.checkpoint import Meta, Snapshot, best_checkpoint, load_segmenter, read_meta
from pipeline.config import RegisterConfig, RunConfig
from pipeline.recipe import load_recipe
from pipeline.registry.champion import Standing, compare
from pipeline.registry.export import Exportable, example_batch
from pipeline.registry.load import load_model
from pipeline.registry.register import register
from pipeline.registry.versions import Registry, read_scorer, tracking_at
from pipeline.run import Run
from pipeline.scoring.description import ModelDescription
from pipeline.scoring.scorer import Scorer, run_scorer
from pipeline.tracking.tracker import Tracker
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from pipeline.training.train import open_tracking


def finished(name: str, runs: Path, volume: Path, network: NetworkConfig) -> Run:
    """Make a run with a checkpoint of random weights and made-up scores: how good it is does not matter here."""
    run = prepare(
        RunConfig(
            name=name,
            runs=str(runs),
            data=DataConfig(source=str(volume), space=["y", "x"], validity=True),
            split=SplitConfig(block=4, buffer=0, fractions=[0.5, 0.2, 0.3]),
            network=network,
        )
    )
    (run.checkpoints / "step-000040").mkdir()
    segmenter = new_segmenter(run).state_dict()
    Snapshot(Meta(40, 0.5), segmenter, {}, run.prepared.segmenter.to_json()).write(run.checkpoints / "step-000040")
    scores = {"oa": 0.7, "aa": 0.7, "kappa": 0.4, "miou": 0.55, "iou/water": 0.5, "iou/land": 0.6}
    run.write("metrics.json", {"best_step": 40} | {f"test/{key}": value for key, value in scores.items()})
    Tracker(run.tracking_uri, open_tracking(run)).end("FINISHED")
    return run


@pytest.fixture(scope="module")
def run(tiny_volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("registry") / "runs"
    return finished("fields", runs, tiny_volume, NetworkConfig(layers="4 d4 u4"))


@pytest.fixture(scope="module")
def registered(run: Run):
    return register(RegisterConfig(run=str(run.folder)))


def probabilities(scorer: Scorer, volume: Volume) -> np.ndarray:
    (piece,) = scorer.map(volume)
    return piece.found


def scored(run: Run, **changes):
    """The same run with other figures in its metrics, or another split."""
    run.write("metrics.json", run.read("metrics.json") | changes)


def test_a_process_without_our_code_predicts_another_size_as_the_network_does(run, registered, tmp_path):
    raw = np.random.default_rng(1).normal(size=(3, 4, 17, 30)).astype(np.float32)
    raw[:, :, 3:5, 7] = np.nan
    np.save(tmp_path / "raw.npy", raw)
    with tracking_at(run.tracking_uri):
        artifacts = Path(mlflow.artifacts.download_artifacts(registered.uri))
    example = (artifacts / "extra_files" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    script = f"""
import sys, json, numpy, mlflow
mlflow.set_tracking_uri({run.tracking_uri!r})
{example}
assert probabilities.shape[:2] == (1, 2), probabilities.shape
numpy.save("out.npy", model.predict(numpy.load("raw.npy")))
told = model.metadata.metadata
assert told["classes"] == ["water", "land"] and told["space"] == ["y", "x"], told
ours = [name for name in sys.modules if name.split(".")[0] in ("models", "datasets", "pipeline")]
assert not ours, ours
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=120)
    network = load_segmenter(best_checkpoint(run.folder))
    with torch.no_grad():
        expected = network.probabilities(torch.from_numpy(raw)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


def test_a_version_carries_what_it_needs_and_what_it_is_worth(run, registered):
    client = MlflowClient(run.tracking_uri)
    version = client.get_model_version(registered.name, str(registered.version))
    metrics = run.read("metrics.json")
    assert json.loads(version.tags["classes"]) == ["water", "land"]
    assert json.loads(version.tags["channel_dims"]) == {"band": 4}
    assert json.loads(version.tags["split"])["method"] == "blocks"
    assert float(version.tags["test_miou"]) == metrics["test/miou"]
    assert version.tags["split_digest"] == run.prepared.split_digest
    assert version.tags["units"] == "1"
    assert version.tags["code_version"] == client.get_run(version.run_id).data.tags["code_version"]
    assert [float(version.tags[f"test_{key}"]) for key in ("oa", "aa", "kappa")] == [0.7, 0.7, 0.4]
    assert version.tags["source_sha256"] == "0" * 64
    with tracking_at(run.tracking_uri):
        files = Path(mlflow.artifacts.download_artifacts(registered.uri)) / "extra_files"
    assert load_recipe(files / "config.yaml") == run.config
    assert json.loads((files / "metrics.json").read_text()) == metrics
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert logged.params["split.block"] == "4"
    assert version.run_id == run.read("tracking.json")["run_id"]
    for line in (
        "# fields",
        "## Data and split",
        "- licence: MIT",
        f"| mean IoU | {metrics['test/miou']:.3f} |",
        "## Limits",
    ):
        assert line in version.description
    logged = client.get_run(version.run_id)
    assert logged.info.status == "FINISHED", "registering must not change how the run ended"


def test_a_registered_model_scores_as_the_runs_checkpoint(run, registered):
    one = run_scorer(run)
    expected = probabilities(one, run.volume)
    for uri in ("models:/fields@champion", "models:/fields/1"):
        other = load_model(uri, tracking_uri=run.tracking_uri)
        np.testing.assert_array_equal(probabilities(other, run.volume), expected)
        assert other.description == one.description
        assert other.digest == one.digest
    assert one.description.channel_sizes == [4]
    assert expected.sum(axis=0) == pytest.approx(1)


def test_a_version_of_another_program_is_refused(run, registered, tmp_path):
    registry = Registry.open(run.tracking_uri, registered.uri)
    version = registry.find(registered.uri)
    shutil.copytree(registry.fetch(version), tmp_path / "files")
    stored = next((tmp_path / "files").rglob("telegrapher.json"))
    told = json.loads(stored.read_text())
    stored.write_text(json.dumps(told | {"format_version": 2}))
    with pytest.raises(
        InputError,
        match=r"^fields cannot be read \(telegrapher.json: telegrapher-model of version 2; read here is "
        r"telegrapher-model of version 3\); register its run again with this program, or run the model's own",
    ):
        read_scorer(tmp_path / "files", version, "fields")
    stored.unlink()
    with pytest.raises(InputError, match=r"^fields was not registered by this program: it has no telegrapher.json$"):
        read_scorer(tmp_path / "files", version, "fields")


def test_a_registered_model_differs_from_its_neighbours(run, registered):
    raw = run.volume.read()
    found = probabilities(load_model("models:/fields/1", tracking_uri=run.tracking_uri), run.volume)
    unscaled = load_segmenter(best_checkpoint(run.folder))
    unscaled.deviation.fill_(1.0)
    with torch.no_grad():
        without = unscaled.probabilities(torch.from_numpy(raw)[None])[0].numpy()
    assert abs(found - without).max() > 1e-3, (
        "normalisation does not reach the result, so nothing would notice its loss"
    )
    assert abs(found - found[::-1]).max() > 1e-3, "classes are symmetric, so nothing would notice their exchange"


def test_the_first_version_is_champion_and_the_next_its_challenger(run, registered, capsys):
    client = MlflowClient(run.tracking_uri)
    assert registered.champion
    capsys.readouterr()
    second = register(RegisterConfig(run=str(run.folder)))
    try:
        assert not second.champion
        shown = capsys.readouterr().out
        assert shown.endswith(
            "fields/2 is the challenger; `python -m pipeline promote fields` compares it with the champion.\n"
        )
        aliases = {alias: int(number) for alias, number in client.get_registered_model("fields").aliases.items()}
        assert aliases == {"champion": 1, "challenger": 2}
    finally:
        client.delete_model_version("fields", "2")


@pytest.mark.parametrize(
    "settings",
    [{"states": "exact"}, {"force_dtype": "bfloat16"}, {"force_dtype": "float16", "state_bits": 16}],
    ids=["exact", "bfloat16", "16 bits"],
)
def test_a_network_of_any_precision_is_registered(run, tiny_volume, settings):
    network = NetworkConfig(layers="4*2 d4 u4", repeat=2, init_gain=4.0, **settings)
    name = "-".join(map(str, settings.values()))
    other = finished(name, run.folder.parent, tiny_volume, network)
    made = register(RegisterConfig(run=str(other.folder)))
    found = load_model(made.uri, tracking_uri=run.tracking_uri)
    np.testing.assert_array_equal(probabilities(found, run.volume), probabilities(run_scorer(other), run.volume))


SAME = Standing("seg/1", 0.58, "volume-a", "split-a", "1")


def test_the_decision_and_its_sentence():
    new = replace(SAME, version="seg/2", miou=0.61)
    assert compare(new, SAME) == (
        True,
        "seg/2 becomes champion in place of seg/1: test mIoU 0.6100 against 0.5800 on the same test split.",
    )
    assert compare(replace(new, miou=0.57), SAME)[0] is False
    assert compare(replace(new, miou=float("nan")), SAME)[0] is False
    wins, reason = compare(replace(new, split_digest="split-b"), SAME)
    assert not wins
    assert reason == (
        "seg/1 stays champion, not seg/2: they were tested on different splits (split-b against split-a), "
        "so they do not compare; pass --force if you know better."
    )
    assert "different volumes (volume-b against volume-a)" in compare(replace(new, volume_digest="volume-b"), SAME)[1]
    assert "different grids (2 against 1)" in compare(replace(new, factor="2"), SAME)[1]
    foreign = Standing.of("seg/1", {})
    assert compare(new, foreign)[0] is False
    assert compare(replace(foreign, version="seg/2"), foreign)[0] is False
    assert Standing.of("seg/1", SAME.tags()) == SAME


def test_missing_models_are_refused_with_what_there_is(run, registered, tmp_path):
    for uri in ("models:/nothing@champion", "models:/fields/77", "models:/fields@beta"):
        with pytest.raises(InputError, match=rf"^no {uri} at sqlite:.*; there is .*models:/fields/1.*@champion = \d"):
            load_model(uri, tracking_uri=run.tracking_uri)
    with pytest.raises(InputError, match=r"models:/fields is not a model's URI; write models:/NAME@champion"):
        load_model("models:/fields", tracking_uri=run.tracking_uri)
    with pytest.raises(
        InputError, match=r"no MLflow database at .*other.db, so no models:/fields@champion; .*--tracking_uri"
    ):
        load_model("models:/fields@champion", tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
    assert not (tmp_path / "other.db").exists()
    with pytest.raises(InputError, match=r"'here' is neither a registered model .* nor the folder of a run"):
        load_model("here", tracking_uri=run.tracking_uri)


def test_an_unreachable_server_is_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"MLflow does not answer at http://127.0.0.1:9"):
        load_model("models:/fields@champion", tracking_uri="http://127.0.0.1:9")


def test_a_run_without_scores_of_its_best_checkpoint_is_refused(run):
    before = run.read("metrics.json")
    step = read_meta(best_checkpoint(run.folder)).step
    try:
        scored(run, best_step=step + 1)
        with pytest.raises(
            InputError, match=rf"has no test scores of its best checkpoint \(step-0*{step}\); run .* evaluate"
        ):
            register(RegisterConfig(run=str(run.folder)))
    finally:
        run.write("metrics.json", before)


def test_a_register_that_fails_leaves_the_run_as_it_was(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("export fails")

    client, run_id = MlflowClient(run.tracking_uri), run.read("tracking.json")["run_id"]
    before = client.get_run(run_id).info
    monkeypatch.setattr("pipeline.registry.register._log", broken)
    with pytest.raises(RuntimeError, match="export fails"):
        register(RegisterConfig(run=str(run.folder)))
    after = client.get_run(run_id).info
    assert (after.status, after.end_time) == (before.status, before.end_time)
    assert after.status == "FINISHED"


def test_a_store_that_does_not_know_the_run_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"does not know the run of .*fields .*--tracking_uri"):
        register(RegisterConfig(run=str(run.folder), tracking_uri=f"sqlite:///{tmp_path / 'elsewhere.db'}"))


@pytest.mark.parametrize(
    ("space", "layers", "padding", "read_slice", "fixed"),
    [
        (1, "4 d4 u4", "replicate", {}, None),
        (2, "4 d8 d8 u4", "zeros", {}, None),
        (3, "4 d8 u8", "reflect", {2: 5}, 10),
        (3, "4 d8", "refuse", {2: 5}, None),
    ],
)
def test_one_program_serves_every_size(space, layers, padding, read_slice, fixed):
    torch.manual_seed(0)
    statistics = torch.rand(3, *[1] * (space - 1), fixed or 1) + 0.5
    network = NetworkConfig(layers=layers, padding=padding, repeat=2)
    segmenter = Segmenter(SegmenterConfig(network, space, 3, ["a", "b", "c"], True, read_slice), statistics, statistics)
    multiple = segmenter.network.multiple
    sizes = [None] * (space - 1) + [fixed]
    dims = ["x", "y", "z"][:space]
    d = ModelDescription(
        segmenter.classes,
        dims,
        sizes,
        ["band"],
        [3],
        dims,
        read_slice,
        segmenter.factor,
        multiple,
        padding,
        {},
        {},
        0,
        {},
    )
    dynamic = {axis: torch.export.Dim.AUTO for axis, size in enumerate([None, 3, *sizes]) if size is None}
    example = torch.from_numpy(example_batch(d))
    program = torch.export.export(Exportable(segmenter), (example,), dynamic_shapes=[dynamic]).module()
    for size in (multiple + 1, 3 * multiple, 5 * multiple - 1, 41):
        wanted = -(-size // multiple) * multiple if padding == "refuse" else size
        shape = [fixed or max(wanted + axis * multiple, 6) for axis, fixed in enumerate(sizes)]
        raw = torch.randn(1, 3, *shape)
        raw[0, :, 1] = float("nan")
        with torch.no_grad():
            torch.testing.assert_close(program(raw), segmenter.probabilities(raw), atol=1e-5, rtol=0)
