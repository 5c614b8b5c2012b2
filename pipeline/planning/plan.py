"""What a recipe costs before it runs: parameters, operations, peak memory, and what a given memory holds."""

import json as to_json
import math
from dataclasses import asdict, dataclass
from typing import Any

from datasets.errors import InputError
from datasets.samples.blocks import seen_sizes
from datasets.samples.order import share_of_rank
from datasets.volume import Volume
from models.config import SegmenterConfig
from models.cost import layer_shapes, parameter_count, prediction_flops, training_flops
from models.fit import largest_sizes, most_layers
from models.peak import parameter_bytes, prediction_peak, state_bytes, stored_peak, training_peak
from models.segmenter import Segmenter
from pipeline.amount import parse_amount, show_bytes
from pipeline.config import PlanConfig
from pipeline.planning.machine import Memory
from pipeline.planning.memory import (
    COUNTED,
    map_work,
    memory_of_worker,
    scaled_axes,
    training_work,
    trial_segmenter,
)
from pipeline.planning.turns import elsewhere, turns_that_fit


@dataclass(frozen=True)
class Plan:
    """What a recipe costs, in cells, bytes, and operations; a multiplication and its addition count as two of these."""

    name: str
    layers: int
    channels: tuple[int, int]  # of a state, the fewest and the most
    parameters: int
    parameter_bytes: int
    state_bytes: int  # of one sample
    block: tuple[int, ...]  # cells of a sample
    slabs: int  # workers that share it
    turns: int  # slabs of it that pass through a worker one after the other
    host_bytes: int  # of a step in turns, beside what the device holds
    scratch_bytes: int
    micro_batch: int  # samples at once
    batch: int  # samples of a step on one worker, as its operations and its peak
    training_flops: int
    training_bytes: int
    shape: tuple[int, ...]  # of the volume that is mapped in one piece
    prediction_flops: int
    prediction_bytes: int
    stored_flops: int  # of the training step by plain autograd, which stores activations
    stored_bytes: int
    full_parameters: int  # of kernels C -> C, without compression
    full_bytes: int
    memory: int | None = None  # that is planned for; none where nobody knows
    memory_where: str = ""
    largest_block: tuple[int, ...] | None = None  # of the same proportions; none where nothing fits
    largest_volume: tuple[int, ...] | None = None
    most_layers: int | None = None  # on the recipe's own block; none where not even the recipe fits
    turns_that_fit: str | None = None  # as settings


def plan(config: PlanConfig, *, json: bool = False) -> Plan:
    """Plan a recipe and print what it costs, as text or as JSON; reads no data.

    `InputError` or `ConfigError` where neither volume, block nor shape is given, or the network does not suit them.
    """
    segmenter, block, shape, assumed = _subject(config)
    result = make_plan(config, segmenter, block, shape)
    print(to_json.dumps(asdict(result), indent=1) if json else describe_plan(result, assumed))
    return result


def make_plan(config: PlanConfig, segmenter: Segmenter, block: tuple[int, ...], shape: tuple[int, ...]) -> Plan:
    """Plan a network without weights that is trained on `block` and maps `shape` cells."""
    training, slabs = config.training, config.cluster.slabs
    work = training_work(config, segmenter, block)
    samples = len(share_of_rank(training.batch, training.micro_batch, 0, config.cluster.groups))
    mapping = map_work(config.cluster, segmenter, shape, cuda=config.cluster.gpu)
    host, scratch = elsewhere(segmenter, work, config.cluster, training=True)
    shapes, mapped = layer_shapes(segmenter.network, work.sizes), layer_shapes(segmenter.network, mapping.sizes)
    full = sum(layer.full_kernel + layer.rank for layer in shapes)
    if config.memory is None:
        memory = memory_of_worker(config)
    else:
        memory = Memory(parse_amount(config.memory, "memory"), "as given")
    fits: dict[str, Any] = {}
    if memory is not None:
        largest = largest_sizes(segmenter, work, memory.size, training_peak)
        volume = largest_sizes(segmenter, mapping, memory.size, prediction_peak)
        fits = {
            "memory": memory.size,
            "memory_where": memory.where,
            "largest_block": largest and (largest[0] * slabs, *largest[1:]),
            "largest_volume": volume and (volume[0] * slabs, *volume[1:]),
            "most_layers": most_layers(segmenter, work, memory.size),
            "turns_that_fit": turns_that_fit(segmenter, work, memory.size, training_peak, cuda=config.cluster.gpu),
        }
    return Plan(
        name=config.name,
        layers=len(shapes),
        channels=(min(layer.channels for layer in shapes), max(layer.channels for layer in shapes)),
        parameters=parameter_count(shapes),
        parameter_bytes=parameter_bytes(segmenter),
        state_bytes=state_bytes(segmenter, block),
        block=block,
        slabs=slabs,
        turns=config.cluster.turns,
        host_bytes=host,
        scratch_bytes=scratch,
        micro_batch=work.batch,
        batch=samples,
        training_flops=training_flops(shapes, samples),
        training_bytes=training_peak(segmenter, work),
        shape=shape,
        prediction_flops=prediction_flops(mapped),
        prediction_bytes=prediction_peak(segmenter, mapping),
        stored_flops=training_flops(shapes, samples, stored=True),
        stored_bytes=stored_peak(segmenter, work),
        full_parameters=full,
        full_bytes=4 * full,
        **fits,
    )


