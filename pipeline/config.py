"""A run's configuration, composed of its components' own. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from models.config import NetworkConfig


@dataclass
class TrainingConfig:
    """How the network is trained; the step itself is plain torch.

    Attributes
    ----------
    steps
        Optimiser steps.
    batch
        Samples (blocks or augmented views of the whole volume) a step, over all workers.
    micro_batch
        Samples a worker runs at once; the gradients of a step accumulate over them.
    optimiser
        ``adam``, ``adamw`` or ``sgd`` (momentum 0.9).
    rate
        Peak learning rate.
    schedule
        ``constant``, or ``one_cycle``: a linear rise over the first three tenths, then a cosine fall to zero.
    drops
        Step -> factor on the rate from that step on (paper: ``{120: 0.1}``).
    weight_decay
        Decoupled weight decay, used by adamw.
    augment
        Whether samples are flipped and swapped along the horizontal axes.
    augment_until
        Step from which augmentation ends (paper: 240 of 480); none means never.
    clip
        Largest norm of the gradient; larger ones are scaled down. 0 switches it off.
    class_weights
        Weight of a class from its share p of the training labels: ``none``, ``sqrt`` (p^-1/2) or ``inverse`` (p^-1).
    validate_every
        Steps between two validations, each of which leaves a checkpoint.
    patience
        Validations without a better score after which training stops; 0 means never.
    seed
        Seed of weights, order and views.
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

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"training.{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("rate", "clip", "weight_decay", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"training.{name} is {getattr(self, name)}; it must not be negative")


@dataclass
class ClusterConfig:
    """Where the training runs.

    Attributes
    ----------
    workers
        Ray Train workers; 0 trains in this process, without Ray.
    gpu
        Whether each worker takes a GPU (NCCL between them) rather than CPU cores (gloo).
    cpus_per_worker
        CPU cores a worker reserves and computes with; 0 shares this machine's evenly.
    max_failures
        Times a lost worker group is started again from the newest checkpoint.
    address
        Ray cluster to join: ``local`` starts one for this run, ``auto`` joins the one that RAY_ADDRESS names.
    """

    workers: int = 1
    gpu: bool = False
    cpus_per_worker: int = 0
    max_failures: int = 3
    address: str = "local"

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"cluster.workers is {self.workers}; use 0 to train without Ray, or 1 and more")


@dataclass
class TrackingConfig:
    """Where MLflow keeps runs and models.

    Attributes
    ----------
    uri
        MLflow tracking URI; none means SQLite beside the runs.
    experiment
        MLflow experiment; none means the run's name.
    """

    uri: str | None = None
    experiment: str | None = None


@dataclass
class SweepConfig:
    """Search space and budget of ``tune``.

    Attributes
    ----------
    depth, rank, levels
        Values tried for the number of layers, their block rank and the levels of coarsening.
    trials
        Configurations drawn by Optuna's TPE.
    concurrent
        Trials that run at once; 0 means as many as the cluster holds.
    grace
        Validations a trial is granted before ASHA may stop it.
    reduction
        ASHA keeps one of this many trials at each rung.
    """

    depth: list[int] = field(default_factory=lambda: [6, 12, 18])
    rank: list[int] = field(default_factory=lambda: [4, 8, 16])
    levels: list[int] = field(default_factory=lambda: [2])
    trials: int = 8
    concurrent: int = 0
    grace: int = 2
    reduction: int = 2


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
class InspectConfig:
    """What ``inspect`` looks at.

    Attributes
    ----------
    source
        Path or URI of a converted volume (Zarr).
    picture
        PNG to draw; none means beside the volume.
    """

    source: str = ""
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
class PredictConfig:
    """What ``predict`` maps, with which model, and where to.

    Attributes
    ----------
    model
        ``models:/NAME@champion``, ``models:/NAME/3``, or the folder of a run (its best checkpoint).
    source
        Path or URI of a converted volume (Zarr).
    out
        Zarr store to write; the picture and, for a map, the GeoTIFF get the same name with another suffix.
    tracking_uri
        MLflow tracking URI of the registry; none means SQLite in the folder `runs`.
    runs
        Folder of all runs.
    """

    model: str = ""
    source: str = ""
    out: str = ""
    tracking_uri: str | None = None
    runs: str = "runs"


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
