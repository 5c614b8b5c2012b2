"""A survey of somebody else is trained on in place: an MDIO store, horizons that were picked beside it, no copy."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from pipeline.checkpoints.storage import directory_storage
from pipeline.run import Run
from pipeline.training.context import Context
from pipeline.training.loop import fit
from pipeline.training.prepare import prepare

SURVEY = Path(__file__).parents[1] / "datasets" / "sources" / "mdio" / "mdio-1.1.3.zip"


def test_an_mdio_survey_with_picked_horizons_trains_without_a_copy(recipe, tmp_path: Path) -> None:
    store = tmp_path / "survey.mdio"
    zipfile.ZipFile(SURVEY).extractall(store)
    before = sorted(store.rglob("*"))
    np.save(tmp_path / "top.npy", np.full((5, 4), 9.0))
    (tmp_path / "view.yaml").write_text(
        yaml.safe_dump({"source": "survey.mdio", "horizons": ["top.npy"], "class_names": {0: "above", 1: "below"}})
    )
    plain = recipe(steps=2, validate_every=2)
    config = replace(
        plain,
        network=replace(plain.network, repeat=2),
        data=DataConfig(source=str(tmp_path / "view.yaml"), space=["inline", "crossline", "twt"]),
        split=SplitConfig(block=1, buffer=0, fractions=[0.5, 0.25, 0.25]),
    )
    run = prepare(config)
    assert fit(run, Context(store=directory_storage(run.checkpoints))).progress.step == 2
    assert sorted(store.rglob("*")) == before
    chunk = next(path for path in (store / "amplitude" / "c").rglob("*") if path.is_file())
    os.utime(chunk, ns=(0, 0))
    with pytest.raises(InputError, match=r"view\.yaml is no longer the volume that .* was prepared with"):
        _ = Run.open(run.folder).volume
