"""The folder of a run: what was decided, and where its results go."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import xarray as xr

from datasets.errors import InputError
from datasets.volume import Volume
from models.config import SegmenterConfig
from pipeline.config import RunConfig
from pipeline.masking import without_secrets
from pipeline.planning.tiling import Tiling
from pipeline.recipe import load_recipe


@dataclass(frozen=True)
class Prepared:
    """What `prepare` found out before the first step.

    Two runs compare only where both digests agree: SHA-256 of the volume's identity, and of the split.
    """

    segmenter: SegmenterConfig
    mean: np.ndarray  # float32, broadcast against [channels, *space], as is the deviation
    deviation: np.ndarray
    weights: list[float]  # of each class in the loss
    counts: dict[str, list[int]]  # labelled cells of each class, by part of the split
    volume_digest: str
    split_digest: str
    tiling: Tiling | None = None  # in which the volume is validated and mapped, if not in one piece

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return vars(self) | {
            "segmenter": self.segmenter.to_json(),
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
            "tiling": self.tiling and self.tiling.to_json(),
        }

    @classmethod
    def from_json(cls, text: dict[str, Any]) -> "Prepared":
        """Undo `to_json`."""
        typed = {
            "segmenter": SegmenterConfig.from_json(text["segmenter"]),
            "mean": np.asarray(text["mean"], np.float32),
            "deviation": np.asarray(text["deviation"], np.float32),
            "tiling": Tiling.from_json(text.get("tiling")),
        }
        return cls(**text | typed)


OUTBOX = "mlflow-outbox.jsonl"
"""What MLflow has not got yet, in the folder of a run or a sweep."""


@dataclass(frozen=True)
class Run:
    """A prepared run; its folder is absolute, because workers have another current folder."""

    folder: Path
    config: RunConfig
    prepared: Prepared

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open the folder of a run; `InputError` where it is none."""
        folder = Path(folder).resolve()
        if not (folder / "prepared.json").is_file():
            raise InputError(
                f"{folder} is not the folder of a run (it has no prepared.json); "
                "name one that `python -m pipeline train` made, such as runs/NAME"
            )
        prepared = Prepared.from_json(json.loads((folder / "prepared.json").read_text()))
        return cls(folder, load_recipe(folder / "config.yaml"), prepared)

    @cached_property
    def volume(self) -> Volume:
        """The volume, opened lazily."""
        volume = Volume.open(self.config.data)
        if volume.digest() != self.prepared.volume_digest:
            raise InputError(
                f"{self.config.data.source} is no longer the volume that {self.folder} was prepared with; "
                "restore it, or train again under another --name"
            )
        return volume

    @cached_property
    def split(self) -> xr.DataArray:
        """The split of the map: uint8 codes of `datasets.samples.split`."""
        return xr.open_zarr(self.folder / "split.zarr", mask_and_scale=False, consolidated=False)["split"].load()

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Folder of the pictures."""
        return self.folder / "pictures"

    @property
    def tracking_uri(self) -> str:
        """MLflow's URI: that of the recipe, or SQLite beside the runs."""
        return self.config.tracking.uri or f"sqlite:///{self.folder.parent / 'mlflow.db'}"

    @property
    def outbox(self) -> Path:
        """File of `pipeline.tracking.outbox`."""
        return self.folder / OUTBOX

    def read(self, name: str) -> dict[str, Any]:
        """Read one of the run's JSON files; an absent one is empty."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.is_file() else {}

    def write(self, name: str, content: dict[str, Any]) -> Path:
        """Write JSON as `write_text` does."""
        return self.write_text(name, json.dumps(content, indent=1))

    def write_text(self, name: str, content: str) -> Path:
        """Write one of the run's files, whole or not at all."""
        return write_whole(self.folder / name, content)


def write_whole(path: Path, content: str) -> Path:
    """Write a file, whole or not at all: as all may read it here, or only its owner where it holds a password."""
    partial = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        partial.touch(0o666 if without_secrets(content) == content else 0o600, exist_ok=False)
        partial.write_text(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
