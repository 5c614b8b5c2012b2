"""Map a whole volume: class and probability with the coordinates of the input."""

from pathlib import Path

from datasets.errors import InputError
from datasets.storage.objects import is_remote
from datasets.store import refuse_existing
from pipeline.config import PredictConfig
from pipeline.mapping.volume_map import map_to, pictures_beside
from pipeline.registry.load import load_model
from pipeline.scoring.scorer import Scorer
from pipeline.tracking.store import store_uri


def predict(config: PredictConfig, *, overwrite: bool = False) -> str | Path:
    """Map a whole volume with a registered model or a run; with `overwrite` in the place of an existing prediction.

    Returns the store: ``class`` uint8 (255 no data) and ``probability`` float32. Beside one in a folder lie a picture
    (.png) and, where the output is a map over y and x, a GeoTIFF (.tif).

    `InputError` before any work, where model, source or place do not exist, do not fit, or would be overwritten.
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
    made = map_to(
        scorer,
        config.source,
        config.out,
        block=config.block,
        halo=config.halo,
        cluster=config.cluster,
        tracking_uri=uri,
        speak=True,
    )
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
    places: list[str | Path] = [out, *pictures_beside(out)]
    for path in places:
        refuse_existing(path, overwrite)


def check_model(scorer: Scorer) -> None:
    """Refuse a model whose maps have no coordinates."""
    if scorer.description.factor < 1:
        raise InputError(
            f"{scorer.version} gives a grid finer than its input, which has no coordinates to be written with"
        )
