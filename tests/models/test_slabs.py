"""A volume in slabs gives what the whole volume gives: values, gradients, and exact inversion."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import pieces
from models.config import ConfigError, SegmenterConfig
from models.network import TelegraphNetwork
from models.segmenter import Segmenter
from models.slab import cut_slabs
from models.symmetric import Pair, SymmetricOperator
from tests.models.slabs import in_slabs, refusals
from tests.models.strategies import build, inputs, networks

SIZES = {1: (16,), 2: (12, 6), 3: (12, 4, 6)}


def check(network: TelegraphNetwork, x_BcN: Tensor, count: int, *, tolerance: float = 1e-11) -> None:
    """Compare output and all gradients of a volume in slabs with those of the whole."""
    probe = torch.randn(network(x_BcN).shape, dtype=x_BcN.dtype, generator=torch.Generator().manual_seed(1))

    def loss(output: Tensor, rows: slice) -> Tensor:
        return (probe[:, :, rows] * output).sum() + output.square().sum()

    whole = x_BcN.clone().requires_grad_()
    output = network(whole)
    wanted = [whole, *network.parameters()]
    gradients = torch.autograd.grad(loss(output, slice(None)), wanted, materialize_grads=True)
    found = in_slabs(network, x_BcN, count, loss)
    for mine, true in zip([found.output, *found.gradients], [output, *gradients], strict=True):
        assert mine.shape == true.shape
        assert (mine - true).abs().max() <= tolerance * true.abs().max()
    assert found.errors == pytest.approx([float(network.inversion_error or 0)] * count, abs=1e-9)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(
    ("space", "layers"),
    [(1, "3 d4 u3p"), (2, "3*2 d4g2 u3"), (2, "1 d1*2 u2"), (3, "3 d2 u4"), (3, "2 u1 d2")],
)
def test_slabs_give_what_the_whole_volume_gives(space: int, layers: str, kernel: int) -> None:
    network = build(space, layers, repeat=4, channels=6, kernel=kernel, coarsening="learned")
    check(network, torch.randn(2, 6, *SIZES[space], dtype=torch.float64), 12 // (2 * (kernel - 1)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_slabs_of_random_networks(data: st.DataObject) -> None:
    network = data.draw(networks(boundaries=("zeros",)))
    x_BcN = data.draw(inputs(network))
    least = network.multiple * max(network.config.kernel - 1, 2)
    x_BcN = x_BcN.repeat(
        1,
        1,
        -(-data.draw(st.integers(2, 4), label="slabs at most") * least // x_BcN.shape[2]),
        *[1] * (network.space - 1),
    )
    most = x_BcN.shape[2] // least
    with patch.dict(pieces.PIECE_BYTES, cpu=data.draw(st.sampled_from([2**9, 2**12, 2**21]), label="piece")):
        check(network, x_BcN, data.draw(st.integers(2, min(most, 4)), label="slabs"))


@pytest.mark.parametrize("force_dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("piece", [2**9, 2**21])
def test_exact_states_stay_exact_in_slabs(force_dtype: str, piece: int) -> None:
    network = build(
        2, "3*4 d4g2*4 d40*4 u4*4 u3*4", repeat=8, dtype=torch.float32, init_gain=1.0, states="exact",
        force_dtype=force_dtype,
    )  # fmt: skip
    x_BcN = torch.randn(2, 2, 24, 8)
    with patch.dict(pieces.PIECE_BYTES, cpu=piece):
        found = in_slabs(network, x_BcN, 3, lambda output, rows: output.square().mean())
    assert found.errors == [0.0] * 3
    rounding = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-3}[force_dtype]
    assert (found.output - network(x_BcN)).abs().max() <= rounding * found.output.abs().max()


@pytest.mark.parametrize(
    ("value", "words"), [(3.0, "the input reaches 3, but"), (float("nan"), "the input has numbers")]
)
def test_an_input_that_leaves_the_grid_is_refused_by_all_slabs(value: float, words: str) -> None:
    network = build(2, "3", dtype=torch.float32, states="exact", grid_bits=29)
    x_BcN = torch.zeros(1, 2, 24, 8)
    x_BcN[0, 0, 23, 0] = value
    for error in refusals(network, x_BcN, 3):
        assert str(error).startswith(words)


def test_a_layer_that_leaves_the_grid_is_named_by_all_slabs() -> None:
    network = build(2, "3 8 3", dtype=torch.float32, states="exact", grid_bits=20)
    with torch.no_grad():
        network.kernels[1].mul_(200)
    x_BcN = torch.zeros(1, 2, 24, 8)
    x_BcN[0, 0, 23, 0] = 1.0
    for error in refusals(network, x_BcN, 3):
        assert str(error).startswith("layer 2 of 3 ")


def test_what_is_traded_goes_by_the_rank_and_not_by_the_channels() -> None:
    for channels, kept, trades in ((3, 0, 3), (300, 0, 3), (300, 1, 2)):
        network = build(2, "2*3", channels=channels, kept_hidden=kept)
        found = in_slabs(network, torch.randn(1, network.channels, 8, 10, dtype=torch.float64), 2, lambda y, _: y.sum())
        # Two hidden rows of rank 2 and 10 cells: once forward, for states and adjoint back, by both slabs.
        assert found.traded == [2 * 2 * 10] * (3 * trades * 2)


def test_a_slab_is_padded_as_the_whole_volume_is() -> None:
    network = build(2, "3 d4 d2 u4 u3", repeat=2, padding="reflect")
    check(network, torch.randn(1, 2, 19, 7, dtype=torch.float64), 2)


@given(size=st.integers(1, 400), multiple=st.sampled_from([1, 2, 4, 8]), count=st.integers(1, 8))
def test_slabs_are_even_and_cover_the_axis(size: int, multiple: int, count: int) -> None:
    assume(count <= -(-size // multiple))
    cuts = cut_slabs(size, count, multiple)
    assert [cell for cut in cuts for cell in range(size)[cut]] == list(range(size))
    assert all(cut.start % multiple == 0 for cut in cuts)
    units = [-(-(cut.stop - cut.start) // multiple) for cut in cuts]
    assert max(units) - min(units) <= 1


def left(true: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda operator, z, *pair: true(operator, z, *pair) if pair and pair[0].slab is None else z


def joined_before_only(true: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def join(operator: SymmetricOperator, z: Tensor, pair: Pair) -> Tensor:
        kept = z.clone()
        joined = true(operator, z, pair)
        half = z.shape[operator.row_axis] // 2
        joined.narrow(operator.row_axis, half, joined.shape[operator.row_axis] - half).copy_(
            kept.narrow(operator.row_axis, half, kept.shape[operator.row_axis] - half)
        )
        return joined

    return join


@pytest.mark.parametrize(
    ("name", "spoil"), [("join", left), ("join", joined_before_only), ("shut", left), ("own", left)]
)
def test_the_check_notices_a_face_that_is_wrong(
    name: str, spoil: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x_BcN = build(2, "3 d4 u3", repeat=2), torch.randn(1, 2, 12, 6, dtype=torch.float64)
    check(network, x_BcN, 3)
    monkeypatch.setattr(SymmetricOperator, name, spoil(getattr(SymmetricOperator, name)))
    with pytest.raises(AssertionError):
        check(network, x_BcN, 3)


def test_what_cannot_be_cut_is_refused_in_words() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^15 cells of the first axis of space are too few for 5 slabs: each needs 4 of them, as the layers "
        r"coarsen by 2; take at most 4, or put a longer axis first$",
    ):
        build(2, "3 d4 u3").slabs(15, 5)
    with pytest.raises(
        ConfigError, match=r"^network.boundary is periodic, but a volume in 2 slabs ends in zeros; set it"
    ):
        build(2, "3", boundary="periodic").slabs(64, 2)
    assert build(2, "3", boundary="periodic").slabs(64, 1) == [slice(0, 64)]
    network = build(2, "3").config
    made = Segmenter(
        SegmenterConfig(network, 2, 3, ["a", "b"], read_slice={0: 1}), torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    )
    with pytest.raises(ConfigError, match=r"^the first axis of space cannot be cut into 2 slabs: the labels lack it"):
        made.slabs(64, 2)
