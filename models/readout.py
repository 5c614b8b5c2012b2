"""Read-out: the part of the final state that is the answer.

B batch, C channels of the final state, K classes, N space of the final grid, L space of the output.
"""

from torch import Tensor, nn

from models.config import ConfigError, SegmenterConfig


class ReadOut(nn.Module):
    """Pick one slice along the axes that go, and drop the padding.

    Parameters
    ----------
    config
        Classes, the channel of each, and the space axes that go.
    channels_out, factor
        As in `TelegraphNetwork`.

    Attributes
    ----------
    read
        Channels of the final state that are read, one for each class.

    Raises
    ------
    ConfigError
        Where the state has too few channels, or `read_channels` does not name K of them.
    """

    def __init__(self, config: SegmenterConfig, channels_out: int, factor: float) -> None:
        super().__init__()
        classes, channels, repeat = len(config.classes), config.network.read_channels, config.network.repeat
        if channels_out < classes:
            enough = -(-classes * repeat // channels_out)
            raise ConfigError(
                f"the network ends with {channels_out} channels, too few for {classes} classes; "
                f"set network.repeat to {enough} or more (it is {repeat})"
            )
        different = len(channels) == len(set(channels)) == classes
        if channels and not (different and all(0 <= channel < channels_out for channel in channels)):
            raise ConfigError(
                f"network.read_channels is {channels}; name {classes} different channels, one for each class, "
                f"from 0 to {channels_out - 1}"
            )
        self.read: list[int] | slice = list(channels) or slice(classes)
        self.factor, self.read_slice = factor, dict(config.read_slice)

    def output_size(self, size: int) -> int:
        """Return the cells that an input axis of `size` cells has in the output: a coarse cell may stick out."""
        if self.factor >= 1:
            factor = int(self.factor)
            return (size + factor - 1) // factor
        return size * round(1 / self.factor)

    def output_shape(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the space of the output for the space of an input.

        `ConfigError` where a slice lies outside.
        """
        for axis, cell in self.read_slice.items():
            if cell >= sizes[axis]:
                raise ConfigError(
                    f"the output is read at cell {cell} of space axis {axis}, which has {sizes[axis]} cells; "
                    "set data.read_slice to a cell inside, and let data.block keep that axis whole"
                )
        return tuple(self.output_size(size) for axis, size in enumerate(sizes) if axis not in self.read_slice)

    def forward(self, state_BKN: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Read logits [B, K, *L] from the channels `read` of a final state, for an input of `sizes` cells."""
        for axis in range(len(sizes) - 1, -1, -1):
            if axis in self.read_slice:
                state_BKN = state_BKN.select(axis + 2, int(self.read_slice[axis] / self.factor))
            else:
                state_BKN = state_BKN.narrow(axis + 2, 0, self.output_size(sizes[axis]))
        return state_BKN
