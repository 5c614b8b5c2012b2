"""Promotion and the way back: stored scores where the test cells are the same, scores made anew where they are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from datasets.store import write_volume
from models.config import NetworkConfig
from pipeline.checkpoints.checkpoint import Meta, Snapshot, best_checkpoint, load_segmenter
from pipeline.config import PromoteConfig, RunConfig, TrainingConfig
from pipeline.planning.tiling import Tiling
from pipeline.registry.promote import promote
from pipeline.registry.versions import Registry
from pipeline.run import Run
from pipeline.scoring.metrics import confusion, scores
from pipeline.scoring.scorer import Scorer, run_scorer
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from tests.pipeline.conftest import tiny_dataset

SAME = {"volume_digest": "v" * 64, "split_digest": "s" * 64, "factor": "1"}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('promote') / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    return uri


class Shelf:
    """A registered model whose versions are nothing but tags."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self.registry = Registry.open(uri, name)
        self.client = self.registry.client
        self.client.create_registered_model(name)

    def add(self, miou: float, **changes: str) -> None:
        tags = SAME | {"test_miou": repr(miou)} | changes
        self.registry.enter(self.client.create_model_version(self.name, "file:///nothing", tags=tags))

    def promote(self, which: str | int = "", **flags: bool) -> bool:
        model = f"models:/{self.name}/{which}" if which else self.name
        return promote(PromoteConfig(model, tracking_uri=self.uri), **flags)

    @property
    def aliases(self) -> dict[str, int]:
        return {alias: int(number) for alias, number in self.client.get_registered_model(self.name).aliases.items()}

    def note(self, version: int, what: str) -> str:
        return self.client.get_model_version(self.name, str(version)).tags[what].split(": ", 1)[1]


@pytest.fixture
def shelf(uri: str, request: pytest.FixtureRequest) -> Shelf:
    return Shelf(uri, request.node.name[:60].translate(str.maketrans("[]", "--")))


def test_a_better_challenger_becomes_champion(shelf, capsys):
    shelf.add(0.58)
    shelf.add(0.61)
    assert shelf.aliases == {"champion": 1, "challenger": 2}
    assert shelf.promote() is True
    assert shelf.aliases == {"champion": 2}
    reason = (
        f"{shelf.name}/2 becomes champion in place of {shelf.name}/1: test mIoU 0.6100 against 0.5800 "
        "on the same test split."
    )
    assert capsys.readouterr().out == reason + "\n"
    assert shelf.note(2, "promoted") == reason
    assert shelf.note(1, "replaced") == f"by {shelf.name}/2"


@pytest.mark.parametrize("miou", [0.57, 0.58, float("nan")])
def test_a_challenger_that_is_not_better_stays_one(shelf, capsys, miou):
    shelf.add(0.58)
    shelf.add(miou)
    assert shelf.promote() is False
    assert shelf.aliases == {"champion": 1, "challenger": 2}
    assert f"{shelf.name}/1 stays champion, not {shelf.name}/2: its test mIoU is not better" in capsys.readouterr().out


def test_where_nobody_challenges_nothing_moves(shelf, capsys):
    shelf.add(0.58)
    assert shelf.promote() is False
    assert shelf.promote(1) is False
    assert capsys.readouterr().out.splitlines() == [
        f"{shelf.name}/1 is the champion, and there is no challenger.",
        f"{shelf.name}/1 is the champion already.",
    ]
    shelf.client.delete_registered_model_alias(shelf.name, "champion")
    with pytest.raises(InputError, match=r"has neither a challenger nor a champion; name a version: models:/.*/1$"):
        shelf.promote()
    assert shelf.promote(1) is True
    assert shelf.aliases == {"champion": 1}


def test_another_grid_does_not_compare_unless_forced(shelf, capsys):
    shelf.add(0.58)
    shelf.add(0.9, factor="2")
    assert shelf.promote() is False
    assert "tested on different grids (2 against 1), so they do not compare; pass --force" in capsys.readouterr().out
    assert shelf.promote(force=True) is True
    assert shelf.aliases == {"champion": 2}
    assert "as it was told to (--force), without a comparison" in shelf.note(2, "promoted")


