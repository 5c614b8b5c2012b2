"""A synthetic seismic survey: the earth of `datasets.synthetic.geology`, imaged block by block, beyond memory.

Image = wavelet * reflection coefficients, plus noise with the wavelet's own band. Letters: X, Y, Z cells along inline,
crossline and depth; W wells.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from datasets.config import SynthesisConfig
from datasets.errors import InputError
from datasets.labels import UNLABELLED, label_attrs
from datasets.provenance import content_key, program
from datasets.storage.objects import is_remote
from datasets.store import is_made, refuse_existing, write_volume
from datasets.synthetic.geology import Earth, draw_earth
from datasets.synthetic.random_fields import white_noise

_NOISE, _WELLS = 100, 101  # streams beside those of the geology
_SMEAR = np.array([0.25, 0.5, 0.25], np.float32)  # migration spreads noise over neighbouring traces
_PATCHES, _PATCH = 16, 4  # the signal's strength is measured on at most 16 x 16 patches of 4 x 4 columns
_DIMS = ("inline", "crossline", "depth")
Block = tuple[slice, ...]  # along these


def synthesize(config: SynthesisConfig) -> str | Path:
    """Make a synthetic survey and write it as a volume, whose place is returned; the same is made once only.

    It has ``data`` (float32, in units of the signal's standard deviation), ``truth`` (uint8, 1 is salt), ``labels``
    (the truth within `radius` of a well, 255 elsewhere) and ``wells`` (cells along inline, crossline). `InputError` if
    the place is taken or cannot be written, or the map is too small for the wells.
    """
    if not config.out:
        raise InputError("out is empty; name the folder of the new volume, such as surveys/small.zarr")
    key = content_key({"settings": asdict(replace(config, overwrite=False))})
    out = config.out if is_remote(config.out) else Path(config.out)
    if not config.overwrite and is_made(out, key):
        print(f"{config.out} is there already, of the same settings: nothing to do")
        return out
    refuse_existing(out, config.overwrite, store=True)
    return write_volume(
        survey(config).assign_attrs(program=program()),
        out,
        overwrite=config.overwrite,
        progress=f"Synthesising {' x '.join(map(str, config.shape))} cells into {config.out}",
        chunks=dict(zip(_DIMS, config.chunks, strict=True)),
        key=key,
        overviews=True,
    )


def survey(config: SynthesisConfig) -> xr.Dataset:
    """Describe a synthetic survey as a dataset that Dask computes block by block."""
    earth = draw_earth(config)
    wells, strength = place_wells(earth), _signal_strength(earth)
    chunks = da.core.normalize_chunks(config.chunks, config.shape)

    def lazy(dtype: type, compute: Callable[..., np.ndarray], *known: Any) -> da.Array:
        chunk = partial(_chunk, compute, earth, *known)
        return da.map_blocks(chunk, chunks=chunks, dtype=dtype, meta=np.empty((0,) * 3, dtype))

    named = label_attrs({0: "rest", 1: "salt"})
    recipe = {key: value for key, value in asdict(config).items() if key not in ("out", "chunks", "overwrite")}
    identity = json.dumps(recipe, sort_keys=True)
    inline, crossline, depth = map(np.arange, config.shape)
    dx, dy, dz = config.spacing
    return xr.Dataset(
        {
            "data": (_DIMS, lazy(np.float32, _image, strength), {"long_name": "seismic amplitude", "units": "1"}),
            "labels": (_DIMS, lazy(np.uint8, _labels, wells), {"long_name": "interpretation around wells", **named}),
            "truth": (_DIMS, lazy(np.uint8, _truth), {"long_name": "rock type", **named}),
            "wells": (("well", "axis"), wells, {"long_name": "well positions", "dims": ["inline", "crossline"]}),
        },
        {
            "inline": ("inline", 1000 + inline, {"units": "1", "spacing": dx, "spacing_units": "m"}),
            "crossline": ("crossline", 2000 + crossline, {"units": "1", "spacing": dy, "spacing_units": "m"}),
            "depth": ("depth", depth * dz, {"units": "m", "positive": "down"}),
        },
        {
            "title": "Synthetic survey over a salt body",
            "source": "synthetic",
            "source_sha256": hashlib.sha256(identity.encode()).hexdigest(),
            "licence": "CC0-1.0",
            "synthesis": identity,
        },
    )


def ricker(peak: float, offsets: np.ndarray) -> np.ndarray:
    """Ricker wavelet (1 - 2a) exp(-a), a = (pi peak offset)^2: the second derivative of a Gaussian.

    `offsets` are distances from its centre; `peak`, of its spectrum, is in cycles per unit of these.
    """
    a = (np.pi * peak * offsets) ** 2
    return (1 - 2 * a) * np.exp(-a)


def signal(earth: Earth, block: Block) -> np.ndarray:
    """Image a block without noise, float32 [X, Y, Z]: reflection coefficients of normal incidence under the wavelet.

    A coefficient (Z2 - Z1) / (Z2 + Z1) lies between two cells; so do the wavelet's samples: events come out at their
    true depth.
    """
    config = earth.config
    reach = _wavelet_reach(config)
    x, y, z = _positions(config, (*block[:2], slice(block[2].start - reach, block[2].stop + reach)))
    reflectivity = np.tanh(np.diff(earth.log_impedance(x, y, z), axis=2) / 2).astype(np.float32)
    offsets = (np.arange(2 * reach) - reach + 0.5) * config.spacing[2]
    image = _convolve(reflectivity, ricker(1 / config.wavelength, offsets), 2)
    return image * earth.gain(x, y, z[reach:-reach]).astype(np.float32)


def noise(config: SynthesisConfig, block: Block) -> np.ndarray:
    """Draw noise of standard deviation 1 in the band of the wavelet, smeared over traces: float32 [X, Y, Z]."""
    reach = _wavelet_reach(config)
    halo = list(zip(block, (1, 1, reach), strict=True))
    start, stop = [cut.start - wide for cut, wide in halo], [cut.stop + wide for cut, wide in halo]
    white = white_noise((config.seed, _NOISE), start, stop)
    wavelet = ricker(1 / config.wavelength, np.arange(-reach, reach + 1) * config.spacing[2])
    for axis, kernel in enumerate((_SMEAR, _SMEAR, wavelet)):
        white = _convolve(white, kernel / np.sqrt((kernel**2).sum()), axis)
    return white


def place_wells(earth: Earth) -> np.ndarray:
    """Draw wells on a jittered grid, int64 [W, 2] cells along inline and crossline.

    Half of them, rounded up, meet the salt, the others miss it. `InputError` where the map has no room for them.
    """
    config = earth.config
    depth = slice(0, config.shape[2])
    rng = np.random.default_rng([config.seed, _WELLS])
    needed = -(-config.wells // 2)
    pitch = 2.0 * config.radius + 3  # so that the labelled squares of two wells rarely touch
    while pitch >= 3:
        counts = [max(1, int(size / pitch)) for size in config.shape[:2]]
        grid = np.argwhere(np.ones(counts))
        cells = ((grid + rng.uniform(0.3, 0.7, grid.shape)) * config.shape[:2] / counts).astype(np.int64)
        order = rng.permutation(len(cells))
        columns = [(slice(x, x + 1), slice(y, y + 1), depth) for x, y in cells[order].tolist()]
        meets = np.array([_truth(earth, column).any() for column in columns])
        if meets.sum() >= needed and (~meets).sum() >= config.wells - needed:
            return cells[sorted([*order[meets][:needed], *order[~meets][: config.wells - needed]])]
        pitch *= 0.8
    raise InputError(
        f"a map of {config.shape[:2]} cells has no room for {config.wells} wells, half of them in the salt; "
        "take fewer wells, a larger shape or a larger salt"
    )


def _chunk(compute: Callable[..., np.ndarray], *known: Any, block_info: Any = None) -> np.ndarray:
    return compute(*known, tuple(slice(start, stop) for start, stop in block_info[None]["array-location"]))


def _image(earth: Earth, strength: float, block: Block) -> np.ndarray:
    image = signal(earth, block) / np.float32(strength)
    if np.isfinite(earth.config.snr):
        image += noise(earth.config, block) / np.float32(earth.config.snr)
    return image


def _labels(earth: Earth, wells: np.ndarray, block: Block) -> np.ndarray:
    x, y = (np.abs(np.arange(cut.start, cut.stop)[:, None] - wells[:, axis]) for axis, cut in enumerate(block[:2]))
    near = (np.maximum(x[:, None], y) <= earth.config.radius).any(2)
    if not near.any():
        return np.full([cut.stop - cut.start for cut in block], UNLABELLED, np.uint8)
    return np.where(near[..., None], _truth(earth, block), np.uint8(UNLABELLED))


def _truth(earth: Earth, block: Block) -> np.ndarray:
    return (earth.salt_depth(*_positions(earth.config, block)) > 0).astype(np.uint8)


def _positions(config: SynthesisConfig, block: Block) -> list[np.ndarray]:
    return [np.arange(cut.start, cut.stop) * step for cut, step in zip(block, config.spacing, strict=True)]


def _signal_strength(earth: Earth) -> float:
    sides = []
    for size in earth.config.shape[:2]:
        patches = min(_PATCHES, -(-size // _PATCH))
        starts = ((np.arange(patches) + 0.5) * size / patches - _PATCH / 2).clip(0).astype(int).tolist()
        sides.append([slice(start, min(start + _PATCH, size)) for start in starts])
    total, cells = 0.0, 0
    for patch in product(*sides):
        image = signal(earth, (*patch, slice(0, earth.config.shape[2])))
        total += float(np.sum(image**2, dtype=np.float64))
        cells += image.size
    return float(np.sqrt(total / cells))


def _wavelet_reach(config: SynthesisConfig) -> int:
    return int(np.ceil(1.15 * config.wavelength / config.spacing[2]))


def _convolve(array: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Convolve with a symmetric kernel, keeping complete sums; terms in one order, so blocks agree bit for bit."""
    moved = np.moveaxis(array, axis, 0)
    length = len(moved) - len(kernel) + 1
    result = np.zeros((length, *moved.shape[1:]), np.float32)
    for shift, weight in enumerate(kernel.astype(np.float32)):
        result += weight * moved[shift : shift + length]
    return np.ascontiguousarray(np.moveaxis(result, 0, axis))
