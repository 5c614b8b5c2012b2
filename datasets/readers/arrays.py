"""What the readers of plain arrays share: which array of a file, and what its axes are."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import LazyArray


@contextmanager
def reading(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors of another library into an `InputError`: the file is not of its kind."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(f"{path} is not a {kind} that can be read ({error}); check the file") from error


def refuse_short(path: Path, needed: int, who: str) -> None:
    """Raise `InputError` where a file holds fewer bytes than `needed`, as `who`, such as ``its header``, says."""
    held = path.stat().st_size
    if held < needed:
        raise InputError(
            f"{path} is cut short: {who} makes it {needed:,} bytes, but it holds {held:,}; get the whole file, or "
            "correct the header"
        )


def pick_key(path: Path, key: str, shapes: Mapping[str, tuple[int, ...]], option: str) -> str:
    """Check the key of an array, or find the only one; else `InputError` lists all with their shapes."""
    if not shapes:
        raise InputError(f"{path} holds no array; check the file")
    if key in shapes or (not key and len(shapes) == 1):
        return key or next(iter(shapes))
    held = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    problem = f"has no array {key!r}" if key else "holds several arrays"
    raise InputError(f"{path} {problem}; set {option} to one of: {held}")


def read_array(config: ConvertConfig, load: Callable[[Path, str, str], np.ndarray | LazyArray]) -> xr.Dataset:
    """Read the array that `load` takes from a file; only settings can name its axes."""
    path = Path(config.source)
    array = load(path, config.key, "key")
    if not config.dims:
        beside = f", or in {path.with_suffix('.yaml')}" if path.suffix.lower() == ".npy" else ""
        raise InputError(f"{config.source} does not name its dimensions; set dims, such as [y, x, band]{beside}")
    data = name_dims(array, config.dims, config.shape, config.order, str(path))
    return xr.Dataset({"data": data}, attrs={"files": [str(path)]})


def name_dims(
    array: np.ndarray | LazyArray, dims: list[str], shape: list[int], order: Literal["C", "F"], what: str
) -> xr.Variable:
    """Bring an array to its shape, if one is given, and name its axes; left-over axes of length 1 are dropped.

    In the `order` ``C`` the last index runs fastest, in ``F`` the first. `InputError` says of `what` the numbers of
    cells or axes do not fit.
    """
    if shape:
        held, wanted = math.prod(array.shape), math.prod(shape)
        if held != wanted:
            raise InputError(
                f"{what} has shape {array.shape}, which cannot become {tuple(shape)}: {held} cells against {wanted}; "
                "correct the shape"
            )
        array = (array.load() if isinstance(array, LazyArray) else array).reshape(shape, order=order)
    if len(array.shape) - len(dims) not in (0, array.shape.count(1)):
        raise InputError(
            f"{what} has shape {array.shape}, but dims names {len(dims)} of its axes: {dims}; name them all"
        )
    axes = [f"axis {axis}" for axis in range(len(array.shape))]
    variable = array.variable(axes) if isinstance(array, LazyArray) else xr.Variable(axes, array)
    if variable.ndim > len(dims):
        variable = variable.squeeze()
    variable.dims = tuple(dims)
    return variable
