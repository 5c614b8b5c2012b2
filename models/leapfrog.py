"""One layer of the chain, forwards and back, in two halves: what is read of a slab, and the step that it leads to.

Between the two, slabs that take turns add up their hidden rows (`models.shelf`). The formulas stand in `models.chain`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.activations import Pointwise
from models.arithmetic import Arithmetic
from models.config import Resample
from models.shelf import Sides
from models.symmetric import Pair, SymmetricOperator
from models.watch import Extremes, Watch
from models.wavelet import UNDO, angle_gradient, axes_in_order, resample_in_place, turn_axis


@dataclass(frozen=True)
class ChainLayer:
    """Static part of a layer: its operator, what happens to the grid before it, and the weight a = h^2 of the force.

    Where it `keeps` its hidden layer K X_j + b, the backward pass need not compute it again.
    """

    operator: SymmetricOperator
    resample: Resample
    weight: float
    keeps: bool = False


@dataclass(frozen=True)
class ChainPlan:
    """Static part of a chain, whose weights travel beside it; `watch` receives what each pass sees."""

    layers: tuple[ChainLayer, ...]
    activation: Pointwise
    repeat: int
    arithmetic: Arithmetic
    watch: Watch


def hidden(layer: ChainLayer, pair: Pair, kernel: Tensor) -> Tensor:
    """Return K x in real units, about the faces of a slab with what its neighbours have of it."""
    z, unit = layer.operator.join(layer.operator.hidden(pair, kernel), pair), pair.arithmetic.loaded_unit
    return z if unit == 1 else z.mul_(unit)


def add_bias(layer: ChainLayer, z: Tensor, bias: Tensor) -> Tensor:
    """Add b to K x in place, to rows of an image or volume, as few channels alone do not fill a vector."""
    b = layer.operator.align(bias.to(z.dtype))
    if b.dim() > 1 or z.dim() == 3 or not z.is_contiguous():
        return z.add_(b)
    z.flatten(-2).add_(b.repeat(z.shape[-2]))
    return z


def read_forward(
    layer: ChainLayer, kernel: Tensor, angles: Tensor | None, seen: Extremes | None, sides: Sides
) -> list[Tensor]:
    """Resample the states of a slab and return K X_j; `seen` receives the extremes of both."""
    (pair,) = sides
    pair.state = resample_in_place(pair.state, layer.resample, angles)
    pair.increment = resample_in_place(pair.increment, layer.resample, angles)
    pair.extremes = seen
    if seen is not None and layer.resample:
        seen.states += pair.state.aminmax()
    return [hidden(layer, pair, kernel)]


def step_forward(plan: ChainPlan, layer: ChainLayer, pair: Pair, kernel: Tensor, thin: list[Tensor]) -> None:
    """Step the states in place, from j-1 and j to j and j+1, by the `thin` z = K X_j + b, which is used up."""
    operator, force = layer.operator, plan.activation.push(thin.pop())
    force = operator.shut(force.mul_(-layer.weight / pair.arithmetic.loaded_unit), pair)
    force = operator.spread(force, pair)
    operator.advance(pair, force, kernel)


def read_back(layer: ChainLayer, kernel: Tensor, kept: list[Tensor] | None, sides: Sides) -> list[Tensor]:
    """Return K X_j, or K X_j + b where it is kept, and K l_{j+1}."""
    states, adjoint = sides
    z = kept.pop() if kept is not None and layer.keeps else hidden(layer, states, kernel)
    return [z, hidden(layer, adjoint, kernel)]


def step_back(
    plan: ChainPlan, layer: ChainLayer, sides: Sides, kernel: Tensor, thin: list[Tensor]
) -> list[Tensor | None]:
    """Step states and adjoint back in place, from j and j+1 to j-1 and j; return the gradients of kernel and bias.

    With the `thin` tensors z = K X_j + b and w = K l_{j+1}, which are used up, the force of the adjoint is
    -a K^T (s'(z) w), and the gradient of the kernel correlates X_j with s'(z) w and l_{j+1} with s(z).
    """
    states, adjoint = sides
    operator, unit = layer.operator, states.arithmetic.loaded_unit
    pushed, z = thin.pop(), thin.pop()
    plan.activation.pull(pushed, z).mul_(-layer.weight)
    bias_gradient = operator.bias_gradient(operator.own(pushed))
    # The force of the states goes in their own units, so both products for the kernel have the same unit to undo.
    force = operator.shut(plan.activation.push(z).mul_(-layer.weight / unit), states)
    del z
    force = operator.spread(force, states)
    pushed = operator.spread(operator.shut(pushed, adjoint), adjoint)
    kernel_gradient = operator.weight_gradient(states, pushed, kernel)
    kernel_gradient = kernel_gradient.add_(operator.weight_gradient(adjoint, force, kernel)).mul_(unit)
    operator.advance(states, force, kernel)
    operator.advance(adjoint, pushed, kernel)
    return [kernel_gradient, bias_gradient]


def resample_back(how: Resample, sides: Sides, angles_dC: Tensor | None) -> Tensor | None:
    """Undo a layer's resampling of states and adjoint, axis by axis; return the gradient of its angles."""
    if not how:
        return None
    pair, adjoint = sides
    space, gradient = pair.state.dim() - 2, None if angles_dC is None else torch.empty_like(angles_dC)
    for axis in reversed(axes_in_order(how, space)):
        if gradient is not None:
            found = angle_gradient(pair, adjoint, axis, how)
            gradient[axis - 1] = found.view(-1, gradient.shape[1]).sum(0)
        # The rounded turn took X_j and D_j, not X_{j-1}: that is what it is undone on.
        pair.state.sub_(pair.increment)
        for side in sides:
            side.state = turn_axis(side.state, axis, UNDO[how], angles_dC)
            side.increment = turn_axis(side.increment, axis, UNDO[how], angles_dC)
        pair.state.add_(pair.increment)
    return gradient
