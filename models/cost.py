"""What a network costs before it runs: shapes, parameters and floating-point operations of every layer. No data.

B batch, N space (d axes), C channels, r rank, T taps of a kernel, g groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.chain import with_weights
from models.config import Resample
from models.network import TelegraphNetwork
from models.symmetric import SymmetricOperator

FORWARD_PRODUCTS = 2
"""Products of a layer's size in a forward pass: K x, and K^T of what comes out of the activation."""
BACKWARD_PRODUCTS = 6
"""Of a backward pass: both of the state again, both of the adjoint, two for the kernel; one less where z is known."""
STORED_BACKWARD_PRODUCTS = 4
"""Those of a backward pass that has stored all activations: input and kernel of both products."""


@dataclass(frozen=True)
class LayerShape:
    """Static shape of one layer at work: a `ChainLayer`'s, its grid, C, r, and the learned angles of its resampling."""

    operator: SymmetricOperator
    resample: Resample
    keeps: bool
    sizes: tuple[int, ...]
    channels: int
    rank: int
    angles: int

    @property
    def cells(self) -> int:
        """Cells of the grid."""
        return math.prod(self.sizes)

    @property
    def taps(self) -> int:
        """Cells T of the kernel."""
        return int(self.operator.edge**self.operator.space)

    @property
    def kernel(self) -> int:
        """Weights of the kernel."""
        return self.taps * self.rank * self.channels // self.operator.groups

    @property
    def parameters(self) -> int:
        """Weights of kernel, bias and angles."""
        return self.kernel + self.rank + self.angles

    @property
    def full_kernel(self) -> int:
        """Weights of the kernel C -> C that a network without compression would have."""
        return self.taps * self.channels**2

    def flops(self, batch: int, products: int = FORWARD_PRODUCTS) -> int:
        """Return the operations, two for each multiplication with its addition, of some products of this layer's size.

        As PyTorch counts them, for direct convolutions: cells that are zero beyond the volume count too.
        """
        return products * 2 * batch * self.cells * self.kernel


def layer_shapes(network: TelegraphNetwork, sizes: Sequence[int]) -> list[LayerShape]:
    """Follow the grid of an input of `sizes` cells, before padding, through all layers; meta weights are enough.

    `ConfigError` where the sizes do not suit the layers.
    """
    network.check_sizes(sizes)
    grid, shapes = network.padded_sizes(sizes), []
    for layer, kernel, _, angles in with_weights(network.plan, network.parameters_in_order()):
        if layer.resample:
            grid = [size // 2 if layer.resample == "coarsen" else size * 2 for size in grid]
        rank, per_group = kernel.shape[-2:]
        channels, learned = per_group * layer.operator.groups, 0 if angles is None else angles.numel()
        shapes.append(LayerShape(layer.operator, layer.resample, layer.keeps, tuple(grid), channels, rank, learned))
    return shapes


def parameter_count(shapes: Sequence[LayerShape]) -> int:
    """Count the weights of all layers."""
    return sum(shape.parameters for shape in shapes)


def prediction_flops(shapes: Sequence[LayerShape], batch: int = 1) -> int:
    """Count the operations of a forward pass."""
    return sum(shape.flops(batch) for shape in shapes)


def training_flops(shapes: Sequence[LayerShape], batch: int = 1, *, stored: bool = False) -> int:
    """Count the operations of a forward and a backward pass, ours or one with `stored` activations."""
    return sum(
        shape.flops(batch, FORWARD_PRODUCTS + (STORED_BACKWARD_PRODUCTS if stored else BACKWARD_PRODUCTS - shape.keeps))
        for shape in shapes
    )
