"""Map a whole volume: class and probability with the coordinates of the input."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.blocks import plan_map
from datasets.errors import InputError
from datasets.objects import is_remote
from datasets.prediction import NO_DATA, no_data_cells, prediction_dataset, write_prediction
from datasets.store import refuse_existing
from datasets.volume import Volume
from pipeline.config import PredictConfig
from pipeline.mapping.scorer import Scorer, load_model
from pipeline.pictures.maps import draw_volume
from pipeline.pictures.sections import backdrop
from pipeline.pictures.style import class_colours, grid_axes
from pipeline.planning.memory import memory_here, plan_prediction
from pipeline.planning.tiling import Tiling, read_from
from pipeline.registry.description import ModelDescription
from pipeline.tracking.store import store_uri


@dataclass(frozen=True)
class Mapped:
    """What came out.

    Attributes
    ----------
    written
        The store, and what lies beside it.
    shares
        Share of each class, in words.
    """

    written: list[str]
    shares: str


def predict(config: PredictConfig, *, overwrite: bool = False) -> str | Path:
    """Map a whole volume with a registered model or a run.

    Parameters
    ----------
    config
        Model, source and where the prediction goes.
    overwrite
        Whether an existing prediction is replaced.

    Returns
    -------
    str or pathlib.Path
        The store: ``class`` uint8 (255 no data) and ``probability`` float32. Beside one in a folder lie a picture
        (.png) and, where the output is a map over y and x, a GeoTIFF (.tif).

    Raises
    ------
    InputError
        Before any work, where the model, the source and the place do not exist, do not fit, or would be overwritten.
    """
    if not (config.model and config.source and config.out):
        raise InputError(
            "predict needs a model, a source and a place: "
            "python -m pipeline predict models:/NAME@champion SOURCE.zarr OUT.zarr"
        )
    check_name(config.out, config.source)
    check_place(config.out, overwrite)
    uri = store_uri(config.tracking_uri, config.runs)
    scorer = load_model(config.model, tracking_uri=uri)
    check_model(scorer)
    made = map_to(scorer, config.source, config.out, block=config.block, halo=config.halo)
    print(f"{scorer.version}: {made.shares}")
    print("\n".join(f"wrote {path}" for path in made.written))
    return config.out if is_remote(config.out) else Path(config.out)


def check_name(out: str, source: str) -> None:
    """Refuse a place that is no store's, or is the source itself."""
    if not out.endswith(".zarr"):
        raise InputError(
            f"{out} does not end in .zarr; name the store, and the GeoTIFF and the picture are written beside it"
        )
    if out == source or (not is_remote(out) and Path(out).resolve() == Path(source).resolve()):
        raise InputError(f"{out} is the source itself; choose another place")


def check_place(out: str, overwrite: bool) -> None:
    """Refuse to replace what is there, unless told to."""
    places: list[str | Path] = [out, *_beside(out)]
    for path in places:
        refuse_existing(path, overwrite)


def _beside(out: str) -> list[Path]:
    """GeoTIFF and picture beside a store in a folder; below a URI there are none."""
    return [] if is_remote(out) else [Path(out).with_suffix(suffix) for suffix in (".tif", ".png")]


def check_model(scorer: Scorer) -> None:
    """Refuse a model whose maps have no coordinates."""
    if scorer.description.factor < 1:
        raise InputError(
            f"{scorer.version} gives a grid finer than its input, which has no coordinates to be written with"
        )


def identity(scorer: Scorer, volume: Volume) -> dict[str, str]:
    """Say what decides a map, the place of its volume aside: two maps with the same attributes are the same."""
    made = f"{volume.digest()} {volume.dataset.attrs.get('created', '')}"
    return {"model_digest": scorer.digest, "input_digest": hashlib.sha256(made.encode()).hexdigest()}


def map_to(
    scorer: Scorer, source: str, out: str, *, block: list[int] | None = None, halo: list[int] | None = None
) -> Mapped:
    """Map a volume and write it in the place of what is there, whole or not at all.

    Parameters
    ----------
    scorer
        The model.
    source, out
        Volume and place, as `check_name` and `check_place` accept them.
    block, halo
        As `PredictConfig` has them.

    Raises
    ------
    InputError
        Where the volume does not exist, does not fit the model or the memory, or the place cannot be written.
    """
    volume = scorer.open(source)
    tiling = _tiling(scorer, volume, block, halo)
    if not is_remote(out):
        try:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{Path(out).parent} cannot be made ({error.strerror}); choose another place") from error
    raw = volume.read()
    ds = map_volume(scorer, volume, raw, tiling).assign_attrs(volume=source, **identity(scorer, volume))
    shares = _shares(ds, scorer.description.classes)
    if is_remote(out):
        return Mapped([str(write_prediction(ds, out))], shares)
    place = Path(out)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as aside:
        _write_beside(ds, volume, raw, scorer.description, Path(aside), place.stem)
        written = [str(write_prediction(ds, place))]
        for path in _beside(out):
            path.unlink(missing_ok=True)
            if (Path(aside) / path.name).exists():
                os.replace(Path(aside) / path.name, path)
                written.append(str(path))
    return Mapped(written, shares)


