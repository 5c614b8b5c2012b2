"""What may be wrong with a volume, each check by itself: from its statistics and its geometry, nothing is read."""

import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from datasets.labels import FILLS
from datasets.maps.geometry import Geometry

_SHOWN = 6
_PILE = 1e-3  # share of the cells at one end from which on they are a pile
_STEEP = 3.0  # times as many as in the occupied bins beside
_FAR = 10.0  # interquartile ranges beyond the quartiles
_LARGE_CHUNK = 32 * 2**20
_MANY_OBJECTS = 100_000
_USUAL = {"twt": (0.1, 50.0), "depth": (0.05, 1000.0)}  # from a sample to the next, ms and m or ft


@dataclass(frozen=True)
class Finding:
    """Something that a user should know before training."""

    check: str  # what was checked, in a word or two
    text: str  # what was found, with the numbers
    way_out: str


def check_values(summary: xr.Dataset, geometry: Geometry) -> list[Finding]:
    """Run all checks that need no more than the stored statistics and the geometry."""
    return [
        *_empty_or_constant(summary),
        *_piles(summary),
        *_dead_columns(summary),
        *_bins(geometry),
        *_crs(geometry),
    ]


def _empty_or_constant(summary: xr.Dataset) -> Iterator[Finding]:
    count = summary["count"]
    if count.dims and (empty := _where(count == 0)):
        way = "leave them out of the source, or set data.validity"
        yield Finding("no data", f"{_list(empty)} hold no data at all", way)
    if flat := _where((count > 1) & (summary["minimum"] == summary["maximum"])):
        text = f"{_list(flat) if count.dims else 'the whole volume'} hold one value throughout"
        yield Finding("constant", text, "check the source; convert with nodata if it means no data")


def _piles(summary: xr.Dataset) -> Iterator[Finding]:
    """Find values for no data that nobody named, and those clipped by a sensor, a stretch or a range of numbers."""
    far: dict[float, list[tuple[str, int]]] = {}
    piled: list[tuple[str, tuple[str, float, float]]] = []
    dims, scalar = summary["count"].dims, summary.drop_vars(["dead", "histogram", "edges"], errors="ignore")
    for index in np.argwhere(summary["count"].values > 0):
        entry, facts = _name(dims, index), scalar.isel(dict(zip(dims, index, strict=True)))
        count, least, most = int(facts["count"]), float(facts["minimum"]), float(facts["maximum"])
        low, high = facts["percentiles"].sel(percentile=[25.0, 75.0]).values.tolist()
        for end, value, beyond in (("minimum", least, low - least), ("maximum", most, most - high)):
            cells = int(facts[f"at_{end}"])
            known = np.isclose(value, FILLS, rtol=1e-6).any()
            if (known and cells) or (beyond > _FAR * (high - low) > 0 and cells > max(1, _PILE / 10 * count)):
                far.setdefault(value, []).append((entry, cells))
            if cells / count > _PILE and cells > _STEEP * float(facts[f"beside_{end}"]) and least < most:
                piled.append((end, (entry, cells / count, value)))
    for value, cells_of in far.items():
        text = f"{sum(cells for _, cells in cells_of):,} cells hold {value:g}, far from all others{_in(cells_of)}"
        yield Finding("no-data value", text, f"convert again with nodata: {value:g} if that stands for no data")
    fills = {f"{value:g}" for value in far}
    found: dict[str, list[tuple[str, float, float]]] = {}
    for end, pile in piled:
        if f"{pile[-1]:g}" not in fills:
            found.setdefault(end, []).append(pile)
    for end, where in found.items():
        _, shares, values = zip(*where, strict=True)
        low, high = min(values), max(values)
        span = f"{low:g}" if low == high else f"({low:g} to {high:g})"
        text = f"{max(shares):.2%} of the cells lie exactly at the {end} {span}{_in(where)}"
        way = f"convert with nodata: {values[0]:g} if that stands for no data, else take the source before clipping"
        yield Finding("clipping", text, way)


def _dead_columns(summary: xr.Dataset) -> Iterator[Finding]:
    if "dead" in summary and summary["dead"].any():
        dead = summary["dead"]
        cells = int(dead.sum())
        name = "traces" if "inline" in dead.dims else "columns of cells"
        share = f"{cells:,} of {dead.size:,} {name} ({cells / dead.size:.2%})"
        first = _name(dead.dims, np.argwhere(dead.values)[0])
        text = f"{share} never change but count as data; the first is at cell {first}"
        yield Finding("dead traces", text, "mask them: name their value as nodata, or give a mask as valid")


