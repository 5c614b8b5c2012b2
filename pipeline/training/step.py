"""One optimiser step in plain torch: micro-batches, exact weighting and sums over ranks, clipping.

B batch, C channels, K classes, N the space.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from models.losses import masked_cross_entropy
from models.slab import Slab
from pipeline.config import TrainingConfig
from pipeline.ranks.gradient_sum import LARGEST, GradientSum, sum_over_ranks


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Return the factor on the learning rate at a step: schedule times drops."""
    factor = 1.0
    if config.schedule == "one_cycle":
        rise = max(1, round(0.3 * config.steps))
        if step < rise:
            factor = (step + 1) / rise
        else:
            factor = 0.5 * (1 + np.cos(np.pi * (step + 1 - rise) / (config.steps + 1 - rise)))
    for at, drop in config.drops.items():
        if step >= at:
            factor *= drop
    return float(factor)


def build_optimiser(model: nn.Module, config: TrainingConfig) -> tuple[Optimizer, LambdaLR]:
    """Make optimiser and schedule of a recipe."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser: Optimizer
    if config.optimiser == "adam":
        optimiser = torch.optim.Adam(parameters, lr=config.rate)
    elif config.optimiser == "adamw":
        optimiser = torch.optim.AdamW(parameters, lr=config.rate, weight_decay=config.weight_decay)
    else:
        optimiser = torch.optim.SGD(parameters, lr=config.rate, momentum=0.9)
    return optimiser, LambdaLR(optimiser, lambda step: rate_factor(step, config))


class DivergedError(ArithmeticError):
    """Loss or gradient are not finite, or too large; the weights are as before the step, on every rank alike."""


@dataclass(frozen=True)
class StepResult:
    """What a step showed, on all ranks."""

    loss: float  # weighted cross-entropy over the labelled cells of the global batch
    gradient_norm: float  # before clipping
    interrupted: bool  # whether any rank was asked to stop
    leaving: bool  # whether the machine of any rank is about to be taken away


def train_step(
    model: nn.Module,
    optimiser: Optimizer,
    samples: Sequence[tuple[np.ndarray, np.ndarray]],
    weights: Tensor,
    *,
    micro_batch: int,
    clip: float,
    slab: Slab | None = None,
    interrupted: bool = False,
    leaving: bool = False,
) -> StepResult:
    """Take one optimiser step on this rank's share of the global batch.

    The loss of every rank is divided by the label weight of the *global* batch, so that the gradient is that of the
    whole batch on one rank, however unevenly the labels fall, and to the bit where ranks share whole micro-batches.

    Parameters
    ----------
    model, optimiser
        Maps raw data [B, C, *N] to logits [B, K, *L]; not wrapped: the gradients are added here.
    samples, weights
        Pairs of data float32 [C, *N] and labels int16 [*L]; class weights [K], on the model's device.
    clip
        Largest norm of the gradient; 0 switches clipping off.
    slab
        Where given, the samples are this rank's slabs, and other ranks have the others.
    interrupted, leaving
        Whether this rank was asked to stop, or its machine is about to be taken away; shared with all ranks.

    Raises
    ------
    DivergedError
        On all ranks, before the optimiser moves the weights.
    """
    device, home = weights.device, getattr(model, "home", weights.device)
    host_weights = weights.cpu().numpy()
    # Whole numbers first, weights after: the label weight too has the same bits on any number of ranks.
    counts = sum((np.bincount(labels[labels >= 0], minlength=len(host_weights)) for _, labels in samples), np.zeros(1))
    *counted, stops, leaves = sum_over_ranks([*counts.tolist(), float(interrupted), float(leaving)], device)
    total = max(float(np.dot(counted, host_weights)), 1e-12)
    optimiser.zero_grad(set_to_none=True)
    gradient = GradientSum(model)
    loss_share, forward = 0.0, model if slab is None else partial(model, slab=slab)
    for start in range(0, len(samples), micro_batch):
        chosen = samples[start : start + micro_batch]
        raw_BCN = torch.from_numpy(np.stack([raw for raw, _ in chosen])).to(home)
        target_BL = torch.from_numpy(np.stack([labels for _, labels in chosen])).to(home)
        loss_sum, _ = masked_cross_entropy(forward(raw_BCN), target_BL, weights.to(home))
        (loss_sum / total).backward()
        gradient.add()
        loss_share += float(loss_sum.detach()) / total
    loss, bound = sum_over_ranks([loss_share, float(gradient.bound)], device)
    gradient.finish()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip if clip > 0 else float("inf"))
    if not (math.isfinite(loss) and math.isfinite(bound)):
        raise DivergedError(f"the loss is {loss:g} and the largest entry of its gradient {bound:g}")
    if bound > LARGEST:
        raise DivergedError(f"the gradient has entries of {bound:g}, and {LARGEST:g} is the largest that can be added")
    optimiser.step()
    return StepResult(loss, float(norm), stops > 0, leaves > 0)
