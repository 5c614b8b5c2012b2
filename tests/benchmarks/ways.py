"""The ways to take a training step that are compared, all of the same network with the same weights, and peers.

B batch, C channels, N space. Channels-first stands for what a user writes with PyTorch's convolutions and no more.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from models.chain import repeated
from models.config import parse_layers
from models.network import TelegraphNetwork
from models.unrolled import unrolled, unrolled_step
from tests.benchmarks import peers
from tests.benchmarks.cases import Case
from tests.benchmarks.haar import haar

_CONVOLVE = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
READ = 4
"""Channels of the output that the loss sees."""

WAYS = {
    "ours": "ours, float32",
    "ours-exact-bf16": "ours, exact, bf16 force",
    "ours-exact": "ours, exact, float32 force",
    "plain": "plain autograd, same operator",
    "plain-bf16": "plain autograd, bf16 force",
    "conventional": "plain autograd, channels-first convolutions",
    "checkpoint": "torch checkpoint, every layer",
    "segments": "torch checkpoint, √depth segments",
    "selective": "torch selective checkpoint",
}
ON_CUDA = {"plain-tf32": "plain autograd, TF32 as PyTorch sets it"}
"""Ways that differ from others on a GPU only: the others, and ours, convolve float32 as float32."""
OURS: dict[str, dict[str, str]] = {
    "ours": {},
    "ours-exact-bf16": {"force_dtype": "bfloat16"},
    "ours-exact": {"states": "exact"},
}


@dataclass(frozen=True)
class Way:
    """One way to run a network.

    Attributes
    ----------
    module
        Holds the weights.
    forward
        From the input [B, c, *N] to at least the channels that the loss reads.
    tf32
        Whether cuDNN may round float32 to 10 bits.
    """

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    tf32: bool = False

    def loss(self, x_BcN: Tensor) -> Tensor:
        """Return a loss on the channels that are read."""
        return self.forward(x_BcN)[:, :READ].float().square().mean()

    def train(self, x_BcN: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Take a forward pass, a backward pass and the optimiser's step."""
        optimiser.zero_grad(set_to_none=True)
        torch.backends.cudnn.allow_tf32 = self.tf32
        try:
            self.loss(x_BcN).backward()
        finally:
            torch.backends.cudnn.allow_tf32 = False
        optimiser.step()


def make(name: str, case: Case, device: torch.device) -> Way:
    """Build one of `WAYS`, or of the peers that are installed."""
    if name in peers.PEERS:
        net = peers.build(name, case).to(device)
        return Way(net, net)
    network = case.network(device, **OURS.get(name, {}))
    if name == "plain-bf16":
        network = case.network(device, force_dtype="bfloat16", states="float")
    if name in OURS:
        return Way(network, functools.partial(network, channels=slice(READ)))
    if name in ("plain", "plain-bf16", "plain-tf32"):
        tf32 = name == "plain-tf32"
        return Way(network, lambda x: unrolled(network.plan, x, network.parameters_in_order()), tf32)
    if name == "conventional":
        conventional = Conventional(network)
        return Way(conventional, conventional)
    segment = math.isqrt(len(network.plan.layers)) if name == "segments" else 1
    context = functools.partial(create_selective_checkpoint_contexts, _keep_thin) if name == "selective" else None
    return Way(network, functools.partial(checkpointed, network, segment=segment, context=context))


def checkpointed(
    network: TelegraphNetwork, x_BcN: Tensor, segment: int, context: Callable[[], tuple[Any, Any]] | None = None
) -> Tensor:
    """Run the layers out of place, each segment of layers recomputed in the backward pass from its stored input.

    Between segments go the two newest states, and a state is handed on as it is, so that neighbours share what they
    store: one state a layer for segments of one layer.
    """
    plan, weights = network.plan, list(zip(network.kernels, network.biases, strict=True))

    def run(start: int, previous: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer, (kernel, bias) in list(zip(plan.layers, weights, strict=True))[start : start + segment]:
            newest, increment = unrolled_step(plan, layer, x, x - previous, kernel, bias, None)
            previous, x = newest - increment if layer.resample else x, newest
        return previous, x

    previous = x = repeated(x_BcN, plan.repeat)
    how: dict[str, Any] = {
        "use_reentrant": False,
        "preserve_rng_state": False,
        "context_fn": context or noop_context_fn,
    }
    for start in range(0, len(weights), segment):
        previous, x = checkpoint(run, start, previous, x, **how)
    return x.movedim(-1, 1)


def _keep_thin(_context: Any, op: Any, *arguments: Any, **_keywords: Any) -> CheckpointPolicy:
    """Keep what a convolution C -> r returns, which is thin and dear; compute all else again."""
    if op is torch.ops.aten.convolution.default and arguments[1].shape[0] < arguments[1].shape[1]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


class Conventional(nn.Module):
    """The telegraph network as one would write it with PyTorch's convolutions: two states, channels first."""

    def __init__(self, network: TelegraphNetwork) -> None:
        super().__init__()
        self.layers, self.space, self.repeat = parse_layers(network.config.layers), network.space, network.config.repeat
        self.steps = network.config.steps
        self.weights = nn.ParameterList(
            nn.Parameter(kernel.detach().movedim((-2, -1), (0, 1)).clone(memory_format=torch.contiguous_format))
            for kernel in network.kernels
        )
        self.biases = nn.ParameterList(nn.Parameter(bias.detach().clone()) for bias in network.biases)

    def forward(self, x_BcN: Tensor) -> Tensor:
        """Run all layers; returns the newest state."""
        previous = current = torch.cat([x_BcN] * self.repeat, dim=1)
        for layer, step, weight, bias in zip(self.layers, self.steps, self.weights, self.biases, strict=True):
            previous, current = haar(previous, layer.resample), haar(current, layer.resample)
            hidden = F.relu(_CONVOLVE[self.space](current, weight, bias, padding=1))
            force = _TRANSPOSE[self.space](hidden, weight, padding=1)
            previous, current = current, 2 * current - previous - step**2 * force
        return current
