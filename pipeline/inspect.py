"""Look at a converted volume: a table on the terminal and a picture beside it."""

from pathlib import Path

from datasets.describe import describe
from datasets.errors import InputError
from pipeline.config import InspectConfig
from pipeline.pictures import draw_volume


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
    draw_volume(config.source, picture)
    print(f"picture: {picture}")
    return picture
