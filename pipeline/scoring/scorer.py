"""A trained network, from a run's folder or from the registry, that maps raw volumes to class probabilities.

B batch, C channels, K classes, N the space.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
import xarray as xr

from datasets.config import DataConfig
from datasets.errors import InputError
from datasets.prediction import Labelled, no_data_cells
from datasets.samples.blocks import seen_sizes
from datasets.store import open_volume
from datasets.volume import Volume
from models.peak import Workload, prediction_peak
from models.segmenter import Segmenter
from pipeline.amount import show_bytes
from pipeline.checkpoints.checkpoint import best_checkpoint, load_segmenter
from pipeline.config import ClusterConfig
from pipeline.planning.machine import Memory, memory_here
from pipeline.planning.memory import map_work, plan_prediction, share_of_worker
from pipeline.planning.tiling import OutputGrid, Piece, Tiling, Wanted, map_pieces
from pipeline.planning.turns import check_elsewhere, stream_of
from pipeline.ranks.slabs import RankSlab
from pipeline.run import Run
from pipeline.scoring.description import ModelDescription, describe_run

_FILLED = 0.9
"""Share of the free memory that is planned to be filled: others work here too."""


@dataclass(frozen=True)
class Scorer:
    """A model that is ready to map volumes."""

    uri: str  # what the user asked for
    version: str  # what that was: ``NAME/3`` of the registry, or run and step
    description: ModelDescription
    segmenter: Segmenter  # in evaluation mode
    device: str  # where it is

    @property
    def grid(self) -> OutputGrid:
        """How the output's cells lie on the input's."""
        return OutputGrid.of(self.segmenter, list(self.description.read_slice))

    @property
    def fixed(self) -> str:
        """A name for another process, that means these weights as long as no run goes on in that folder."""
        return f"models:/{self.version}" if self.uri.startswith("models:/") else str(Path(self.uri).resolve())

    def plan(
        self, volume: Volume, share: float = 1.0, *, begun: Tiling | None = None, approximate: bool = False
    ) -> Tiling | None:
        """Plan the blocks in which a volume is mapped to the values that it has in one piece; none where that fits.

        Parameters
        ----------
        volume, share
            The volume, and how much of the machine's memory may be filled; a GPU is not shared.
        begun
            Blocks that were planned before, which are kept where they leave no seams and fit.
        approximate
            Whether blocks may see less than the network reaches where none that fit see it all, else an `InputError`.
        """
        if begun is not None and self._suits(begun, volume, share):
            return begun
        memory = self._memory(share, _FILLED)
        return plan_prediction(self.segmenter, volume.shape, memory, threads=self._threads, approximate=approximate)

    @property
    def _threads(self) -> int:
        return 0 if self.device == "cuda" else 1  # or more, by which it takes less

    def _suits(self, tiling: Tiling, volume: Volume, share: float) -> bool:
        reach, edges = self.description.reach, zip(tiling.block, tiling.halo, volume.shape, strict=True)
        seamless = all(edge >= size or (reach is not None and halo >= reach) for edge, halo, size in edges)
        return seamless and self.fits(tiling, volume, share)

    def fits(self, tiling: Tiling, volume: Volume, share: float = 1.0) -> bool:
        """Tell whether blocks fit, if need be to the last byte."""
        memory, seen = self._memory(share), seen_sizes(volume.shape, tiling.block, tiling.halo)
        return memory is None or prediction_peak(self.segmenter, Workload(seen, threads=self._threads)) <= memory.size

    def check_slabs(self, volume: Volume, slabs: int, share: float = 1.0) -> None:
        """Raise `InputError` where a slab of a volume does not fit."""
        work = Workload(share_of_worker(self.segmenter, volume.shape, slabs), threads=self._threads)
        self._check(volume, f"{slabs} slabs", work, share, "slabs, or 1, to map it block by block", each=" for each")

    def take_turns(self, volume: Volume, cluster: ClusterConfig, share: float = 1.0) -> None:
        """Let slabs of a volume take turns from now on; refuse what cannot be cut so, or lacks memory or disk."""
        work = map_work(cluster, self.segmenter, volume.shape, cuda=self.device == "cuda")
        way = "turns" if cluster.scratch else "turns, or a cluster.scratch folder"
        self._check(volume, f"{cluster.turns} turns", work, share, way)
        check_elsewhere(self.segmenter, work, cluster, memory_here(False), share, training=False)
        self.segmenter.network.stream = stream_of(cluster)
        cells = " x ".join(map(str, volume.shape))
        print(f"mapping {cells} cells in one piece, in {cluster.turns} turns", flush=True)

    def _check(self, volume: Volume, how: str, work: Workload, share: float, way: str, each: str = "") -> None:
        need, memory = prediction_peak(self.segmenter, work), self._memory(share)
        if memory is not None and need > memory.size:
            raise InputError(
                f"mapping {list(volume.shape)} cells in {how} needs {show_bytes(need)}{each}, but there are "
                f"{show_bytes(memory.size)} {memory.where}; take more {way}"
            )

    def _memory(self, share: float, filled: float = 1.0) -> Memory | None:
        """Return what may be filled; tasks that share a machine's memory do not share its GPU's."""
        memory = memory_here(self.device == "cuda")
        if memory is None:
            return None
        return replace(memory, size=int(memory.size * filled * (share if self.device == "cpu" else 1)))

    def announce(self, volume: Volume, tiling: Tiling | None) -> None:
        """Say in which blocks a volume is mapped, if any."""
        if tiling is not None:
            reach = self.description.reach
            far = "across the whole volume" if reach is None else str(reach)
            cells = " x ".join(map(str, volume.shape))
            print(f"mapping {cells} cells in {tiling} (the network reaches {far})", flush=True)

    def map(
        self,
        volume: Volume,
        *,
        tiling: Tiling | None = None,
        wanted: Wanted | None = None,
        slab: RankSlab | None = None,
    ) -> Iterator[Piece]:
        """Map a volume that `check` accepts, or a slab of it, without gradients, piece after piece, by `map_pieces`.

        Yields
        ------
        Piece
            Probabilities, float32 [K, *place].
        """
        return map_pieces(
            partial(self.segmenter.probabilities, slab=slab),
            volume.read,
            volume.shape,
            self.grid,
            device=self.segmenter.home,
            tiling=tiling,
            wanted=wanted,
            share=None if slab is None else partial(slab.share, self.segmenter),
        )

    def label(self, piece: Piece) -> Labelled:
        """Take the most probable class of each cell of a piece that the volume says anything of."""
        d = self.description
        empty = no_data_cells(piece.raw, list(d.read_slice), int(d.factor))
        return Labelled.of(piece.place, piece.found, empty)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of what goes in and comes out."""
        d = self.description
        shape = [d.classes, d.space, d.channel_dims, d.channel_sizes, d.label_dims, sorted(d.read_slice.items())]
        digest = hashlib.sha256(json.dumps(shape).encode())
        for name, tensor in sorted(self.segmenter.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def identity(self, volume: Volume) -> dict[str, str]:
        """Return what decides a map but for the place of its volume: two maps with the same attributes are the same."""
        made = f"{volume.digest()} {volume.dataset.attrs.get('created', '')}"
        return {"model_digest": self.digest, "input_digest": hashlib.sha256(made.encode()).hexdigest()}

    def open(self, source: str | Path) -> Volume:
        """Open a volume as this model sees it, without labels.

        `InputError` where there is no volume, or it does not pass `check`.
        """
        return self.view(open_volume(source), str(source))

    def view(self, dataset: xr.Dataset, where: str) -> Volume:
        """See an opened volume as this model does; see `open`."""
        d = self.description
        dataset = dataset.drop_vars(["labels", "truth"], errors="ignore")
        self.check(dataset, where)
        read_slice = {d.space[axis]: cell for axis, cell in d.read_slice.items()}
        volume = Volume.of(dataset, DataConfig(source=where, space=d.space, read_slice=read_slice))
        return replace(volume, channel_dims=tuple(d.channel_dims))  # however the store orders them

    def check(self, dataset: xr.Dataset, where: str) -> None:
        """Raise `InputError` where the dimensions, channels or sizes of an opened volume are not the model's."""
        d, data = self.description, dataset["data"]
        found, expected = [str(dim) for dim in data.dims], [*d.channel_dims, *d.space]
        if set(found) != set(expected):
            raise InputError(
                f"{where} has the dimensions {found}, but {self.version} was trained on {expected}; "
                "convert the source again with these names, or choose another model"
            )
        for dim, size in zip(d.channel_dims, d.channel_sizes, strict=True):
            if data.sizes[dim] != size:
                raise InputError(
                    f"{where} has {data.sizes[dim]} entries of {dim}, which {self.version} takes as channels: it needs "
                    f"the {size} that it was trained on"
                )
        for axis, (dim, fixed) in enumerate(zip(d.space, d.sizes, strict=True)):
            size, least = data.sizes[dim], max(2, int(d.factor) + 1)
            start = f"{where} has {size} cells of {dim}"
            if fixed is not None and size != fixed:
                raise InputError(
                    f"{start}, but {self.version} normalises each of its {fixed} by itself; give it exactly {fixed}"
                )
            if d.read_slice.get(axis, 0) >= size:
                raise InputError(f"{start}, but {self.version} reads its output at cell {d.read_slice[axis]} of them")
            if size < least:
                raise InputError(f"{start}, too few for {self.version}, which needs at least {least}")
            if size % d.multiple and d.padding == "refuse":
                lower = size - size % d.multiple
                upper = lower + d.multiple
                raise InputError(
                    f"{start}, but {self.version} takes multiples of {d.multiple} only (network.padding: refuse); "
                    f"cut or extend it to {f'{lower} or {upper}' if lower else upper}"
                )


def scorer_of(segmenter: Segmenter, description: ModelDescription, uri: str, version: str) -> Scorer:
    """Make a network ready, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Scorer(uri, version, description, segmenter.to(device), device)


def run_scorer(run: Run) -> Scorer:
    """Load the best checkpoint of a run."""
    checkpoint = best_checkpoint(run.folder)
    segmenter = load_segmenter(checkpoint)
    version = f"{run.config.name} ({checkpoint.name})"
    return scorer_of(segmenter, describe_run(run, segmenter), str(run.folder), version)
