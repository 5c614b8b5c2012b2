"""One sum of gradients, whoever adds what first: by pieces, in any order, on one rank or on three."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.checkpoints.checkpoint import Meta, Snapshot
from pipeline.ranks.gradient_sum import GRID, LARGEST, GradientSum
from pipeline.run import Run
from pipeline.training.context import Context
from pipeline.training.loop import fit, new_segmenter
from pipeline.training.prepare import prepare
from pipeline.training.step import DivergedError, train_step
from tests.pipeline.ranks.ranks import on_ranks


def drawn(seed: int, count: int) -> list[list[Tensor]]:
    """Draw gradients of micro-batches for a matrix and a vector, over ten orders of magnitude."""
    draw = torch.Generator().manual_seed(seed)

    def one(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 10 ** (10 * torch.rand(*shape, generator=draw) - 7)

    return [[one(3, 4), one(5)] for _ in range(count)]


def model() -> nn.ParameterList:
    return nn.ParameterList([torch.zeros(3, 4), torch.zeros(5), nn.Parameter(torch.zeros(2), requires_grad=False)])


def added(gradients: list[list[Tensor]]) -> GradientSum:
    parameters = model()
    result = GradientSum(parameters)
    for pair in gradients:
        for parameter, gradient in zip(parameters, pair, strict=False):
            parameter.grad = gradient.clone()
        result.add()
        assert all(parameter.grad is None for parameter in parameters)
    return result


def finished(result: GradientSum) -> Tensor:
    result.finish()
    return torch.cat([parameter.grad.flatten() for parameter in result.parameters])


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), ranks=st.integers(1, 5), data=st.data())
def test_the_sum_is_the_same_to_the_bit_in_any_order_on_any_number_of_ranks(seed, count, ranks, data):
    gradients = drawn(seed, count)
    whole = finished(added(gradients))
    order = data.draw(st.permutations(range(count)))
    parts = [added([gradients[at] for at in order[rank::ranks]]) for rank in range(ranks)]
    first, *others = [part for part in parts if part.total is not None]
    for other in others:
        first.total += other.total  # what an all-reduce does
    assert torch.equal(finished(first), whole)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_the_sum_is_that_of_real_numbers_to_the_grid(seed, count):
    gradients = drawn(seed, count)
    exact = sum(torch.cat([part.double().flatten() for part in pair]) for pair in gradients)
    result = added(gradients)
    assert float(result.bound) >= float(exact.abs().max())
    found = finished(result).double()
    assert ((found - exact).abs() <= count * GRID / 2 + exact.abs() * 2**-24).all()
    assert found.abs().max() > 0


def test_a_gradient_beyond_the_grid_stops_before_the_weights_move():
    network = nn.Conv1d(1, 2, 1)
    nn.init.zeros_(network.weight)
    before = [weight.detach().clone() for weight in network.parameters()]
    samples = [(np.full((1, 5), 1e7, np.float32), np.zeros(5, np.int64))] * 2
    with pytest.raises(DivergedError, match=rf"the gradient has entries of .*, and {LARGEST:g} is the largest"):
        train_step(network, torch.optim.SGD(network.parameters()), samples, torch.ones(2), micro_batch=1, clip=0.0)
    assert all(torch.equal(weight, old) for weight, old in zip(network.parameters(), before, strict=True))


def fitted(run: Run, rank: int, world: int) -> dict[str, Tensor]:
    """Train from weights that differ on each rank, as those of other machines may; returns the last ones."""
    kept: list[dict[str, Tensor]] = []

    def build(run: Run) -> nn.Module:
        network = new_segmenter(run)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += rank
        return network

    def store(snapshot: Snapshot | None, meta: Meta) -> None:
        if snapshot is not None:
            kept.append(snapshot.model)

    fit(run, Context(rank=rank, world=world, store=store), build)
    return kept[-1] if kept else {}


def one_of_three(rank: int, world: int, folder: str) -> None:
    run = Run.open(folder)
    weights = fitted(run, rank, world)
    if rank == 0:
        torch.save(weights, run.folder / "three.pt")


@pytest.mark.slow
def test_three_ranks_train_to_the_weights_of_one(recipe):
    config = recipe(steps=6, batch=5, micro_batch=2, validate_every=6)
    run = prepare(replace(config, data=replace(config.data, block=[8, 8], halo=[4, 4])))
    on_ranks(one_of_three, 3, str(run.folder))
    three = torch.load(Path(run.folder) / "three.pt", weights_only=True)
    one, fresh = fitted(run, 0, 1), new_segmenter(run).state_dict()
    assert all(torch.equal(three[name], weight) for name, weight in one.items())
    assert any(not torch.equal(fresh[name], weight) for name, weight in one.items())
