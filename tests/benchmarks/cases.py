"""The networks that are timed, and the work that a step of each cannot avoid."""

from dataclasses import dataclass, replace

import torch

from models.config import Layer, NetworkConfig, parse_layers
from models.cost import layer_shapes, training_flops
from models.network import TelegraphNetwork

OUR_STATES = 12
"""States that a layer and step must read or write: X and D in the forward pass, those of the adjoint too going back."""


@dataclass(frozen=True)
class Case:
    """A network and the size that it runs at.

    Attributes
    ----------
    name
        What it is called in tables.
    space
        Axes of space.
    channels
        Channels of the input and of its first state.
    layers
        In the notation of `models.config.parse_layers`; stages have even numbers of layers, as MemCNN pairs them.
    edge
        Cells along each axis.
    """

    name: str
    space: int
    channels: int
    layers: str
    edge: int

    def on(self, device: torch.device) -> "Case":
        """Return the case with edges four times as long on a GPU: small states would measure its launches."""
        return replace(self, edge=4 * self.edge) if device.type == "cuda" else self

    def config(self, **changes: str) -> NetworkConfig:
        """Return the network's configuration, in one of our modes."""
        return NetworkConfig(layers=self.layers, **changes)  # type: ignore[arg-type]

    def network(self, device: torch.device, **changes: str) -> TelegraphNetwork:
        """Build the network with the same weights every time."""
        torch.manual_seed(0)
        return TelegraphNetwork(self.config(**changes), self.space, self.channels).to(device)

    def volume(self, device: torch.device) -> torch.Tensor:
        """Draw the input, the same every time."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(1, self.channels, *[self.edge] * self.space, generator=generator).to(device)

    @property
    def state_bytes(self) -> int:
        """Bytes of one state in float32, the same at every level."""
        return 4 * self.channels * self.edge**self.space

    def flops(self, *, stored: bool) -> int:
        """Return the operations of a step, of ours or with `stored` activations: for 6 products ours takes 7 or 8."""
        shapes = layer_shapes(self.network(torch.device("meta")), [self.edge] * self.space)
        return training_flops(shapes, stored=stored)

    def stages(self) -> list[tuple[int, list[Layer]]]:
        """Group the layers by stage: the channels of each, and its layers."""
        found: list[tuple[int, list[Layer]]] = []
        channels = self.channels
        for layer in parse_layers(self.layers):
            if layer.resample:
                channels = channels * 2**self.space if layer.resample == "coarsen" else channels // 2**self.space
            if layer.resample or not found:
                found.append((channels, []))
            found[-1][1].append(layer)
        return found


def even_hourglass(depth: int, rank: int, levels: int) -> str:
    """Return layers that go down and up `levels` times, an even number in each stage, the rest in the coarsest."""
    stages = 2 * levels + 1
    share = 2 * (depth // (2 * stages))
    if not share or depth % 2:
        raise ValueError(f"depth {depth} has no even share in {stages} stages; take an even one from {2 * stages} on")
    coarsest = depth - share * (stages - 1)
    down, up = f"{rank}*{share}", f"u{rank}*{share}"
    if not levels:
        return down
    return " ".join([down, *[f"d{rank}*{share}"] * (levels - 1), f"d{rank}*{coarsest}", *[up] * levels])


CASES = (
    Case("2-D, C 64, r 8", 2, 64, "8*8", 192),
    Case("2-D, C 256, r 16", 2, 256, "16*6", 96),
    Case("2-D, C 200, r 8, 3 levels", 2, 200, even_hourglass(16, 8, 3), 112),
    Case("2-D, C 3200, r 8", 2, 3200, "8*4", 37),
    Case("3-D, C 12, r 8", 3, 12, "8*6", 56),
    Case("3-D, C 96, r 16", 3, 96, "16*4", 24),
    Case("3-D, C 12, r 8 to 32, 3 levels", 3, 12, "8*2 d16*2 d32*2 d32*4 u32*2 u16*2 u8*2", 48),
    Case("3-D, C 768, r 32", 3, 768, "32*4", 16),
    Case("3-D, C 6144, r 32", 3, 6144, "32*2", 8),
)
QUICK = (
    Case("2-D, C 8, r 2, 1 level", 2, 8, even_hourglass(6, 2, 1), 16),
    Case("3-D, C 64, r 2", 3, 64, "2*2", 4),
)
