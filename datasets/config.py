"""Configurations: which volume, how it is cut, how a synthetic one is made. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal

from datasets.config_convert import ConvertConfig as ConvertConfig
from datasets.errors import InputError


@dataclass
class DataConfig:
    """Which volume a network sees, and how its dimensions become space and channels.

    Attributes
    ----------
    source
        Path or URI of a converted volume or of another Zarr or MDIO store, or path of a view (see
        `datasets.sources.foreign`).
    space
        Dimensions that the network convolves over, in order, for example ``[inline, crossline, depth]``. All others
        become channels.
    read_slice
        For each space dimension that the labels lack, the cell at which the output is read (paper: band 38). Default:
        the middle.
    validity
        Whether the no-data mask is appended as channels (1 valid, 0 not).
    keep
        Dimensions whose entries are each normalised by themselves, such as ``[band]``; all others share a mean and
        deviation. Default: the channel dimensions.
    block
        Cells of a training block along `space`; none means the whole volume in one piece.
    halo
        Cells on either side of a block along `space` that the network sees but no loss is taken on; as wide as the
        network's reach, a block's outermost cells are learned from all that they are predicted from. At an edge of the
        volume the window moves inwards and sees more of the other side.
    labelled_share
        Share of the samples that are blocks with training labels, each of which comes once a pass. At 1 the others are
        left out: the loss is taken on labels alone, so they cost time and teach nothing. Below 1 they come between,
        once a pass too; none visits every block exactly once an epoch.
    missing
        What a missing or broken chunk of data is: an ``error`` that names it, or no data (``mask``).
    """

    source: str = ""
    space: list[str] = field(default_factory=list)
    read_slice: dict[str, int] = field(default_factory=dict)
    validity: bool = False
    keep: list[str] | None = None
    block: list[int] | None = None
    halo: list[int] | None = None
    labelled_share: float | None = 1.0
    missing: Literal["error", "mask"] = "error"

    def __post_init__(self) -> None:
        if len(self.space) > 3 or len(set(self.space)) != len(self.space):
            raise InputError(f"data.space is {self.space}; name one to three different dimensions")
        if self.block is not None and (len(self.block) != len(self.space) or min(self.block, default=1) < 1):
            raise InputError(f"data.block is {self.block}; give one size above 0 for each of data.space {self.space}")
        if self.halo is not None and self.block is None:
            raise InputError(f"data.halo is {self.halo}, but without data.block the whole volume is seen; set a block")
        if self.halo is not None and (len(self.halo) != len(self.space) or min(self.halo, default=0) < 0):
            raise InputError(
                f"data.halo is {self.halo}; give a number of cells, 0 or more, for each of data.space {self.space}"
            )
        if self.labelled_share is not None and not 0 < self.labelled_share <= 1:
            raise InputError(
                f"data.labelled_share is {self.labelled_share:g}; give a share above 0 and up to 1, or none for every "
                "block once an epoch"
            )


@dataclass
class SplitConfig:
    """How the labels are divided into training, validation and test by space.

    Attributes
    ----------
    method
        ``blocks``: square blocks of the map, dealt to the three parts so that each class is spread over them.
        ``wells``: columns within `radius` of the wells train and validate, all others test.
        ``points``: a few labelled cells of each class train and validate, all others test.
    dims
        Dimensions of the map that is divided. Default: the labels' without depth, time or band.
    block
        Edge of a block, in cells.
    fractions
        Shares of training, validation and test blocks.
    buffer
        Cells between two parts whose labels nobody uses; more than interpretation errors reach.
    wells
        Positions along `dims`; none means those that the volume brings.
    radius
        Half-width of the labelled square around a well, in cells (paper: 40).
    validation_wells
        How many wells validate (paper: 4 of 8).
    points
        Cells of each class that train (paper: 25).
    validation_points
        Cells of each class that validate (paper: 10).
    seed
        Seed of the draw.
    """

    method: Literal["blocks", "wells", "points"] = "blocks"
    dims: list[str] = field(default_factory=list)
    block: int = 16
    fractions: list[float] = field(default_factory=lambda: [0.5, 0.15, 0.35])
    buffer: int = 2
    wells: list[list[int]] = field(default_factory=list)
    radius: int = 4
    validation_wells: int = 2
    points: int = 25
    validation_points: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) < 0 or not abs(sum(self.fractions) - 1) <= 1e-6:
            raise InputError(
                f"split.fractions is {self.fractions}; give three shares that add up to 1, such as [0.5, 0.15, 0.35]"
            )
        if self.points < 1 or self.validation_points < 0:
            raise InputError("split.points must be at least 1, split.validation_points at least 0")
        if self.block < 1 or min(self.buffer, self.radius, self.seed) < 0:
            raise InputError(
                f"split.block is {self.block}, split.buffer {self.buffer}, split.radius {self.radius}, split.seed "
                f"{self.seed}; a block has 1 cell or more, and none of the others is below 0"
            )


@dataclass
class SynthesisConfig:
    """A synthetic seismic survey: layers with folds, faults and salt, imaged in depth, labelled around wells.

    Attributes
    ----------
    out
        Folder or URI (``s3://bucket/prefix``) of the Zarr volume that is written.
    shape
        Cells along inline, crossline and depth.
    spacing
        Metres between cells along inline, crossline and depth.
    peak_frequency
        Peak of the Ricker wavelet's spectrum, in hertz.
    velocity
        Metres a second that turn the wavelet's two-way time into depth; at 3000 and 25 Hz a wavelength is 60 m.
    snr
        Standard deviation of the signal over that of the noise; ``.inf`` for none.
    layer
        Mean thickness of a layer, in metres.
    fold
        Height of the folds as a share of the survey's depth.
    faults
        Number of normal faults.
    throw
        Largest throw of a fault as a share of the survey's depth.
    salt
        Radius of the salt as a share of the survey's shorter side.
    wells
        Number of wells; half of them, rounded up, meet the salt.
    radius
        Half-width of the labelled square around a well, in cells.
    seed
        Seed of geology, noise and wells.
    chunks
        Cells of the pieces that are computed and stored, along inline, crossline and depth.
    overwrite
        Whether an existing volume is replaced.
    """

    out: str = ""
    shape: list[int] = field(default_factory=lambda: [64, 64, 64])
    spacing: list[float] = field(default_factory=lambda: [25.0, 25.0, 10.0])
    peak_frequency: float = 25.0
    velocity: float = 3000.0
    snr: float = 4.0
    layer: float = 20.0
    fold: float = 0.05
    faults: int = 3
    throw: float = 0.12
    salt: float = 0.3
    wells: int = 8
    radius: int = 4
    seed: int = 0
    chunks: list[int] = field(default_factory=lambda: [64, 64, 64])
    overwrite: bool = False

    @property
    def wavelength(self) -> float:
        """Metres of depth that a period at the peak frequency spans: velocity / (2 peak_frequency)."""
        return self.velocity / (2 * self.peak_frequency)

    def __post_init__(self) -> None:
        for name in ("shape", "spacing", "chunks"):
            if len(sizes := getattr(self, name)) != 3 or min(sizes) <= 0:
                raise InputError(f"{name} is {sizes}; give three sizes above 0, for inline, crossline and depth")
        if min(self.shape) < 16:
            raise InputError(f"shape is {self.shape}; a survey needs at least 16 cells along each side")
        for name in ("peak_frequency", "velocity", "snr", "layer"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.wavelength < 4 * self.spacing[2]:
            raise InputError(
                f"peak_frequency {self.peak_frequency:g} Hz at {self.velocity:g} m/s makes a wavelength of "
                f"{self.wavelength:g} m, less than 4 cells of {self.spacing[2]:g} m; take a lower peak_frequency or "
                "a finer spacing"
            )
        if not 0.05 <= self.salt <= 0.4 or not 0 <= self.fold <= 0.2 or not 0 <= self.throw <= 0.2 or self.faults < 0:
            raise InputError(
                f"salt {self.salt}, fold {self.fold}, throw {self.throw}, faults {self.faults} make no sensible earth; "
                "take salt from 0.05 to 0.4, fold and throw from 0 to 0.2, faults 0 or more"
            )
        if self.wells < 2 or self.radius < 0 or self.seed < 0:
            raise InputError(
                f"wells {self.wells}, radius {self.radius}, seed {self.seed}: take 2 wells or more, and none below 0"
            )
