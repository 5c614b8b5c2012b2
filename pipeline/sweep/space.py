"""The search space of a sweep: what it may hold, the recipe of a choice, and what the planner says of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.volume import Volume
from models.config import ConfigError, hourglass
from models.peak import prediction_peak, training_peak
from pipeline.config import RunConfig
from pipeline.config_cluster import refuse_below
from pipeline.config_sweep import LAYOUT, SEARCHED, Range
from pipeline.planning.memory import check_training, check_workers, map_work, planned_step

Choice = dict[str, Any]
"""The value of each searched part: ``{"depth": 10, "rank": 8, "levels": 2, "rate": 0.003}``."""


def check_space(config: RunConfig) -> None:
    """Refuse impossible networks, and objectives that cannot be searched for."""
    sweep = config.sweep
    for name, lowest in (("depth", 1), ("rank", 1), ("levels", 0), ("batch", 1)):
        values = getattr(sweep, name)
        if values and min(values) < lowest:
            raise InputError(f"sweep.{name} is {values}; no value may be below {lowest}")
    for name in ("step", "rate"):
        values = getattr(sweep, name)
        if isinstance(values, Range) and not 0 < values.low < values.high:
            raise InputError(
                f"sweep.{name} goes from low {values.low:g} to high {values.high:g}; it must be 0 < low < high"
            )
        if isinstance(values, list) and values and not min(values) > 0:
            raise InputError(f"sweep.{name} is {values}; every value must be above 0")
    refuse_below(1, sweep, "sweep", "trials", "grace")
    if sweep.reduction < 2:
        raise InputError(f"sweep.reduction is {sweep.reduction}; ASHA keeps one of 2 or more")
    if sweep.concurrent < 0:
        raise InputError(f"sweep.concurrent is {sweep.concurrent}; it must be 1 or more, or 0 for as many as fit")
    if "score" not in sweep.objectives or len(set(sweep.objectives)) < len(sweep.objectives):
        raise InputError(
            f"sweep.objectives is {sweep.objectives}; name score, and beside it any of parameters, memory, peak "
            "and time, each once"
        )
    _check_layout(config)
    if not sweep.domains:
        raise InputError(f"sweep holds nothing to search; list values for one of {', '.join(SEARCHED)}")
    if sweep.batch:
        check_workers(config, min(sweep.batch), "sweep.batch")
    else:
        check_workers(config, config.training.batch, "training.batch")


def _check_layout(config: RunConfig) -> None:
    sweep = config.sweep
    missing = [name for name in LAYOUT if not getattr(sweep, name)]
    if len(missing) == len(LAYOUT):
        return
    if missing:
        raise InputError(
            f"sweep.{missing[0]} is empty, but depth, levels and rank make an hourglass together; give each at least "
            "one value, or set all three to [] to keep network.layers"
        )
    need = 2 * max(sweep.levels) + 1
    if min(sweep.depth) < need:
        raise InputError(
            f"sweep.depth holds {min(sweep.depth)}, but {max(sweep.levels)} levels and back take at least {need} "
            "layers; raise the depth or lower sweep.levels"
        )
    if isinstance(config.network.step, list) and not sweep.step:
        raise InputError(
            "network.step lists a step for each layer, but sweep.depth makes other layers; set network.step to one "
            "number, or search it by sweep.step"
        )


def trial_config(config: RunConfig, choice: Choice, name: str, runs: str | Path) -> RunConfig:
    """Make the recipe of a trial: `name` is that of its run, `runs` the folder that holds it."""
    network, training = config.network, config.training
    if "depth" in choice:
        layers = hourglass(choice["depth"], choice["rank"], choice["levels"])
        # A step for each of the base recipe's layers says nothing about others; the choice replaces it.
        network = replace(network, layers=layers, step=choice.get("step", network.step))
    network = replace(network, **{key: choice[key] for key in ("coarsening", "step") if key in choice})
    training = replace(training, **{key: choice[key] for key in ("rate", "batch") if key in choice})
    workers = config.cluster.workers if config.cluster.workers > 1 else 0
    place = replace(config.cluster, workers=workers, cpus_per_worker=config.cluster.cpus_per_worker or 1)
    return replace(config, name=name, runs=str(runs), network=network, training=training, cluster=place)


@dataclass(frozen=True)
class Cost:
    """What a trial costs: its weights, and a worker's planned peak in bytes, in training or validation."""

    parameters: int
    memory: int


def trial_cost(config: RunConfig, volume: Volume) -> Cost:
    """Plan a trial's recipe on its volume; what cannot fit is an `InputError`, what cannot be a `ConfigError`."""
    segmenter, work = planned_step(config, volume)
    blocks = check_training(config, volume) is not None
    mapping = map_work(config.cluster, segmenter, work.sizes if blocks else volume.shape, cuda=config.cluster.gpu)
    return Cost(
        parameters=sum(parameter.numel() for parameter in segmenter.parameters()),
        memory=max(training_peak(segmenter, work), prediction_peak(segmenter, mapping)),
    )


def why_not(config: RunConfig, volume: Volume, choice: Choice) -> str | None:
    """Say why a choice cannot run where a worker may fill `training.memory`; None where it can."""
    try:
        trial_cost(trial_config(config, choice, "trial", config.runs), volume)
    except (InputError, ConfigError) as error:
        return str(error)
    return None


def smallest(config: RunConfig, volume: Volume) -> Choice:
    """Return a choice of least depth, rank and batch that can run; refuse a sweep in which none can."""
    lists: list[Sequence[Any]] = []
    for name, values in config.sweep.domains.items():
        if isinstance(values, Range):
            lists.append([values.low])
        else:
            lists.append(values if name in ("levels", "coarsening") else [min(values)])
    reason = None
    for combination in product(*lists):
        choice = dict(zip(config.sweep.domains, combination, strict=True))
        reason = why_not(config, volume, choice)
        if reason is None:
            return choice
    raise InputError(f"no configuration of the sweep can run; of a small one the planner says: {reason}")
