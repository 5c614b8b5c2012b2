"""Parameters and operations that are computed before a network runs, against the network and PyTorch's own counter."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from models.config import ConfigError, NetworkConfig
from models.convolution import Convolution
from models.cost import LayerShape, layer_shapes, parameter_count, prediction_flops, training_flops
from models.network import TelegraphNetwork
from models.unrolled import unrolled
from tests.models.architectures import network_configs


def added_product(_total: Sequence[int], a: Sequence[int], b: Sequence[int], **_options: object) -> int:
    """Count the operations of y += a b from the shapes."""
    return 2 * a[0] * a[1] * b[1]


def rows_beyond(shapes: Sequence[LayerShape], batch: int, kept: int = 0) -> int:
    """Operations for the rows of zeros beyond the volume that convolutions compute, and plans leave out."""
    return sum(
        (1 - shape.keeps * kept) * shape.flops(batch, 1) // shape.sizes[0] * 2 * shape.operator.reach
        for shape in shapes
        if isinstance(shape.operator, Convolution)
    )


def test_the_papers_seismic_network_has_its_published_weights() -> None:
    layers = "8*2 d16*3 d32*3 d32*10 u32*3 u16*3 u8*6"
    with torch.device("meta"):
        network = TelegraphNetwork(NetworkConfig(layers=layers, repeat=12, padding="refuse"), 3, 1)
    shapes = layer_shapes(network, (248, 248, 248))
    assert [shapes[0].channels, max(shape.channels for shape in shapes)] == [12, 6144]
    assert 4 * parameter_count(shapes) == pytest.approx(0.23e9, rel=0.01)
    assert 4 * sum(shape.full_kernel for shape in shapes) == pytest.approx(41.16e9, rel=0.01)


@settings(max_examples=10, deadline=None)
@given(config=network_configs(), space=st.integers(1, 3), channels=st.sampled_from([2, 4, 16]))
def test_parameters_are_those_of_the_built_network(config: NetworkConfig, space: int, channels: int) -> None:
    network = TelegraphNetwork(config, space, channels)
    shapes = layer_shapes(network, (7,) * space)
    assert parameter_count(shapes) == sum(parameter.numel() for parameter in network.parameters())


@settings(max_examples=4, deadline=None)
@given(
    config=network_configs(boundaries=("zeros",)),
    space=st.integers(1, 2),
    channels=st.sampled_from([2, 40]),
    batch=st.integers(1, 2),
)
def test_operations_are_those_that_pytorch_counts(config: NetworkConfig, space: int, channels: int, batch: int) -> None:
    # PyTorch counts the gradient of a grouped kernel as if it had no groups.
    layers = config.layers.replace("g2", "")
    plain = replace(config, layers=layers, force_dtype="float32", states="float", state_bits=32, grid_bits=None)
    network = TelegraphNetwork(plain, space, channels).double()
    shapes = layer_shapes(network, (8,) * space)
    x = torch.randn(batch, channels, *[8] * space, dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = unrolled(network.plan, x, network.parameters_in_order())
    assert counter.get_total_flops() == prediction_flops(shapes, batch)
    with counter:  # starts from nothing again
        out.square().sum().backward()
    assert counter.get_total_flops() == training_flops(shapes, batch, stored=True) - prediction_flops(shapes, batch)
    # In float64 no product goes past PyTorch's counter, once it knows the one that adds in place.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_product}) as counter:
        network(x).square().sum().backward()
    three_times = 2 * rows_beyond(shapes, batch) + rows_beyond(shapes, batch, kept=1)
    assert counter.get_total_flops() == training_flops(shapes, batch) + three_times


def test_sizes_that_do_not_divide_are_counted_as_padded_or_refused() -> None:
    config = NetworkConfig(layers="4 d4 d4 u4 u4")
    network = TelegraphNetwork(config, 2, 2)
    assert [shape.sizes for shape in layer_shapes(network, (9, 16))] == [(12, 16), (6, 8), (3, 4), (6, 8), (12, 16)]
    with pytest.raises(ConfigError, match="multiples of 4"):
        layer_shapes(TelegraphNetwork(replace(config, padding="refuse"), 2, 2), (9, 16))
