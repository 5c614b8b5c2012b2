"""Asynchronous successive halving that outlives a killed driver."""

from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from pipeline.config import RunConfig
from pipeline.run import Run
from pipeline.sweep.trial import trial_name
from pipeline.tracking.journal import read_history


class Halving(ASHAScheduler):
    """ASHA over the validation score of the trials in a sweep's folder.

    Tune's driver, when restored, hands its scheduler every trial again but no scores; these lie in their folders.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        super().__init__(
            time_attr="step",
            metric="score",
            mode="max",
            grace_period=config.sweep.grace * config.training.validate_every,
            reduction_factor=config.sweep.reduction,
            max_t=10**9,  # the recipe ends a training, so that it can close its run
        )
        self.folder = folder

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial, with its scores from before the driver was restored."""
        super().on_trial_add(tune_controller, trial)
        place = self.folder / trial_name(trial.trial_id)
        if not (place / "prepared.json").is_file():
            return
        best = -1.0
        for row in read_history(Run.open(place)):
            if "validation/miou" in row:
                best = max(best, row["validation/miou"])  # what a trial reports is its best so far
                self.on_trial_result(tune_controller, trial, {"step": row["step"], "score": best})