def check_classes(counts: Mapping[str, int]) -> list[Finding]:
    """Find classes that label no cell."""
    empty = [name for name, cells in counts.items() if not cells]
    way = "check class_names, and the units and sign of picks"
    return [Finding("labels", f"no cell is labelled {_list(empty)}", way)] if empty else []


def _bins(geometry: Geometry) -> Iterator[Finding]:
    for dim, (low, high) in geometry.uneven.items():
        text = f"the steps along {dim} go from {low:g} to {high:g} {geometry.units[dim]}".rstrip()
        yield Finding("geometry", text, "a network takes all cells for equal: resample the source to even steps")
    if dims := ", ".join(geometry.unmeasured):
        text = f"nothing says how far apart cells are along {dims}, so no map or section is true to scale"
        way = "convert with coordinates and coordinate_units, or with x_byte and y_byte for SEG-Y"
        yield Finding("geometry", text, way)
    for dim in geometry.crooked:
        way = "check x_byte, y_byte and the line numbers of the source"
        yield Finding("geometry", f"positions jump along {dim}", way)
    for dim, (least, most) in _USUAL.items():
        if (step := abs(geometry.cell.get(dim) or 0)) and not least <= step <= most:
            text = f"cells of {step:g} {geometry.units[dim]} along {dim} are unusual".replace("  ", " ")
            yield Finding("geometry", text, "convert with coordinates, such as {twt: '0:4'}, if the file is wrong")
    sides = {dim: abs(step) for dim, step in geometry.cell.items() if step and dim in geometry.azimuth}
    if len(sides) != 2 or geometry.geographic:
        return
    (a, first), (b, second) = sides.items()
    small, large = sorted((first, second))
    if large > 4 * small:
        text = f"cells are {first:g} x {second:g} {geometry.units[a]} ({a} x {b})"
        way = "kernels see unlike distances along the two: resample, or check the positions of the source"
        yield Finding("geometry", text, way)
    if geometry.units[a] in ("m", "metre", "metres") and (small < 0.1 or large > 10_000):
        way = "check the scalar of the positions (SEG-Y bytes 71-72) or the units"
        yield Finding("geometry", f"cells of {first:g} x {second:g} m are unusual", way)
    if (angle := abs((geometry.azimuth[a] - geometry.azimuth[b]) % 180 - 90)) > 1:
        text = f"{a} and {b} are {90 - angle:.1f}° apart, not 90°"
        yield Finding("geometry", text, "check x_byte and y_byte of the source")


def _crs(geometry: Geometry) -> Iterator[Finding]:
    if geometry.placed and not geometry.crs:
        yield Finding("CRS", "positions without a coordinate reference system", "convert with crs, such as EPSG:32633")
    elif geometry.geographic:
        text = f"cells are measured in degrees ({geometry.crs}), so their size in metres changes over the map"
        yield Finding("CRS", text, "reproject the source to a projected system, such as UTM")


def check_layout(data: xr.DataArray) -> list[Finding]:
    """Find chunks that are large, and stores of very many objects."""
    chunks = data.encoding.get("chunks") or data.shape
    objects = data.encoding.get("shards") or chunks
    size = math.prod(chunks) * data.dtype.itemsize
    count = math.prod(-(-cells // edge) for cells, edge in zip(data.shape, objects, strict=True))
    if size > _LARGE_CHUNK:
        text = f"a chunk is {size / 2**20:.0f} MiB, the least that any block reads"
    elif count > _MANY_OBJECTS:
        text = f"the data are {count:,} objects of the store, which is slow to list and to copy"
    else:
        return []
    way = "convert again with the block that training will read, such as block: {inline: 96, crossline: 96, twt: 96}"
    return [Finding("chunks", text, way)]


def overall(summary: xr.Dataset) -> dict[str, Any]:
    """Count, moments, percentiles and histogram of all entries together."""
    return json.loads(summary.attrs["overall"])


def _where(flags: xr.DataArray) -> list[str]:
    return [_name(flags.dims, index) for index in np.argwhere(flags.values)]


def _name(dims: Sequence[Hashable], index: Iterable[int]) -> str:
    return ", ".join(f"{dim} {at}" for dim, at in zip(dims, index, strict=True))


def _in(where: list[Any]) -> str:
    return f" (in {_list(named)})" if (named := [entry for entry, *_ in where if entry]) else ""


def _list(names: list[str]) -> str:
    return "; ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
