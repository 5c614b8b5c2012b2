"""Configurations of the data side: which volume, how it is cut, how a synthetic one is made. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal

from datasets.errors import InputError


@dataclass
class DataConfig:
    """Which volume a network sees, and how its dimensions become space and channels.

    Attributes
    ----------
    source
        Path or URI of a converted volume (Zarr).
    space
        Dimensions that the network convolves over, in order, for example ``[inline, crossline, depth]``. All other
        dimensions of the data become channels.
    read_slice
        For each space dimension that the labels do not have, the cell at which the network's output is read
        (paper: band 38). Default: the middle.
    validity
        Whether the no-data mask is appended as channels of its own (1 valid, 0 not).
    keep
        Dimensions whose entries are each normalised by themselves, for example ``[band]``. Default: the channel
        dimensions. Everything else shares one mean and deviation.
    block
        Size of the training blocks along `space`, in cells; none means the whole volume in one piece.
    """

    source: str = ""
    space: list[str] = field(default_factory=list)
    read_slice: dict[str, int] = field(default_factory=dict)
    validity: bool = False
    keep: list[str] | None = None
    block: list[int] | None = None

    def __post_init__(self) -> None:
        if len(self.space) > 3 or len(set(self.space)) != len(self.space):
            raise InputError(f"data.space is {self.space}; name one to three different dimensions")
        if self.block is not None and len(self.block) != len(self.space):
            raise InputError(f"data.block is {self.block}; give one size for each of data.space {self.space}")


@dataclass
class SplitConfig:
    """How the labels are divided into training, validation and test by space.

    Attributes
    ----------
    method
        ``blocks``: square blocks of the map, dealt to the three parts so that each class is spread over them.
        ``wells``: columns within `radius` of the volume's wells train and validate, all others test.
    dims
        Dimensions of the map that is divided. Default: the labels' dimensions without depth, time or band.
    block
        Edge of a block, in cells.
    fractions
        Shares of training, validation and test blocks.
    buffer
        Cells between two parts whose labels nobody uses; larger than the reach of interpretation errors.
    wells
        Positions along `dims`; none means those that the volume brings with it.
    radius
        Half-width of the labelled square around a well, in cells (paper: 40).
    validation_wells
        How many of the wells validate (paper: 4 of 8).
    seed
        Seed of the draw.
    """

    method: Literal["blocks", "wells"] = "blocks"
    dims: list[str] = field(default_factory=list)
    block: int = 16
    fractions: list[float] = field(default_factory=lambda: [0.5, 0.15, 0.35])
    buffer: int = 2
    wells: list[list[int]] = field(default_factory=list)
    radius: int = 4
    validation_wells: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise InputError(
                f"split.fractions is {self.fractions}; give three shares that add up to 1, such as [0.5, 0.15, 0.35]"
            )
        if self.block < 1 or self.buffer < 0 or self.radius < 0:
            raise InputError("split.block must be at least 1 cell, split.buffer and split.radius at least 0")
