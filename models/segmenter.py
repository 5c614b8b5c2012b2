"""The segmenter: raw data in, logits or probabilities out, with the normalisation inside.

B batch, c raw channels, K classes, N space of the input, L space of the output.
"""

import torch
from torch import Tensor, nn

from models.config import ConfigError, SegmenterConfig
from models.network import TelegraphNetwork
from models.readout import ReadOut
from models.slab import Slab
from models.watch import Watch


class Segmenter(nn.Module):
    """Normalisation, telegraph network and read-out.

    Parameters
    ----------
    config, mean, deviation
        What it is built from, and statistics of the raw data, broadcast against [c, *N].

    Attributes
    ----------
    classes, factor
        As in `SegmenterConfig` and `TelegraphNetwork`.

    Raises
    ------
    ConfigError
        Where layers, channels and classes do not fit together.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: SegmenterConfig, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.config = config
        self.classes = list(config.classes)
        channels = config.channels * (2 if config.validity else 1)
        self.network = TelegraphNetwork(config.network, config.space, channels)
        self.factor = self.network.factor
        self.readout = ReadOut(config, self.network.channels_out, self.factor)
        for name, statistic in (("mean", mean), ("deviation", deviation)):
            if statistic.dim() != config.space + 1 or statistic.shape[0] not in (1, config.channels):
                raise ConfigError(
                    f"{name} has shape {list(statistic.shape)}; it must broadcast against {config.channels} channels "
                    f"and {config.space} space axes"
                )
            self.register_buffer(name, statistic.detach().clone())

    @property
    def watch(self) -> Watch:
        """What the network's passes saw of their own exactness."""
        return self.network.watch

    @property
    def home(self) -> torch.device:
        """Where raw data are wanted and logits come out: beside the weights, or on the host if slabs take turns."""
        return self.mean.device if self.network.stream is None else torch.device("cpu")

    @property
    def uncut(self) -> list[int]:
        """Space axes only ever seen whole: the output lacks them, or each of their cells has its own scale."""
        scaled = [max(self.mean.shape[axis], self.deviation.shape[axis]) > 1 for axis in range(1, self.mean.dim())]
        return [axis for axis, own in enumerate(scaled) if own or axis in self.config.read_slice]

    def output_shape(self, space: tuple[int, ...]) -> tuple[int, ...]:
        """Return the space of the logits for an input of `space` cells.

        `ConfigError` where the sizes do not suit the network, or the output is read outside of them.
        """
        self.network.check_sizes(space)
        return self.readout.output_shape(space)

    def normalise(self, raw_BcN: Tensor) -> Tensor:
        """Scale raw data to mean 0 and deviation 1; no data (NaN) becomes 0, and validity channels are appended."""
        missing = torch.isnan(raw_BcN)
        mean, deviation = self.mean, self.deviation
        if mean.device != raw_BcN.device:
            mean, deviation = mean.to(raw_BcN.device), deviation.to(raw_BcN.device)
        x_BcN = ((raw_BcN - mean) / deviation).masked_fill(missing, 0.0)
        if self.config.validity:
            x_BcN = torch.cat([x_BcN, (~missing).to(x_BcN.dtype)], dim=1)
        return x_BcN

    def slabs(self, size: int, count: int) -> list[slice]:
        """Cut the first axis of space into slabs that ranks run together; see `TelegraphNetwork.slabs`.

        `ConfigError` where that axis is only ever seen whole, or slabs do not suit the network.
        """
        if count > 1 and 0 in self.uncut:
            raise ConfigError(
                f"the first axis of space cannot be cut into {count} slabs: the labels lack it, or each of its cells "
                "has its own scale; put another one first in data.space"
            )
        return self.network.slabs(size, count)

    def forward(self, raw_BcN: Tensor, slab: Slab | None = None) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        raw_BcN
            Raw data [B, c, *N]; NaN where there is none.
        slab
            Where given, the data are one of the `slabs` of a volume, and so are the logits.

        Returns
        -------
        Tensor
            Logits [B, K, *L]; L lacks the axes of `read_slice` and counts coarse cells where the output is coarser.

        Raises
        ------
        ConfigError
            Where the channels or sizes do not suit the network.
        """
        if raw_BcN.dim() != self.config.space + 2 or raw_BcN.shape[1] != self.config.channels:
            raise ConfigError(
                f"the network takes [batch, {self.config.channels} channels, {self.config.space} space axes]; "
                f"the data has shape {list(raw_BcN.shape)}"
            )
        sizes = tuple(raw_BcN.shape[2:])
        self.output_shape(sizes)
        return self.readout(self.network(self.normalise(raw_BcN), self.readout.read, slab), sizes)

    def probabilities(self, raw_BcN: Tensor, slab: Slab | None = None) -> Tensor:
        """Compute class probabilities [B, K, *L] from raw data [B, c, *N]; `slab` as for logits."""
        return self(raw_BcN, slab).softmax(dim=1)
