"""What is left of a sweep."""

from dataclasses import replace
from pathlib import Path

from datasets.errors import InputError
from pipeline.config import RegisterConfig, RunConfig
from pipeline.pictures.sweep import draw_parallel, draw_pareto, draw_trials
from pipeline.registry.register import register
from pipeline.report.sweep import write_sweep_report
from pipeline.run import OUTBOX
from pipeline.sweep.space import trial_config
from pipeline.tracking.tracker import Tracker
from pipeline.training.train import train
from pipeline.trials import DIRECTIONS, TURNED_AWAY, Row, in_words, rank_trials, trials_table, turned_away, write_trials


def report(config: RunConfig, folder: Path, tracker: Tracker, ended: list[Row], failed: list[str]) -> list[Row]:
    """Rank, print and draw the trials, hand table, pictures and page to folder and MLflow; returns them, best first.

    `ended` has a row of each trial that came to its end or was stopped, `failed` the others' errors. `RuntimeError`
    where no trial came to a score.
    """
    refused = turned_away(folder)
    tracker.metrics(0, {"trials": len(ended), "failed": len(failed), "turned_away": len(refused)})
    if not ended:
        raise RuntimeError(f"no trial reported a score; see {folder / 'tune'}; the first failed with {failed[:1]}")
    rows = rank_trials(ended, config.sweep.objectives, config.training.steps)
    stopped = sum(row["stopped"] for row in rows)
    tracker.metrics(0, {"best/score": rows[0]["score"], "stopped": stopped})
    for row in rows:
        child = Tracker(str(config.tracking.uri), row["run_id"], folder / row["trial"] / OUTBOX)
        child.metrics(row["step"], {f"sweep/{name}": row[name] for name in DIRECTIONS})
        child.close()
    table = trials_table(rows, config.sweep.objectives)
    (folder / "trials.md").write_text(table + "\n")
    tracker.artifact(folder / "trials.md")
    if refused:
        tracker.artifact(folder / TURNED_AWAY)
    for path in _draw(config, folder / "pictures", rows):
        tracker.artifact(path, "pictures")
    write_trials(folder, rows, failed)
    page, *_ = write_sweep_report(folder)
    tracker.artifact(page)
    print(table)
    print(
        f"searched on the validation part: {len(rows)} trials, {stopped} of them stopped early; {len(failed)} failed; "
        f"{len(refused)} configurations turned away by the planner"
    )
    if refused:
        print(f"  {in_words(refused[0]['choice'])}: {refused[0]['reason']}")
    if failed:
        print(f"  the logs of those that failed are in {folder / 'tune'}; --resume tries them again")
    print(f"trials and pictures: {folder}")
    print(f"report:              {page}")
    return rows


def _draw(config: RunConfig, folder: Path, rows: list[Row]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    objectives = config.sweep.objectives
    draw_parallel(rows, objectives, folder / "parallel.png")
    if "depth" in rows[0]["choice"]:
        drawn = [{**row["choice"], "score": row["score"], "steps": row["step"]} for row in rows]
        draw_trials(drawn, folder / "trials.png")
    if len(objectives) > 1:
        draw_pareto(rows, objectives, folder / "pareto.png")
    return sorted(folder.glob("*.png"))


def best_name(config: RunConfig) -> str:
    """Name the run of the best configuration."""
    return f"{config.name}-best"


def check_best(config: RunConfig, *, resume: bool, overwrite: bool) -> None:
    """Refuse to finish the best where an earlier one is in the way: the test part is for one model."""
    place = (Path(config.runs) / best_name(config)).resolve()
    if not place.exists() or overwrite:
        return
    if not resume:
        raise InputError(f"{place} exists already; choose another --name, or pass --overwrite to replace it")
    if (place / "metrics.json").is_file():
        raise InputError(
            f"{place} is finished already, and the test part is for one model; register it by "
            f"`python -m pipeline register {place}`, or repeat the sweep under another --name"
        )


def finish_best(config: RunConfig, best: Row, tracker: Tracker, *, resume: bool, overwrite: bool) -> None:
    """Retrain the best trial, score it once on the test part, and register it; `tracker` is the sweep's.

    `resume` goes on with one that was cut off.
    """
    recipe = replace(trial_config(config, best["choice"], best_name(config), config.runs), cluster=config.cluster)
    begun = (Path(recipe.runs) / recipe.name / "prepared.json").is_file()
    print(f"retraining the best of the sweep, {in_words(best['choice'])}, as {recipe.name}")
    run = train(recipe, resume=begun and resume, overwrite=overwrite)
    tracker.tag("best_run", str(run.read("tracking.json")["run_id"]))
    tracker.close()
    register(RegisterConfig(run=str(run.folder), name=config.name))
