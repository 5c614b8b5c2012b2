"""How large a volume, or how deep a network, a given memory holds. Pure planning over `models.peak`."""

from collections.abc import Callable
from dataclasses import replace

from models.cost import layer_shapes
from models.peak import Workload, parameter_bytes, training_peak
from models.segmenter import Segmenter
from models.temporaries import Kept, LayerBytes, Ledger

_MOST_UNITS = 2**20


def largest_sizes(
    segmenter: Segmenter, work: Workload, memory: int, peak: Callable[[Segmenter, Workload], int]
) -> tuple[int, ...] | None:
    """Return the largest grid of the same proportions whose `training_peak` or `prediction_peak` fits, in bytes.

    A segmenter on the meta device is enough; labelled cells are scaled with the grid. Sizes are multiples of what the
    coarsenings divide, but axes only ever seen whole keep theirs; None where not even the smallest grid fits.
    """
    unit, grid = segmenter.network.multiple, segmenter.network.padded_sizes(work.sizes)
    fixed = segmenter.uncut
    free = [size for axis, size in enumerate(grid) if axis not in fixed]
    if not free:
        return work.sizes if peak(segmenter, work) <= memory else None
    longest = max(free) // unit

    def sizes(units: int) -> tuple[int, ...]:
        return tuple(
            work.sizes[axis] if axis in fixed else max(1, round(size // unit * units / longest)) * unit
            for axis, size in enumerate(grid)
        )

    def fits(units: int) -> bool:
        share = (units / longest) ** len(free)
        scaled = replace(work, sizes=sizes(units), labelled=int(work.labelled * share))
        return peak(segmenter, scaled) <= memory

    if not fits(1):
        return None
    low, high = 1, 2
    while high < _MOST_UNITS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return sizes(low)


def most_layers(segmenter: Segmenter, work: Workload, memory: int) -> int | None:
    """Return how many layers fit where every layer of the network is repeated as often as the others, or None.

    Depth costs no state, only `Workload.copies` of the weights, and hidden layers until as many are kept as may be.
    """
    spare, network = memory - training_peak(segmenter, work), segmenter.network
    if spare < 0:
        return None
    weights, kept = work.copies * parameter_bytes(segmenter), Kept.of(network.plan.arithmetic)
    shapes = layer_shapes(network, work.sizes)
    if work.turns > 1:  # which keep no hidden layers
        return len(shapes) * (1 + spare // weights)
    layers = [LayerBytes(shape, work.batch, Ledger()) for shape in shapes]
    hidden, wide = sum(layer.thin(kept) for layer in layers), max(layer.wide for layer in layers)
    state = layers[0].cells * shapes[0].channels * kept.force
    most = min(int(network.config.kept_hidden * wide * state), memory)
    return len(shapes) * (1 + max(0, (spare - hidden) // (weights + hidden), (spare - most) // weights))
