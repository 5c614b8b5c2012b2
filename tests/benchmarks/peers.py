"""The nearest residual networks of equal work in the published reversible libraries, where they are installed.

They couple two halves of C channels each, y_1 = x_2, y_2 = x_1 + F(x_2), with F = C -> r -> C by two convolutions: a
half-step costs what a layer of ours costs, and the two halves are as large as our two states. Install them by
``pip install --no-deps -r tests/benchmarks/peers.txt``.

B batch, C channels of a half, N space.
"""

import importlib.util
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from models.config import Resample
from tests.benchmarks.cases import Case
from tests.benchmarks.haar import haar

PEERS = {"memcnn": "MemCNN 1.5.2", "revlib": "RevLib 1.7.2", "iunets": "iUNets 0.1"}
_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_UNDO: dict[Resample, Resample] = {"": "", "coarsen": "refine", "refine": "coarsen"}


def installed() -> list[str]:
    """Return the peers that can be imported."""
    needs = {"memcnn": ["memcnn"], "revlib": ["revlib"], "iunets": ["iunets", "memcnn"]}
    return [name for name in PEERS if all(importlib.util.find_spec(module) for module in needs[name])]


def missing() -> str:
    """Say which peers are not installed, and how they are; empty where none is missing."""
    absent = [label for name, label in PEERS.items() if name not in installed()]
    how = "pip install --no-deps -r tests/benchmarks/peers.txt"
    return f"missing: {', '.join(absent)}; {how}" if absent else ""


class Residual(nn.Module):
    """F: convolution C -> r, ReLU, convolution r -> C, starting gently in deep networks; computed in any precision."""

    def __init__(self, space: int, channels: int, rank: int, depth: int, force_dtype: torch.dtype | None) -> None:
        super().__init__()
        self.down = _CONVOLUTION[space](channels, rank, 3, padding=1)
        self.up = _CONVOLUTION[space](rank, channels, 3, padding=1, bias=False)
        self.force_dtype = force_dtype
        with torch.no_grad():
            self.up.weight.mul_(1 / math.sqrt(depth))

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return F(x) in the precision of x."""
        if self.force_dtype is None:
            return self.up(torch.relu(self.down(x_BCN)))
        with torch.autocast(x_BCN.device.type, dtype=self.force_dtype):
            return self.up(torch.relu(self.down(x_BCN))).to(x_BCN.dtype)


class Haar(nn.Module):
    """Coarsen or refine two halves that lie one behind the other in the channels."""

    def __init__(self, how: Resample) -> None:
        super().__init__()
        self.how = how

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Resample both halves."""
        return _halves(x_BCN, self.how)

    def inverse(self, x_BCN: Tensor) -> Tensor:
        """Undo it."""
        return _halves(x_BCN, _UNDO[self.how])


def _halves(x_BCN: Tensor, how: Resample) -> Tensor:
    return torch.cat([haar(half, how) for half in x_BCN.chunk(2, dim=1)], dim=1)


class Peer(nn.Module):
    """A peer's network behind one door: doubles its input, runs, and can invert itself.

    Attributes
    ----------
    body
        The peer's own modules.
    library
        Its name in `PEERS`.
    """

    def __init__(self, library: str, body: Any) -> None:
        super().__init__()
        self.library = library
        self.body: Any = body

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Run both halves, which start as the input; returns the newer half and the older."""
        both_BCN = torch.cat([x_BCN, x_BCN], dim=1)
        if self.library == "revlib" and torch.is_grad_enabled():
            both_BCN.requires_grad_()  # its layers see no weights that need gradients
        return self.body(both_BCN)

    @torch.no_grad()
    def inverse(self, y_BCN: Tensor) -> Tensor:
        """Recover the two halves of the input by the library's own inverse; overwrites nothing."""
        y_BCN = y_BCN.clone()
        if self.library == "iunets" and not isinstance(self.body, nn.Sequential):
            return self.body.inverse(y_BCN)
        for stage in reversed(list(self.body)):
            if self.library == "revlib" and not isinstance(stage, Haar):
                first, second = y_BCN.chunk(2, dim=1)
                for module in reversed(list(stage)):
                    first, second = module.wrapped_module.inverse(first, second), first
                y_BCN = torch.cat([first, second], dim=1)
            else:
                y_BCN = stage.inverse(y_BCN)
        return y_BCN


def build(name: str, case: Case, *, force_dtype: torch.dtype | None = None, stored: bool = False) -> Peer:
    """Build a peer's network of as many layers, channels and operations as a case has.

    Parameters
    ----------
    name
        One of `PEERS`.
    case
        What to equal; its stages have even numbers of layers.
    force_dtype
        Precision of F; none means that of the input.
    stored
        Store activations as plain autograd does, for reference gradients.
    """
    torch.manual_seed(0)
    depth = sum(len(layers) for _, layers in case.stages())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers greet a newer torch with deprecations
        if name == "iunets":
            return Peer(name, _iunet(case, depth, force_dtype, stored))
        parts: list[nn.Module] = []
        for channels, layers in case.stages():
            if layers[0].resample:
                transform = Haar(layers[0].resample)
                parts.append(_wrapped(transform, stored) if name == "memcnn" else transform)
            forces = [Residual(case.space, channels, layer.rank, depth, force_dtype) for layer in layers]
            parts += _memcnn(forces, stored) if name == "memcnn" else [_revlib(forces, stored)]
        return Peer(name, nn.Sequential(*parts))


def _wrapped(module: nn.Module, stored: bool) -> nn.Module:
    from memcnn import InvertibleModuleWrapper

    return InvertibleModuleWrapper(module, keep_input=False, disable=stored)


def _memcnn(forces: list[Residual], stored: bool) -> list[nn.Module]:
    from memcnn import AdditiveCoupling

    pairs = zip(forces[::2], forces[1::2], strict=True)
    return [_wrapped(AdditiveCoupling(first, second), stored) for first, second in pairs]


def _revlib(forces: list[Residual], stored: bool) -> nn.Module:
    import revlib

    mode = revlib.MemoryModes.no_savings if stored else revlib.MemoryModes.autograd_function
    return revlib.ReversibleSequential(*forces, memory_mode=mode)


def _iunet(case: Case, depth: int, force_dtype: torch.dtype | None, stored: bool) -> nn.Module:
    """Build an iUNet, whose coarser levels keep some channels back: there the rank is raised to equal operations.

    It refuses to have one level only; its coupling layers in a row stand for it then.
    """
    from iunets import iUNet
    from iunets.layers import StandardAdditiveCoupling

    stages = case.stages()
    levels = stages[: len(stages) // 2 + 1]

    def couple(channels: int, **place: Any) -> nn.Module:
        wide, layers = levels[place.get("level", 0)]
        rank = round(layers[0].rank * wide / (channels // 2))
        force = Residual(case.space, channels // 2, rank, depth, force_dtype)
        return StandardAdditiveCoupling(force, channels // 2)

    if len(levels) == 1:
        return nn.Sequential(*[_wrapped(couple(2 * case.channels), stored) for _ in range(depth)])
    counts = [len(layers) for _, layers in levels]
    return iUNet(
        2 * case.channels,
        tuple([*counts[:-1], counts[-1] // 2]),
        case.space,
        create_module_fn=couple,
        learnable_resampling=False,
        channel_mixing_freq=depth + 1,  # never: our layers mix channels already
        padding_mode=None,
        disable_custom_gradient=stored,
        verbose=0,
    )
