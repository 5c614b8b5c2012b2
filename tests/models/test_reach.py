"""The reach of a network is where its output stops to depend on its input, no farther and no nearer."""

import math

import pytest
import torch
from hypothesis import given, settings

from models.network import TelegraphNetwork
from models.reach import reach
from tests.models.strategies import build, networks


def depends(network: TelegraphNetwork, far: int) -> bool:
    """Whether any output cell depends on an input cell more than `far` cells away along the first axis."""
    unit = network.multiple
    size = -(-(3 * unit + 2 * far + 2) // unit) * unit
    x = torch.randn(1, network.channels, size, *[unit] * (network.space - 1), dtype=torch.float64, requires_grad=True)
    middle = size // unit // 2 * unit
    for cell in range(unit):
        place = int((middle + cell) / network.factor)
        (gradient,) = torch.autograd.grad(network(x)[:, :, place].sum(), x)
        seen = gradient.transpose(0, 2).flatten(1).any(1).nonzero().flatten()
        first, last = int(place * network.factor), math.ceil((place + 1) * network.factor) - 1
        if first - int(seen.min()) > far or int(seen.max()) - last > far:
            return True
    return False


@given(networks().filter(lambda network: network.config.boundary != "periodic"))
@settings(max_examples=15, deadline=None)
def test_no_output_cell_sees_beyond_the_reach(network: TelegraphNetwork) -> None:
    far = reach(network)
    assert far is not None
    assert not depends(network, far)


@pytest.mark.parametrize(
    ("layers", "kernel", "cells"),
    [("4", 3, 2), ("4*3", 3, 6), ("4*2", 5, 8), ("4p*5", 3, 0), ("4 d4 u4", 3, 9), ("4 d4", 3, 6)],
)
def test_reaches_worked_out_by_hand(layers: str, kernel: int, cells: int) -> None:
    network = build(1, layers, kernel=kernel, activation="tanh")
    assert reach(network) == cells
    assert cells == 0 or depends(network, cells - 1)


@pytest.mark.parametrize(("padding", "cells"), [("reflect", 3), ("replicate", 0), ("zeros", 0)])
def test_cells_that_padding_reflects_are_seen(padding: str, cells: int) -> None:
    network = build(1, "4p d4p d4p", padding=padding, activation="tanh")
    assert reach(network) == cells
    x = torch.randn(1, network.channels, 9, dtype=torch.float64, requires_grad=True)  # padded by three cells
    (gradient,) = torch.autograd.grad(network(x)[:, :, 2].sum(), x)
    assert int(gradient.any(1).nonzero()[:, 1].min()) == 8 - cells


def test_a_periodic_volume_is_seen_all_around() -> None:
    assert reach(build(1, "4", boundary="periodic")) is None
