"""Labels from polygons of a geological map or of photo-interpretation: GeoJSON and GeoPackage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio.features
import rasterio.warp
import xarray as xr
from pyproj import CRS

from datasets.config import ConvertConfig
from datasets.errors import InputError, existing
from datasets.label_sources.classes import class_indices
from datasets.labels import UNLABELLED
from datasets.maps.map_grid import MapGrid, crs_name, extent, parse_crs
from datasets.readers.arrays import reading

_DEGREES = CRS.from_string("OGC:CRS84")  # what GeoJSON is in where it does not say (RFC 7946)
Shapes = list[dict[str, Any]]  # geometries as GeoJSON has them


def place(ds: xr.Dataset, config: ConvertConfig) -> tuple[xr.DataArray, str]:
    """Draw the polygons of `config.labels` on the map.

    Their attribute `labels_key` is the class; `labels_crs` goes before what the file says. Of polygons that overlap,
    the later in the file wins.
    """
    path = existing(config.labels, "labels")
    geometries, attributes, crs = (_read_geopackage if path.suffix.lower() == ".gpkg" else _read_geojson)(path)
    if not geometries:
        raise InputError(f"{path} holds no polygons; check the file")
    strange = sorted({str(shape.get("type")) for shape in geometries} - {"Polygon", "MultiPolygon"})
    if strange:
        raise InputError(f"{path} holds {', '.join(strange)}, where polygons are needed; take them out")
    if config.labels_key not in attributes:
        problem = f"has no attribute {config.labels_key!r}" if config.labels_key else "needs labels_key"
        held = ", ".join(map(str, attributes.columns[:20]))
        raise InputError(f"{path} {problem}; set labels_key to the attribute of the class, one of: {held}")
    codes = class_indices(attributes[config.labels_key], config.class_names, f"attribute {config.labels_key} of {path}")
    grid = MapGrid.of(ds, f"placing {path.name}")
    if config.labels_crs:
        crs = parse_crs(config.labels_crs, "labels_crs")
    geometries = _to_grid(geometries, crs, grid, path)
    index = rasterio.features.rasterize(
        ((shape, number) for number, shape in enumerate(geometries, start=1)),
        out_shape=grid.shape,
        transform=grid.transform(),
        all_touched=config.label_touched,
        dtype=np.int32,
    )
    seen = len(np.unique(index[index > 0]))
    if not seen:
        raise InputError(
            f"none of the {len(geometries)} polygons of {path} covers a cell: they lie at "
            f"{extent(*_corners(geometries))}, the cells at {grid.bounds()}; set labels_crs to the polygons' CRS, or "
            "label_touched for thin ones"
        )
    labels = np.append(codes, np.uint8(UNLABELLED))[index - 1]
    return xr.DataArray(labels, dims=grid.dims), f"{path.name}: {seen} of {len(geometries)} polygons"


def _read_geojson(path: Path) -> tuple[Shapes, pd.DataFrame, CRS | None]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        geometries = [feature["geometry"] or {} for feature in features]
        attributes = pd.DataFrame([feature.get("properties") or {} for feature in features], dtype=object)
        name = content.get("crs", {}).get("properties", {}).get("name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not GeoJSON that can be read ({error!r}); check the file") from error
    return geometries, attributes, parse_crs(name, f"the CRS of {path}") if name else None


def _read_geopackage(path: Path) -> tuple[Shapes, pd.DataFrame, CRS | None]:
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise InputError(
            f"reading {path} needs pyogrio and shapely: pip install 'telegrapher[vectors]', or save it as GeoJSON"
        ) from error
    with reading(path, "GeoPackage", pyogrio.errors.DataSourceError):
        layers = pyogrio.list_layers(path)[:, 0]
        if len(layers) != 1:
            raise InputError(f"{path} holds the layers {', '.join(layers)}; save the one of the labels by itself")
        meta, _, shapes, fields = pyogrio.raw.read(path)
    found = shapely.from_wkb([] if shapes is None else shapes)
    geometries = [{} if shape is None else shapely.geometry.mapping(shape) for shape in found]
    attributes = pd.DataFrame(dict(zip(map(str, meta["fields"]), fields, strict=True)), dtype=object)
    return geometries, attributes, CRS.from_user_input(meta["crs"]) if meta["crs"] else None


def _to_grid(geometries: Shapes, crs: CRS | None, grid: MapGrid, path: Path) -> Shapes:
    if grid.crs is None:
        if crs is not None:
            raise InputError(f"{path} is in {crs_name(crs)}, but the volume has no CRS; set crs")
        return geometries
    if crs is None:
        crs, (x, y) = _DEGREES, _corners(geometries)
        if np.abs(x).max() > 360 or np.abs(y).max() > 90:
            raise InputError(f"{path} does not say its CRS, and {extent(x, y)} are no degrees; set labels_crs")
    if crs.equals(grid.crs, ignore_axis_order=True):
        return geometries
    try:
        return list(rasterio.warp.transform_geom(crs.to_wkt(), grid.crs.to_wkt(), geometries))
    except rasterio.errors.RasterioError as error:
        raise InputError(
            f"{path} cannot go from {crs_name(crs)} to {crs_name(grid.crs)} ({error}); check its CRS"
        ) from error


def _corners(geometries: Shapes) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.array([rasterio.features.bounds(shape) for shape in geometries])
    return boxes[:, ::2], boxes[:, 1::2]
