"""What the readers of plain arrays share: which array of a file, and what its axes are."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers.lazy import LazyArray


def refuse_short(path: Path, needed: int, who: str) -> None:
    """Raise `InputError` where a file holds fewer bytes than it must.

    Parameters
    ----------
    path
        File of the values.
    needed
        Bytes from its start to the last value.
    who
        What says how many they are, such as ``its header``.
    """
    held = path.stat().st_size
    if held < needed:
        raise InputError(
            f"{path} is cut short: {who} makes it {needed:,} bytes, but it holds {held:,}; get the whole file, or "
            "correct the header"
        )


def pick_key(path: Path, key: str, shapes: Mapping[str, tuple[int, ...]], option: str) -> str:
    """Check the key of an array, or find the only one.

    Raises
    ------
    InputError
        Where there is no such key, or none is given and the file holds several; the message lists all with shapes.
    """
    if not shapes:
        raise InputError(f"{path} holds no array; check the file")
    if key in shapes or (not key and len(shapes) == 1):
        return key or next(iter(shapes))
    held = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    problem = f"has no array {key!r}" if key else "holds several arrays"
    raise InputError(f"{path} {problem}; set {option} to one of: {held}")


def source_dims(config: ConvertConfig) -> list[str]:
    """Names of the data's dimensions, which plain arrays do not bring along.

    Raises
    ------
    InputError
        Where nobody names them.
    """
    if not config.dims:
        beside = f", or in {Path(config.source).with_suffix('.yaml')}" if config.source.endswith(".npy") else ""
        raise InputError(f"{config.source} does not name its dimensions; set dims, such as [y, x, band]{beside}")
    return config.dims


def name_dims(array: np.ndarray | LazyArray, dims: list[str], shape: list[int], order: str, what: str) -> xr.Variable:
    """Bring an array to its shape and name its axes; left-over axes of length 1 are dropped.

    Parameters
    ----------
    array
        The array as it is in the file.
    dims
        Names of the axes.
    shape
        Shape to bring it to first; empty leaves it.
    order
        ``C`` or ``F``: how a flattened array runs through its cells.
    what
        What the array is, for the error message.

    Raises
    ------
    InputError
        Where the numbers of cells or axes do not fit.
    """
    if shape:
        if math.prod(shape) != math.prod(array.shape):
            raise InputError(
                f"{what} has shape {array.shape}, which cannot become {tuple(shape)}: {math.prod(array.shape)} cells "
                f"against {math.prod(shape)}; correct the shape"
            )
        values = array.load() if isinstance(array, LazyArray) else array
        array = values.reshape(shape, order="F" if order == "F" else "C")
    excess = len(array.shape) - len(dims)
    single = [axis for axis, size in enumerate(array.shape) if size == 1]
    if excess not in (0, len(single)):
        raise InputError(
            f"{what} has shape {array.shape}, but dims names {len(dims)} of its axes: {dims}; name them all"
        )
    if isinstance(array, LazyArray):
        axes = [f"axis {axis}" for axis in range(len(array.shape))]
        variable = array.variable(axes)
        if excess:
            variable = variable.squeeze([axes[axis] for axis in single])
        variable.dims = tuple(dims)
        return variable
    return xr.Variable(dims, array.squeeze() if excess else array)
