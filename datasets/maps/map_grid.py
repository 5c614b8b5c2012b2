"""Where the cells of a volume lie on the map: an affine grid, turned or not, and its coordinate system.

R rows and C columns are the two dimensions of the map, in the order of the data.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import ArrayLike
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from datasets.errors import InputError

_UNEVEN = 0.1  # cells that a centre may be off the grid
_ALIKE = 1e-3  # cells that the corners of equal grids, which formats round in their own ways, may be apart
_SAMPLES = 500


@dataclass(frozen=True)
class MapGrid:
    """An evenly spaced grid of cells, of rows and columns."""

    dims: tuple[str, str]
    shape: tuple[int, int]
    origin: np.ndarray  # x and y of the centre of the first cell
    steps: np.ndarray  # [[x, y] from a row to the next, [x, y] from a column to the next]
    crs: CRS | None

    @classmethod
    def of(cls, ds: xr.Dataset, purpose: str) -> "MapGrid":
        """Find the grid in the coordinates x and y, as dimensions or over two others (inline and crossline).

        `InputError` where there are none, or they are not evenly spaced, says the `purpose` of the grid.
        """
        way_out = "give them with coordinates or extent"
        if not {"x", "y"} <= set(ds.coords):
            raise InputError(f"{purpose} needs the coordinates x and y, but the data have {list(ds.coords)}; {way_out}")
        spanned = {*ds["x"].dims, *ds["y"].dims}
        dims = [str(dim) for dim in ds["data"].dims if dim in spanned]
        if len(dims) != 2 or len(spanned) != 2:
            raise InputError(f"{purpose} needs x and y over two dimensions, but they lie over {dims}; {way_out}")
        shape = (ds.sizes[dims[0]], ds.sizes[dims[1]])
        # Some hundred rows and columns tell the grid of a map of any size.
        rows, columns = (np.unique(np.linspace(0, size - 1, _SAMPLES).astype(int)) for size in shape)
        both = xr.broadcast(ds["x"].reset_coords(drop=True), ds["y"].reset_coords(drop=True))
        some = [at.isel({dims[0]: rows, dims[1]: columns}).transpose(*dims).values for at in both]
        xy_RC2 = np.stack(some, -1).astype(np.float64)
        known = np.isfinite(xy_RC2).all(-1)
        row_RC, column_RC = np.meshgrid(rows, columns, indexing="ij")
        basis = np.stack([np.ones_like(row_RC), row_RC, column_RC], -1)[known].astype(np.float64)
        fit, *_ = np.linalg.lstsq(basis, xy_RC2[known], rcond=None)
        for axis, size in enumerate(shape):
            if size == 1:  # one cell says nothing about its size: a square of the other direction's step
                fit[axis + 1] = fit[2 - axis][::-1] * (1, -1)
        cell = float(np.sqrt(abs(np.linalg.det(fit[1:]))))
        off = float(np.abs(basis @ fit - xy_RC2[known]).max()) if known.any() else np.inf
        if not cell > 0 or off > _UNEVEN * cell:
            raise InputError(
                f"{purpose} needs evenly spaced cells, but x and y are up to {off:g} off a grid of {cell:g}; "
                "resample the source to a regular grid"
            )
        wkt = ds.coords["spatial_ref"].attrs.get("crs_wkt") if "spatial_ref" in ds.coords else None
        return cls((dims[0], dims[1]), shape, fit[0], fit[1:], CRS.from_wkt(wkt) if wkt else None)

    def cells(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of map coordinates, as real numbers; whole at the centres of cells."""
        rows, columns = np.linalg.solve(self.steps.T, np.stack([x, y]) - self.origin[:, None])
        return rows, columns

    def positions(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map coordinates x and y of rows and columns."""
        x, y = (self.origin[axis] + self.steps[0, axis] * rows + self.steps[1, axis] * columns for axis in range(2))
        return x, y

    def transform(self) -> Affine:
        """From columns and rows, counted from the outer corner of the first cell as in rasterio, to x and y."""
        (x0, y0), (row_x, row_y), (column_x, column_y) = self.origin, *self.steps
        return Affine(column_x, row_x, x0 - (row_x + column_x) / 2, column_y, row_y, y0 - (row_y + column_y) / 2)

    def same_system(self, other: "MapGrid") -> bool:
        """Whether both have the same coordinate system, or none."""
        if self.crs is None or other.crs is None:
            return self.crs is other.crs
        return bool(self.crs.equals(other.crs, ignore_axis_order=True))

    def same_cells(self, other: "MapGrid") -> bool:
        """Whether both have the same cells of the ground, to a thousandth of one, whatever their systems are called."""
        corners = (np.array(self.shape) - 1.0)[:, None] * [[0, 0, 1, 1], [0, 1, 0, 1]]
        x, y = other.positions(*corners)
        if not self.same_system(other):
            if self.crs is None or other.crs is None:
                return False
            try:
                x, y = project(x, y, other.crs, self.crs, "the other")
            except InputError:
                return False
        off = np.abs(self.cells(x, y) - corners)
        return self.shape == other.shape and bool((off <= _ALIKE).all())

    def bounds(self) -> str:
        """Say where the cells are."""
        corners = self.positions(*np.meshgrid([0, self.shape[0] - 1], [0, self.shape[1] - 1]))
        return f"{extent(*corners)} ({crs_name(self.crs)})"


def extent(x: ArrayLike, y: ArrayLike) -> str:
    """Say how far positions reach."""
    return f"x {np.nanmin(x):g} to {np.nanmax(x):g}, y {np.nanmin(y):g} to {np.nanmax(y):g}"


def crs_name(crs: CRS | None) -> str:
    """Name a coordinate system."""
    return "no CRS" if crs is None else (crs.to_string() if crs.to_authority() else crs.name)


def parse_crs(text: str, option: str) -> CRS:
    """Understand a coordinate system; `InputError` that names the option where pyproj does not."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise InputError(
            f"{option} is {text!r}, which is no coordinate reference system; write EPSG:32633, say"
        ) from error


def project(x: np.ndarray, y: np.ndarray, source: CRS, target: CRS, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Bring points to another coordinate system; x is always east or longitude.

    `InputError` says `where` a point cannot be there, as a longitude of 500000.
    """
    try:
        east, north = Transformer.from_crs(source, target, always_xy=True).transform(x, y)
    except ProjError as error:
        raise InputError(
            f"{where} cannot go from {crs_name(source)} to {crs_name(target)} ({error}); check its CRS"
        ) from error
    lost = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & ~(np.isfinite(east) & np.isfinite(north)))
    if len(lost):
        raise InputError(
            f"{where} has {len(lost)} points that cannot be in {crs_name(source)}, the first at x {x[lost[0]]:g}, "
            f"y {y[lost[0]]:g}; check its CRS and which column is which"
        )
    return np.asarray(east), np.asarray(north)
