"""What a converted volume holds, measured in one pass and printed as a table."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datasets.statistics import masked_data
from datasets.store import open_volume
from datasets.volume import UNLABELLED

_SHOWN_ATTRS = ("title", "source", "source_sha256", "licence", "created")


@dataclass(frozen=True)
class LabelCounts:
    """Labels of a volume.

    Attributes
    ----------
    dims
        Their dimensions.
    counts
        Class -> labelled cells.
    unlabelled
        Cells without a label.
    """

    dims: list[str]
    counts: dict[str, int]
    unlabelled: int


@dataclass(frozen=True)
class Description:
    """Content of a volume.

    Attributes
    ----------
    path
        Where it is.
    sizes
        Dimension -> cells.
    coordinates
        Coordinate -> its range and units, in words.
    dtype
        Stored type of the data.
    chunks, shards
        Edges in cells, in the order of `sizes`; shards are empty where there are none.
    valid_share
        Share of the cells with data.
    minimum, maximum, mean, deviation
        Of the cells with data.
    name, units
        What the data are, and in which units.
    labels, truth
        Label counts, where the volume has them.
    wells
        Number of wells.
    crs
        Name of the coordinate reference system; empty where there is none.
    attrs
        Title, source, SHA-256, licence and time of creation.
    """

    path: str
    sizes: dict[str, int]
    coordinates: dict[str, str]
    dtype: str
    chunks: list[int]
    shards: list[int]
    valid_share: float
    minimum: float
    maximum: float
    mean: float
    deviation: float
    name: str = ""
    units: str = ""
    labels: LabelCounts | None = None
    truth: LabelCounts | None = None
    wells: int = 0
    crs: str = ""
    attrs: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        cells = int(np.prod(list(self.sizes.values())))
        size = cells * np.dtype(self.dtype).itemsize
        lines = [(key.replace("_", " "), value) for key, value in self.attrs.items()]
        lines.append(("dims", " x ".join(f"{dim} {size}" for dim, size in self.sizes.items())))
        lines += [(f"  {name}", text) for name, text in self.coordinates.items()]
        lines.append(("crs", self.crs or "none"))
        what = ", ".join(text for text in (self.name, self.units not in ("", "1") and f"in {self.units}") if text)
        lines.append(("data", f"{self.dtype}, {size / 2**20:,.1f} MiB" + (f": {what}" if what else "")))
        stored = f"chunks {_times(self.chunks)}" + (f" in shards {_times(self.shards)}" if self.shards else "")
        lines.append(("stored in", stored))
        lines.append(("no data", f"{1 - self.valid_share:.2%} of {cells:,} cells"))
        lines.append(("range", f"{self.minimum:g} to {self.maximum:g}"))
        lines.append(("mean", f"{self.mean:g}, deviation {self.deviation:g}"))
        for title, labels in (("labels", self.labels), ("truth", self.truth)):
            if labels is None:
                continue
            total = sum(labels.counts.values())
            whole = max(1, total + labels.unlabelled)
            lines.append((title, f"({', '.join(labels.dims)}) {total:,} cells labelled, {total / whole:.2%}"))
            lines += [(f"  {name}", f"{n:,} ({n / max(1, total):.2%})") for name, n in labels.counts.items()]
        if self.labels is None:
            lines.append(("labels", "none"))
        if self.wells:
            lines.append(("wells", f"{self.wells}"))
        width = max(len(key) for key, _ in lines)
        return "\n".join([self.path, *(f"  {key:<{width}}  {value}" for key, value in lines)])


def describe(path: str | Path) -> Description:
    """Measure a volume; the data are read once, chunk by chunk.

    Parameters
    ----------
    path
        Converted volume.

    Raises
    ------
    InputError
        Where there is none.
    """
    ds = open_volume(path)
    data = ds["data"]
    values = masked_data(ds)
    lazy: dict[str, xr.DataArray] = {
        "count": values.count(),
        "minimum": values.min(),
        "maximum": values.max(),
        "mean": values.mean(),
        "deviation": values.std(),
    }
    layers = [name for name in ("labels", "truth") if name in ds]
    for name in layers:
        for index in [*range(len(ds[name].attrs["class_names"])), UNLABELLED]:
            lazy[f"{name} {index}"] = (ds[name] == index).sum()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)  # a volume without any data
        measured = _measure(lazy)
    counts = {
        name: LabelCounts(
            dims=[str(dim) for dim in ds[name].dims],
            counts={
                str(class_name): measured[f"{name} {index}"]
                for index, class_name in enumerate(ds[name].attrs["class_names"])
            },
            unlabelled=measured[f"{name} {UNLABELLED}"],
        )
        for name in layers
    }
    return Description(
        path=str(path),
        sizes={str(dim): size for dim, size in data.sizes.items()},
        coordinates={
            str(name): _range(ds[name])
            for name in sorted(data.coords, key=lambda name: [*data.dims, *data.coords].index(name))
            if name != "spatial_ref"
        },
        dtype=str(data.dtype),
        chunks=list(data.encoding["chunks"]),
        shards=list(data.encoding.get("shards") or []),
        valid_share=measured["count"] / data.size,
        minimum=measured["minimum"],
        maximum=measured["maximum"],
        mean=measured["mean"],
        deviation=measured["deviation"],
        name=str(data.attrs.get("long_name", "")),
        units=str(data.attrs.get("units", "")),
        labels=counts.get("labels"),
        truth=counts.get("truth"),
        wells=ds.sizes.get("well", 0),
        crs=_crs(ds),
        attrs={key: str(ds.attrs[key]) for key in _SHOWN_ATTRS if ds.attrs.get(key)},
    )


def _measure(lazy: dict[str, xr.DataArray]) -> dict[str, Any]:
    """Compute all scalars together, so that every chunk is read once."""
    bare = xr.Dataset({name: value.reset_coords(drop=True) for name, value in lazy.items()})
    return {str(name): value.item() for name, value in bare.compute().data_vars.items()}


def _crs(ds: xr.Dataset) -> str:
    if "spatial_ref" not in ds.coords:
        return ""
    attrs = ds["spatial_ref"].attrs
    return str(attrs.get("projected_crs_name") or attrs.get("geographic_crs_name") or attrs.get("crs_wkt", "")[:60])


def _range(coordinate: xr.DataArray) -> str:
    """First to last value, with the step where it is even, else the smallest to the largest."""
    if "names" in coordinate.attrs:
        return ", ".join(coordinate.attrs["names"])
    values = coordinate.values
    if np.issubdtype(values.dtype, np.datetime64):
        first, last = (str(day) for day in (values.min().astype("datetime64[D]"), values.max().astype("datetime64[D]")))
        return f"{first} to {last}"
    units = f" {coordinate.attrs['units']}" if coordinate.attrs.get("units") else ""
    if values.ndim == 1 and values.size > 1:
        steps = np.diff(values.astype(float))
        if np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9):
            return f"{values[0]:.10g} to {values[-1]:.10g}{units}, step {steps[0]:.6g}"
    return f"{np.nanmin(values):.10g} to {np.nanmax(values):.10g}{units}"


def _times(edges: Sequence[int]) -> str:
    return " x ".join(str(edge) for edge in edges)
