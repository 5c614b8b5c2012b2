"""What is decided, and every refusal that can be made, before the first step."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from datasets.errors import InputError
from datasets.samples.loader import plan_samples
from datasets.samples.split import label_counts, make_split
from datasets.statistics import read_summary, statistics
from datasets.volume import Volume
from models.config import SegmenterConfig
from models.segmenter import Segmenter
from pipeline.config import RunConfig
from pipeline.planning.memory import check_training
from pipeline.recipe import dump_recipe
from pipeline.run import Prepared, Run
from pipeline.scoring.description import DESCRIPTION, describe


def class_weights(counts: np.ndarray, kind: str) -> list[float]:
    """Weigh each class by its share p of the training labels: ``none``, ``sqrt`` (p^-1/2) or ``inverse`` (p^-1).

    The mean weight over the labelled cells is 1; a class without labels has 0.
    """
    power = {"none": 0.0, "sqrt": -0.5, "inverse": -1.0}[kind]
    share = counts / counts.sum()
    weights = np.where(counts > 0, np.maximum(share, 1e-12) ** power, 0.0)
    return (weights / (weights * share).sum()).tolist()


def _check_grid(config: RunConfig, factor: float) -> None:
    """Refuse an output grid finer than the labels, or whose cells would span two parts of the split."""
    if factor < 1:
        raise InputError(
            f"network.layers refine to a grid {1 / factor:g} times finer than the labels'; refine fewer times"
        )
    if config.split.buffer < factor - 1:
        raise InputError(
            f"split.buffer is {config.split.buffer}, but an output cell covers {factor:g} cells and would train and "
            f"test at once; take a buffer of at least {factor - 1:g}"
        )


def check_place(folder: Path, kind: str, *, is_one: bool = False, overwrite: bool = False) -> None:
    """Refuse a folder in the way of a new run or sweep, unless it is one itself and may be replaced."""
    if folder.exists() and not overwrite:
        raise InputError(
            f"{folder} exists already; choose another --name, pass --resume to go on with it, "
            "or pass --overwrite to replace it"
        )
    if folder.exists() and not is_one:
        raise InputError(f"{folder} is no {kind}, so --overwrite does not replace it; choose another --name")


def split_digest(split: xr.DataArray) -> str:
    """SHA-256 of the part that every cell is in."""
    return hashlib.sha256(split.values.tobytes()).hexdigest()


def prepare(config: RunConfig) -> Run:
    """Check a recipe against its volume, draw the split, compute the statistics, and lay out the run's folder.

    `InputError` or `ConfigError` where volume, labels and recipe do not fit together; nothing is written then.
    """
    folder = (Path(config.runs) / config.name).resolve()
    check_place(folder, "run")
    volume = Volume.open(config.data)
    tiling = check_training(config, volume)
    split = make_split(volume, config.split)
    counts = label_counts(volume, split)
    measured = statistics(volume, config.data.keep, read_summary(config.data.source))
    segmenter = SegmenterConfig(
        network=config.network,
        space=len(volume.space),
        channels=volume.n_channels,
        classes=volume.classes,
        validity=config.data.validity,
        read_slice=volume.read_slice,
    )
    with torch.device("meta"):
        trial = Segmenter(segmenter, torch.from_numpy(measured.mean), torch.from_numpy(measured.deviation))
    trial.output_shape(volume.shape)
    _check_grid(config, trial.factor)
    windows, _ = plan_samples(
        volume,
        split,
        config.data,
        factor=int(trial.factor),
        batch=config.training.batch,
        seed=config.training.seed,
        workers=config.cluster.loader_workers,
    )
    trial.output_shape(windows[0].sizes)
    prepared = Prepared(
        segmenter=segmenter,
        mean=measured.mean,
        deviation=measured.deviation,
        weights=class_weights(counts["train"], config.training.class_weights),
        counts={part: cells.tolist() for part, cells in counts.items()},
        volume_digest=volume.digest(),
        split_digest=split_digest(split),
        tiling=tiling,
    )
    aside = folder.with_name(f".{folder.name}.preparing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        (aside / "checkpoints").mkdir(parents=True)
        (aside / "pictures").mkdir()
        run = Run(aside, config, prepared)
        run.write_text("config.yaml", dump_recipe(config))
        run.write(DESCRIPTION, describe(run, volume, trial).to_json())
        split.to_dataset(name="split").to_zarr(aside / "split.zarr", zarr_format=3, consolidated=False)
        run.write("prepared.json", prepared.to_json())
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Run(folder, config, prepared)
