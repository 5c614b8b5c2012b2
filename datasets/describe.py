"""What a converted volume holds, from its stored statistics or measured in one pass, and printed as a table."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datasets.checkup import overall
from datasets.labels import UNLABELLED
from datasets.statistics import count_labels, measure, read_summary
from datasets.store import open_volume

_SHOWN_ATTRS = ("title", "source", "source_sha256", "licence", "created", "program")
_FEW_ENTRIES, _WIDTH = 16, 120
_SHOWN_SHARES = ("1", "25", "50", "75", "99")


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
    block
        Blocks that the layout was made for, in words.
    valid_share
        Share of the cells with data.
    minimum, maximum, mean, deviation
        Of the cells with data; NaN without any.
    percentiles
        Percentile -> value, of the cells with data.
    histogram
        Cells in equal bins between the percentiles 0.1 and 99.9, what lies beyond in the outermost two.
    name, units
        What the data are, and in which units.
    labels, truth
        Label counts, where the volume has them.
    wells
        Number of wells.
    crs
        Name of the coordinate reference system; empty where there is none.
    attrs
        Title, source, SHA-256, licence, time of creation and program.
    entries
        Percentiles and share of no data of each entry, such as a band, where there are a few.
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
    percentiles: dict[str, float] = field(default_factory=dict)
    histogram: list[int] = field(default_factory=list)
    name: str = ""
    units: str = ""
    labels: LabelCounts | None = None
    truth: LabelCounts | None = None
    wells: int = 0
    crs: str = ""
    attrs: dict[str, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    block: str = ""

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
        stored += f", for blocks of {self.block}" if self.block else ""
        lines.append(("stored in", stored))
        lines.append(("no data", f"{1 - self.valid_share:.2%} of {cells:,} cells"))
        lines.append(("range", f"{self.minimum:g} to {self.maximum:g}"))
        lines.append(("mean", f"{self.mean:g}, deviation {self.deviation:g}"))
        if self.percentiles:
            lines.append(
                ("percentiles", ", ".join(f"{share}%: {value:.4g}" for share, value in self.percentiles.items()))
            )
            lines.append(("histogram", spark(self.histogram)))
        lines += [(f"  {name}", text) for name, text in self.entries.items()]
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
        indent = " " * (width + 4)
        wrapped = [f"\n{indent}".join(textwrap.wrap(text, _WIDTH - len(indent))) for _, text in lines]
        return "\n".join(
            [self.path, *(f"  {key:<{width}}  {text}" for (key, _), text in zip(lines, wrapped, strict=True))]
        )


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
    summary = read_summary(path)
    return describe_opened(path, ds, measure(ds) if summary is None else summary)


def describe_opened(path: str | Path, ds: xr.Dataset, summary: xr.Dataset) -> Description:
    """Describe an opened volume with its statistics."""
    data = ds["data"]
    whole = overall(summary)
    layers = {name: count_labels(ds[name]) for name in ("labels", "truth") if name in ds}
    counts = {
        name: LabelCounts(
            dims=[str(dim) for dim in ds[name].dims],
            counts={
                str(class_name): int(cells[index]) for index, class_name in enumerate(ds[name].attrs["class_names"])
            },
            unlabelled=int(cells[UNLABELLED]),
        )
        for name, cells in layers.items()
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
        valid_share=whole["count"] / data.size,
        minimum=whole.get("minimum", np.nan),
        maximum=whole.get("maximum", np.nan),
        mean=whole.get("mean", np.nan),
        deviation=whole.get("deviation", np.nan),
        percentiles=_percentiles(summary, whole),
        histogram=whole.get("histogram", []),
        name=str(data.attrs.get("long_name", "")),
        units=str(data.attrs.get("units", "")),
        labels=counts.get("labels"),
        truth=counts.get("truth"),
        wells=ds.sizes.get("well", 0),
        crs=_crs(ds),
        entries=_entries(ds, summary),
        block=str(data.attrs.get("block", "")),
        attrs={key: str(ds.attrs[key]) for key in _SHOWN_ATTRS if ds.attrs.get(key)},
    )


def _percentiles(summary: xr.Dataset, whole: dict[str, Any]) -> dict[str, float]:
    if not whole["count"]:
        return {}
    shares = [f"{share:g}" for share in summary["percentile"].values]
    return {share: value for share, value in zip(shares, whole["percentiles"], strict=True) if share in _SHOWN_SHARES}


def _entries(ds: xr.Dataset, summary: xr.Dataset) -> dict[str, str]:
    """Say of each entry what of all entries together means nothing where they are unlike quantities."""
    count = summary["count"]
    if not 1 < count.size <= _FEW_ENTRIES:
        return {}
    shares = list(summary["percentile"].values)
    low, middle, high = (summary["percentiles"][..., shares.index(share)] for share in (1.0, 50.0, 99.0))
    each = ds["data"].size / count.size
    names = [list(ds[dim].attrs.get("names", [])) if dim in ds.coords else [] for dim in count.dims]
    found = {}
    for index in np.ndindex(count.shape):
        name = ", ".join(
            own[at] if own else f"{dim} {at}" for dim, at, own in zip(count.dims, index, names, strict=True)
        )
        missing = 1 - int(count[index]) / each
        values = f"1%: {float(low[index]):.4g}, 50%: {float(middle[index]):.4g}, 99%: {float(high[index]):.4g}"
        found[name] = values + (f", {missing:.1%} no data" if missing else "") if int(count[index]) else "no data"
    return found


def spark(counts: Sequence[int], width: int = 32) -> str:
    """Draw a histogram in a line of text."""
    bars = "▁▂▃▄▅▆▇█"
    columns = np.add.reduceat(counts, np.linspace(0, len(counts), width, endpoint=False).astype(int))
    heights = np.ceil(columns / max(columns.max(), 1) * len(bars)).astype(int)
    return "".join(bars[height - 1] if height else " " for height in heights)


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
    units = f" {coordinate.attrs['units']}" if coordinate.attrs.get("units", "1") != "1" else ""
    if values.ndim == 1 and values.size > 1:
        steps = np.diff(values.astype(float))
        if np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9):
            return f"{values[0]:.10g} to {values[-1]:.10g}{units}, step {steps[0]:.6g}"
    return f"{np.nanmin(values):.10g} to {np.nanmax(values):.10g}{units}"


def _times(edges: Sequence[int]) -> str:
    return " x ".join(str(edge) for edge in edges)
