import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import TrainingConfig
from pipeline.ranks.gradient_sum import GRID
from pipeline.training.step import build_optimiser, rate_factor, train_step

CLASSES = 3


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(2, CLASSES, 3, padding=1).double()


def samples(count: int, labelled: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(0)
    pairs = []
    for index in range(count):
        labels = draw.integers(0, CLASSES, (6, 5))
        labels[draw.random((6, 5)) > labelled[index]] = -1
        pairs.append((draw.normal(size=(2, 6, 5)), labels))
    return pairs


def gradients(chosen: list[tuple[np.ndarray, np.ndarray]], micro_batch: int) -> tuple[torch.Tensor, float]:
    network = model()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    result = train_step(network, optimiser, chosen, weights, micro_batch=micro_batch, clip=0.0)
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]), result.loss


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulated_gradient_is_that_of_the_whole_batch(micro_batch):
    chosen = samples(5, [0.9, 0.1, 0.5, 0.02, 1.0])
    whole, whole_loss = gradients(chosen, 5)
    parts, parts_loss = gradients(chosen, micro_batch)
    assert torch.allclose(whole, parts, rtol=1e-12, atol=5 * GRID)
    assert whole_loss == pytest.approx(parts_loss, rel=1e-12)
    assert whole.norm() > 1e-3


def test_the_step_is_weighted_cross_entropy_over_labelled_cells_only():
    chosen = samples(2, [0.3, 0.6])
    gradient, loss = gradients(chosen, 2)
    network = model()
    raw = torch.from_numpy(np.stack([pair[0] for pair in chosen]))
    target = torch.from_numpy(np.stack([pair[1] for pair in chosen]))
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    expected = nn.functional.cross_entropy(network(raw), target, weight=weights, ignore_index=-1)
    expected.backward()
    assert loss == pytest.approx(float(expected), rel=1e-12)
    assert torch.allclose(gradient, torch.cat([p.grad.flatten() for p in network.parameters()]), rtol=1e-10, atol=1e-14)


def test_gradient_is_clipped_to_the_stated_norm():
    network = model()
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()])
    weights = torch.ones(3, dtype=torch.float64)
    result = train_step(network, optimiser, samples(2, [1, 1]), weights, micro_batch=2, clip=1e-3)
    after = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert result.gradient_norm > 1e-3
    assert float((before - after).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_one_cycle_rises_and_falls_and_the_papers_drops_multiply():
    cycle = TrainingConfig(steps=100, schedule="one_cycle")
    factors = [rate_factor(step, cycle) for step in range(100)]
    assert max(factors) == factors[29] == 1.0
    assert factors[0] == pytest.approx(1 / 30)
    assert 0 < factors[-1] < 0.01
    paper = TrainingConfig(steps=480, schedule="constant", drops={120: 0.1})
    assert [rate_factor(step, paper) for step in (0, 119, 120, 479)] == [1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_each_optimiser_learns(name):
    network = model()
    recipe = TrainingConfig(steps=30, optimiser=name, rate=0.05, schedule="constant")
    optimiser, schedule = build_optimiser(network, recipe)
    weights = torch.ones(3, dtype=torch.float64)
    losses = []
    for _ in range(30):
        losses.append(train_step(network, optimiser, samples(1, [1.0]), weights, micro_batch=1, clip=5.0).loss)
        schedule.step()
    assert losses[-1] < 0.9 * losses[0]
