"""One volume to its map: mapped piece by piece, written as it comes, and drawn."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.errors import AwayError, InputError
from datasets.prediction import NO_DATA, Finished, Labelled, lay_out, write_prediction
from datasets.progress import Progress
from datasets.provenance import content_key, now
from datasets.samples.blocks import plan_map
from datasets.storage.journal import locked
from datasets.storage.objects import is_remote
from datasets.store import begun_attributes
from datasets.viewing import read_for_viewing, thinning
from datasets.volume import Volume
from pipeline.config import ClusterConfig
from pipeline.mapping.workers import Workers
from pipeline.masking import without_secrets
from pipeline.pictures.maps import draw_volume
from pipeline.pictures.sections import backdrop
from pipeline.pictures.style import class_colours, grid_axes
from pipeline.planning.tiling import Cells, Tiling, Wanted
from pipeline.scoring.scorer import Scorer


@dataclass(frozen=True)
class Mapped:
    """What came out: the store and what lies beside it, and the share of each class in words."""

    written: list[str]
    shares: str


def pictures_beside(out: str) -> list[Path]:
    """Name GeoTIFF and picture beside a store in a folder; below a URI there are none."""
    return [] if is_remote(out) else [Path(out).with_suffix(suffix) for suffix in (".tif", ".png")]


def map_to(
    scorer: Scorer,
    source: str,
    out: str,
    *,
    block: list[int] | None = None,
    halo: list[int] | None = None,
    share: float = 1.0,
    cluster: ClusterConfig | None = None,
    tracking_uri: str = "",
    speak: bool = False,
) -> Mapped:
    """Map a volume and write it in the place of what is there; see `datasets.prediction.write_prediction`.

    Where it is mapped in blocks, neither the volume nor its map is ever held in memory as a whole, and a map that was
    stopped is gone on with.

    Parameters
    ----------
    scorer, source, out, block, halo
        The model; others as in `PredictConfig`.
    share, speak
        How much of the machine's memory this may fill, and whether progress is printed.
    cluster, tracking_uri
        Workers that map the volume, if there are any, and the registry that they load the model from.

    Raises
    ------
    InputError
        Where the volume does not fit model or memory, cannot be read or holds no data, or the place cannot be written.
    """
    volume = scorer.open(source)
    if block is None and halo is not None:
        raise InputError(f"halo is {halo}, but without a block the whole volume is seen; set a block")
    with contextlib.ExitStack() as stack:
        workers = None
        if cluster is not None and cluster.workers:
            from pipeline.training.worker import cluster as joined  # Ray is imported only where it is wanted

            workers = Workers.of(cluster, scorer, volume, source, tracking_uri)
            stack.enter_context(joined(cluster))
        if cluster is not None and cluster.turns > 1:
            scorer.take_turns(volume, cluster, share)
            tiling = None
        elif block is None:
            tiling = _plan(scorer, volume, workers, share, out)
        else:
            tiling = _blocks(scorer, volume, block, halo)
        scorer.announce(volume, tiling)
        progress = Progress("mapping", 4 * volume.n_channels * math.prod(volume.shape), speak=speak)
        return _made(_Map(scorer, volume, source, tiling, workers, progress), out, speak)


def _made(made: "_Map", out: str, speak: bool) -> Mapped:
    if is_remote(out):
        made.write(out, speak)
        return Mapped([out], made.shares())
    place = Path(out)
    aside = place.with_name(f".{place.name}.mapping")
    try:
        aside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place.parent} cannot be made ({error.strerror}); choose another place") from error
    with locked(aside, place):
        try:
            made.write(out, speak)
            return Mapped([out, *made.draw(place, aside)], made.shares())
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _plan(scorer: Scorer, volume: Volume, workers: Workers | None, share: float, out: str) -> Tiling | None:
    there = begun_attributes(out)
    begun = Tiling.from_json(json.loads(there.get("tiling", "null")))
    if not scorer.identity(volume).items() <= there.items():
        begun = None
    tiling = scorer.plan(volume, share, begun=begun) if workers is None else workers.plan(begun)
    if begun not in (None, tiling):
        print(f"{out} was begun in {begun}, which do not suit the memory that is free or leave seams: it starts anew")
    return tiling


def _blocks(scorer: Scorer, volume: Volume, block: list[int], halo: list[int] | None) -> Tiling:
    """Return the blocks that the user wants, by default amid a halo as wide as the network reaches."""
    reach = scorer.description.reach
    if halo is None and reach is None:
        raise InputError(
            f"every cell of {scorer.version} depends on the whole volume (network.boundary: periodic), so blocks map "
            f"it approximately: say with which halo, such as --halo '{[edge // 4 for edge in block]}'"
        )
    around = halo or [reach or 0] * len(volume.shape)
    plan_map(volume.shape, block, around, 1)  # refuses what does not fit the volume
    uncut = scorer.segmenter.uncut
    edges = enumerate(zip(volume.shape, block, strict=True))
    return Tiling(
        tuple(size if axis in uncut else edge for axis, (size, edge) in edges),
        tuple(0 if axis in uncut else cells for axis, cells in enumerate(around)),
    )


@dataclass
class _Map:
    scorer: Scorer
    volume: Volume
    source: str
    tiling: Tiling | None
    workers: Workers | None
    progress: Progress
    counts: np.ndarray = field(default_factory=lambda: np.zeros(NO_DATA + 1, np.int64))

    def write(self, out: str, speak: bool) -> None:
        d, attrs = self.scorer.description, self.volume.dataset.attrs
        facts = {
            "title": f"Prediction of {attrs.get('title', 'a volume')}",
            "model": self.scorer.uri,
            "model_version": self.scorer.version,
            "source": without_secrets(str(attrs.get("source", ""))),
            "source_sha256": str(attrs.get("source_sha256", "")),
            "licence": str(attrs.get("licence", "")),
            "volume": without_secrets(self.source),
            "tiling": json.dumps(self.tiling and self.tiling.to_json()),
            **self.scorer.identity(self.volume),
        }
        layout = lay_out(
            self.volume.dataset,
            d.label_dims,
            factor=int(d.factor),
            classes=d.classes,
            attrs=facts | {"created": now()},
        )
        key = None if self.tiling is None else content_key(facts)
        with self.progress:
            self.counts = write_prediction(
                layout,
                self._pieces,
                out,
                block=self._block(),
                key=key,
                no_data=f"{attrs.get('title', 'the volume')} holds no data at all; check its no-data value",
                speak=speak,
            )

    def shares(self) -> str:
        classes, counts = self.scorer.description.classes, self.counts
        cells = counts[: len(classes)].sum()
        shares = [f"{name} {100 * count / cells:.1f}%" for name, count in zip(classes, counts, strict=False)]
        return ", ".join(shares) + (f" ({counts[NO_DATA]} cells without data)" if counts[NO_DATA] else "")

    def _block(self) -> list[int] | None:
        if self.tiling is None:
            return None
        grid = self.scorer.grid
        first, *_ = plan_map(self.volume.shape, self.tiling.block, self.tiling.halo, grid.multiple)
        return [part.stop for part in grid.place(first.block)]

    def _pieces(self, finished: Finished) -> Iterator[Labelled]:
        """Map piece by piece what is not finished; each is let go of before the next is made."""

        def wanted(cells: Cells) -> bool:
            if not finished(self.scorer.grid.place(cells)):
                return True
            self.progress.skip(4 * self.volume.n_channels * math.prod(cut.stop - cut.start for cut in cells))
            return False

        whole = math.prod(self.scorer.grid.sizes(self.volume.shape))
        try:
            for labelled in self._here(wanted) if self.workers is None else self.workers.map(self.tiling, wanted):
                done = labelled.winner.size / whole
                yield labelled
                del labelled
                self.progress.add(round(done * self.progress.total))
        except OSError as error:
            raise AwayError(f"{self.source} cannot be read ({error.strerror or error})") from error

    def _here(self, wanted: Wanted) -> Iterator[Labelled]:
        for piece in self.scorer.map(self.volume, tiling=self.tiling, wanted=wanted):
            labelled = self.scorer.label(piece)
            del piece
            yield labelled
            del labelled

    def draw(self, place: Path, aside: Path) -> list[str]:
        """Draw the finished map, and write it as a GeoTIFF where it is one over y and x; says what cannot be made.

        The files are made in the folder `aside` before they take their place; returns their paths.
        """
        classes = xr.open_zarr(place, mask_and_scale=False, decode_coords="all")["class"]
        written = []
        for path, make in zip(pictures_beside(str(place)), (self._geotiff, self._picture), strict=True):
            path.unlink(missing_ok=True)  # it showed the map before
            try:
                if make(classes, aside / path.name):
                    os.replace(aside / path.name, path)
                    written.append(str(path))
            except (InputError, OSError) as error:
                print(f"{path} was not made: {error}", flush=True)
        return written

    def _geotiff(self, classes: xr.DataArray, path: Path) -> bool:
        if set(classes.dims) != {"y", "x"}:
            return False
        from datasets.maps.geotiff import write_class_map  # rasterio takes a second to import, and only maps need it

        names = self.scorer.description.classes
        colours = (255 * class_colours(len(names))).round().astype(int)
        write_class_map(classes.transpose("y", "x"), path, names=names, colours=colours)
        return True

    def _picture(self, classes: xr.DataArray, path: Path) -> bool:
        d = self.scorer.description
        keep = [axis for axis in range(len(d.space)) if axis not in d.read_slice]
        raw = read_for_viewing(self.source, self.volume)
        image = backdrop(raw, keep, colour="band" in (*d.channel_dims, *d.space))
        winner = classes[thinning(classes.shape)].values
        draw_volume(
            image[thinning(image.shape[: len(keep)])],
            np.where(winner == NO_DATA, -1, winner.astype(np.int64)),
            d.classes,
            grid_axes(self.volume.dataset, d.label_dims),
            path,
            quantity=d.quantity,
            title="prediction",
        )
        return True
