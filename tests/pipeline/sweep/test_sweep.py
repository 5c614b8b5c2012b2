"""Sweeps for real, on two cores: ASHA, trials that fail or are lost, several workers a trial, the whole space."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from models.config import hourglass
from pipeline.config_sweep import Range
from pipeline.run import Run
from pipeline.tracking.journal import measured_peak, read_history
from pipeline.training.train import train
from pipeline.trials import turned_away
from tests.pipeline.processes import largest_difference, weights_of, workers_now
from tests.pipeline.sweep.sweeps import Make, lines_of, mlflow_runs, searching

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def two_cores() -> Iterator[None]:
    """Ray with two cores, whatever this machine has."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150_000_000, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_sweep_stops_the_weak_turns_away_the_large_and_outlives_a_trial_that_fails(
    recipe: Make, two_cores: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.sweep.tune import tune

    config = recipe("search", steps=24, validate_every=4, memory="2MB")
    # A step of h = 1000 leaves the grid of exact states at once: such a trial dies before its first report.
    config = replace(config, network=replace(config.network, states="exact"))
    config = searching(config, depth=[3], rank=[2, 4, 9000], step=[0.2, 0.3, 1000.0], trials=6, grace=1)
    rows = tune(config)
    printed = capsys.readouterr().out
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {(row["choice"]["rank"], row["choice"]["step"]) for row in rows} == {(2, 0.2), (2, 0.3), (4, 0.2), (4, 0.3)}
    assert any(row["stopped"] for row in rows), "ASHA stopped none"
    folder = Path(config.runs) / "search-sweep"
    refused = turned_away(folder)
    assert {row["choice"]["rank"] for row in refused} == {9000}
    assert f"; 2 failed; {len(refused)} configurations turned away by the planner" in printed
    assert "trial-" in printed
    assert "step h 1e+03:  failed" in printed
    for name in ("trials.png", "parallel.png"):
        assert (folder / "pictures" / name).stat().st_size > 10_000
    parent, children = mlflow_runs(config)
    assert parent.info.status == "FINISHED"
    assert sorted(run.info.status for run in children) == ["FAILED"] * 2 + ["FINISHED"] * 4, "none is left open"
    metrics = parent.data.metrics
    assert (metrics["trials"], metrics["failed"], metrics["turned_away"]) == (4, 2, len(refused))
    best = next(run for run in children if run.info.run_id == rows[0]["run_id"])
    assert best.data.metrics["sweep/score"] == metrics["best/score"] == rows[0]["score"]
    assert best.data.tags["sweep.rank"] == str(rows[0]["choice"]["rank"])
    assert not any(key.startswith("test/") for run in (parent, *children) for key in run.data.metrics)


def test_trials_of_several_workers_wait_for_each_other_and_end(
    recipe: Make, two_cores: None, mlflow_server: str
) -> None:
    """Both trials want both cores at once; a driver with a core of its own would starve the other's workers.

    Their numbers go to a team's MLflow, with PostgreSQL and S3.
    """
    from pipeline.sweep.tune import tune

    config = searching(
        recipe("crowd", workers=2), depth=[3], objectives=["score", "parameters", "time"], trials=2, concurrent=2
    )
    config.tracking.uri = mlflow_server
    rows = tune(config)
    assert sorted((row["choice"]["rank"], row["step"]) for row in rows) == [(2, 12), (4, 12)]
    assert not any(row["stopped"] for row in rows)
    folder = Path(config.runs) / "crowd-sweep"
    assert (folder / "pictures" / "pareto.png").stat().st_size > 10_000
    parent, children = mlflow_runs(config)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert {run.info.run_id: run.data.metrics["sweep/peak"] for run in children} == {
        row["run_id"]: row["peak"] for row in rows
    }
    kept = {found.path for found in MlflowClient(mlflow_server).list_artifacts(parent.info.run_id)}
    assert kept >= {"trials.md", "pictures", "report.html"}
    assert not any(key.startswith("test/") for run in children for key in run.data.metrics)


