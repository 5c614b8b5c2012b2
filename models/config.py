"""Configuration of the telegraph network: plain data, no torch, so that ``--help`` answers at once."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Resample = Literal["", "coarsen", "refine"]
Activation = Literal["relu", "softplus", "tanh"]
Padding = Literal["refuse", "zeros", "reflect", "replicate"]
ForceType = Literal["float32", "bfloat16", "float16"]
States = Literal["auto", "float", "exact"]
Boundary = Literal["zeros", "reflect", "periodic"]
Coarsening = Literal["haar", "learned"]

SEGMENTER_FORMAT = 3  # version of SegmenterConfig's JSON and of a state dict's names; all up to this are read
_RESAMPLE: dict[str, Resample] = {"": "", "d": "coarsen", "u": "refine"}
_LAYER = re.compile(r"(?P<resample>[du]?)(?P<rank>[1-9]\d{,5})(?P<form>p|g[1-9]\d*)?(?:\*(?P<times>[1-9]\d{,3}))?\Z")


class ConfigError(ValueError):
    """A configuration that cannot work; the message names the value, the place and the way out."""


@dataclass(frozen=True)
class Layer:
    """One telegraph layer: its block rank r, what happens to the grid before it, and the form of its kernel.

    ``"coarsen"`` halves the grid and multiplies the channels by 2^d before the layer, ``"refine"`` undoes it. A
    pointwise kernel is one cell wide; groups of channels are convolved apart, with that many times fewer weights.
    """

    rank: int
    resample: Resample = ""
    pointwise: bool = False
    groups: int = 1


def parse_layers(text: str) -> tuple[Layer, ...]:
    """Read the compact notation of the paper's tables: ``"8*2 d16*3 u8"``.

    A number is the block rank of a layer, ``d`` before it coarsens first, ``u`` refines first, and ``*n`` makes n such
    layers (resampled before the first only). Compressed forms of the kernel: ``16p`` is pointwise, ``16g4`` convolves
    four groups of channels apart. `ConfigError` where a token is not of this form, its groups do not divide its rank,
    or there is none.
    """
    layers: list[Layer] = []
    for token in text.split():
        match = _LAYER.match(token)
        if match is None:
            raise ConfigError(
                f"network.layers: {token!r} is not a layer; write a block rank such as 8, d16 (coarsen first), "
                "u8 (refine first), 16*3 (three layers, below 10^4), 16p (pointwise) or 16g4 (four groups)"
            )
        rank, times, form = int(match["rank"]), int(match["times"] or 1), match["form"] or ""
        groups = int(form[1:]) if form.startswith("g") else 1
        if rank % groups:
            raise ConfigError(f"network.layers: {token!r} has a rank of {rank}, which {groups} groups do not divide")
        layers.append(Layer(rank, _RESAMPLE[match["resample"]], form == "p", groups))
        layers += [Layer(rank, "", form == "p", groups)] * (times - 1)
    if not layers:
        raise ConfigError("network.layers is empty; name at least one block rank, such as '8*4'")
    return tuple(layers)


def hourglass(depth: int, rank: int, levels: int) -> str:
    """Layers of one block rank that go down `levels` times and up again, `depth` in all, in the compact notation.

    The stages share them evenly; what does not divide goes to the coarsest, where layers are cheapest. `ConfigError`
    where there are fewer than stages, ``2 levels + 1``.
    """
    stages = 2 * levels + 1
    if depth < stages:
        raise ConfigError(f"depth {depth} cannot reach {levels} levels and return; take a depth of at least {stages}")
    share, rest = divmod(depth, stages)
    counts = [share] * stages
    counts[levels] += rest
    marks = [""] + ["d"] * levels + ["u"] * levels
    return " ".join(f"{mark}{rank}*{count}" for mark, count in zip(marks, counts, strict=True))


@dataclass
class NetworkConfig:
    """The telegraph network.

    Attributes
    ----------
    layers
        Block rank of each layer in the compact notation of `parse_layers`, for example ``"8*2 d16*3 u8*2"``.
    repeat
        How often the input's channels are repeated to make the state's (paper: 12 for seismic).
    step
        Step h of the leapfrog in time, for all layers or one for each; the force is weighted by a = h^2.
    activation
        Pointwise s of the force K^T s(K x + b).
    kernel
        Odd edge length of the convolution kernel, in cells.
    boundary
        What a layer sees beyond the edge of the volume.
    coarsening
        The orthogonal transform between levels: Haar, or one whose angles are learned, starting at Haar.
    padding
        What to do with a size that the coarsenings do not divide: ``refuse`` it, or pad it at its far end.
    force_dtype
        Precision of the convolutions.
    states
        How states are kept: ``exact``, as whole numbers on a grid, which the backward pass recovers bit for bit at any
        depth; ``float``, in float32; ``auto`` is exact wherever the force is not in float32.
    grid_bits
        Spacing of the grid of exact states is 2^-grid_bits; they may go to 3/8 of 2^(state_bits - 1 - grid_bits). None
        means 20 for states of 32 bits (up to 768) and 10 for those of 16 (up to 12).
    state_bits
        Bits of an exact state: 32, or 16, which halves the memory and rounds a thousand times coarser: beyond some 30
        layers the gradients are no longer those of the network.
    kept_hidden
        Thin hidden layers that training keeps from the forward pass, which saves one of eight products of each: up to
        this many numbers for each of a state, the last layer's, then those of wide kernels. 0 keeps none.
    init_gain
        Initial kernels have deviation gain / sqrt(fan-in) / sqrt(depth): deep networks must start gently.
    read_channels
        Output channel of each class; none means the first channels in order.
    """

    layers: str = "8*2 d16*3 d16*3 u16*2 u8*2"
    repeat: int = 1
    step: float | list[float] = 0.2
    activation: Activation = "relu"
    kernel: int = 3
    boundary: Boundary = "zeros"
    coarsening: Coarsening = "haar"
    padding: Padding = "reflect"
    force_dtype: ForceType = "float32"
    states: States = "auto"
    grid_bits: int | None = None
    state_bits: Literal[16, 32] = 32
    kept_hidden: float = 0.5
    init_gain: float = 1.0
    read_channels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        depth = len(parse_layers(self.layers))
        if self.repeat < 1:
            raise ConfigError(f"network.repeat is {self.repeat}; it must be 1 or more")
        if isinstance(self.step, list) and len(self.step) != depth:
            raise ConfigError(
                f"network.step lists {len(self.step)} steps for {depth} layers; give one number, or one for each layer"
            )
        if not all(0 < step < 1e9 for step in self.steps):
            raise ConfigError(f"network.step is {self.step}; the leapfrog needs a positive step, such as 0.2")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"network.kernel is {self.kernel}; take an odd edge length such as 3")
        if not 0 <= self.kept_hidden < float("inf"):
            raise ConfigError(f"network.kept_hidden is {self.kept_hidden}; it must be 0, which keeps none, or more")
        if not 0 < self.init_gain < 1e9:
            raise ConfigError(f"network.init_gain is {self.init_gain}; it must be positive, and small")
        if self.state_bits not in (16, 32):
            raise ConfigError(f"network.state_bits is {self.state_bits}; states have 16 or 32 bits")
        if self.grid_bits is not None and not 1 <= self.grid_bits <= self.state_bits - 3:
            raise ConfigError(
                f"network.grid_bits is {self.grid_bits}; with states of {self.state_bits} bits it must be from 1 to "
                f"{self.state_bits - 3}, which leaves room for states up to 1.5"
            )
        if self.state_bits == 16 and not self.exact:
            raise ConfigError("network.state_bits is 16, but only exact states have bits; set network.states to exact")

    @property
    def steps(self) -> list[float]:
        """Step h of each layer."""
        return list(self.step) if isinstance(self.step, list) else [self.step] * len(parse_layers(self.layers))

    @property
    def exact(self) -> bool:
        """Whether states are kept on a grid."""
        return self.force_dtype != "float32" if self.states == "auto" else self.states == "exact"

    @property
    def grid(self) -> int:
        """Bits behind the point of exact states."""
        return self.grid_bits if self.grid_bits is not None else {32: 20, 16: 10}[self.state_bits]


@dataclass
class SegmenterConfig:
    """Everything a segmenter is built from, apart from its weights and statistics.

    Attributes
    ----------
    space, channels
        Number of dimensions that the network convolves over (1, 2 or 3), and channels of the raw data.
    classes
        Class names in the order of the logits.
    validity
        Whether a channel for each raw one is appended that says where there is data (1) and where not (0).
    read_slice
        Space axes that the output lacks -> cell of the input grid at which it is read.
    """

    network: NetworkConfig
    space: int
    channels: int
    classes: list[str]
    validity: bool = False
    read_slice: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.space not in (1, 2, 3):
            raise ConfigError(f"space is {self.space}; the network convolves over 1, 2 or 3 dimensions")
        if self.channels < 1:
            raise ConfigError(f"channels is {self.channels}; the network needs at least one channel of data")
        if len(self.classes) < 2:
            raise ConfigError(
                f"classes is {self.classes}; a segmentation needs at least two classes, and labels of them"
            )
        for axis, cell in self.read_slice.items():
            if not 0 <= axis < self.space or cell < 0:
                raise ConfigError(
                    f"read_slice has cell {cell} on axis {axis}; name axes 0 to {self.space - 1} and cells from 0 on"
                )

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, dictionaries and numbers, with the version of this format."""
        return {"format_version": SEGMENTER_FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, text: dict[str, Any]) -> "SegmenterConfig":
        """Undo `to_json`, also after a journey through JSON, which turns the axes of `read_slice` into text.

        What older formats lacked has defaults that mean the same, but for format 1's states, always in floating point.

        `ConfigError` where the text was written by a later version of the format, or by something else.
        """
        content = dict(text)
        version = content.pop("format_version", None)
        if not isinstance(version, int) or not 1 <= version <= SEGMENTER_FORMAT:
            raise ConfigError(
                f"this segmenter was written in format {version}, but formats 1 to {SEGMENTER_FORMAT} are read here; "
                "use the version of the software that wrote it, or train again"
            )
        network = {"states": "float", **content["network"]} if version == 1 else content["network"]
        content["network"] = NetworkConfig(**network)
        content["read_slice"] = {int(axis): int(cell) for axis, cell in content["read_slice"].items()}
        return cls(**content)
