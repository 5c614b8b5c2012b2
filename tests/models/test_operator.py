"""K, its transpose, its step and its weight gradient, in both forms, over every boundary."""

import itertools
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

from models import convolution, kernels
from models.arithmetic import FloatStates
from models.config import Layer
from models.convolution import Convolution
from models.kernels import cells_at_once, convolution_weight_gradient, convolve, exchanges
from models.network import choose_operator
from models.products import Products
from models.symmetric import Pair, SymmetricOperator
from tests.models.reference import hidden

BOUNDARIES = ["zeros", "reflect", "periodic"]
FORMS = [(Convolution, 1), (Convolution, 3), (Products, 1)]
EVERY_FORM = list(itertools.product(FORMS, BOUNDARIES))


def sample(
    space: int, channels: int, rank: int, edge: int, *, groups: int = 1, batch: int = 2
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(space)
    x_BNC = torch.randn(batch, *(5, 4, 3)[:space], channels, dtype=torch.float64)
    return x_BNC, torch.randn(*[edge] * space, rank, channels // groups, dtype=torch.float64)


def pair(x_BNC: Tensor) -> Pair:
    return Pair(x_BNC, torch.zeros_like(x_BNC), FloatStates(), x_BNC.dtype)


def canonical(operator: SymmetricOperator, z: Tensor) -> Tensor:
    """A hidden tensor as [B, *N, r]."""
    z = operator.own(z)
    return z.movedim(0, -1) if isinstance(operator, Products) else z


def own(operator: SymmetricOperator, z_BNr: Tensor) -> Tensor:
    beyond = operator.overhang
    z_BNr = pad(z_BNr, [0, 0] * (z_BNr.dim() - 2) + [beyond, beyond])
    return z_BNr.movedim(-1, 0).contiguous() if isinstance(operator, Products) else z_BNr


@pytest.mark.parametrize(("form", "boundary"), EVERY_FORM)
@pytest.mark.parametrize("edge", [1, 3, 5])
@pytest.mark.parametrize("space", [1, 2, 3])
def test_the_transpose_passes_the_dot_product_test(
    form: tuple[type, int], boundary: str, space: int, edge: int
) -> None:
    kind, groups = form
    operator = kind(space, edge, boundary, groups)
    x_BNC, kernel = sample(space, 6, 3, edge, groups=groups)
    y_BNr = torch.randn(*x_BNC.shape[:-1], 3, dtype=torch.float64)
    stepped = pair(torch.zeros_like(x_BNC))
    operator.advance(stepped, operator.spread(own(operator, y_BNr), stepped), kernel)
    left = (canonical(operator, operator.hidden(pair(x_BNC), kernel)) * y_BNr).sum()
    right = (x_BNC * stepped.increment).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


@pytest.mark.parametrize(("form", "boundary"), EVERY_FORM)
@pytest.mark.parametrize("space", [1, 2, 3])
def test_the_hidden_layer_is_pytorchs_convolution(form: tuple[type, int], boundary: str, space: int) -> None:
    kind, groups = form
    operator = kind(space, 3, boundary, groups)
    x_BNC, kernel = sample(space, 6, 3, 3, groups=groups)
    expected = hidden(x_BNC.movedim(-1, 1), kernel, Layer(3, groups=groups), boundary).movedim(1, -1)
    found = canonical(operator, operator.hidden(pair(x_BNC), kernel))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    space=st.integers(1, 3),
    channels=st.integers(1, 12),
    rank=st.integers(1, 9),
    edge=st.sampled_from([1, 3, 5]),
    batch=st.integers(1, 3),
    boundary=st.sampled_from(BOUNDARIES),
)
def test_both_forms_agree(space: int, channels: int, rank: int, edge: int, batch: int, boundary: str) -> None:
    x_BNC, kernel = sample(space, channels, rank, edge, batch=batch)
    z_BNr = torch.randn(*x_BNC.shape[:-1], rank, dtype=torch.float64)
    bias = torch.randn(rank, dtype=torch.float64)
    results = []
    for form in (Convolution, Products):
        operator = form(space, edge, boundary)  # type: ignore[arg-type]
        stepped = pair(x_BNC.clone())
        z = own(operator, z_BNr)
        u = operator.spread(z, stepped)
        stepped.increment.fill_(0.5)
        operator.advance(stepped, u, kernel)
        results.append(
            [
                stepped.increment,
                stepped.state,
                canonical(operator, operator.hidden(pair(x_BNC), kernel) + operator.align(bias)),
                operator.weight_gradient(pair(x_BNC), u, kernel),
                operator.bias_gradient(z),
            ]
        )
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()
    increment, state, *_ = results[0]
    force = Convolution(space, edge, boundary).transpose(z_BNr, kernel)  # type: ignore[arg-type]
    torch.testing.assert_close(increment, 0.5 + force, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, x_BNC + increment, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", [Convolution, Products])
@torch.no_grad()
def test_a_sum_over_more_cells_than_float16_counts_is_a_number(form: type[SymmetricOperator]) -> None:
    operator, x, kernel = form(2, 3), torch.ones(1, 300, 300, 2), torch.ones(3, 3, 1, 2, dtype=torch.float16)
    halved = Pair(x, torch.zeros_like(x), FloatStates(torch.float16), torch.float32)
    u = operator.shut(torch.ones_like(operator.hidden(halved, kernel)), halved)
    gradient = operator.weight_gradient(halved, operator.spread(u, halved), kernel)
    assert gradient[1, 1].tolist() == [[90000.0, 90000.0]]


@pytest.mark.parametrize(("form", "boundary"), EVERY_FORM)
@pytest.mark.parametrize("space", [1, 2, 3])
@torch.no_grad()
def test_the_fast_kernels_of_single_precision_agree(form: tuple[type, int], boundary: str, space: int) -> None:
    kind, groups = form
    operator = kind(space, 3, boundary, groups)
    x_BNC, kernel = sample(space, 24, 18, 3, groups=groups)
    results = []
    for dtype in (torch.float32, torch.float64):
        x, weights = x_BNC.to(dtype), kernel.to(dtype)
        z = operator.hidden(pair(x), weights)
        stepped = pair(x.clone())
        u = operator.spread(z, stepped)
        operator.advance(stepped, u, weights)
        gradient = operator.weight_gradient(pair(x), u, weights)
        forces = [operator.transpose(u, weights)] if isinstance(operator, Convolution) else []
        results.append([z, *forces, stepped.increment, stepped.state, gradient])
    for single, double in zip(*results, strict=True):
        assert single.dtype == torch.float32
        assert (single - double).abs().max() <= 1e-5 * double.abs().max()


@pytest.mark.parametrize(("form", "boundary"), EVERY_FORM)
def test_the_weight_gradient_is_autograds(form: tuple[type, int], boundary: str) -> None:
    kind, groups = form
    operator = kind(2, 3, boundary, groups)
    x_BNC, kernel = sample(2, 6, 3, 3, groups=groups)
    z_BNr = torch.randn(*x_BNC.shape[:-1], 3, dtype=torch.float64)
    kernel.requires_grad_()
    plane = hidden(x_BNC.movedim(-1, 1), kernel, Layer(3, groups=groups), boundary)
    (expected,) = torch.autograd.grad((plane * z_BNr.movedim(-1, 1)).sum(), kernel)
    found = operator.weight_gradient(pair(x_BNC), operator.spread(own(operator, z_BNr), pair(x_BNC)), kernel.detach())
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_either_way_to_a_weight_gradient_is_the_same(exchanged: bool, batch: int) -> None:
    x_BNC, kernel = sample(2, 6, 3, 3, batch=batch)
    u = own(Convolution(2, 3), torch.randn(*x_BNC.shape[:-1], 3, dtype=torch.float64))
    with patch.object(convolution, "exchanges", lambda *_: exchanged):
        found = Convolution(2, 3).weight_gradient(pair(x_BNC), u, kernel)
    others = Products(2, 3).weight_gradient(pair(x_BNC), Products(2, 3).spread(u.movedim(-1, 0), pair(x_BNC)), kernel)
    torch.testing.assert_close(found, others, rtol=0, atol=1e-12)


def test_a_gradient_takes_the_way_that_fills_vectors() -> None:
    with patch.object(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512"):
        single = {(c, r): exchanges(c, r, torch.float32, "cpu") for c in (4, 12, 16, 20, 96) for r in (8, 12, 16)}
        assert [key for key, chosen in single.items() if chosen] == [(12, 8), (12, 16), (16, 8), (20, 8), (96, 8)]
        assert exchanges(16, 16, torch.bfloat16, "cpu")
        assert not exchanges(12, 16, torch.bfloat16, "cpu")
    with patch.object(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2"):
        assert exchanges(20, 16, torch.float32, "cpu")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rank=st.sampled_from([1, 2, 4, 8]),
    width=st.integers(1, 18),
    edge=st.sampled_from([1, 3, 5]),
    boundary=st.sampled_from(BOUNDARIES),
    force=st.sampled_from([None, torch.bfloat16]),
    space=st.integers(2, 3),
)
@torch.no_grad()
def test_cells_taken_several_at_once_are_those_taken_one_by_one(
    rank: int, width: int, edge: int, boundary: str, force: torch.dtype | None, space: int
) -> None:
    assume(boundary != "reflect" or width > edge // 2)
    torch.manual_seed(width)
    operator = Convolution(space, edge, boundary)  # type: ignore[arg-type]
    x_BNC = torch.randn(2, *(4, 3)[: space - 1], width, 5)
    kernel = torch.randn(*[edge] * space, rank, 5).to(force or torch.float32)
    found, taken = [], []
    for together in (False, True):

        def cells(width: int, rank: int, *_: object, together: bool = together) -> int:
            taken.append(math.gcd(width, 16 // rank) if together else 1)
            return taken[-1]

        with patch.object(convolution, "cells_at_once", cells):
            x = Pair(x_BNC, torch.zeros_like(x_BNC), FloatStates(force), x_BNC.dtype)
            found.append(operator.hidden(x, kernel).float())
    assert taken == [1, math.gcd(width, 16 // rank)]
    assert found[0].shape == found[1].shape
    assert (found[0] - found[1]).abs().max() <= (1e-2 if force else 1e-6) * found[0].abs().max()


def test_cells_are_taken_together_where_that_was_measured_to_pay() -> None:
    with patch.object(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512"):
        assert [cells_at_once(width, 8, torch.float32, "cpu") for width in (2, 6, 7, 8)] == [1, 2, 1, 2]
        assert [cells_at_once(24, rank, torch.bfloat16, "cpu") for rank in (2, 4, 8, 12, 16)] == [8, 4, 2, 1, 1]
        assert cells_at_once(24, 8, torch.float64, "cpu") == cells_at_once(24, 8, torch.float32, "cuda") == 1
    with patch.object(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2"):
        assert cells_at_once(24, 8, torch.float32, "cpu") == 1


@pytest.mark.parametrize("force", [None, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 2, 4, 8])
@torch.no_grad()
def test_few_channels_and_short_rows_are_convolved_rightly(rank: int, force: torch.dtype | None) -> None:
    torch.manual_seed(0)
    for channels, width, space in itertools.product((1, 2), (1, 2, 3, 4, 6, 8, 16), (2, 3)):
        x_BNC, kernel = torch.randn(1, *(5, 3)[: space - 1], width, channels), torch.randn(*[3] * space, rank, channels)
        found = []
        for dtype in (torch.float32, torch.float64):
            arithmetic = FloatStates(force if dtype is torch.float32 else None)
            x = Pair(x_BNC.to(dtype), torch.zeros_like(x_BNC, dtype=dtype), arithmetic, dtype)
            found.append(Convolution(space, 3).hidden(x, kernel.to(arithmetic.force_type(dtype))).double())
        assert (found[0] - found[1]).abs().max() <= (2e-2 if force else 1e-6) * found[1].abs().max()


def written_whole(compute: Callable[[], Tensor], true: Tensor) -> None:
    """Hold a result of oneDNN, which leaves some of them as it found them, to the truth where memory is full of NaN."""
    for _ in range(3):
        junk = [torch.full((2**power,), float("nan")) for power in range(4, 20)]
        del junk
        assert (compute().double() - true).abs().max() <= 0.02 * true.abs().max()


@pytest.mark.parametrize("sizes", [(8, 1, 3), (1, 8, 3), (8, 3, 1), (9, 2, 4), (9, 3, 4)])
@pytest.mark.parametrize("edge", [5, 7, 9])
def test_weight_gradients_in_bfloat16_are_written_whole_where_taps_always_lie_beyond(
    edge: int, sizes: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    shape, padding = torch.Size((6, 16, edge, edge, edge)), [edge // 2] * 3
    x, z = (torch.randn(1, *sizes, channels).movedim(-1, 1).bfloat16() for channels in (16, 6))
    true = convolution_weight_gradient(x.double(), z.double(), shape, padding)
    written_whole(lambda: convolution_weight_gradient(x, z, shape, padding), true)


@pytest.mark.parametrize(("edge", "rows"), [(3, 1), (3, 2), (5, 2), (5, 3), (5, 4)])
@pytest.mark.parametrize("first", [1, 2, 9])
def test_weight_gradients_in_bfloat16_are_right_where_rows_are_padded(first: int, edge: int, rows: int) -> None:
    """Else a gradient of 3 taps over 2 rows is wrong, and one of 5 that are padded by more ends the process."""
    torch.manual_seed(0)
    shape, padding = torch.Size((20, 40, edge, edge, edge)), [rows, edge // 2, edge // 2]
    sizes = (first + 2 * rows - edge + 1, 16, 4)
    if sizes[0] < 1:
        return
    x, z = torch.randn(1, first, 16, 4, 40), torch.randn(1, *sizes, 20)
    x, z = (volume.movedim(-1, 1).bfloat16() for volume in (x, z))
    true = convolution_weight_gradient(x.double(), z.double(), shape, padding)
    written_whole(lambda: convolution_weight_gradient(x, z, shape, padding), true)


@pytest.mark.parametrize(("inputs", "rank", "groups"), [(4, 1, 1), (1, 4, 1), (4, 4, 4)])
@pytest.mark.parametrize(
    ("sizes", "padding"), [((1, 12, 12), [1, 1, 1]), ((3, 12, 12), [0, 1, 1]), ((9, 9, 1), [1] * 3)]
)
@torch.no_grad()
def test_volumes_of_one_channel_in_bfloat16_are_convolved_whole(
    inputs: int, rank: int, groups: int, sizes: tuple[int, ...], padding: list[int]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, *sizes, inputs).movedim(-1, 1).bfloat16()
    weight = torch.randn(rank, inputs // groups, 3, 3, 3).bfloat16()
    true = convolve(x.double(), weight.double(), padding, groups)
    written_whole(lambda: convolve(x, weight, padding, groups), true)


@pytest.mark.parametrize("sizes", [(7, 5), (8, 5), (7, 4, 3), (6, 4, 3)])
@pytest.mark.parametrize("halo", [0, 1, 2])
@torch.no_grad()
def test_the_gradient_of_a_sample_is_that_of_its_halves(sizes: tuple[int, ...], halo: int) -> None:
    torch.manual_seed(0)
    padding, shape = [halo] + [1] * (len(sizes) - 1), torch.Size((3, 4, *[3] * len(sizes)))
    x = torch.randn(1, *sizes, 4).movedim(-1, 1)
    z = torch.randn(1, sizes[0] + 2 * halo - 2, *sizes[1:], 3).movedim(-1, 1)
    with patch.object(kernels, "_misses_onednn", lambda *_: True):
        found = convolution_weight_gradient(x, z, shape, padding)
    true = convolution_weight_gradient(x.double(), z.double(), shape, padding)
    assert (found - true).abs().max() <= 1e-5 * true.abs().max()


class Taken(TorchDispatchMode):
    """Notes in which precisions convolutions and products are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("conv", "linear", "mm")):
            self.precisions.add(args[0].dtype)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("form", [Convolution, Products])
@torch.no_grad()
def test_float16_is_taken_in_single_precision_and_rounded(form: type[SymmetricOperator]) -> None:
    torch.manual_seed(0)
    operator, x_BNC, kernel = form(2, 3), torch.randn(2, 6, 5, 9), torch.randn(3, 3, 4, 9).half()
    found = []
    for force in (torch.float16, None):
        x = Pair(x_BNC.half().float(), torch.zeros_like(x_BNC), FloatStates(force), x_BNC.dtype)
        weight = kernel.to(force or torch.float32)
        with Taken() as taken:
            z = operator.shut(operator.hidden(x, weight), x)
            u = operator.spread(z.half().to(weight.dtype), x)
            gradient = operator.weight_gradient(x, u, weight)
            operator.advance(x, u, weight)
        assert taken.precisions == {torch.float32}
        found.append((z, gradient, x.increment))
    for half, single in zip(*found, strict=True):
        assert (half - single).abs().max() <= 1e-3 * single.abs().max()


def test_many_channels_are_multiplied_and_few_or_grouped_are_convolved() -> None:
    assert isinstance(choose_operator(3, 3, 6144, 32), Products)
    assert isinstance(choose_operator(2, 3, 12800, 32), Products)
    assert isinstance(choose_operator(2, 1, 64, 32), Products)
    assert isinstance(choose_operator(3, 3, 12, 8), Convolution)
    assert isinstance(choose_operator(3, 3, 6144, 32, groups=4), Convolution)
