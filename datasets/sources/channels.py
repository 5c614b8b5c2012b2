"""Several sources of one area become the channels of one volume, on the cells of the first."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.maps.coordinates import LOCAL
from datasets.maps.gridding import Cells
from datasets.maps.map_grid import MapGrid, crs_name, extent, parse_crs
from datasets.readers import lines
from datasets.readers.formats import READERS, source_kind
from datasets.readers.resample import Raster, describe_cells, onto_grid, overlap
from datasets.storage.layout import pieces, plan_chunks

_GRIDDED = ("geotiff", "geosoft", "surfer", "netcdf", "envi", "lines")


@dataclass(frozen=True)
class _Layer:
    path: Path
    ds: xr.Dataset  # as `datasets.readers` says; ``data`` over y, x and perhaps one dimension of bands
    names: list[str]  # of its bands
    grid: MapGrid
    missing: list[float]  # values that mark no data
    local: bool  # whether the user says that nobody knows the coordinate system

    @property
    def dims(self) -> list[str]:
        """Dimension of the bands, if any, and y and x."""
        return [*(str(dim) for dim in self.ds["data"].dims if dim not in ("y", "x")), "y", "x"]

    def read(self, bands: range, rows: range, columns: range) -> np.ndarray:
        cuts = [slice(cells.start, cells.stop, cells.step) for cells in (bands, rows, columns)]
        part = self.ds["data"].variable[dict(zip(self.dims, cuts[-len(self.dims) :], strict=True))]
        values = np.asarray(part.transpose(*self.dims).values)
        known = _known(xr.Variable(self.dims, values), self.missing).values
        floats = values if values.dtype.kind == "f" else values.astype(np.float64)
        return np.where(known, floats, floats.dtype.type(np.nan)).reshape(-1, *values.shape[-2:])


def read_channels(config: ConvertConfig) -> xr.Dataset:
    """Read `config.source` and all of `config.more_sources` as one (band, y, x), lazily.

    A source on the cells of the first is taken as it is, but for the direction of rows and columns; any other is
    resampled as `config.resample` says, and refused without. Flight lines and stations are gridded onto the cells.

    What comes is as `datasets.readers` says, with ``valid`` for every band by itself, and no value of ``data`` that
    marks no data; the attributes ``resampling`` and ``gridding`` say what was done to which. `InputError` where a
    source is no grid, does not say where it lies, or lies elsewhere.
    """
    first = _open(replace(config, more_sources=[]), None, config.crs)
    layers = [first]
    for other in config.others:
        nodata = config.nodata if other.nodata is None else other.nodata
        # A reader that must know the coordinate system need not: it is asked for here, in words that fit.
        layers.append(_open(replace(other, nodata=nodata, crs=other.crs or LOCAL), first, other.crs))
    moved = [_differs(layer, first, config.resample) for layer in layers]
    dtype = np.result_type(*(layer.ds["data"].dtype for layer in layers), *([np.float32] if any(moved) else []))
    shape = sum(len(layer.names) for layer in layers), *first.grid.shape
    sizes: dict[Hashable, int] = dict(zip(("band", "y", "x"), shape, strict=True))
    edges = pieces(sizes, plan_chunks(sizes, dtype.itemsize, config.chunks, config.block)[1])
    data, valid = [], []
    names: list[str] = []
    notes: dict[str, list[str]] = {"resampling": [], "gridding": []}
    for index, (layer, differs) in enumerate(zip(layers, moved, strict=True)):
        one = len(names) + 1
        names += layer.names
        which = f"band {one}" if one == len(names) else f"bands {one} to {len(names)}"
        which += f" ({layer.path.name})"
        variable = layer.ds["data"].variable
        if differs:
            raster = Raster(layer.grid, len(layer.names), layer.read)
            variable = onto_grid(raster, first.grid, config.resample, dtype).variable(["band", "y", "x"])
            notes["resampling"].append(
                f"{which}: {config.resample} from cells of {describe_cells(layer.grid)} ({crs_name(layer.grid.crs)}) "
                f"to cells of {describe_cells(first.grid)} ({crs_name(first.grid.crs)}), the grid of {first.path.name}"
            )
        if "gridding" in layer.ds.attrs:
            where = "" if layer is first else f"onto the cells of {first.path.name}, "
            notes["gridding"].append(f"{which}: {where}{layer.ds.attrs['gridding']}")
        chunked = _chunk(variable, edges, f"channels-{index}-{layer.path}")
        data.append(chunked.astype(dtype))
        known = _known(chunked, [] if differs else layer.missing)
        if "valid" in layer.ds:
            own = layer.ds["valid"].variable
            known = known & xr.Variable([dim if dim in ("y", "x") else "band" for dim in own.dims], own.data)
        valid.append(known)
    band = xr.Variable("band", np.arange(1, len(names) + 1), {"names": names})
    kept = {name: at for name, at in first.ds.coords.items() if name in ("y", "x", "spatial_ref")}
    ds = xr.Dataset({"data": xr.Variable.concat(data, "band"), "valid": xr.Variable.concat(valid, "band")}, kept)
    ds.attrs = {name: text for name, text in first.ds.attrs.items() if name not in ("nodata", "gridding")}
    files = [file for layer in layers for file in layer.ds.attrs["files"]]
    said = {name: "; ".join(texts) for name, texts in notes.items() if texts}
    return ds.assign_coords(band=band).assign_attrs(files=files, **said)


def _open(settings: ConvertConfig, first: _Layer | None, crs: str) -> _Layer:
    kind = source_kind(settings.source, settings.format, "source" if first is None else "more_sources")
    path = Path(settings.source)
    if kind not in _GRIDDED:
        raise InputError(
            f"{path} has the format {kind}; with more_sources, sources are {', '.join(_GRIDDED)}: "
            "save it as one of these"
        )
    ds = _lines_onto(settings, first, crs) if kind == "lines" and first is not None else READERS[kind](settings)
    dims = [str(dim) for dim in ds["data"].dims]
    if not {"y", "x"} <= set(dims) or len(dims) > 3:
        raise InputError(
            f"{path} has the dimensions {dims}; with more_sources a source has y and x, and at most one more, of its "
            "bands: name them with dims"
        )
    if not {"y", "x"} <= set(ds.coords):
        raise InputError(
            f"{path} has no x along its columns and y along its rows; write the positions of its cells into it, or "
            "turn it north-up, as with gdalwarp"
        )
    if first is not None:
        ds = ds.isel({dim: slice(None, None, -1) for dim in ("y", "x") if _rises(ds, dim) != _rises(first.ds, dim)})
    missing = [*ds.attrs.get("nodata", []), *([] if settings.nodata is None else [settings.nodata])]
    grid = MapGrid.of(ds.transpose(..., "y", "x"), f"making channels of {path.name}")
    if kind == "lines" and first is not None:
        grid = first.grid
    elif crs:
        grid = replace(grid, crs=None if crs == LOCAL else parse_crs(crs, f"the crs of {path}"))
    elif ds.attrs.get("crs"):
        grid = replace(grid, crs=parse_crs(str(ds.attrs["crs"]), f"the coordinate system of {path}"))
    return _Layer(path, ds, _names(path, ds, settings), grid, missing, crs == LOCAL)


def _lines_onto(settings: ConvertConfig, first: _Layer, crs: str) -> xr.Dataset:
    if not crs or (crs == LOCAL) != (first.grid.crs is None):
        raise _unlike(Path(settings.source), crs, first)
    x, y = first.ds["x"], first.ds["y"]
    size = float(np.abs(first.grid.steps).max())
    cells = Cells(x.values.astype(np.float64), y.values.astype(np.float64), size)
    known = first.grid.crs.to_wkt() if first.grid.crs is not None else LOCAL
    own = settings.lines_crs if crs == LOCAL else crs
    return lines.read(replace(settings, crs=known, lines_crs=own), cells).assign_coords(y=y, x=x)


def _rises(ds: xr.Dataset, dim: str) -> bool:
    return bool(ds[dim].values[-1] > ds[dim].values[0])


def _names(path: Path, ds: xr.Dataset, settings: ConvertConfig) -> list[str]:
    dim = next((dim for dim in ds["data"].dims if dim not in ("y", "x")), None)
    known = ds[dim].attrs.get("names") if dim in ds.coords else None
    if known:
        return [str(name) for name in known]
    if dim is None or ds.sizes[dim] == 1:
        return [settings.key.rpartition("/")[2] or path.stem]
    entries = ds[dim].values if dim in ds.coords else range(1, ds.sizes[dim] + 1)
    return [f"{path.stem} {entry}" for entry in entries]


def _differs(layer: _Layer, first: _Layer, resample: str) -> bool:
    grid, like = layer.grid, first.grid
    if (grid.crs is None) != (like.crs is None):
        raise _unlike(layer.path, LOCAL if layer.local else crs_name(grid.crs) if grid.crs is not None else "", first)
    if grid.shape != like.shape:
        own, other = f"size {grid.shape}", str(like.shape)
    elif not grid.same_system(like):
        own, other = f"coordinate system {crs_name(grid.crs)}", crs_name(like.crs)
    elif not grid.same_cells(like):
        own, other = f"grid {_cells(grid)}", _cells(like)
    else:
        return False
    if not resample:
        raise InputError(
            f"{layer.path} has the {own}, but {first.path} has {other}; set resample to nearest, bilinear or average "
            "to bring it to the grid of the first"
        )
    if grid.crs is None and not (layer.local and first.local):
        raise InputError(
            f"{layer.path} has no coordinate system, so it cannot be resampled to the grid of {first.path}; name it "
            f"with crs and with {{source: {layer.path}, crs: EPSG:28354}} in more_sources, or write local for both "
            "where they are in one that nobody knows"
        )
    moved, bounds, shared = overlap(grid, like)
    if not shared:
        raise InputError(
            f"{layer.path} covers {extent(moved[::2], moved[1::2])} in the coordinate system of {first.path}, which "
            f"covers {extent(bounds[::2], bounds[1::2])}: they do not overlap; check their CRS"
        )
    return True


def _unlike(path: Path, crs: str, first: _Layer) -> InputError:
    if first.grid.crs is None and crs and crs != LOCAL:
        return InputError(
            f"{first.path} has no coordinate system, but {path} is in {crs}; set crs to that of the first"
        )
    says = "is said to be local" if crs == LOCAL else "does not say its coordinate system"
    known = f"is in {crs_name(first.grid.crs)}" if first.grid.crs is not None else "is local"
    return InputError(
        f"{path} {says}, and {first.path} {known}; write {{source: {path}, crs: EPSG:28354}}, say, in more_sources"
    )


def _chunk(variable: xr.Variable, edges: Mapping[Hashable, int], name: str) -> xr.Variable:
    own = {dim: min(edges.get(dim, edges["band"]), size) for dim, size in variable.sizes.items()}
    data = variable.chunk(own, name=name).transpose(..., "y", "x").data
    return xr.Variable(["band", "y", "x"], data if data.ndim == 3 else data[None])


def _known(variable: xr.Variable, missing: list[float]) -> xr.Variable:
    return reduce(and_, [variable != value for value in missing], variable.notnull())


def _cells(grid: MapGrid) -> str:
    x, y = grid.origin
    return f"of cells of {describe_cells(grid)} with the first at x {x:.10g}, y {y:.10g}"
