"""Which kind of label source a conversion has, by the suffix of its labels."""

from pathlib import Path

import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.label_sources import horizons, polygons, wells
from datasets.labels import label_attrs
from datasets.maps.tables import TABLE_SUFFIXES, table_suffix
from datasets.readers import envi

_POLYGONS = (".geojson", ".json", ".gpkg")


def is_placed(config: ConvertConfig) -> bool:
    """Whether labels are things to be placed on the volume's cells, and no array."""
    placed = table_suffix(config.labels) in (*_POLYGONS, *TABLE_SUFFIXES) and not envi.is_image(Path(config.labels))
    return bool(config.horizons) or placed


def place_labels(ds: xr.Dataset, config: ConvertConfig) -> xr.Dataset:
    """Add labels from horizons, polygons or wells, if any; `InputError` where two kinds are asked for at once."""
    if not is_placed(config):
        return ds
    if config.horizons and config.labels:
        raise InputError(f"labels is {config.labels} and horizons are {config.horizons}; give one of them")
    kind = polygons if Path(config.labels).suffix.lower() in _POLYGONS else wells
    labels, placed = horizons.place(ds, config) if config.horizons else kind.place(ds, config)
    labels = labels.transpose(*ds["data"].dims, missing_dims="ignore")
    return ds.assign(labels=labels.assign_attrs(label_attrs(config.class_names), placed=placed))
