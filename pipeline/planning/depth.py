"""Peak memory of a run's training step over depth, by the planner: our chain, and a network that stores activations."""

from dataclasses import dataclass, replace

from models.config import Layer, NetworkConfig, SegmenterConfig, parse_layers
from models.peak import stored_peak, training_peak
from pipeline.config import RunConfig
from pipeline.planning.memory import training_work, trial_segmenter

TIMES = (1, 2, 4, 8)
"""How often every layer of the network is repeated to make deeper ones."""


@dataclass(frozen=True)
class Depth:
    """What a training step takes at one number of layers, at its peak and in bytes."""

    layers: int
    chain: int  # by the reversible chain
    stored: int  # by plain autograd, which stores activations
    own: bool  # whether this is the run's own network


def repeated(network: NetworkConfig, times: int) -> NetworkConfig:
    """Repeat every layer of a network `times` times; with 0, keep one layer of each level only.

    The memory of a step does not depend on the network's step h, so one serves all layers.
    """
    first, *others = parse_layers(network.layers)
    if times == 0:  # every level but the first begins with a layer that resamples
        others, times = [layer for layer in others if layer.resample], 1
    text = " ".join(f"{_notation(layer)}*{times}" for layer in (first, *others))
    return replace(network, layers=text, step=network.steps[0])


def memory_over_depth(config: RunConfig, made: SegmenterConfig, block: tuple[int, ...]) -> list[Depth]:
    """Predict the peak of a step of the network `made` on `block` cells, halo included, from few layers to many."""
    found: dict[int, Depth] = {}
    for times in (0, *TIMES):
        segmenter = trial_segmenter(replace(made, network=repeated(made.network, times)))
        work, layers = training_work(config, segmenter, block), len(segmenter.network.plan.layers)
        found[layers] = Depth(layers, training_peak(segmenter, work), stored_peak(segmenter, work), times == 1)
    return [found[layers] for layers in sorted(found)]


def _notation(layer: Layer) -> str:
    mark = {"": "", "coarsen": "d", "refine": "u"}[layer.resample]
    groups = f"g{layer.groups}" if layer.groups > 1 else ""
    return f"{mark}{layer.rank}{'p' if layer.pointwise else groups}"
