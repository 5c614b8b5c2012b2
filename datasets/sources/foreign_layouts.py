"""Which array of a Zarr store is the volume, and what the store says of its axes: plain Zarr, MDIO 0 and MDIO 1."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
import zarr

from datasets.readers import cf


@dataclass(frozen=True)
class Layout:
    """An array and what its store says of it."""

    array: zarr.Array
    dims: list[str]  # none where the store has no names
    coords: dict[str, xr.Variable] = field(default_factory=dict)  # along the dimensions
    valid: tuple[zarr.Array, list[str]] | None = None  # the mask and its dimensions
    title: str = ""
    crs: str = ""  # coordinate reference system as text

    def renamed(self, names: Mapping[str, str]) -> "Layout":
        """Give dimensions, and the coordinates of their names, other names."""
        valid = self.valid and (self.valid[0], [names.get(dim, dim) for dim in self.valid[1]])
        coords = {
            names.get(name, name): xr.Variable([names.get(str(dim), dim) for dim in at.dims], at.values, at.attrs)
            for name, at in self.coords.items()
        }
        return replace(self, dims=[names.get(dim, dim) for dim in self.dims], coords=coords, valid=valid)


def find_layout(node: zarr.Group | zarr.Array, key: str, vertical: str = "twt") -> Layout:
    """Find the array that is the volume: a store's only one, the one that it names, or that of the path `key`.

    The vertical dimension of an MDIO store that calls it ``sample`` is named `vertical`. `LookupError` where there is
    no such array, or no key and several, which it lists.
    """
    if isinstance(node, zarr.Array):
        if key:
            raise LookupError(f"it is a single array, which has no key {key!r}")
        return Layout(node, _dims(node))
    if "dimension" in node.attrs and "data" in node and key in ("", _mdio_0_key(node)):
        return _mdio_0(node, vertical)
    own = node.attrs.get("attributes")
    if isinstance(own, Mapping) and "defaultVariableName" in own:
        return _mdio_1(node, key or str(own["defaultVariableName"]))
    return _plain(node, key)


def _plain(group: zarr.Group, key: str) -> Layout:
    arrays = {name: item for name, item in group.members(max_depth=None) if isinstance(item, zarr.Array)}
    named = {name for array in arrays.values() for name in _named(array)}
    many = {
        name: array
        for name, array in arrays.items()
        if array.ndim > 1 and array.dtype.kind in "iuf" and name.rpartition("/")[2] not in named
    }
    if not key and len(many) == 1:
        (key,) = many
    if key not in arrays:
        held = ", ".join(f"{name} {array.shape}" for name, array in (many or arrays).items()) or "none"
        problem = f"has no array {key!r}" if key else "does not say which array is the volume"
        raise LookupError(f"it {problem}; set key to one of: {held}")
    array = arrays[key]
    prefix = key[: key.rfind("/") + 1]
    coords = _coordinates(array, lambda name: arrays.get(f"{prefix}{name}"))
    mapping = arrays.get(f"{prefix}{array.attrs.get('grid_mapping', 'spatial_ref')}")
    crs = str(mapping.attrs.get("crs_wkt", "")) if mapping is not None else ""
    layout = Layout(array, _dims(array), coords, title=str(group.attrs.get("title", "")), crs=crs)
    return layout.renamed(cf.map_names({dim: coords[dim] for dim in layout.dims if dim in coords}))


def _mdio_0(group: zarr.Group, vertical: str) -> Layout:
    """MDIO before 1.0: axes in the attribute ``dimension``, the data in ``data/chunked_012...``."""
    axes: Any = group.attrs["dimension"]
    key = _mdio_0_key(group)
    array, mask = group.get(key), group.get("metadata/live_mask")
    if not isinstance(array, zarr.Array):
        raise LookupError(f"it looks like MDIO 0, but has no {key}; set key")
    dims = [vertical if axis["name"] == "sample" else str(axis["name"]) for axis in axes]
    coords = {
        dim: xr.Variable(dim, np.asarray(axis["coords"]), {"units": "ms"} if dim == "twt" else {})
        for dim, axis in zip(dims, axes, strict=True)
    }
    return Layout(array, dims, coords, (mask, dims[: mask.ndim]) if isinstance(mask, zarr.Array) else None)


def _mdio_0_key(group: zarr.Group) -> str:
    axes: Any = group.attrs["dimension"]
    return "data/chunked_" + "".join(map(str, range(len(axes))))


def _mdio_1(group: zarr.Group, key: str) -> Layout:
    """MDIO 1: the group names its default variable; a trace mask; x and y of the midpoints."""
    array, mask = group.get(key), group.get("trace_mask")
    if not isinstance(array, zarr.Array):
        raise LookupError(f"it looks like MDIO 1, but has no {key!r}; set key")
    coords = _coordinates(array, group.get)
    for name, coordinate in coords.items():
        units: Any = group[name].attrs.get("unitsV1", {})
        coordinate.attrs = {"units": str(next(iter(units.values())))} if isinstance(units, Mapping) and units else {}
        if name == "time":
            coordinate.attrs.setdefault("units", "ms")
    valid = (mask, _dims(mask)) if isinstance(mask, zarr.Array) else None
    layout = Layout(array, _dims(array), coords, valid, title=str(group.attrs.get("name", "")))
    return layout.renamed({"time": "twt", "cdp_x": "x", "cdp_y": "y"})


def _dims(array: zarr.Array) -> list[str]:
    """Names of the dimensions, of version 3 or as xarray writes them into version 2; none where one lacks."""
    names: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS", ())
    return [str(name) for name in names] if all(names) and len(names) == array.ndim else []


def _named(array: zarr.Array) -> list[str]:
    return [*_dims(array), *str(array.attrs.get("coordinates", "")).split()]


def _coordinates(array: zarr.Array, find: Callable[[str], object]) -> dict[str, xr.Variable]:
    coords = {}
    for name in _named(array):
        item = find(name)
        if not isinstance(item, zarr.Array) or item.dtype.kind not in "iufM":
            continue
        if dims := _dims(item) or ([name] if item.ndim == 1 else []):
            stored = xr.Variable(dims, np.asarray(item[...]), attributes(item))
            variable = cf.dates(cf.unpacked(stored)[0])
            coords[name] = xr.Variable(variable.dims, variable.values, cf.kept(variable.attrs))
    return coords


def attributes(array: zarr.Array) -> dict[str, Any]:
    """Attributes of an array, with the fill value of version 2, in which xarray keeps ``_FillValue``.

    One of 0 is Zarr's own default and says nothing.
    """
    attrs = dict(array.attrs)
    fill = array.fill_value
    if "_ARRAY_DIMENSIONS" in attrs and fill and array.dtype.kind in "iuf":
        attrs.setdefault("_FillValue", np.asarray(fill).item())
    return attrs