def _tiling(scorer: Scorer, volume: Volume, block: list[int] | None, halo: list[int] | None) -> Tiling | None:
    """Return the blocks that the user wants, or those that the memory asks for; none for one piece."""
    reach = scorer.description.reach
    if block is None:
        if halo is not None:
            raise InputError(f"halo is {halo}, but without a block the whole volume is seen; set a block")
        if scorer.segmenter is None:
            return None
        tiling = plan_prediction(scorer.segmenter, volume.shape, memory_here(scorer.device == "cuda"))
    else:
        if halo is None:
            if reach is None:
                raise InputError(
                    f"{scorer.version} was registered before models noted how far they reach; give the halo around a "
                    f"block, such as --halo '{[edge // 2 for edge in block]}', or register its run again"
                )
            halo = [reach] * len(volume.shape)
        plan_map(volume.shape, block, halo, 1)  # refuses what does not fit the volume
        tiling = Tiling(tuple(block), tuple(halo))
    if tiling is not None:
        seams = "" if reach is None else f" (the network reaches {reach})"
        print(f"mapping {' x '.join(map(str, volume.shape))} cells in {tiling}{seams}", flush=True)
    return tiling


def map_volume(scorer: Scorer, volume: Volume, raw: np.ndarray, tiling: Tiling | None = None) -> xr.Dataset:
    """Run a model over a whole volume, without gradients.

    Parameters
    ----------
    scorer
        The model.
    volume
        A volume that `Scorer.open` accepted.
    raw
        Its data, float32 [C, *N].
    tiling
        Blocks in which it is mapped; none means in one piece.

    Returns
    -------
    xarray.Dataset
        The prediction, as `datasets.prediction.prediction_dataset` lays it out.

    Raises
    ------
    InputError
        Where the volume holds no data at all.
    """
    d, source = scorer.description, volume.dataset
    factor = int(d.factor)
    empty = no_data_cells(raw, list(d.read_slice), factor)
    if empty.all():
        raise InputError(f"{source.attrs.get('title', 'the volume')} holds no data at all; check its no-data value")
    attrs = source.attrs
    return prediction_dataset(
        scorer.map(volume, read=read_from(raw), tiling=tiling),
        empty=empty,
        source=source,
        dims=d.label_dims,
        factor=factor,
        classes=d.classes,
        attrs={
            "title": f"Prediction of {attrs.get('title', 'a volume')}",
            "model": scorer.uri,
            "model_version": scorer.version,
            "source": str(attrs.get("source", "")),
            "source_sha256": str(attrs.get("source_sha256", "")),
            "licence": str(attrs.get("licence", "")),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _write_beside(
    ds: xr.Dataset, volume: Volume, raw: np.ndarray, d: ModelDescription, folder: Path, stem: str
) -> None:
    """Draw the prediction, and write it as a GeoTIFF where it is a map."""
    winner = ds["class"]
    shown = np.where(winner.values == NO_DATA, -1, winner.values.astype(np.int64))
    keep = [axis for axis in range(len(d.space)) if axis not in d.read_slice]
    draw_volume(
        backdrop(raw, keep, colour="band" in (*d.channel_dims, *d.space)),
        shown,
        d.classes,
        grid_axes(volume.dataset, d.label_dims),
        folder / f"{stem}.png",
        quantity=d.quantity,
        title="prediction",
    )
    if set(d.label_dims) == {"y", "x"}:
        from datasets.geotiff import write_class_map  # rasterio takes a second to import, and only maps need it

        colours = (255 * class_colours(len(d.classes))).round().astype(int)
        write_class_map(winner.transpose("y", "x"), folder / f"{stem}.tif", names=d.classes, colours=colours)


def _shares(ds: xr.Dataset, classes: list[str]) -> str:
    counts = np.bincount(ds["class"].values.ravel(), minlength=NO_DATA + 1)
    cells = counts[: len(classes)].sum()
    shares = [f"{name} {100 * count / cells:.1f}%" for name, count in zip(classes, counts, strict=False)]
    return ", ".join(shares) + (f" ({counts[NO_DATA]} cells without data)" if counts[NO_DATA] else "")
