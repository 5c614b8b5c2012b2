"""Whether a recipe fits the memory there is: the need by `models.peak`, refused before any data is read."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.blocks import seen_sizes
from datasets.errors import InputError
from datasets.volume import Volume
from models.config import NetworkConfig, SegmenterConfig
from models.fit import largest_sizes
from models.peak import Workload, prediction_peak, training_peak
from models.reach import reach
from models.segmenter import Segmenter
from pipeline.amount import parse_amount, show_bytes
from pipeline.config import RunConfig, TrainingConfig
from pipeline.planning.tiling import Tiling


@dataclass(frozen=True)
class Memory:
    """Memory that a worker may fill.

    Attributes
    ----------
    size
        Bytes.
    where
        Whose they are, for a sentence.
    """

    size: int
    where: str


def trial_segmenter(
    network: NetworkConfig,
    *,
    space: int,
    channels: int,
    classes: Sequence[str],
    validity: bool = False,
    read_slice: Mapping[int, int] | None = None,
    scaled: Mapping[int, int] | None = None,
) -> Segmenter:
    """Make a segmenter without weights; it reads its slices at cell 0, which costs what any other cell costs.

    `scaled` has the sizes of those space axes whose cells are each normalised by themselves.
    """
    gone = dict.fromkeys(read_slice or {}, 0)
    config = SegmenterConfig(network, space, channels, list(classes), validity, gone)
    own = [(scaled or {}).get(axis, 1) for axis in range(space)]
    with torch.device("meta"):
        return Segmenter(config, torch.zeros(1, *own), torch.ones(1, *own))


def training_work(training: TrainingConfig, sizes: tuple[int, ...], *, workers: int, cuda: bool) -> Workload:
    """Return what a worker holds at once; the loss is counted as if nothing were labelled, so nothing fits wrongly."""
    share = -(-training.batch // max(workers, 1))
    return Workload(
        sizes=sizes,
        batch=min(share, training.micro_batch),
        accumulates=share > training.micro_batch,
        optimiser=training.optimiser,
        cuda=cuda,
    )


def memory_here(cuda: bool) -> Memory | None:
    """Return the memory of this machine's GPU, or what its processes may still take; None where nobody knows."""
    if cuda:
        if not torch.cuda.is_available():
            return None
        found = torch.cuda.get_device_properties(0)
        return Memory(int(found.total_memory), f"on the GPU ({found.name})")
    if sys.platform != "linux":
        return None
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return Memory(available, "available on this machine")


