"""Search space, objectives and budget of ``tune``. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal

from models.config import Coarsening

Objective = Literal["score", "parameters", "memory", "peak", "time"]
LAYOUT = ("depth", "levels", "rank")
"""Parts of the search space that make an hourglass together."""
SEARCHED = (*LAYOUT, "coarsening", "step", "rate", "batch")


@dataclass
class Range:
    """All numbers between two.

    Attributes
    ----------
    low, high
        The smallest and the largest.
    log
        Whether their logarithm is drawn evenly, as suits rates, rather than the number itself.
    """

    low: float
    high: float
    log: bool = True


@dataclass
class SweepConfig:
    """Search space, objectives and budget of ``tune``; where a list is empty, the recipe's own value holds.

    Attributes
    ----------
    depth
        Layers of an hourglass; where depth, levels and rank are all empty, `network.layers` holds.
    levels
        Levels of coarsening of the hourglass.
    rank
        Block rank of its layers.
    coarsening
        Kinds of the transform between levels: ``haar``, ``learned``.
    step
        Step h of the leapfrog: a list, or a range such as ``{low: 0.1, high: 0.5}``.
    rate
        Peak learning rate: a list, or a range such as ``{low: 1e-3, high: 1e-2}``; logarithmic unless ``log: false``.
    batch
        Views (or blocks) a step.
    objectives
        What is searched for: ``score`` (mean IoU on the validation part, never the test part), and beside it fewer
        ``parameters``, less ``memory`` (the planned peak of a worker), a lower ``peak`` (the measured one), less
        ``time`` (median seconds of a step).
    trials
        Configurations that are trained, beside those that are turned away.
    concurrent
        Trials that run at once; 0 means as many as the cluster holds.
    gpus
        Share of a GPU that a trial takes where `cluster.gpu` is true: 0.5 lets two share one.
    stop_early
        Whether ASHA stops trials with a weak validation score; none means where the score is the one objective, because
        a weak score may be the price of a small network.
    grace
        Validations a trial is granted before ASHA may stop it.
    reduction
        ASHA keeps one of this many trials at each rung.
    """

    depth: list[int] = field(default_factory=lambda: [6, 12, 18])
    levels: list[int] = field(default_factory=lambda: [2])
    rank: list[int] = field(default_factory=lambda: [4, 8, 16])
    coarsening: list[Coarsening] = field(default_factory=list)
    step: list[float] | Range = field(default_factory=list)
    rate: list[float] | Range = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    objectives: list[Objective] = field(default_factory=lambda: ["score"])
    trials: int = 8
    concurrent: int = 0
    gpus: float = 1.0
    stop_early: bool | None = None
    grace: int = 2
    reduction: int = 2

    @property
    def stops_early(self) -> bool:
        """Whether ASHA is on."""
        return len(self.objectives) == 1 if self.stop_early is None else self.stop_early

    @property
    def domains(self) -> dict[str, list[int] | list[float] | list[str] | Range]:
        """What is searched: the values, or the range, of each part that is not empty."""
        return {name: getattr(self, name) for name in SEARCHED if getattr(self, name)}
