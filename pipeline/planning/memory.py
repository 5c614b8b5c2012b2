"""Whether a recipe fits the memory there is: the need by `models.peak`, refused before any data is read."""

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from datasets.config import DataConfig
from datasets.errors import InputError
from datasets.samples.blocks import plan_map, seen_sizes
from datasets.volume import Volume
from models.config import ConfigError, SegmenterConfig
from models.fit import largest_sizes
from models.peak import Workload, prediction_peak, training_peak
from models.reach import reach
from models.segmenter import Segmenter
from models.temporaries import SINGLE
from pipeline.amount import parse_amount, show_bytes
from pipeline.config import ClusterConfig, RunConfig, TrainingConfig
from pipeline.planning.machine import Memory, memory_here
from pipeline.planning.tiling import Tiling
from pipeline.planning.turns import check_elsewhere, turns_of, turns_that_fit

COUNTED = (
    "counted beyond the process itself: weights, gradients, optimiser states, input, states, adjoint, temporaries; "
    "not counted: libraries, the loader's samples on the host, the loss of labelled cells"
)


def trial_segmenter(config: SegmenterConfig, scaled: Mapping[int, int] | None = None) -> Segmenter:
    """Make a segmenter without weights; it reads its slices at cell 0, which costs what any other cell costs.

    `scaled` has the sizes of those space axes whose cells are each normalised by themselves.
    """
    own = [(scaled or {}).get(axis, 1) for axis in range(config.space)]
    with torch.device("meta"):
        at_zero = replace(config, read_slice=dict.fromkeys(config.read_slice, 0))
        return Segmenter(at_zero, torch.zeros(1, *own), torch.ones(1, *own))


def scaled_axes(data: DataConfig, shape: Sequence[int]) -> dict[int, int]:
    """Return the sizes of the space axes whose cells are each normalised by themselves."""
    sizes = dict(zip(data.space, shape, strict=True))
    return {axis: sizes[dim] for axis, dim in enumerate(data.space) if dim in (data.keep or [])}


