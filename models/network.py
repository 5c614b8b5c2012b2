"""The telegraph network: weights, padding, and the chain that runs the layers.

B batch, c input channels, C state channels, N space, r rank.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.activations import ACTIVATIONS
from models.arithmetic import choose_arithmetic
from models.boundary import reflected
from models.chain import Channels, run
from models.config import Boundary, ConfigError, NetworkConfig, parse_layers
from models.convolution import Convolution
from models.leapfrog import ChainLayer, ChainPlan
from models.products import Products
from models.slab import Slab, cut_slabs
from models.stream import Parts, Stream
from models.symmetric import SymmetricOperator
from models.unrolled import unrolled
from models.watch import Watch
from models.winograd import WinogradConvolution


def choose_operator(
    space: int, edge: int, channels: int, rank: int, *, boundary: Boundary = "zeros", groups: int = 1
) -> SymmetricOperator:
    """Choose the faster form for a layer of C state channels and rank r, whose kernel has T = edge^space taps.

    Products handle T r thin planes beside the C of the state, so they pay where planes are few. Measured on CPU cores
    with AVX-512: products take 0.7 of the convolutions' time at T r / C = 0.36 (2-D, 200 channels, rank 8), 1.2 at 1.4
    (rank 32), 0.5 at 0.14 (3-D, 6144 channels, rank 32). Only convolutions have groups.
    """
    if groups == 1 and 2 * edge**space * rank <= channels:
        return Products(space, edge, boundary)
    volume = (space, edge, boundary, groups) == (3, 3, "zeros", 1)
    return (WinogradConvolution if volume else Convolution)(space, edge, boundary, groups)


def keep_hidden(layers: Sequence[ChainLayer], kernels: Iterable[Tensor], most: float) -> tuple[ChainLayer, ...]:
    """Let layers keep their hidden layers, `most` numbers in all for each of a state.

    The last first, as the peak has it, then wide kernels, where a number saves most, the later first.
    """
    chosen, shapes, taken = list(layers), [kernel.shape for kernel in kernels], 0.0
    end = len(layers) - 1
    for at in sorted(range(end + 1), key=lambda at: (at < end, -shapes[at].numel() // shapes[at][-2], -at)):
        rank, per_group = shapes[at][-2:]
        taken_then = taken + rank / (per_group * layers[at].operator.groups)  # states are equally large
        if taken_then <= most + 1e-9:
            chosen[at], taken = replace(layers[at], keeps=True), taken_then
    return tuple(chosen)


class TelegraphNetwork(nn.Module):
    """Telegraph layers over 1, 2 or 3 space axes, invertible end to end.

    Parameters
    ----------
    config, space, channels
        Layers and their settings, number of space axes d, and input channels c.

    Attributes
    ----------
    channels_out, factor
        Channels of the final state, whose grid is coarser than the input's by this; below 1 it is finer.
    multiple
        Sizes of the padded grid are multiples of this.
    stream
        Where set, inputs that are not a slab pass through the device of the weights in turns, and may lie elsewhere.

    Notes
    -----
    The precision of the force is `NetworkConfig.force_dtype`: `torch.autocast` around the network changes no bit,
    because the backward pass computes the forces again, and runs outside of autocast.

    A second run has the same bits on the CPU with as many threads, and on CUDA, where both passes choose cuDNN's
    deterministic kernels. A force in float32 is never computed in TF32 there.

    The backward pass can be taken once for each forward pass and has no derivatives of its own. `torch.compile` leaves
    the network to its own code, by a graph break; `torch.export` gets the layers of `models.unrolled`.

    Raises
    ------
    ConfigError
        Where layers refine further than the channels allow.
    """

    def __init__(self, config: NetworkConfig, space: int, channels: int) -> None:
        super().__init__()
        self.config, self.space, self.channels = config, space, channels
        bands = 2**space
        layers = parse_layers(config.layers)
        state_channels, level, deepest = channels * config.repeat, 0, 0
        plan: list[ChainLayer] = []
        self.kernels, self.biases, self.angles = nn.ParameterList(), nn.ParameterList(), nn.ParameterDict()
        for number, layer in enumerate(layers, start=1):
            if layer.resample == "coarsen":
                state_channels, level = state_channels * bands, level + 1
            elif layer.resample == "refine":
                if state_channels % bands:
                    step = bands // math.gcd(state_channels, bands)
                    raise ConfigError(
                        f"network.layers: layer {number} refines a state of {state_channels} channels, which "
                        f"{bands} does not divide; set network.repeat to {config.repeat * step}, "
                        "or refine no more often than you coarsen"
                    )
                state_channels, level = state_channels // bands, level - 1
            deepest = max(deepest, level)
            edge, per_group = 1 if layer.pointwise else config.kernel, state_channels // layer.groups
            if state_channels % layer.groups:
                raise ConfigError(
                    f"network.layers: layer {number} has {state_channels} channels, which {layer.groups} groups do "
                    "not divide; change its groups, or network.repeat"
                )
            operator = choose_operator(
                space, edge, state_channels, layer.rank, boundary=config.boundary, groups=layer.groups
            )
            plan.append(ChainLayer(operator, layer.resample, config.steps[number - 1] ** 2))
            if layer.resample and config.coarsening == "learned":
                finer = state_channels // bands if layer.resample == "coarsen" else state_channels
                self.angles[str(number - 1)] = nn.Parameter(torch.zeros(space, finer))
            deviation = config.init_gain / math.sqrt(per_group * edge**space * len(layers))
            shape = (*[edge] * space, layer.rank, per_group)
            self.kernels.append(nn.Parameter(torch.randn(shape) * deviation))
            self.biases.append(nn.Parameter(torch.zeros(layer.rank)))
        self.channels_out = state_channels
        self.factor = 2.0**level
        self.multiple = 2**deepest
        self.stream: Stream | None = None
        self.watch = Watch(exact=config.exact)
        self.plan = ChainPlan(
            layers=keep_hidden(plan, self.kernels, config.kept_hidden),
            activation=ACTIVATIONS[config.activation],
            repeat=config.repeat,
            arithmetic=choose_arithmetic(config),
            watch=self.watch,
        )

    @property
    def inversion_error(self) -> Tensor | None:
        """`Watch.error`, None before the first backward pass."""
        return self.watch.error

    def parameters_in_order(self) -> list[Tensor | None]:
        """Return kernel, bias and angles (or none) of each layer in turn, as the chain takes them."""
        angles = [self.angles.get(str(at)) for at in range(len(self.kernels))]
        return [tensor for layer in zip(self.kernels, self.biases, angles, strict=True) for tensor in layer]

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Refuse a grid that the coarsenings do not divide, where the configuration says so.

        `ConfigError` names the nearest sizes that work.
        """
        if len(sizes) != self.space:
            raise ConfigError(f"sizes {list(sizes)} have {len(sizes)} axes; the network convolves over {self.space}")
        if self.config.padding == "refuse" and any(size % self.multiple for size in sizes):
            below = [max(size // self.multiple, 1) * self.multiple for size in sizes]
            above = self.padded_sizes(sizes)
            raise ConfigError(
                f"sizes {list(sizes)} are not multiples of {self.multiple}, which network.layers needs; the nearest "
                f"that work are {below} and {above}, or set network.padding to reflect, replicate or zeros"
            )

    def padded_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Return the sizes of the grid that an input is padded to."""
        return [(size + self.multiple - 1) // self.multiple * self.multiple for size in sizes]

    def pad(self, x_BcN: Tensor) -> Tensor:
        """Pad each axis at its far end to the next multiple of `multiple`, in the configured way."""
        if self.config.padding == "refuse" or self.multiple == 1:
            return x_BcN
        sizes = x_BcN.shape[2:]
        padded = self.padded_sizes(sizes)
        if not torch.compiler.is_exporting() and list(sizes) == padded:
            return x_BcN
        if self.config.padding == "zeros":
            ends = [end for size, goal in zip(sizes, padded, strict=True) for end in (goal - size, 0)]
            return F.pad(x_BcN, ends[::-1])
        for axis, (size, goal) in enumerate(zip(sizes, padded, strict=True), start=2):
            cells = torch.arange(goal, device=x_BcN.device)
            repeats = self.config.padding == "replicate"
            x_BcN = x_BcN.index_select(axis, cells.clamp(max=size - 1) if repeats else reflected(cells, size))
        return x_BcN

    def slabs(self, size: int, count: int) -> list[slice]:
        """Cut the first axis of space, of `size` cells, into slabs that as many ranks run together.

        `ConfigError` where they would be so thin that more than neighbours meet, or the boundary is not one of zeros.
        """
        if count > 1 and self.config.boundary != "zeros":
            raise ConfigError(
                f"network.boundary is {self.config.boundary}, but a volume in {count} slabs ends in zeros; set it to "
                "zeros, or train without slabs"
            )
        # Rows about a face take from two slabs only, and what the last one is padded with lies in itself.
        least = max(self.config.kernel - 1, 2) * self.multiple
        most = max(self.padded_sizes([size])[0] // least, 1)
        if count > most:
            raise ConfigError(
                f"{size} cells of the first axis of space are too few for {count} slabs: each needs {least} of them, "
                f"as the layers coarsen by {self.multiple}; take at most {most}, or put a longer axis first"
            )
        return cut_slabs(size, count, self.multiple)

    def forward(self, x_BcN: Tensor, channels: Channels | None = None, slab: Slab | None = None) -> Tensor:
        """Run all layers.

        Parameters
        ----------
        x_BcN
            Input [B, c, *N].
        channels
            Channels of the final state that are wanted, to save the memory of the others; none means all.
        slab
            Where given, the input is this one of the `slabs` of a volume, whose others run on other ranks meanwhile.

        Returns
        -------
        Tensor
            Final state [B, C_out or as many as `channels`, *N_out] on the padded grid.

        Raises
        ------
        ConfigError
            Where the sizes do not suit the layers.
        GridOverflowError
            Where exact states leave their grid.
        """
        self.check_sizes(x_BcN.shape[2:])
        x_BcN = self.pad(x_BcN)
        parameters = self.parameters_in_order()
        if torch.compiler.is_exporting():
            state_BCN = unrolled(self.plan, x_BcN, parameters)
            return state_BCN if channels is None else state_BCN[:, channels]
        return run(self.plan, x_BcN, parameters, channels, self._parts(x_BcN.shape[2], slab))

    def _parts(self, size: int, slab: Slab | None) -> Parts:
        if self.stream is None or slab is not None:
            return Parts([slice(None)], slab)
        return Parts(self.slabs(size, self.stream.slabs), scratch=self.stream.scratch)
