"""A run's network is known without its volume, and sees another as it saw its own, however that is stored."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from datasets.store import open_volume, write_volume
from models.config import NetworkConfig
from pipeline.checkpoints.checkpoint import Meta, Snapshot, best_checkpoint, load_segmenter
from pipeline.config import PredictConfig, RegisterConfig, RunConfig
from pipeline.mapping.predict import predict
from pipeline.registry.load import load_model
from pipeline.registry.register import register
from pipeline.run import Run
from pipeline.scoring.description import DESCRIPTION, describe, describe_run
from pipeline.scoring.scorer import run_scorer
from pipeline.tracking.tracker import Tracker
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from pipeline.training.train import open_tracking
from tests.pipeline.conftest import tiny_dataset

SPLIT = SplitConfig(block=4, buffer=0, fractions=[0.5, 0.2, 0.3])


def checkpointed(config: RunConfig) -> Run:
    """Prepare a run and give it a checkpoint of random weights: how good it is does not matter here."""
    run = prepare(config)
    (run.checkpoints / "step-000007").mkdir()
    state = new_segmenter(run).state_dict()
    Snapshot(Meta(7, 0.5), state, {}, run.prepared.segmenter.to_json()).write(run.checkpoints / "step-000007")
    return run


@pytest.fixture
def run(recipe: Callable[..., RunConfig], tiny_volume: Path, tmp_path: Path) -> Run:
    """Make a run whose volume is its own, so that it can be taken away."""
    config = recipe()
    shutil.copytree(tiny_volume, tmp_path / "own.zarr")
    return checkpointed(replace(config, data=replace(config.data, source=str(tmp_path / "own.zarr"))))


def test_a_run_notes_what_its_network_expects(run: Run) -> None:
    segmenter = load_segmenter(best_checkpoint(run.folder))
    noted = describe_run(run, segmenter)
    assert noted == describe(run, run.volume, segmenter)
    (run.folder / DESCRIPTION).unlink()
    assert describe_run(run, segmenter) == noted


def test_a_run_maps_another_volume_when_its_own_is_gone(run: Run, tiny_volume: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "own.zarr")
    out = tmp_path / "map.zarr"
    predict(PredictConfig(model=str(run.folder), source=str(tiny_volume), out=str(out)))
    assert set(np.unique(xr.open_zarr(out, mask_and_scale=False)["class"])) <= {0, 1, 255}


def test_a_run_is_registered_when_its_volume_is_gone(run: Run, tmp_path: Path) -> None:
    run.write("metrics.json", {"best_step": 7} | {f"test/{key}": 0.5 for key in ("oa", "aa", "kappa", "miou")})
    Tracker(run.tracking_uri, open_tracking(run)).end("FINISHED")
    shutil.rmtree(tmp_path / "own.zarr")
    registered = register(RegisterConfig(run=str(run.folder)))
    assert load_model(registered.uri, tracking_uri=run.tracking_uri).digest == run_scorer(run).digest


@pytest.mark.parametrize("content", [None, {"format": "telegrapher-model", "format_version": 1}], ids=["none", "other"])
def test_a_run_made_before_asks_for_its_volume(run: Run, tmp_path: Path, content: dict[str, object] | None) -> None:
    path = run.folder / DESCRIPTION
    path.unlink() if content is None else path.write_text(json.dumps(content))
    assert run_scorer(Run.open(run.folder)).description.classes == ["water", "land"]
    shutil.rmtree(tmp_path / "own.zarr")
    with pytest.raises(InputError, match=r"^no volume at .*own\.zarr"):
        run_scorer(Run.open(run.folder))


def stacked() -> xr.Dataset:
    """Make a scene of two dates and three bands, from the tiny one."""
    one, other = tiny_dataset(bands=3), tiny_dataset(seed=1, bands=3)
    data = xr.concat([one["data"], 2 * other["data"] + 1], "date", coords="minimal", compat="override")
    found = one.assign(data=data, valid=xr.concat([one["valid"], other["valid"]], "date"))
    return found.transpose("date", "band", "y", "x")


@pytest.mark.parametrize("order", ["band date y x", "y band x date", "x y band date"])
@pytest.mark.parametrize("space", ["y x", "date y x"])
def test_the_order_in_which_a_store_keeps_its_dimensions_does_not_matter(
    tmp_path: Path, order: str, space: str
) -> None:
    ds = stacked()
    stored = write_volume(ds, tmp_path / "stored.zarr")
    turned = write_volume(ds.transpose(*order.split()), tmp_path / "turned.zarr")
    data = DataConfig(source=str(stored), space=space.split())
    run = checkpointed(RunConfig(runs=str(tmp_path), data=data, split=SPLIT, network=NetworkConfig(layers="4 d4 u4")))
    scorer = run_scorer(run)
    (here,) = scorer.map(scorer.open(stored))
    (there,) = scorer.map(scorer.open(turned))
    np.testing.assert_array_equal(there.found, here.found)
    np.testing.assert_array_equal(there.raw, here.raw)
    assert scorer.open(turned).channel_dims == tuple(scorer.description.channel_dims)
    assert open_volume(turned)["data"].dims == tuple(order.split())


def test_channels_of_another_size_are_refused_in_any_order(tmp_path: Path) -> None:
    ds = stacked()
    stored = write_volume(ds, tmp_path / "stored.zarr")
    fewer = write_volume(ds.isel(band=slice(2)).transpose("band", "date", "y", "x"), tmp_path / "fewer.zarr")
    data = DataConfig(source=str(stored), space=["y", "x"])
    scorer = run_scorer(
        checkpointed(RunConfig(runs=str(tmp_path), data=data, split=SPLIT, network=NetworkConfig(layers="4 d4 u4")))
    )
    with pytest.raises(InputError, match=r"has 2 entries of band, which run .* takes as channels: it needs the 3 that"):
        scorer.open(fewer)
