"""Optuna's TPE as Ray Tune asks for it: no choice twice, none that cannot run."""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search import Searcher

from pipeline.config_sweep import Range
from pipeline.sweep.space import Choice

_GUIDED, _DRAWS = 20, 400
"""Draws by TPE, which may insist on what is known, and draws after which the space is exhausted."""


class Search(Searcher):
    """Suggests choices to Ray Tune; its state survives the driver.

    Ray's own `OptunaSearch` can neither refuse what it drew nor avoid to draw it again. `refusal` says why a choice
    cannot run; each such becomes a line of the file `log`.
    """

    def __init__(
        self,
        domains: Mapping[str, Sequence[Any] | Range],
        objectives: Mapping[str, str],  # reported number -> ``max`` or ``min``
        seed: int,
        refusal: Callable[[Choice], str | None],
        log: Path,
    ) -> None:
        super().__init__(metric=list(objectives), mode=list(objectives.values()))  # type: ignore[arg-type]  # lists too
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.domains, self.refusal, self.log = dict(domains), refusal, log
        self.guided, self.blind = optuna.samplers.TPESampler(seed=seed), optuna.samplers.RandomSampler(seed=seed)
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        self.study = optuna.create_study(directions=[ways[mode] for mode in objectives.values()], sampler=self.guided)
        self.seen: set[str] = set()
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Choice | str | None:  # type: ignore[override]  # or FINISHED
        """Draw a choice for a trial, or say that none is left."""
        for draw in range(_DRAWS):
            self.study.sampler = self.guided if draw < _GUIDED else self.blind
            trial = self.study.ask()
            choice = {name: _value(trial, name, domain) for name, domain in self.domains.items()}
            key = json.dumps(choice, sort_keys=True)
            if key in self.seen:
                self.study.tell(trial, state=TrialState.FAIL)  # nothing held against it
                continue
            self.seen.add(key)
            if (reason := self.refusal(choice)) is None:
                self.numbers[trial_id] = trial.number
                return choice
            self.study.tell(trial, state=TrialState.PRUNED)  # TPE keeps away from it
            with self.log.open("a") as file:
                file.write(json.dumps({"choice": choice, "reason": reason}) + "\n")
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn from a trial that ended."""
        if (number := self.numbers.pop(trial_id, None)) is None:
            return
        if error or not result or any(name not in result for name in self.metric):
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, [float(result[name]) for name in self.metric])

    def save(self, checkpoint_path: str) -> None:
        """Write what was learnt."""
        state = {name: getattr(self, name) for name in ("study", "guided", "blind", "seen", "numbers")}
        Path(checkpoint_path).write_bytes(pickle.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        """Read back what this program wrote in the sweep's folder."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))


def _value(trial: optuna.Trial, name: str, domain: Sequence[Any] | Range) -> Any:
    if isinstance(domain, Range):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return trial.suggest_categorical(name, list(domain))
