"""A volume before a recipe: labels of each part, the cost of reading, what may go wrong."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.checkup import Finding
from datasets.errors import InputError
from datasets.samples.blocks import Window, plan_windows
from datasets.samples.split import label_counts, make_split
from datasets.storage.layout import ReadCost, read_cost
from datasets.volume import IGNORE, Volume
from pipeline.config import RunConfig

_AMPLIFIED = 1.3
_FEW_LABELS = 50
_UNEQUAL = 100.0
_MANY_OBJECTS = 27
_LEAST_EDGE = 8  # of chunks that fit a halo
_SAMPLE_SECONDS, _SAMPLE_BLOCKS = 3.0, 4


@dataclass(frozen=True)
class Epoch:
    """One pass over the blocks with training labels."""

    blocks: int
    of: int  # blocks in all
    block: list[int]  # their cells along the space dimensions
    seen: list[int]  # and with their halo
    used: int  # uncompressed bytes of data and mask in blocks and halos
    fetched: int  # and in the chunks that are read for them
    stored: int | None  # bytes fetched, as stored, where that is known
    objects: float  # of the store (shards, else chunks) that a block touches on average
    seconds: float  # of one process, estimated from a few blocks
    amplification: float  # bytes fetched for each byte used


@dataclass(frozen=True)
class Trial:
    """What a recipe makes of a volume, if that can be split."""

    counts: dict[str, list[int]] = field(default_factory=dict)  # part -> labelled cells of each class
    epoch: Epoch | None = None


def try_recipe(config: RunConfig, dataset: xr.Dataset, valid_share: float, place: str) -> tuple[Trial, list[Finding]]:
    """Draw a recipe's split and plan its reading; what may go wrong, or is refused, becomes a finding.

    `valid_share` of the volume's cells hold data; its size at `place` is measured on this machine's disk.
    """
    findings = []
    if valid_share < 0.99 and not config.data.validity:
        gaps = f"{1 - valid_share:.1%} of the cells hold no data, which the network cannot tell from the mean"
        findings.append(Finding("no data", gaps, "set data.validity: true"))
    try:
        volume = Volume.of(dataset, config.data)
        windows = plan_windows(volume.shape, config.data.block, config.data.halo, 1)
        split = make_split(volume, config.split)
    except InputError as error:
        return Trial(), [*findings, Finding("recipe", str(error), "correct the recipe; train would refuse it")]
    counts = label_counts(volume, split)
    epoch = _plan_epoch(volume, split, windows, place)
    findings += _label_findings(volume.classes, counts) + _reading_findings(volume, epoch)
    return Trial({part: cells.tolist() for part, cells in counts.items()}, epoch), findings


def _label_findings(classes: list[str], counts: dict[str, np.ndarray]) -> list[Finding]:
    found = []
    if few := [f"{name} {cells}" for name, cells in zip(classes, counts["train"], strict=True) if cells < _FEW_LABELS]:
        way = "label more of them, merge them into other classes, or give training more with split.fractions"
        found.append((f"fewer than {_FEW_LABELS} training labels: {', '.join(few)}", way))
    for part in ("validation", "test"):
        missing = [name for name, cells in zip(classes, counts[part], strict=True) if not cells]
        if missing and counts[part].any():
            way = "its scores leave them out: try another split.seed"
            found.append((f"{part} has no label of {', '.join(missing)}", way))
    trained = counts["train"][counts["train"] > 0]
    if trained.size and (times := trained.max() / trained.min()) > _UNEQUAL:
        text = f"the largest class has {times:.0f} times the training labels of the smallest"
        found.append((text, "keep training.class_weights at sqrt or inverse, and read the scores class by class"))
    return [Finding("labels", text, way) for text, way in found]


def _reading_findings(volume: Volume, epoch: Epoch) -> list[Finding]:
    axes = zip(volume.space, epoch.block, epoch.seen, strict=True)
    fitting = {dim: max(math.gcd(edge, (seen - edge) // 2), min(edge, _LEAST_EDGE)) for dim, edge, seen in axes}
    what, way = ("a block", "") if epoch.seen == epoch.block else ("a block and its halo", ", or take larger blocks")
    if epoch.amplification > _AMPLIFIED:
        text = f"{epoch.amplification:.2f} bytes are read for each byte of {what}, because the chunks do not divide it"
    elif epoch.objects > _MANY_OBJECTS and epoch.of > 1:
        text = f"{what} is spread over {epoch.objects:.0f} objects of the store"
    else:
        return []
    edges = ", ".join(f"{dim}: {edge}" for dim, edge in fitting.items())
    return [Finding("chunks", text, f"convert again with block: {{{edges}}}{way}")]


def _plan_epoch(volume: Volume, split: xr.DataArray, windows: list[Window], place: str) -> Epoch:
    wanted = [one.seen for one in windows if (volume.read_labels(split, "train", one.block) != IGNORE).any()]
    cost = _cost(volume, wanted)
    names = [name for name in ("data", "valid") if name in volume.dataset]
    itemsize = sum(volume.dataset[name].dtype.itemsize for name in names)
    began, read = time.perf_counter(), 0
    for seen in wanted[:: max(1, len(wanted) // _SAMPLE_BLOCKS)]:
        volume.read(seen)
        read += 1
        if time.perf_counter() - began > _SAMPLE_SECONDS:
            break
    each = (time.perf_counter() - began) / max(read, 1)
    ratio = _compression(volume.dataset, names, Path(place))
    return Epoch(
        blocks=len(wanted),
        of=len(windows),
        block=[cut.stop - cut.start for cut in windows[0].block],
        seen=list(windows[0].sizes),
        used=cost.used * itemsize,
        fetched=cost.fetched * itemsize,
        stored=None if ratio is None else int(cost.fetched * itemsize * ratio),
        objects=cost.objects,
        seconds=each * len(wanted),
        amplification=cost.fetched / max(cost.used, 1),
    )


def _cost(volume: Volume, blocks: list[tuple[slice, ...]]) -> ReadCost:
    data = volume.dataset["data"]
    whole = {dim: slice(0, size) for dim, size in data.sizes.items()}
    placed = [list((whole | dict(zip(volume.space, block, strict=True))).values()) for block in blocks]
    return read_cost(placed, data.shape, data.encoding.get("chunks") or data.shape, data.encoding.get("shards"))


def _compression(dataset: xr.Dataset, names: list[str], folder: Path) -> float | None:
    if not folder.is_dir():
        return None
    stored = sum(file.stat().st_size for name in names for file in (folder / name).rglob("*") if file.is_file())
    return stored / sum(dataset[name].nbytes for name in names)
