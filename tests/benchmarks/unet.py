"""MONAI's U-Net as a twin of a segmenter: the same inputs and outputs, about as many parameters.

B batch, C raw channels, K classes, N space of the data, L space of the labels.
"""

import bisect
import math

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import SegmenterConfig
from models.segmenter import Segmenter
from pipeline.run import Run

LEVELS = 4
"""Resolutions of the U-Net, each half the one before."""


def unet(space: int, channels: int, classes: int, width: int) -> UNet:
    """Make the U-Net of a width: two residual units a level, batch norm."""
    return UNet(
        spatial_dims=space,
        in_channels=channels,
        out_channels=classes,
        channels=[width * factor for factor in (1, 2, 4, 6)],
        strides=[2] * (LEVELS - 1),
        num_res_units=2,
        norm="batch",
    )


def size_of(network: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def nearest_width(space: int, channels: int, classes: int, parameters: int) -> int:
    """Find the width, 4 or more, whose U-Net comes closest in ratio to a number of parameters, by bisection."""
    widths = range(4, 1025)

    def excess(width: int) -> float:
        with torch.device("meta"):
            return math.log(size_of(unet(space, channels, classes, width)) / parameters)

    above = bisect.bisect_left(widths, 0.0, key=excess)
    return min((widths[at] for at in (above - 1, above) if 0 <= at < len(widths)), key=lambda width: abs(excess(width)))


class UNetTwin(nn.Module):
    """A U-Net behind the normalisation of a segmenter.

    Axes of space that the labels lack become channels, as a U-Net cannot drop a dimension.

    Parameters
    ----------
    config
        The segmenter to compare with.
    mean, deviation
        Statistics of the raw data, broadcast against [C, *N].
    sizes
        Cells along each axis of space.
    parameters
        Number of parameters to come close to.
    """

    mean: Tensor
    deviation: Tensor
    factor = 1

    def __init__(
        self, config: SegmenterConfig, mean: Tensor, deviation: Tensor, sizes: tuple[int, ...], parameters: int
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.validity = config.validity
        self.gone = sorted(config.read_slice)
        channels = config.channels * (2 if config.validity else 1) * math.prod(sizes[axis] for axis in self.gone)
        space = config.space - len(self.gone)
        width = nearest_width(space, channels, len(config.classes), parameters)
        self.unet = unet(space, channels, len(config.classes), width)

    def forward(self, raw: Tensor) -> Tensor:
        """Map raw data [B, C, *N] with NaN for no data to logits [B, K, *L]."""
        missing = torch.isnan(raw)
        x = ((raw - self.mean) / self.deviation).masked_fill(missing, 0.0)
        if self.validity:
            x = torch.cat([x, (~missing).to(x.dtype)], dim=1)
        front = [2 + axis for axis in self.gone]
        x = x.permute(0, 1, *front, *(axis for axis in range(2, x.dim()) if axis not in front))
        x = x.flatten(1, 1 + len(front))
        step = 2 ** (LEVELS - 1)
        room = [amount for size in reversed(x.shape[2:]) for amount in (0, -size % step)]
        logits = self.unet(F.pad(x, room))
        return logits[(..., *(slice(size) for size in x.shape[2:]))]


def unet_twin(run: Run) -> UNetTwin:
    """Make the twin of a run's segmenter, with weights from the run's seed."""
    prepared = run.prepared
    mean, deviation = torch.from_numpy(prepared.mean), torch.from_numpy(prepared.deviation)
    size = size_of(Segmenter(prepared.segmenter, mean, deviation))
    torch.manual_seed(run.config.training.seed)
    return UNetTwin(prepared.segmenter, mean, deviation, run.volume.shape, size)
