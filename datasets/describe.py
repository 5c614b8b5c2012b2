"""What a converted volume holds, printed as a table."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.checkup import overall
from datasets.labels import UNLABELLED
from datasets.statistics import count_labels

_SHOWN_ATTRS = ("title", "source", "source_sha256", "licence", "created", "program")
_FEW_ENTRIES, _WIDTH = 16, 120
_SHOWN_SHARES = (1, 25, 50, 75, 99)


@dataclass(frozen=True)
class LabelCounts:
    """Labels: their dimensions, the cells of each class, and those without one."""

    dims: list[str]
    counts: dict[str, int]
    unlabelled: int
    placed: str  # how much of horizons, polygons or wells these are, in words


@dataclass(frozen=True)
class Description:
    """Content of a volume; the numbers are of the cells with data, NaN without any."""

    path: str
    sizes: dict[str, int]
    coordinates: dict[str, str]  # ranges and units, in words
    dtype: str
    chunks: list[int]  # edges in cells, in the order of `sizes`
    shards: list[int]  # as chunks; empty where there are none
    valid_share: float
    minimum: float
    maximum: float
    mean: float
    deviation: float
    percentiles: dict[str, float]
    histogram: list[int]  # of equal bins; see `datasets.measures.summary.summarise`
    name: str
    units: str
    labels: LabelCounts | None
    truth: LabelCounts | None
    wells: int
    crs: str  # empty where there is none
    attrs: dict[str, str]
    entries: dict[str, str]  # percentiles and share of no data of each entry, such as a band, where there are a few
    block: str  # that the layout was made for, in words

    def __str__(self) -> str:
        cells = math.prod(self.sizes.values())
        size = cells * np.dtype(self.dtype).itemsize
        what = ", ".join(text for text in (self.name, self.units not in ("", "1") and f"in {self.units}") if text)
        stored = f"chunks {_times(self.chunks)}" + (f" in shards {_times(self.shards)}" if self.shards else "")
        lines = [
            *((key.replace("_", " "), value) for key, value in self.attrs.items()),
            ("dims", " x ".join(f"{dim} {size}" for dim, size in self.sizes.items())),
            *((f"  {name}", text) for name, text in self.coordinates.items()),
            ("crs", self.crs or "none"),
            ("data", f"{self.dtype}, {size / 2**20:,.1f} MiB" + (f": {what}" if what else "")),
            ("stored in", stored + (f", for blocks of {self.block}" if self.block else "")),
            ("no data", f"{1 - self.valid_share:.2%} of {cells:,} cells"),
            ("range", f"{self.minimum:g} to {self.maximum:g}"),
            ("mean", f"{self.mean:g}, deviation {self.deviation:g}"),
        ]
        if self.percentiles:
            shares = ", ".join(f"{share}%: {value:.4g}" for share, value in self.percentiles.items())
            lines += [("percentiles", shares), ("histogram", _spark(self.histogram))]
        lines += [(f"  {name}", text) for name, text in self.entries.items()]
        for title, labels in (("labels", self.labels), ("truth", self.truth)):
            if labels is not None:
                total = sum(labels.counts.values())
                whole = max(1, total + labels.unlabelled)
                lines.append((title, f"({', '.join(labels.dims)}) {total:,} cells labelled, {total / whole:.2%}"))
                lines += [(f"  {name}", f"{n:,} ({n / max(1, total):.2%})") for name, n in labels.counts.items()]
                lines += [("placed", labels.placed)] * bool(labels.placed)
        if self.labels is None:
            lines.append(("labels", "none"))
        if self.wells:
            lines.append(("wells", str(self.wells)))
        width = max(len(key) for key, _ in lines)
        indent = "\n" + " " * (width + 4)
        texts = ((key, indent.join(textwrap.wrap(text, _WIDTH - width - 4))) for key, text in lines)
        return "\n".join([self.path, *(f"  {key:<{width}}  {text}" for key, text in texts)])


def describe(path: str | Path, ds: xr.Dataset, summary: xr.Dataset, crs: str) -> Description:
    """Describe an opened volume by its statistics and the name of its coordinate reference system."""
    data = ds["data"]
    whole = overall(summary)
    percentiles = zip(summary["percentile"].values, whole["percentiles"], strict=True) if whole["count"] else ()
    return Description(
        path=str(path),
        sizes={str(dim): size for dim, size in data.sizes.items()},
        coordinates={
            str(name): _range(ds[name])
            for name in dict.fromkeys([*data.dims, *data.coords])
            if name in data.coords and name != "spatial_ref"
        },
        dtype=str(data.dtype),
        chunks=list(data.encoding["chunks"]),
        shards=list(data.encoding.get("shards") or []),
        valid_share=whole["count"] / data.size,
        **{name: whole.get(name, np.nan) for name in ("minimum", "maximum", "mean", "deviation")},
        percentiles={f"{share:g}": value for share, value in percentiles if share in _SHOWN_SHARES},
        histogram=whole.get("histogram", []),
        name=str(data.attrs.get("long_name", "")),
        units=str(data.attrs.get("units", "")),
        labels=_count(ds, "labels"),
        truth=_count(ds, "truth"),
        wells=ds.sizes.get("well", 0),
        crs=crs,
        entries=_entries(ds, summary),
        block=str(data.attrs.get("block", "")),
        attrs={key: str(ds.attrs[key]) for key in _SHOWN_ATTRS if ds.attrs.get(key)},
    )


def _count(ds: xr.Dataset, name: str) -> LabelCounts | None:
    if name not in ds:
        return None
    cells = count_labels(ds[name]).tolist()
    counts = dict(zip(map(str, ds[name].attrs["class_names"]), cells, strict=False))
    return LabelCounts(list(map(str, ds[name].dims)), counts, cells[UNLABELLED], ds[name].attrs.get("placed", ""))


def _entries(ds: xr.Dataset, summary: xr.Dataset) -> dict[str, str]:
    count = summary["count"]
    if not 1 < count.size <= _FEW_ENTRIES:
        return {}
    low, middle, high = (summary["percentiles"].sel(percentile=share).values for share in (1, 50, 99))
    names = [list(ds[dim].attrs.get("names", [])) for dim in count.dims]
    found = {}
    for index, cells in np.ndenumerate(count.values):
        own = zip(count.dims, index, names, strict=True)
        name = ", ".join(known[at] if known else f"{dim} {at}" for dim, at, known in own)
        missing = 1 - int(cells) / (ds["data"].size / count.size)
        values = f"1%: {low[index]:.4g}, 50%: {middle[index]:.4g}, 99%: {high[index]:.4g}"
        found[name] = values + (f", {missing:.1%} no data" if missing else "") if cells else "no data"
    return found


def _spark(counts: Sequence[int]) -> str:
    bars = " ▁▂▃▄▅▆▇█"
    columns = np.add.reduceat(counts, np.linspace(0, len(counts), 32, endpoint=False).astype(int))
    return "".join(bars[height] for height in np.ceil(columns / max(columns.max(), 1) * (len(bars) - 1)).astype(int))


def _range(coordinate: xr.DataArray) -> str:
    if "names" in coordinate.attrs:
        return ", ".join(coordinate.attrs["names"])
    values = coordinate.values
    if values.dtype.kind == "M":
        days = values.astype("datetime64[D]")
        return f"{days.min()} to {days.max()}"
    units = f" {coordinate.attrs['units']}" if coordinate.attrs.get("units", "1") != "1" else ""
    if values.ndim == 1 and values.size > 1:
        steps = np.diff(values.astype(float))
        if np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9):
            return f"{values[0]:.10g} to {values[-1]:.10g}{units}, step {steps[0]:.6g}"
    return f"{np.nanmin(values):.10g} to {np.nanmax(values):.10g}{units}"


def _times(edges: Sequence[int]) -> str:
    return " x ".join(map(str, edges))