def test_a_trial_whose_process_is_lost_goes_on_from_its_checkpoint(recipe: Make, two_cores: None) -> None:
    from pipeline.sweep.tune import tune

    config = searching(recipe("lost", steps=600, validate_every=50), depth=[3], rank=[2], trials=1)
    folder = Path(config.runs) / "lost-sweep"
    killed: list[int] = []

    def strike() -> None:
        end = time.monotonic() + 300
        while max(lines_of(folder).values(), default=0) < 120 and time.monotonic() < end:
            time.sleep(0.02)
        killed.append(workers_now("ImplicitFunc")[-1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    (row,) = tune(config)
    thread.join()
    assert killed
    run = Run.open(folder / row["trial"])
    assert row["step"] == 600
    taken = [json.loads(line)["step"] for line in (run.folder / "history.jsonl").read_text().splitlines()]
    again = [now for before, now in pairwise(taken) if now != before + 1]
    assert len(again) <= 1
    assert all(step > 50 for step in again), "it began anew"
    _, (child,) = mlflow_runs(config)
    assert child.info.status == "FINISHED"
    plain = train(replace(run.config, name="plain", runs=config.runs))
    assert largest_difference(weights_of(plain), weights_of(run)) == 0


def test_every_part_of_the_space_is_trained_as_it_was_chosen(recipe: Make, two_cores: None) -> None:
    from pipeline.sweep.tune import tune

    space: dict[str, Any] = {"depth": [5, 6], "levels": [1, 2], "rank": [2, 4], "coarsening": ["haar", "learned"]}
    space |= {"step": Range(0.1, 0.4), "rate": Range(1e-3, 1e-1), "batch": [1, 3]}
    everything = ["score", "parameters", "memory", "peak", "time"]
    config = recipe("wide", steps=4, validate_every=2, seed=2)  # of this seed, four draws vary every part
    config = searching(config, **space, objectives=everything, trials=4)
    rows = tune(config)
    assert len(rows) == 4
    drawn = {name: {row["choice"][name] for row in rows} for name in space}
    assert all(len(values) > 1 for values in drawn.values()), f"something was never varied: {drawn}"
    for row in rows:
        run, choice = Run.open(Path(config.runs) / "wide-sweep" / row["trial"]), row["choice"]
        network, training = run.config.network, run.config.training
        assert network.layers == hourglass(choice["depth"], choice["rank"], choice["levels"])
        assert (network.coarsening, network.step) == (choice["coarsening"], choice["step"])
        assert (training.rate, training.batch) == (choice["rate"], choice["batch"])
        weights = weights_of(run)
        assert row["parameters"] == sum(
            weight.numel() for name, weight in weights.items() if name not in ("mean", "deviation")
        )
        assert row["memory"] > 0
        assert row["peak"] == measured_peak(run) > 0
        assert row["time"] > 0
        assert [line["step"] for line in read_history(run)] == [1, 2, 3, 4]
    pictures = Path(config.runs) / "wide-sweep" / "pictures"
    assert all((pictures / f"{name}.png").stat().st_size > 10_000 for name in ("pareto", "parallel"))


def cells(lines: list[str]) -> dict[str, list[str]]:
    """Take a Markdown table apart: the cells below each head."""
    head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {name: [row[column] for row in rows] for column, name in enumerate(head)}


def test_the_sweep_of_the_page(tmp_path: Path) -> None:
    """The page's own words but for fewer steps and trials, from nothing, in a folder of its own."""
    text = (ROOT / "docs" / "sweeps.md").read_text()
    (block,) = [found for found in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "pipeline tune" in found]
    words = block.replace("python -m", f"{sys.executable} -m").replace("pipeline/recipes", f"{ROOT}/pipeline/recipes")
    words = f"{words.strip()} --training.steps 4 --training.validate_every 2 --sweep.trials 3"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "depth-and-rank-sweep"
    table = (folder / "trials.md").read_text()
    assert table in done.stdout
    assert "repeated" not in done.stdout, "Ray leaves out no line of a trial"
    assert done.stdout.count("step 4/4") == 3
    assert "\x1b" not in done.stdout
    shown = cells([line for line in text[text.index(block) :].splitlines() if line.startswith("| ")])
    made = cells([line for line in table.splitlines() if line.startswith("| ")])
    assert shown.keys() <= made.keys(), "the page's table has another column than the command prints"
    pairs = [sorted(zip(found["depth"], found["rank"], found["parameters"], strict=True)) for found in (shown, made)]
    assert len(pairs[0]) == 8
    assert len(pairs[1]) == 3
    assert set(pairs[1]) <= set(pairs[0])
    assert {path.name for path in (folder / "pictures").iterdir()} >= {"pareto.png", "parallel.png", "trials.png"}
