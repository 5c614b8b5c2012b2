"""A run's configuration, composed of its components' own. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from models.config import NetworkConfig
from pipeline.amount import parse_amount
from pipeline.config_cluster import ClusterConfig, refuse_below
from pipeline.config_sweep import SweepConfig


@dataclass
class TrainingConfig:
    """How the network is trained; the step itself is plain torch.

    Attributes
    ----------
    steps
        Optimiser steps.
    batch
        Samples (blocks, or views of the whole volume) a step, over all workers.
    micro_batch
        Samples a worker runs at once; the workers share a batch in whole micro-batches.
    optimiser
        ``adam``, ``adamw`` or ``sgd`` (momentum 0.9).
    rate
        Peak learning rate.
    schedule
        ``constant``, or ``one_cycle``: a linear rise over the first three tenths, then a cosine fall to zero.
    drops
        Step -> factor on the rate from there on (paper: ``{120: 0.1}``).
    weight_decay
        Decoupled weight decay, used by adamw.
    augment
        Whether samples are flipped and swapped along the horizontal axes.
    augment_until
        Step from which augmentation ends (paper: 240 of 480); none means never.
    clip
        Norm that larger gradients are scaled down to; 0 switches it off.
    class_weights
        Weight of a class by its share p of the training labels: ``none``, ``sqrt`` (p^-1/2) or ``inverse`` (p^-1).
    validate_every
        Steps between validations, each of which leaves a checkpoint.
    patience
        Validations without a better score after which training stops; 0 means never.
    seed
        Seed of weights, order and views.
    memory
        Memory that a worker may fill, such as ``80GB``; what needs more is refused first. None means this machine's.
    """

    steps: int = 100
    batch: int = 1
    micro_batch: int = 1
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    rate: float = 3e-3
    schedule: Literal["constant", "one_cycle"] = "one_cycle"
    drops: dict[int, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    augment: bool = True
    augment_until: int | None = None
    clip: float = 5.0
    class_weights: Literal["none", "sqrt", "inverse"] = "sqrt"
    validate_every: int = 10
    patience: int = 0
    seed: int = 0
    memory: str | None = None

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_amount(self.memory, "training.memory")
        refuse_below(1, self, "training", "steps", "batch", "micro_batch", "validate_every")
        refuse_below(0, self, "training", "rate", "clip", "weight_decay", "patience", "seed")
        if strange := {step: by for step, by in self.drops.items() if step < 0 or not 0 <= by < float("inf")}:
            raise InputError(f"training.drops has {strange}; give steps from 0 on, and factors of the rate")


@dataclass
class TrackingConfig:
    """Where MLflow keeps runs and models.

    Attributes
    ----------
    uri
        MLflow tracking URI; none means MLFLOW_TRACKING_URI, or else SQLite beside the runs.
    experiment
        MLflow experiment; none means the run's name.
    """

    uri: str | None = None
    experiment: str | None = None


@dataclass
class RunConfig:
    """One training run.

    Attributes
    ----------
    name
        Name of the run, of its folder below `runs`, and of its registered model.
    runs
        Folder of all runs and, by default, of MLflow's database.
    """

    name: str = "run"
    runs: str = "runs"
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise InputError(f"name is {self.name!r}; take a plain folder name")


@dataclass
class PlanConfig(RunConfig):
    """A recipe to be planned: the run's own settings, and what stands in for a volume that is not here.

    Attributes
    ----------
    memory
        Memory to plan for, such as ``80GB``; none means `training.memory`, or what this machine has.
    shape
        Cells along `data.space`; none means the volume's, or `data.block` where there is no volume yet.
    channels
        Channels of the raw data; none means the volume's, or 1 where there is none.
    classes
        Number of classes; none means the volume's, or 2 where there is none.
    """

    memory: str | None = None
    shape: list[int] | None = None
    channels: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(number is not None and number < 1 for number in (self.channels, self.classes)):
            raise InputError(f"channels is {self.channels}, classes {self.classes}; give numbers above 0")
        if self.memory is not None:
            parse_amount(self.memory, "memory")
        if self.shape is not None and not self.data.space:
            raise InputError(f"shape is {self.shape}, but data.space is empty; name the dimensions that it is along")
        if self.shape is not None and (len(self.shape) != len(self.data.space) or min(self.shape) < 1):
            raise InputError(f"shape is {self.shape}; give one size above 0 for each of data.space {self.data.space}")


@dataclass
class InspectConfig:
    """What ``inspect`` looks at.

    Attributes
    ----------
    source
        Path or URI of a converted volume (Zarr), or a recipe of ``train``, to look at its volume.
    recipe
        Recipe of ``train`` to try the volume with: labels by part, what an epoch reads.
    picture
        PNG to draw; none means beside the volume, or here where that is remote.
    """

    source: str = ""
    recipe: str = ""
    picture: str | None = None


@dataclass
class RegisterConfig:
    """Which run becomes a version of which registered model.

    Attributes
    ----------
    run
        Folder of the run whose best checkpoint is registered.
    name
        Name in the registry; none means the run's name.
    tracking_uri
        MLflow tracking URI; none means the run's own.
    """

    run: str = ""
    name: str | None = None
    tracking_uri: str | None = None


@dataclass
class PromoteConfig:
    """Which version of a registered model becomes its champion.

    Attributes
    ----------
    model
        ``NAME``, whose challenger is meant, ``models:/NAME@challenger`` or ``models:/NAME/3``.
    source
        Where the volume that the version was tested on lies, if needed; none means where it lay then.
    tracking_uri
        MLflow tracking URI of the registry; none means MLFLOW_TRACKING_URI, or else SQLite in `runs`.
    runs
        Folder of all runs.
    """

    model: str = ""
    source: str | None = None
    tracking_uri: str | None = None
    runs: str = "runs"


def _refuse_groups(cluster: ClusterConfig) -> None:
    if cluster.slabs not in (1, cluster.workers):
        raise InputError(
            f"cluster.slabs is {cluster.slabs} and cluster.workers {cluster.workers}, but a map takes as many slabs as "
            "there are workers, or 1"
        )


@dataclass
class PredictConfig:
    """What ``predict`` maps, with which model, and where to.

    Attributes
    ----------
    model
        ``models:/NAME@champion``, ``models:/NAME/3``, or the folder of a run (its best checkpoint).
    source
        Path or URI of a converted volume (Zarr).
    out
        Zarr store to write; the picture and a map's GeoTIFF get its name with another suffix.
    block
        Cells along each space dimension that are mapped at once; none means the whole volume, or where the memory does
        not hold that, the largest blocks that give the same values.
    halo
        Cells on either side of a block that the network sees too; none means as many as it reaches: no seam is left.
    tracking_uri
        MLflow tracking URI of the registry; none means MLFLOW_TRACKING_URI, or else SQLite in `runs`.
    runs
        Folder of all runs.
    cluster
        Workers that map the volume: each block by one of them or, with as many `slabs` as `workers`, the whole in one
        piece by all; 0 workers map it in this process, without Ray.
    """

    model: str = ""
    source: str = ""
    out: str = ""
    block: list[int] | None = None
    halo: list[int] | None = None
    tracking_uri: str | None = None
    runs: str = "runs"
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(workers=0))

    def __post_init__(self) -> None:
        _refuse_groups(self.cluster)
        slabs, turns, workers = self.cluster.slabs, self.cluster.turns, self.cluster.workers
        if max(slabs, turns) > 1 and self.block is not None:
            count, what = (slabs, "slab") if slabs > 1 else (turns, "turn")
            raise InputError(
                f"block is {self.block}, but in {count} {what}s a volume is mapped in one piece; leave out block, or "
                f"take 1 {what}"
            )
        if turns > 1 and workers:
            raise InputError(
                f"cluster.turns is {turns} and cluster.workers {workers}, but slabs of a map take turns in this "
                "process; set cluster.workers to 0"
            )


@dataclass
class BatchConfig:
    """Which volumes ``batch`` maps, with which model, and where.

    Attributes
    ----------
    model
        ``models:/NAME@champion``, ``models:/NAME/3``, or the folder of a run (its best checkpoint).
    table
        CSV with a line a volume and the columns ``input`` and ``output``: paths or URIs of volumes and maps.
    tracking_uri
        MLflow URI of the registry, which workers must reach; none means MLFLOW_TRACKING_URI, or SQLite in `runs`.
    runs
        Folder of all runs.
    cluster
        Where the volumes are mapped: `workers` of them at once, each with the resources of a worker; with as many
        `slabs` as workers, one after the other, in one piece by all; 0 maps them in this process, without Ray.
    """

    model: str = ""
    table: str = ""
    tracking_uri: str | None = None
    runs: str = "runs"
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        _refuse_groups(self.cluster)


@dataclass
class EvaluateConfig:
    """Which run is scored on the test part of its split.

    Attributes
    ----------
    run
        Folder of the run.
    model
        Another model to score on that split, as in `PredictConfig`; none means the run's best checkpoint.
    tracking_uri
        MLflow tracking URI; none means the run's own.
    """

    run: str = ""
    model: str | None = None
    tracking_uri: str | None = None


@dataclass
class ReportConfig:
    """Which run or sweep becomes a page.

    Attributes
    ----------
    run
        Folder of the run or of the sweep.
    out
        HTML page to write; none means ``report.html`` in that folder.
    """

    run: str = ""
    out: str | None = None
