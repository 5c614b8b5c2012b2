"""The commands of a run's page, typed elsewhere: they make the same volume, the same split and the same weights."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run import Run
from tests.pipeline.processes import largest_difference, weights_of
from tests.pipeline.report.pages import Page

ROOT = Path(__file__).parents[3]


def typed(line: str, folder: Path) -> None:
    """Type a line in a folder, where the code is known and a step has one core."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_page_make_the_run_again(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    program = f"{shlex.quote(sys.executable)} -m pipeline"
    recipes = ROOT / "pipeline" / "recipes"
    typed(f"{program} synthesize {recipes}/synthesize/small.yaml --shape '[32, 32, 32]' --out data/mine.zarr", here)
    settings = "--data.source data/mine.zarr --split.radius 1 --split.buffer 1 --network.layers '4 d4 u4'"
    settings += " --training.steps 6 --training.validate_every 3 --cluster.workers 0 --tracking.uri sqlite:///mine.db"
    typed(f"{program} train {recipes}/quickstart.yaml {settings}", here)
    run = Run.open(here / "runs" / "quickstart")

    page = Page(run.folder / "report.html")
    for name, first in (("run.yaml", "name: quickstart\n"), ("volume.yaml", "out: surveys/mine.zarr\n")):
        (text,) = (text for text in page.words if text.startswith(first))
        assert str(here) not in text.replace(f"source: {here}", ""), "a place of this machine"
        (there / name).write_text(text)
    lines = [line for text in page.words for line in text.splitlines() if line.startswith(".venv/bin/python -m ")]
    assert len(lines) == 2
    for line in lines:
        typed(line.replace(".venv/bin/python", shlex.quote(sys.executable)), there)

    again = Run.open(there / "runs" / "quickstart-again")
    assert again.prepared.volume_digest == run.prepared.volume_digest
    assert again.prepared.split_digest == run.prepared.split_digest
    assert largest_difference(weights_of(run), weights_of(again)) == 0
    assert again.read("metrics.json")["test/miou"] == run.read("metrics.json")["test/miou"]