def test_rollback_goes_back_step_by_step_and_no_further(shelf, capsys):
    for miou in (0.5, 0.6, 0.7):
        shelf.add(miou)
        shelf.promote()
    shelf.add(0.4)
    capsys.readouterr()
    assert shelf.promote(rollback=True) is True
    assert capsys.readouterr().out == f"{shelf.name}/2 is champion again, in place of {shelf.name}/3.\n"
    assert shelf.aliases == {"champion": 2, "challenger": 4}
    assert shelf.note(3, "withdrawn") == f"for {shelf.name}/2"
    shelf.promote(3)
    shelf.promote(rollback=True)
    shelf.promote(rollback=True)
    assert shelf.aliases["champion"] == 1
    with pytest.raises(InputError, match=rf"no version of .* was champion before {shelf.name}/1, .*promote models:/"):
        shelf.promote(rollback=True)
    assert shelf.aliases == {"champion": 1, "challenger": 4}


def test_rollback_passes_over_deleted_versions(shelf):
    for miou in (0.5, 0.6, 0.7):
        shelf.add(miou)
        shelf.promote()
    shelf.client.delete_model_version(shelf.name, "2")
    shelf.promote(rollback=True)
    assert shelf.aliases["champion"] == 1


@pytest.mark.parametrize("step", ["_point", "_remember"])
def test_a_rollback_after_moves_that_were_cut_short(shelf, monkeypatch, step):
    for miou in (0.5, 0.6):
        shelf.add(miou)
        shelf.promote()

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    shelf.add(0.7)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, step, cut)
        with pytest.raises(KeyboardInterrupt):
            shelf.promote()
    assert shelf.aliases["champion"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(Registry, step, cut)
        with pytest.raises(KeyboardInterrupt):
            shelf.promote(rollback=True)
    if shelf.aliases["champion"] == 2:
        shelf.promote(rollback=True)
    assert shelf.aliases["champion"] == 1
    with pytest.raises(InputError, match="nothing to go back to"):
        shelf.promote(rollback=True)


def test_a_server_that_fails_does_not_make_a_champion(shelf, monkeypatch):
    shelf.add(0.58)

    def fails(*_: object) -> None:
        raise MlflowException("the database is away", error_code=1)

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", fails)
    with pytest.raises(MlflowException, match="the database is away"):
        shelf.add(0.1)


def test_what_is_not_there_is_refused(shelf, tmp_path):
    with pytest.raises(InputError, match=r"^promote needs a model: python -m pipeline promote NAME"):
        promote(PromoteConfig())
    with pytest.raises(InputError, match=rf"^no registered model 'other' at sqlite:.*there is .*models:/{shelf.name}"):
        promote(PromoteConfig("other", tracking_uri=shelf.uri))
    with pytest.raises(InputError, match=r"^no models:/.*/7 at sqlite:"):
        shelf.promote(7)
    with pytest.raises(InputError, match=r"^no MLflow database at .*mlflow.db, so no fields; .*--runs$"):
        promote(PromoteConfig("fields", runs=str(tmp_path)))
    with pytest.raises(InputError, match=r"has no champion"):
        shelf.promote(rollback=True)
    for which, force in ((7, False), ("", True)):
        with pytest.raises(InputError, match=r"^--rollback takes the NAME of a model and nothing else; to choose"):
            shelf.promote(which, rollback=True, force=force)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs on one volume, of other splits and other random weights."""
    folder = tmp_path_factory.mktemp("rivals")
    source = write_volume(tiny_dataset(), folder / "scene.zarr")
    made = []
    for seed in (1, 2):
        run = prepare(
            RunConfig(
                name=f"seed-{seed}",
                runs=str(folder / "runs"),
                data=DataConfig(source=str(source), space=["y", "x"]),
                split=SplitConfig(block=4, buffer=0, fractions=[0.5, 0.2, 0.3], seed=seed),
                network=NetworkConfig(layers="4 d4 u4"),
                training=TrainingConfig(seed=seed),
            )
        )
        (run.checkpoints / "step-000001").mkdir()
        weights = new_segmenter(run).state_dict()
        Snapshot(Meta(1, 0.5), weights, {}, run.prepared.segmenter.to_json()).write(run.checkpoints / "step-000001")
        made.append(run)
    return made[0], made[1]


@pytest.fixture
def rivals(shelf: Shelf, runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """The runs as two versions, whose files are the runs' folders; their stored scores are made up, and wrong."""
    for run, miou in zip(runs, (0.99, 0.98), strict=True):
        known = run.prepared
        shelf.add(miou, volume_digest=known.volume_digest, split_digest=known.split_digest, source_sha256="0" * 64)
    monkeypatch.setattr(Registry, "fetch", lambda _, version: runs[int(version.version) - 1].folder)
    monkeypatch.setattr("pipeline.registry.promote.read_scorer", lambda folder, *_: run_scorer(Run.open(folder)))
    return shelf


def miou_of(run: Run, split: xr.DataArray) -> float:
    with torch.no_grad():
        found = load_segmenter(best_checkpoint(run.folder)).probabilities(torch.from_numpy(run.volume.read())[None])
    return scores(confusion(found[0].numpy().argmax(axis=0), run.volume.read_labels(split, "test"), 2)).miou


def test_versions_of_different_splits_are_scored_on_the_newer_ones(rivals, runs, capsys):
    old, new = runs
    expected = [miou_of(run, new.split) for run in (new, old)]
    assert abs(expected[0] - expected[1]) > 1e-3, "the scores are alike, so nothing would notice their exchange"
    moved = rivals.promote()
    assert moved == (expected[0] > expected[1])
    assert rivals.aliases["champion"] == (2 if moved else 1)
    first, seen, decision = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{rivals.name}/2 and {rivals.name}/1 were tested on different splits (")
    assert first.endswith(f"); scoring both on the test part of {rivals.name}/2 ...")
    test = new.volume.read_labels(new.split, "test") >= 0
    learned = np.isin(old.split.values, (1, 2)) & (old.volume.read_labels() >= 0)
    assert 0 < (test & learned).sum() < test.sum()
    assert seen == (
        f"warning: {rivals.name}/1 trained or validated on {(test & learned).sum()} of these {test.sum()} test cells, "
        "so its score is too high"
    )
    assert f"{expected[0]:.4f} against {expected[1]:.4f} on the same test split" in decision


def test_versions_are_scored_in_blocks_where_memory_is_short(rivals, capsys, monkeypatch):
    rivals.promote()
    whole = capsys.readouterr().out.splitlines()[-1]
    rivals.promote(1, force=True)
    monkeypatch.setattr(Scorer, "plan", lambda *_, **__: Tiling((8, 8), (16, 16)))
    capsys.readouterr()
    rivals.promote(2)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == whole
    assert printed.count("mapping 24 x 24 cells in blocks of 8 x 8 cells amid a halo of 16 x 16 cells") == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [("0" * 64, "warning: both learned from the same source, so {} may have"), ("1" * 64, "note: {} learned from ano")],
)
def test_what_the_champion_may_have_seen_of_another_volume(rivals, capsys, source, words):
    for key, value in (("volume_digest", "other"), ("source_sha256", source)):
        rivals.client.set_model_version_tag(rivals.name, "1", key, value)
    rivals.promote()
    assert words.format(f"{rivals.name}/1") in capsys.readouterr().out


def test_a_test_volume_that_is_away_or_another_is_refused(rivals, tmp_path, capsys):
    config = PromoteConfig(f"models:/{rivals.name}/2", tracking_uri=rivals.uri)
    with pytest.raises(
        InputError,
        match=r"/2 and .*/1 were tested on different splits .*, and the volume of .*/2 cannot be opened "
        r"\(no volume at nowhere.zarr; .*\); say where it lies with --source, or pass --force if you know better$",
    ):
        promote(replace(config, source="nowhere.zarr"))
    other = write_volume(tiny_dataset(seed=3), tmp_path / "other.zarr")
    with pytest.raises(InputError, match=r"and .*other.zarr is not the volume that .*/2 was tested on; say where"):
        promote(replace(config, source=str(other)))
    assert rivals.aliases == {"champion": 1, "challenger": 2}
    moved = write_volume(tiny_dataset(), tmp_path / "moved.zarr")
    promote(replace(config, source=str(moved)))
    assert "on the same test split" in capsys.readouterr().out


def test_versions_that_cannot_be_compared_say_why(rivals, runs, monkeypatch, tmp_path):
    def another(folder: Path, *_: object) -> Scorer:
        scorer = run_scorer(Run.open(folder))
        return replace(scorer, description=replace(scorer.description, classes=["sea", "shore"]))

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.registry.promote.read_scorer", another)
        with pytest.raises(
            InputError, match=r"cannot be compared: .* has the classes \['sea', 'shore'\], but .*--force"
        ):
            rivals.promote()
    monkeypatch.setattr(Registry, "fetch", lambda *_: tmp_path)
    with pytest.raises(InputError, match=r"/2 does not carry the recipe .*; register its run again, or pass --force"):
        rivals.promote()
