"""Look at a converted volume: a table on the terminal and a picture beside it."""

from pathlib import Path

from datasets.config import DataConfig
from datasets.describe import describe
from datasets.errors import InputError
from datasets.store import open_volume
from datasets.volume import NOT_HORIZONTAL, Volume
from pipeline.config import InspectConfig
from pipeline.pictures_maps import draw_volume
from pipeline.pictures_sections import backdrop
from pipeline.pictures_style import grid_axes


def inspect(config: InspectConfig) -> Path:
    """Print what a volume holds and draw it.

    Parameters
    ----------
    config
        The volume and where its picture goes.

    Returns
    -------
    pathlib.Path
        The picture.

    Raises
    ------
    InputError
        Where there is no volume.
    """
    if not config.source:
        raise InputError("name a volume: python -m pipeline inspect VOLUME.zarr")
    print(describe(config.source))
    source = Path(config.source)
    picture = Path(config.picture) if config.picture else source.with_name(f"{source.stem}.png")
    _draw(config.source, picture)
    print(f"picture: {picture}")
    return picture


def _draw(source: str, picture: Path) -> None:
    """Draw the map of a volume whose labels are one, and three sections through any other."""
    dataset = open_volume(source)
    data = dataset["data"]
    shown = dataset["labels"].dims if "labels" in dataset else data.dims
    flat = not {"inline", "crossline"} & set(data.dims)
    dims = [str(dim) for dim in data.dims if dim in shown and not (flat and dim in NOT_HORIZONTAL)][-3:]
    volume = Volume.of(dataset, DataConfig(source=source, space=dims))
    labels = volume.read_labels() if volume.label_dims == tuple(dims) else None
    image = backdrop(volume.read(), range(len(dims)), colour="band" in data.dims)
    unit = str(data.attrs.get("units", ""))
    name = str(data.attrs.get("long_name", "data"))
    quantity = f"{name} ({unit})" if unit not in ("", "1") else name
    draw_volume(image, labels, volume.classes, grid_axes(dataset, dims), picture, quantity=quantity)
