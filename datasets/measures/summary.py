"""The statistics that are stored beside a volume: a small labelled dataset with a version."""

import json
import math
from collections.abc import Hashable

import numpy as np
import xarray as xr

from datasets.measures.measuring import Gathered, Measuring
from datasets.measures.sketch import ERROR, distribution, is_exact, percentiles

GROUP = "statistics"
VERSION = 1
SHARES = (0.0, 0.1, 1.0, 2.0, 5.0, 25.0, 50.0, 75.0, 95.0, 98.0, 99.0, 99.9, 100.0)
BINS = 128
_BESIDE = 3  # occupied bins that the smallest and the largest value are compared with


def summarise(plan: Measuring, gathered: Gathered) -> xr.Dataset:
    """Put what was measured into the form that is stored.

    That is, over the entries' dimensions: ``count``, ``mean``, ``deviation``, ``minimum``, ``maximum``, the cells of
    exactly these (``at_minimum``, ``at_maximum``) and the mean cells of the occupied bins beside them; with
    ``percentile`` the values at `SHARES`; with ``bin`` the ``histogram``: equal bins between the percentiles 0.1 and
    99.9, but for the outermost ``edges``, which are the extremes. ``dead`` marks columns of the map that never change.
    The attribute ``overall`` holds the same of all entries together.
    """
    whole, dtype = gathered.sketch, plan.dtype
    dists = [distribution(whole, entry, dtype, float(plan.centre[entry])) for entry in range(plan.count)]
    shape = [plan.sizes[dim] for dim in plan.entries]
    arrays = {
        "count": whole.count,
        "mean": whole.mean,
        "deviation": whole.deviation,
        "minimum": np.where(whole.count > 0, whole.low, np.nan),
        "maximum": np.where(whole.count > 0, whole.high, np.nan),
        "at_minimum": whole.at_low,
        "at_maximum": whole.at_high,
        "beside_minimum": np.array([_beside(counts) for _, counts in dists]),
        "beside_maximum": np.array([_beside(counts[::-1]) for _, counts in dists]),
        "percentiles": np.array([percentiles(*dist, SHARES) for dist in dists]),
    }
    arrays["histogram"], arrays["edges"] = map(np.array, zip(*(_histogram(*dist) for dist in dists), strict=True))
    extra = {"percentiles": ["percentile"], "histogram": ["bin"], "edges": ["edge"]}
    variables: dict[Hashable, tuple] = {
        name: ([*plan.entries, *extra.get(name, [])], array.reshape((*shape, *array.shape[1:])))
        for name, array in arrays.items()
    }
    if gathered.dead is not None:
        variables["dead"] = (plan.columns, gathered.dead)
    attrs = {
        "version": VERSION,
        "cells": math.prod(plan.sizes.values()),
        "percentile_error": 0.0 if is_exact(dtype) else ERROR,
        "overall": json.dumps(_overall(gathered, dists)),
    }
    return xr.Dataset(variables, {"percentile": list(SHARES)}, attrs)


def _beside(counts: np.ndarray) -> float:
    near = counts[1 : 1 + _BESIDE]
    return float(near.mean()) if near.size else 0.0


def _histogram(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not counts.size:
        return np.zeros(BINS, np.int64), np.full(BINS + 1, np.nan)
    low, high = percentiles(values, counts, (0.1, 99.9))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
    edges[0], edges[-1] = min(edges[0], values[0]), max(edges[-1], values[-1])
    return np.bincount(place, counts, BINS).astype(np.int64), edges


def _overall(gathered: Gathered, dists: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, object]:
    whole = gathered.sketch
    if not (count := int(whole.count.sum())):
        return {"count": 0}
    mean = float((whole.mean * whole.count).sum() / count)
    squares = float((whole.squares + whole.count * (whole.mean - mean) ** 2).sum())
    values, counts = map(np.concatenate, zip(*dists, strict=True))
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    histogram, edges = _histogram(values, counts)
    low, high = float(whole.low.min()), float(whole.high.max())
    return {
        "count": count,
        "mean": mean,
        "deviation": (squares / count) ** 0.5,
        "minimum": low,
        "maximum": high,
        "at_minimum": int(whole.at_low[whole.low == low].sum()),
        "at_maximum": int(whole.at_high[whole.high == high].sum()),
        "percentiles": percentiles(values, counts, SHARES).tolist(),
        "histogram": histogram.tolist(),
        "edges": edges.tolist(),
    }
