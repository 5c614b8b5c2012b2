"""What a trained network expects and gives, as plain JSON that travels with it."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from datasets.volume import Volume
from models.reach import reach
from models.segmenter import Segmenter
from pipeline.masking import without_secrets
from pipeline.run import Run

DESCRIPTION = "description.json"
"""In the folder of a run."""
FORMAT_VERSION = 3
"""3 holds the network."""
_OF_THE_SOURCE = ("title", "source", "source_sha256", "licence")


@dataclass(frozen=True)
class ModelDescription:
    """What goes into a network and what comes out."""

    classes: list[str]  # in the order of the output's channels
    space: list[str]  # dimensions that the network convolves over
    sizes: list[int | None]  # cells along each dimension of `space` that takes only one size; none for any other
    channel_dims: list[str]  # flattened to input channels
    channel_sizes: list[int]
    label_dims: list[str]  # of the output
    read_slice: dict[int, int]  # axis of `space` that the output lacks -> cell at which it is read
    factor: float  # how much larger the output's cells are than the input's, along every dimension
    multiple: int  # the coarsest grid's cell in cells of the input: sizes are padded to a multiple of it
    padding: str  # ``refuse`` where sizes are not padded
    data: dict[str, str]  # name and units
    training: dict[str, Any]  # title, source, licence and digests of the volume, the split, and labels
    reach: int | None  # cells of the input that an output cell looks far; none where it sees the whole volume
    network: dict[str, Any]  # `SegmenterConfig` as JSON: with the weights of the program, the network itself

    @property
    def channels(self) -> int:
        """Input channels."""
        return math.prod(self.channel_sizes)

    @property
    def quantity(self) -> str:
        """Name and units of the data, for an axis or a text; empty where neither is known."""
        name, units = self.data.get("long_name", ""), self.data.get("units", "")
        return " ".join(filter(None, [name, f"({units})" if units not in ("", "1") else ""]))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and texts."""
        plain = asdict(self) | {"read_slice": {str(axis): cell for axis, cell in self.read_slice.items()}}
        return {"format": "telegrapher-model", "format_version": FORMAT_VERSION, **plain}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "ModelDescription":
        """Undo `to_json`; `ValueError` where the text describes something else, or another version of it."""
        values = dict(plain)
        kind, version = values.pop("format", None), values.pop("format_version", None)
        if (kind, version) != ("telegrapher-model", FORMAT_VERSION):
            raise ValueError(f"{kind} of version {version}; read here is telegrapher-model of version {FORMAT_VERSION}")
        values["read_slice"] = {int(axis): int(cell) for axis, cell in values["read_slice"].items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from error


def describe_run(run: Run, segmenter: Segmenter) -> ModelDescription:
    """Return what was noted of the network of a run, so that its volume is not needed; of older runs find it out."""
    try:
        noted = ModelDescription.from_json(run.read(DESCRIPTION))
    except ValueError:
        return describe(run, run.volume, segmenter)
    return replace(noted, network=segmenter.config.to_json())  # of which a run that goes on may change kept_hidden


def describe(run: Run, volume: Volume, segmenter: Segmenter) -> ModelDescription:
    """Describe the network of a run on its volume."""
    prepared, split = run.prepared, run.config.split
    data, attrs = volume.dataset["data"], volume.dataset.attrs
    return ModelDescription(
        classes=volume.classes,
        space=list(volume.space),
        sizes=[None if size == 1 else size for size in prepared.mean.shape[1:]],
        channel_dims=list(volume.channel_dims),
        channel_sizes=[data.sizes[dim] for dim in volume.channel_dims],
        label_dims=list(volume.label_dims),
        read_slice=dict(volume.read_slice),
        factor=segmenter.factor,
        multiple=segmenter.network.multiple,
        padding=segmenter.config.network.padding,
        data={key: str(data.attrs[key]) for key in ("long_name", "units") if key in data.attrs},
        training={
            **{key: without_secrets(str(attrs[key])) for key in _OF_THE_SOURCE if key in attrs},
            "run": run.config.name,
            "shape": list(volume.shape),
            "volume_digest": prepared.volume_digest,
            "split_digest": prepared.split_digest,
            "split": asdict(split),
            "labelled_cells": prepared.counts,
        },
        reach=reach(segmenter.network),
        network=segmenter.config.to_json(),
    )
