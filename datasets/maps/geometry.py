"""How the cells of a volume lie in the world: sizes, extent, directions, coordinate system. Pure arithmetic."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from datasets.dims import entry_dims

_EVEN = 1e-3  # largest relative difference between steps that count as equal
_JUMP = 0.05  # of a cell
_ROUNDING = 1.5  # SEG-Y stores positions as whole numbers of some unit
_COUNTS = ("", "1", "line", "slice", "cell", "trace")  # units that count cells and measure nothing


@dataclass(frozen=True)
class Geometry:
    """Where cells lie."""

    crs: str  # name of the coordinate system, or empty
    geographic: bool  # whether positions are degrees
    placed: bool  # whether there are positions
    # Distance between the centres of neighbouring cells, none where it is unknown or not the same, and its units.
    cell: dict[str, float | None] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    uneven: dict[str, tuple[float, float]] = field(default_factory=dict)  # smallest and largest step, if they differ
    azimuth: dict[str, float] = field(default_factory=dict)  # in which cells follow, degrees clockwise from north
    # Horizontal dimensions along which one position jumps by half a cell, or one in a hundred by a twentieth.
    crooked: list[str] = field(default_factory=list)

    @property
    def unmeasured(self) -> list[str]:
        """Dimensions of space of which nothing says how far apart their cells are."""
        return [dim for dim in self.cell if dim not in self.uneven and not self.cell[dim]] + [
            dim for dim, step in self.cell.items() if step and self.units[dim] in _COUNTS
        ]

    def lines(self, sizes: dict[str, int]) -> list[tuple[str, str]]:
        """Say it in words, one line a fact."""
        known = [
            (dim, abs(step), self.units[dim])
            for dim, step in self.cell.items()
            if step is not None and self.units[dim] not in _COUNTS
        ]
        facts = {
            "cell": ", ".join(f"{step:.4g} {units} along {dim}" for dim, step, units in known),
            "extent": " x ".join(_length(step * sizes[dim], units) for dim, step, units in known),
            "orientation": ", ".join(f"{dim} towards {_compass(angle)}" for dim, angle in self.azimuth.items()),
        }
        return [(name, text) for name, text in facts.items() if text]


def geometry(ds: xr.Dataset) -> Geometry:
    """Read the geometry of an opened volume from its coordinates."""
    attrs = ds["spatial_ref"].attrs if "spatial_ref" in ds.coords else {}
    projected, globe = str(attrs.get("projected_crs_name", "")), str(attrs.get("geographic_crs_name", ""))
    found = Geometry(
        crs=projected or globe or str(attrs.get("crs_wkt", ""))[:60],
        geographic=bool(globe and not projected),
        placed={"x", "y"} <= set(ds.coords),
    )
    cell, units = found.cell, found.units
    sizes = ds["data"].sizes
    keep = entry_dims(sizes)
    for dim in (str(dim) for dim in sizes if str(dim) not in keep):
        cell[dim], units[dim] = None, ""
        if dim not in ds.coords or ds[dim].dtype.kind not in "iuf" or sizes[dim] < 2:
            continue
        coordinate = ds[dim]
        units[dim] = str(coordinate.attrs.get("units", ""))
        if "spacing" in coordinate.attrs:
            cell[dim], units[dim] = float(coordinate.attrs["spacing"]), str(coordinate.attrs["spacing_units"])
            continue
        steps = np.diff(coordinate.values.astype(np.float64))
        step = float(steps.mean())
        if np.abs(steps - step).max() > _EVEN * abs(step):
            found.uneven[dim] = (float(np.abs(steps).min()), float(np.abs(steps).max()))
        elif dim not in ("inline", "crossline"):
            cell[dim] = step
        if dim in ("x", "y") and step:
            found.azimuth[dim] = (90.0 if dim == "x" else 0.0) + (180.0 if step < 0 else 0.0)
    if found.placed and ds["x"].ndim == ds["y"].ndim == 2:
        for dim, (step, way, jumps) in _grid_steps(ds["x"], ds["y"]).items():
            cell[dim], units[dim], found.azimuth[dim] = step, str(ds["x"].attrs.get("units", "")), way
            if jumps:
                found.crooked.append(dim)
    return found


def _grid_steps(x: xr.DataArray, y: xr.DataArray) -> dict[str, tuple[float, float, bool]]:
    y = y.transpose(*x.dims)
    found = {}
    for axis, dim in enumerate(x.dims):
        east, north = (np.diff(part.values, axis=axis) for part in (x, y))
        have = np.isfinite(east) & np.isfinite(north)
        if not have.any():
            continue
        east, north = east[have], north[have]
        step_e, step_n = float(np.median(east)), float(np.median(north))
        step = float(np.hypot(step_e, step_n))
        off = np.hypot(east - step_e, north - step_n)
        off[off < _ROUNDING] = 0.0
        jumps = (off > 0.5 * step).any() or (off > _JUMP * step).mean() > 0.01
        found[str(dim)] = (step, float(np.degrees(np.arctan2(step_e, step_n)) % 360), bool(jumps))
    return found


def _compass(angle: float) -> str:
    names = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
    nearest = names[round(angle / 45) % 8]
    return nearest if angle % 45 == 0 else f"{angle:.1f}° ({nearest})"


def _length(span: float, units: str) -> str:
    return f"{span / 1e3:.4g} km" if units == "m" and span >= 1e4 else f"{span:.4g} {units}"