def _micro_batches(batch: int, training: TrainingConfig) -> int:
    return -(-batch // training.micro_batch)


def check_workers(config: RunConfig, batch: int, key: str) -> None:
    """Refuse a batch, named `key`, of so few micro-batches that some workers would have none."""
    found, cluster = _micro_batches(batch, config.training), config.cluster
    if found < cluster.groups:
        workers = f"cluster.workers {cluster.workers}" + (f" in {cluster.slabs} slabs" if cluster.slabs > 1 else "")
        raise InputError(
            f"{key} {batch} in micro-batches of {config.training.micro_batch} makes {found}, fewer than {workers} take "
            "at once, so some workers would have nothing to do; raise the batch, lower training.micro_batch, or take "
            "fewer workers"
        )


def share_of_worker(segmenter: Segmenter, sizes: tuple[int, ...], slabs: int) -> tuple[int, ...]:
    """Return the cells of a sample that a worker has: the largest of its slabs, or all."""
    return (max(rows.stop - rows.start for rows in segmenter.slabs(sizes[0], slabs)), *sizes[1:])


def map_work(cluster: ClusterConfig, segmenter: Segmenter, shape: tuple[int, ...], *, cuda: bool) -> Workload:
    """Return what a worker holds at once of a volume that is mapped in one piece."""
    turns = turns_of(cluster, segmenter, shape[0], cuda=cuda)
    return Workload(share_of_worker(segmenter, shape, cluster.slabs), **turns)


def training_work(config: RunConfig, segmenter: Segmenter, sizes: tuple[int, ...]) -> Workload:
    """Return what a worker holds at once of samples of `sizes` cells.

    The loss is counted as if nothing were labelled, so that no advice is based on labels that another block lacks.
    """
    training, fewest = config.training, config.cluster.min_workers or config.cluster.groups
    return Workload(
        sizes=share_of_worker(segmenter, sizes, config.cluster.slabs),
        batch=min(training.batch, training.micro_batch),
        accumulates=_micro_batches(training.batch, training) > fewest,
        optimiser=training.optimiser,
        **turns_of(config.cluster, segmenter, sizes[0], cuda=config.cluster.gpu),
    )


def memory_of_worker(config: RunConfig) -> Memory | None:
    """Return what a worker may fill: what `training.memory` says, or its part of what is found on this machine."""
    if config.training.memory is not None:
        return Memory(parse_amount(config.training.memory, "training.memory"), "by training.memory")
    if config.cluster.address != "local":
        return None  # the workers run on machines that nobody sees from here
    found = memory_here(config.cluster.gpu)
    if found is None or config.cluster.gpu or config.cluster.workers < 2:
        return found
    return Memory(found.size // config.cluster.workers, f"{found.where} for each of {config.cluster.workers} workers")


def planned_step(config: RunConfig, volume: Volume) -> tuple[Segmenter, Workload]:
    """Return the network of a recipe, without weights, and what a training step on the volume asks of a worker."""
    data = config.data
    made = SegmenterConfig(
        config.network, len(volume.space), volume.n_channels, volume.classes, data.validity, volume.read_slice
    )
    segmenter = trial_segmenter(made, scaled_axes(data, volume.shape))
    return segmenter, training_work(config, segmenter, seen_sizes(volume.shape, data.block, data.halo))


def check_training(config: RunConfig, volume: Volume, begun: Tiling | None = None) -> Tiling | None:
    """Refuse a recipe whose training step cannot fit, and find out whether a map of the whole volume can.

    Returns the blocks `begun` by a run that goes on, or the training's and their halo, where validation and test must
    map the volume block by block; none where it fits in one piece, or where nobody knows the memory.

    `InputError` with the need, what there is, and what to change.
    """
    segmenter, work = planned_step(config, volume)
    memory, slabs, tiling = memory_of_worker(config), max(config.cluster.slabs, config.cluster.turns), begun
    if memory is not None:
        sizes, need = work.sizes, training_peak(segmenter, work)
        if need > memory.size:
            raise InputError(
                f"a training step on {work.batch} x {list(sizes)} cells needs {show_bytes(need)}, but there are "
                f"{show_bytes(memory.size)} {memory.where}; {_ways_out(config, segmenter, work, memory, volume)}"
            )
        # A step on the whole volume needs more than a map of it.
        mapping = map_work(config.cluster, segmenter, volume.shape, cuda=config.cluster.gpu)
        fits = config.data.block is None or prediction_peak(segmenter, mapping) <= memory.size
        if tiling is None and not fits:
            tiling = Tiling(tuple(config.data.block or ()), tuple(config.data.halo or [0] * len(sizes)))
    if config.cluster.address == "local":
        host, training = memory_here(False), config.training
        check_elsewhere(segmenter, work, config.cluster, host, training=True)
        seen = seen_sizes(volume.shape, config.data.block, config.data.halo)
        held = SINGLE * volume.n_channels * math.prod(seen) * training.batch
        if host is not None and held > host.size and tuple(seen) != volume.shape:  # else all are of one block
            raise InputError(
                f"the samples of a step, {training.batch} x {list(seen)} cells, take {show_bytes(held)} of the host, "
                f"but there are {show_bytes(host.size)} {host.where}; lower training.batch or data.block"
            )
    if tiling is not None:
        windows = plan_map(volume.shape, tiling.block, tiling.halo, segmenter.network.multiple)
        thinnest = min(window.sizes[0] for window in windows)
        try:
            segmenter.slabs(thinnest, slabs)
        except ConfigError as error:
            raise InputError(
                f"the volume is mapped in {tiling}, one of which sees {thinnest} cells of the first axis, too few for "
                f"{slabs} slabs; take another data.block or fewer slabs"
            ) from error
    return tiling


def _ways_out(config: RunConfig, segmenter: Segmenter, work: Workload, memory: Memory, volume: Volume) -> str:
    single, ways, slabs = replace(work, batch=1, labelled=0, accumulates=True), [], config.cluster.slabs
    lean = replace(segmenter.config, network=replace(segmenter.config.network, kept_hidden=0))
    if training_peak(trial_segmenter(lean, scaled_axes(config.data, volume.shape)), work) <= memory.size:
        ways.append("set network.kept_hidden to 0")
    if work.batch > 1 and training_peak(segmenter, single) <= memory.size:
        ways.append("set training.micro_batch to 1")
    block = largest_sizes(segmenter, work, memory.size, training_peak)
    if block is not None:
        ways.append(f"set data.block to {[block[0] * slabs, *block[1:]]} or less")
    if config.cluster.gpu or config.cluster.address != "local":  # else more workers share the memory of this machine
        seen = seen_sizes(volume.shape, config.data.block, config.data.halo)
        with contextlib.suppress(ConfigError):
            for count in itertools.count(slabs + 1):
                share = replace(work, sizes=share_of_worker(segmenter, seen, count))
                if training_peak(segmenter, share) <= memory.size:
                    ways.append(f"share each sample by cluster.slabs {count} and as many cluster.workers")
                    break
    turns = turns_that_fit(segmenter, work, memory.size, training_peak, cuda=config.cluster.gpu)
    if turns and slabs == 1:
        ways.append(f"let slabs take turns by {turns}")
    if not ways:
        return "no block is small enough: take a smaller network.repeat, lower ranks, or a machine with more memory"
    shorter = ", or set network.states to exact and network.state_bits to 16"
    return " or ".join(ways) + ("" if segmenter.config.network.state_bits == 16 else shorter)


def plan_prediction(
    segmenter: Segmenter, sizes: tuple[int, ...], memory: Memory | None, *, threads: int = 1, approximate: bool = False
) -> Tiling | None:
    """Find out whether a volume fits in one piece, or in which blocks it is mapped to the same values.

    Returns the largest blocks that fit the memory amid a halo as wide as the network's reach; none for one piece, and
    where nobody knows the memory. Where such blocks would be more halo than block, `approximate` ones are better than
    an `InputError` with their settings.
    """
    work = Workload(sizes, threads=threads)
    if memory is None or (need := prediction_peak(segmenter, work)) <= memory.size:
        return None
    there = f"there are {show_bytes(memory.size)} {memory.where}"
    problem = f"mapping {list(sizes)} cells in one piece needs {show_bytes(need)}, but {there}"
    largest = largest_sizes(segmenter, work, memory.size, prediction_peak)
    if largest is None:
        raise InputError(f"{problem}; take a machine with more memory")
    unit, far = segmenter.network.multiple, reach(segmenter.network)
    enough = None if far is None else -(-far // unit) * unit
    cut = [edge for edge, size in zip(largest, sizes, strict=True) if edge < size]
    if enough is not None and min(cut, default=0) >= 4 * enough:
        return _tiling(largest, enough, sizes, unit)
    some = _tiling(largest, min(cut, default=0) // 4 // unit * unit, sizes, unit)
    if approximate:
        return some
    turns = turns_that_fit(segmenter, work, memory.size, prediction_peak, cuda=not threads)
    whole = f"in one piece by {turns}, or " if turns else ""
    what = "the whole volume" if enough is None else f"{enough} cells"
    raise InputError(
        f"{problem}, and the network reaches {what}, too far for blocks of its size; cut the volume to "
        f"{list(largest)} cells or less, or map it {whole}approximately by predict --block '{list(some.block)}' --halo "
        f"'{list(some.halo)}'"
    )


def _tiling(seen: tuple[int, ...], around: int, sizes: tuple[int, ...], unit: int) -> Tiling:
    """Take a halo off the cells that are seen at once; an axis that is seen whole needs none."""
    halo = tuple(around if edge < size else 0 for edge, size in zip(seen, sizes, strict=True))
    block = (size if edge >= size else _even(edge - 2 * around, unit) for edge, size in zip(seen, sizes, strict=True))
    return Tiling(tuple(block), halo)


def _even(edge: int, unit: int) -> int:
    """Round down to a multiple of the unit that has no prime factor above 7, so that chunks of a store divide it."""
    for units in range(edge // unit, 0, -1):
        rest = units
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return units * unit
    return edge