def _subject(config: PlanConfig) -> tuple[Segmenter, tuple[int, ...], tuple[int, ...], str]:
    volume, assumed = None, ""
    try:
        volume = Volume.open(config.data)
    except InputError as error:
        if not config.data.space or not (config.shape or config.data.block):
            raise InputError(
                f"{error}; to plan without the volume, give data.space and --shape, one size for each of its dimensions"
            ) from error
    channels, classes = config.channels, config.classes
    if volume is None:
        channels, classes = channels or 1, classes or max(2, len(config.network.read_channels))
        assumed = f"no volume at {config.data.source!r} yet: channels {channels}, classes {classes}"
        axes = [config.data.space.index(dim) for dim in config.data.read_slice]
        shape = tuple(config.shape or config.data.block or ())
    else:
        channels, classes = channels or volume.n_channels, classes or len(volume.classes)
        axes = list(volume.read_slice)
        shape = tuple(config.shape or volume.shape)
    names = [str(number) for number in range(classes)]
    space = len(config.data.space)
    made = SegmenterConfig(config.network, space, channels, names, config.data.validity, dict.fromkeys(axes, 0))
    segmenter = trial_segmenter(made, scaled_axes(config.data, shape) if len(shape) == space else None)
    return segmenter, seen_sizes(shape, config.data.block, config.data.halo), shape, assumed


def describe_plan(p: Plan, assumed: str = "") -> str:
    """Lay a plan out as text."""
    part = f"; one of {p.slabs} slabs)" if p.slabs > 1 else f"; in {p.turns} turns)" if p.turns > 1 else ")"
    rows = [
        ("network", f"{p.layers} layers, {p.channels[0]} to {p.channels[1]} channels"),
        ("parameters", f"{_count(p.parameters)} ({show_bytes(p.parameter_bytes)})"),
        ("one state", f"{show_bytes(p.state_bytes)} ({_cells(p.block)} cells)"),
        (
            "training step",
            f"{show_bytes(p.training_bytes)} at its peak, {_count(p.training_flops)}FLOP "
            f"({p.batch} samples of {_cells(p.block)}, {p.micro_batch} at once{part}",
        ),
        (
            "prediction",
            f"{show_bytes(p.prediction_bytes)} at its peak, {_count(p.prediction_flops)}FLOP ({_cells(p.shape)}{part}",
        ),
        *(
            (place, f"{show_bytes(size)} at a step's peak wait there for their turn")
            for place, size in (("memory of host", p.host_bytes), ("scratch", p.scratch_bytes))
            if size
        ),
        ("stored activations", f"{show_bytes(p.stored_bytes)} at its peak, {_count(p.stored_flops)}FLOP a step"),
        ("full kernels", f"{_count(p.full_parameters)} ({show_bytes(p.full_bytes)})"),
    ]
    if p.memory is None:
        rows.append(("memory", "unknown from here; give --memory 80GB to see what fits"))
    else:
        rows += [
            ("memory", f"{show_bytes(p.memory)} {p.memory_where}"),
            ("largest block", _cells(p.largest_block) if p.largest_block else "none"),
            ("largest volume", f"{_cells(p.largest_volume)}, mapped in one piece" if p.largest_volume else "none"),
            ("most layers", f"{p.most_layers} on this block" if p.most_layers else "this network does not fit"),
            *([("in turns", f"a step fits by {p.turns_that_fit}")] if p.turns_that_fit and not p.most_layers else []),
        ]
    heads = [f"plan of {p.name}", *([assumed] if assumed else [])]
    return "\n".join([*heads, *(f"  {label:<18}  {text}" for label, text in rows), COUNTED])


def _cells(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _count(number: float) -> str:
    power = min(int(math.log10(max(number, 1)) // 3), 6)
    return f"{number / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"
