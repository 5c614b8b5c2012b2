"""Padding, sizes, start, precision and reversibility of the network."""

import pytest
import torch

from models.chain import run
from models.config import ConfigError, NetworkConfig
from models.network import TelegraphNetwork
from models.unrolled import unrolled


def network(layers: str, space: int = 2, channels: int = 4, **settings: object) -> TelegraphNetwork:
    torch.manual_seed(0)
    return TelegraphNetwork(NetworkConfig(layers=layers, **settings), space, channels)  # type: ignore[arg-type]


def test_three_ways_to_run_agree() -> None:
    net = network("3 d4 u3", init_gain=5.0, step=0.6).double()
    x_BcN = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    trained = net(x_BcN)
    assert trained.requires_grad
    with torch.no_grad():
        assert torch.equal(net(x_BcN), trained)
        unrolled_state = unrolled(net.plan, x_BcN, net.parameters_in_order())
    torch.testing.assert_close(unrolled_state, trained, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", ["2*2", "d2 u2"])
def test_the_input_is_left_alone(layers: str) -> None:
    net = network(layers)
    x_BcN = torch.randn(2, 8, 8, 4).movedim(-1, 1)
    before = x_BcN.clone()
    with torch.no_grad():
        run(net.plan, x_BcN, net.parameters_in_order())
    net(x_BcN).sum().backward()
    assert torch.equal(x_BcN, before)


def test_the_inversion_error_is_that_of_the_recovered_input() -> None:
    net = network("8*6 d16*6 u8*6", init_gain=3.0)
    assert net.inversion_error is None
    net(torch.randn(1, 4, 16, 16)).square().sum().backward()
    assert net.inversion_error is not None
    assert net.inversion_error.dim() == 0
    assert 0 < net.inversion_error < 1e-5
    drifting = network("8*6 d16*6 u8*6", init_gain=3.0, force_dtype="bfloat16")
    drifting(torch.randn(1, 4, 16, 16)).square().sum().backward()
    assert drifting.inversion_error is not None
    assert drifting.inversion_error < 1e-2


def test_the_force_alone_is_rounded() -> None:
    exact, rounded = network("8 d8"), network("8 d8", force_dtype="bfloat16")
    x_BcN = torch.randn(1, 4, 8, 8)
    state, other = exact(x_BcN), rounded(x_BcN)
    assert other.dtype == torch.float32
    difference = (state - other).norm() / (state - exact.eval()(torch.zeros_like(x_BcN))).norm()
    assert 0 < difference < 1e-3
    other.square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in rounded.parameters()
    )


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("sizes", [(5, 8), (8, 13), (3, 1)])
def test_padding_extends_the_far_end(padding: str, sizes: tuple[int, int]) -> None:
    net = network("2 d2 d2 d2", padding=padding)
    x_BcN = torch.randn(1, 4, *sizes)
    padded = net.pad(x_BcN)
    assert padded.shape[2:] == tuple(-(-size // 8) * 8 for size in sizes)
    assert torch.equal(padded[..., : sizes[0], : sizes[1]], x_BcN)
    if padding == "zeros":
        assert padded.count_nonzero() == x_BcN.count_nonzero()
    else:
        beyond = padded[..., sizes[0], 0] if sizes[0] < 8 else padded[..., 0, sizes[1]]
        edge = 1 if padding == "replicate" else 2
        inside = x_BcN[..., sizes[0] - edge, 0] if sizes[0] < 8 else x_BcN[..., 0, sizes[1] - edge]
        assert torch.equal(beyond, inside)


def test_a_reflection_wider_than_the_axis_turns_back() -> None:
    net = network("2 d2 d2 d2", space=1, channels=1, padding="reflect")
    padded = net.pad(torch.tensor([[[0.0, 1.0, 2.0]]]))
    assert padded.flatten().tolist() == [0, 1, 2, 1, 0, 1, 2, 1]


def test_sizes_that_do_not_divide_are_refused_with_the_nearest_that_work() -> None:
    net = network("2 d2 d2 d2", padding="refuse")
    with pytest.raises(
        ConfigError,
        match=r"sizes \[145, 3\] are not multiples of 8, which network.layers needs; the nearest that work are "
        r"\[144, 8\] and \[152, 8\], or set network.padding to reflect, replicate or zeros",
    ):
        net(torch.randn(1, 4, 145, 3))
    net.check_sizes((144, 8))


def test_finer_output_needs_channels_to_spare() -> None:
    net = network("2 u2 u2", channels=32)
    assert (net.factor, net.channels_out, net.multiple) == (0.25, 2, 1)
    assert net(torch.randn(1, 32, 3, 5)).shape == (1, 2, 12, 20)
    with pytest.raises(
        ConfigError,
        match=r"layer 2 refines a state of 6 channels, which 4 does not divide; set network\.repeat to 2, or refine",
    ):
        network("2 u2", channels=6)


def test_deep_networks_start_gently() -> None:
    for depth in (4, 100):
        net = network(f"4*{depth}", channels=8)
        with torch.no_grad():
            assert 0.5 < net(torch.randn(1, 8, 16, 16)).std() < 1.5
    assert all(not bias.any() for bias in net.biases)


def test_the_seed_decides_the_start() -> None:
    one, same = network("3 d4"), network("3 d4")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
