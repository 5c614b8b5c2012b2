"""What is made of a sweep's trials: ranks, the Pareto front, the table, the pictures, and the folder they lie in."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import Meta, folder_name
from pipeline.config import RunConfig
from pipeline.config_sweep import SweepConfig
from pipeline.pictures.sweep import Scale, draw_parallel, draw_pareto
from pipeline.recipe import load_recipe
from pipeline.sweep.folder import begin, has_result, reopen, started_with, sweep_folder
from pipeline.sweep.results import check_best
from pipeline.tracking.tracker import create_run
from pipeline.trials import in_words, pareto_front, rank_trials, trials_table

ALL = ["score", "parameters", "memory", "peak", "time"]


def row(score: float, parameters: int, step: int = 20, **choice: Any) -> dict[str, Any]:
    return {
        "choice": {"depth": 5, "rank": 2, "levels": 1} | choice,
        "trial": f"trial-{score}",
        "score": score,
        "parameters": parameters,
        "memory": 1000 * parameters,
        "peak": 2000 * parameters,
        "time": 0.25,
        "step": step,
        "run_id": "0",
    }


def test_the_pareto_front_is_what_nobody_beats_in_all() -> None:
    draw = np.random.default_rng(0)
    rows = [row(float(score), int(size)) for score, size in zip(draw.random(40), draw.integers(1, 20, 40), strict=True)]
    front = pareto_front(rows, ["score", "parameters"])
    for one, on in zip(rows, front, strict=True):
        better = [
            other
            for other in rows
            if other["score"] >= one["score"]
            and other["parameters"] <= one["parameters"]
            and (other["score"] > one["score"] or other["parameters"] < one["parameters"])
        ]
        assert on == (not better)
    assert 1 < sum(front) < 40
    best = pareto_front(rows, ["score"])
    assert [one["score"] for one, on in zip(rows, best, strict=True) if on] == [max(one["score"] for one in rows)]
    assert pareto_front([row(0.5, 10), row(0.5, 10)], ALL) == [True, True], "equals do not beat each other"


def test_trials_are_ranked_and_laid_out() -> None:
    ranked = rank_trials([row(0.5, 10), row(0.7, 3000, depth=15), row(0.7, 20, step=8)], ["score", "parameters"], 20)
    assert [(one["score"], one["parameters"]) for one in ranked] == [(0.7, 20), (0.7, 3000), (0.5, 10)]
    assert [one["front"] for one in ranked] == [True, False, True]
    lines = trials_table(ranked, ["score", "parameters"]).splitlines()
    assert lines[0] == (
        "| depth | levels | rank | parameters | planned memory | measured peak | s a step | steps | validation mIoU "
        "| Pareto front | trial |"
    )
    assert lines[2] == "| 5 | 1 | 2 | 20 | 0.02 MB | 0.04 MB | 0.25 | 8 (stopped) | 0.700 | yes | trial-0.7 |"
    assert lines[3] == "| 15 | 1 | 2 | 3,000 | 3 MB | 6 MB | 0.25 | 20 | 0.700 |  | trial-0.7 |"
    assert "Pareto" not in trials_table(ranked, ["score"])
    assert (
        in_words({"rate": 0.00312, "depth": 5, "coarsening": "haar"})
        == "depth 5, coarsening haar, learning rate 0.00312"
    )


def test_axes_of_the_parallel_coordinates() -> None:
    depth = Scale("depth", [5, 15, 5, 10])
    assert [depth.place(value) for value in depth.ticks()] == [0, 0.5, 1]
    rate = Scale("rate", [1e-4, 1e-2, 1e-3])
    assert rate.place(1e-3) == pytest.approx(0.5)
    assert rate.ticks() == [1e-4, 1e-2]
    score = Scale("score", [0.2, 0.3, 0.6])
    assert score.place(0.3) == pytest.approx(0.25)
    assert Scale("coarsening", ["haar", "haar"]).place("haar") == Scale("time", [3.0]).place(3.0) == 0.5


@pytest.mark.filterwarnings("error")
def test_pictures_of_all_kinds_of_sweeps(tmp_path: Path) -> None:
    many = rank_trials(
        [row(0.1 * n, 10 * n**2, step=20 - n % 2, rank=2 * n, rate=0.01 / n, coarsening="haar") for n in range(1, 8)],
        ALL,
        20,
    )
    one = rank_trials([row(0.5, 10)], ["score", "time"], 20)
    for name, rows, objectives in (("many", many, ALL), ("one", one, ["score", "time"])):
        draw_parallel(rows, objectives, tmp_path / f"{name}-parallel.png")
        draw_pareto(rows, objectives, tmp_path / f"{name}-pareto.png")
    for path in tmp_path.glob("*.png"):
        assert imread(path).std() > 0.02, f"{path} is blank"


def test_the_test_part_is_for_one_model(recipe: Callable[..., RunConfig]) -> None:
    config = recipe("one")
    place = Path(config.runs) / "one-best"
    check_best(config, resume=False, overwrite=False)
    place.mkdir(parents=True)
    with pytest.raises(InputError, match="one-best exists already; choose another --name, or pass --overwrite"):
        check_best(config, resume=False, overwrite=False)
    check_best(config, resume=True, overwrite=False)
    (place / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match="one-best is finished already, and the test part is for one model; register"):
        check_best(config, resume=True, overwrite=False)
    check_best(config, resume=False, overwrite=True)


def checkpoint(trial: Path) -> None:
    place = trial / "checkpoints" / folder_name(4)
    place.mkdir(parents=True)
    (place / "meta.json").write_text(json.dumps(vars(Meta(4, 0.5))))


def sweep_of(folder: Path, name: str) -> Path:
    (folder / "trial-1").mkdir(parents=True)
    checkpoint(folder / "trial-1")
    (folder / "sweep.json").write_text("{}")
    (folder / name).write_text("precious")
    return folder


def break_after(made: Path, error: BaseException) -> None:
    made.mkdir()
    assert not (made.parent / "old.txt").exists()
    raise error


def test_the_old_sweep_stays_until_the_new_one_has_a_result(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "one-sweep", "old.txt")
    with pytest.raises(RuntimeError, match="broken"), sweep_folder(folder, resume=False, overwrite=True):
        break_after(folder / "trial-2", RuntimeError("broken"))
    assert (folder / "old.txt").read_text() == "precious"
    assert not (folder / "trial-2").exists()
    with sweep_folder(folder, resume=False, overwrite=True):
        checkpoint(folder / "trial-2")
    assert not (folder / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["one-sweep"]


def test_an_overwrite_that_was_killed_leaves_the_old_sweep(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "one-sweep", "old.txt")
    killed = sweep_folder(folder, resume=False, overwrite=True)
    killed.__enter__()  # and never leaves
    assert not (folder / "old.txt").exists()
    with (
        pytest.raises(InputError, match="one-sweep exists already"),
        sweep_folder(folder, resume=False, overwrite=False),
    ):
        pass
    assert (folder / "old.txt").read_text() == "precious"
    assert has_result(folder)


def test_what_is_no_sweep_is_not_deleted_for_one_that_was_hidden(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "one-sweep", "old.txt")
    killed = sweep_folder(folder, resume=False, overwrite=True)
    killed.__enter__()  # and never leaves
    (folder / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is no sweep, so --overwrite does not replace it"):
        sweep_folder(folder, resume=False, overwrite=True).__enter__()
    assert (folder / "mine.txt").read_text() == "precious"
    assert (tmp_path / ".one-sweep.replaced" / "old.txt").read_text() == "precious"


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "one-sweep"
    with pytest.raises(InputError, match=r"--resume: there is no sweep at .*one-sweep; start it without --resume"):
        sweep_folder(folder, resume=True, overwrite=False).__enter__()
    with pytest.raises(InputError, match="--resume and --overwrite contradict each other; give one of them"):
        sweep_folder(folder, resume=True, overwrite=True).__enter__()
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is no sweep, so --overwrite does not replace it; choose another --name"):
        sweep_folder(folder, resume=False, overwrite=True).__enter__()
    assert (folder / "mine.txt").read_text() == "precious"


def test_a_refused_sweep_leaves_nothing_and_an_interrupted_one_can_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "one-sweep"
    with pytest.raises(InputError, match="no volume"), sweep_folder(folder, resume=False, overwrite=False):
        raise InputError("no volume")
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), sweep_folder(folder, resume=False, overwrite=False):
        break_after(folder / "tune", KeyboardInterrupt())
    assert (folder / "tune").is_dir()


def test_a_resumed_sweep_is_the_one_that_was_started(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = replace(recipe("one"), sweep=SweepConfig(depth=[3], rank=[2], levels=[1]))
    config = replace(config, tracking=replace(config.tracking, uri="http://mlflow:5000"))
    begin(tmp_path, config, {"run_id": "abc", "memory": None})
    elsewhere = replace(config, cluster=replace(config.cluster, address="auto"))
    assert reopen(tmp_path, elsewhere) == {"run_id": "abc", "memory": None}
    other = replace(config, sweep=replace(config.sweep, rank=[2, 4]))
    with pytest.raises(InputError) as refused:
        reopen(tmp_path, other)
    assert str(refused.value).startswith(f"--resume: sweep.rank is [2, 4] but {tmp_path} was started with [2]; ")


def test_a_sweep_goes_on_with_the_mlflow_that_knows_it(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    folder, old = tmp_path / "one-sweep", f"sqlite:///{tmp_path / 'old.db'}"
    config = replace(recipe("one"), sweep=SweepConfig(depth=[3], rank=[2], levels=[1]))
    config = replace(config, tracking=replace(config.tracking, uri=old))
    run_id = create_run(old, "one", "one-sweep", parameters={}, tags={})
    (folder / "trial-1").mkdir(parents=True)
    (folder / "trial-1" / "tracking.json").write_text(json.dumps({"uri": old, "run_id": "b"}))
    begin(folder, config, {"run_id": run_id, "memory": None})
    silent = replace(config, tracking=replace(config.tracking, uri=None))
    assert started_with(folder, silent) == started_with(folder, config) == old
    moved = f"sqlite:///{tmp_path / 'moved.db'}"
    asked = replace(config, tracking=replace(config.tracking, uri=moved))
    with pytest.raises(InputError, match=r"--resume: MLflow at .*moved.db does not know the sweep of .*; give"):
        started_with(folder, asked)
    assert not (tmp_path / "moved.db").exists(), "to be asked, it was made"
    shutil.copyfile(tmp_path / "old.db", tmp_path / "moved.db")
    assert started_with(folder, asked) == moved
    assert load_recipe(folder / "config.yaml").tracking.uri == moved
    assert json.loads((folder / "trial-1" / "tracking.json").read_text()) == {"uri": moved, "run_id": "b"}
    (tmp_path / "moved.db").rename(tmp_path / "mlflow.db")  # with the folder of all runs
    assert started_with(folder, silent) == f"sqlite:///{tmp_path / 'mlflow.db'}"