def memory_of_worker(config: RunConfig) -> Memory | None:
    """Return what a worker may fill: what `training.memory` says, or its part of what is found on this machine."""
    if config.training.memory is not None:
        return Memory(parse_amount(config.training.memory, "training.memory"), "by training.memory")
    if config.cluster.workers and config.cluster.address != "local":
        return None  # the workers run on machines that nobody sees from here
    found = memory_here(config.cluster.gpu)
    if found is None or config.cluster.gpu or config.cluster.workers < 2:
        return found
    return Memory(found.size // config.cluster.workers, f"{found.where} for each of {config.cluster.workers} workers")


def planned_step(config: RunConfig, volume: Volume) -> tuple[Segmenter, Workload]:
    """Return the network of a recipe, without weights, and what a training step on the volume asks of a worker."""
    segmenter = trial_segmenter(
        config.network,
        space=len(volume.space),
        channels=volume.n_channels,
        classes=volume.classes,
        validity=config.data.validity,
        read_slice=volume.read_slice,
        scaled={axis: volume.shape[axis] for axis, dim in enumerate(volume.space) if dim in (config.data.keep or [])},
    )
    sizes = seen_sizes(volume.shape, config.data.block, config.data.halo)
    work = training_work(config.training, sizes, workers=config.cluster.workers, cuda=config.cluster.gpu)
    return segmenter, work


def check_training(config: RunConfig, volume: Volume) -> Tiling | None:
    """Refuse a recipe whose training step cannot fit, and find out whether a map of the whole volume can.

    Returns
    -------
    Tiling or None
        The training's blocks and their halo, where validation and test must map the volume block by block; none where
        it fits in one piece, or where nobody knows the memory.

    Raises
    ------
    InputError
        With the need, what there is, and what to change.
    """
    memory = memory_of_worker(config)
    if memory is None:
        return None
    segmenter, work = planned_step(config, volume)
    sizes = work.sizes
    need = training_peak(segmenter, work)
    if need > memory.size:
        raise InputError(
            f"a training step on {work.batch} x {list(sizes)} cells needs {show_bytes(need)}, but there are "
            f"{show_bytes(memory.size)} {memory.where}; {_ways_out(segmenter, work, memory)}"
        )
    if config.data.block is None or prediction_peak(segmenter, Workload(volume.shape)) <= memory.size:
        return None  # a step on the whole volume needs more than a map of it
    return Tiling(tuple(config.data.block), tuple(config.data.halo or [0] * len(sizes)))


def _shorter(network: NetworkConfig) -> str:
    return "" if network.state_bits == 16 else ", or set network.states to exact and network.state_bits to 16"


def _ways_out(segmenter: Segmenter, work: Workload, memory: Memory) -> str:
    single = Workload(work.sizes, 1, accumulates=True, optimiser=work.optimiser, cuda=work.cuda)
    ways = []
    if work.batch > 1 and training_peak(segmenter, single) <= memory.size:
        ways.append("set training.micro_batch to 1")
    block = largest_sizes(segmenter, work, memory.size, training_peak)
    if block is not None:
        ways.append(f"set data.block to {list(block)} or less")
    if not ways:
        return "no block is small enough: take a smaller network.repeat, lower ranks, or a machine with more memory"
    return " or ".join(ways) + _shorter(segmenter.config.network)


def plan_prediction(segmenter: Segmenter, sizes: tuple[int, ...], memory: Memory | None) -> Tiling | None:
    """Find out whether a volume fits in one piece, or in which blocks it is mapped to the same values.

    Returns
    -------
    Tiling or None
        The largest blocks that fit amid a halo as wide as the network's reach; none for one piece.

    Raises
    ------
    InputError
        Where such blocks would be more halo than block, with the settings of blocks that map approximately.
    """
    if memory is None or prediction_peak(segmenter, Workload(sizes)) <= memory.size:
        return None
    need = show_bytes(prediction_peak(segmenter, Workload(sizes)))
    problem = f"mapping {list(sizes)} cells in one piece needs {need}, but there are {show_bytes(memory.size)} "
    largest = largest_sizes(segmenter, Workload(sizes), memory.size, prediction_peak)
    if largest is None:
        raise InputError(f"{problem}{memory.where}; take a machine with more memory")
    unit = segmenter.network.multiple
    enough = -(-reach(segmenter.network) // unit) * unit
    cut = [edge for edge, size in zip(largest, sizes, strict=True) if edge < size]
    if min(cut) >= 4 * enough:
        return _tiling(largest, enough, sizes)
    some = _tiling(largest, min(cut) // 4 // unit * unit, sizes)
    raise InputError(
        f"{problem}{memory.where}, and the network reaches {enough} cells, too far for blocks of its size; cut the "
        f"volume to {list(largest)} cells or less, or map it approximately with --block '{list(some.block)}' --halo "
        f"'{list(some.halo)}'"
    )


def _tiling(seen: tuple[int, ...], around: int, sizes: tuple[int, ...]) -> Tiling:
    """Take a halo off the cells that are seen at once; an axis that is seen whole needs none."""
    halo = tuple(around if edge < size else 0 for edge, size in zip(seen, sizes, strict=True))
    block = (min(edge, size) - 2 * cells for edge, size, cells in zip(seen, sizes, halo, strict=True))
    return Tiling(tuple(block), halo)
