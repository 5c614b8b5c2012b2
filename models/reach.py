"""How far an output cell of a network looks: pure arithmetic on its layers."""

import math

from models.network import TelegraphNetwork


def reach(network: TelegraphNetwork) -> int | None:
    """Return the cells of the input grid beyond which nothing changes an output cell, on either side along any axis.

    Each layer looks 2 (edge // 2) cells of its own grid around, once for K and once for K^T, and a coarse cell looks as
    far as the cells it covers. The widest view of all output cells between two multiples of the coarsest grid counts,
    or that of cells which padding reflects. None where the boundary is periodic, so that no part of the volume shows
    all that a cell depends on.
    """
    if network.config.boundary == "periodic":
        return None
    widest = network.multiple - 1 if network.config.padding == "reflect" else 0
    for cell in range(math.ceil(network.multiple / network.factor)):
        first = last = cell
        for layer in reversed(network.plan.layers):
            around = 2 * layer.operator.reach
            first, last = first - around, last + around
            if layer.resample == "refine":
                first, last = first // 2, last // 2
            elif layer.resample == "coarsen":
                first, last = 2 * first, 2 * last + 1
        left = math.floor(cell * network.factor) - first
        right = last + 1 - math.ceil((cell + 1) * network.factor)
        widest = max(widest, left, right)
    return widest
