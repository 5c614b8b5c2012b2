"""The common look of all pictures: figures, class colours, axes in real units."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

WIDTH, DPI = 8.4, 150  # inches, and dots an inch
LEGEND_COLUMNS = 6

# Okabe and Ito's seven, then colours farthest from all before them in CIELAB as seen with normal, deutan and protan
# eyes (Machado 2009), so that neighbours in the list never look alike.
CLASS_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#0000ff", "#242400", "#240092"),
    *("#490049", "#dbdb92", "#924924", "#246eff", "#494949", "#6e92ff", "#b6dbff", "#2449b6", "#49006e", "#ff496e"),
)
# From Paul Tol's muted set: none is a class colour.
PART_COLOURS = {"unused": "#b5b5b5", "train": "#332288", "validation": "#ddcc77", "test": "#44aa99"}
PART_RGB = np.array([to_rgb(colour) for colour in PART_COLOURS.values()])
"""float [4, 3], by the codes 0 to 3 of `datasets.samples.parts.PART_NAMES`."""
RIGHT, WRONG, NO_DATA = "#c3d7e8", "#b2182b", "#f4e3c8"

_LOOK: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "image.interpolation": "nearest",
    "axes.formatter.useoffset": False,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
}


@contextmanager
def picture(path: Path, height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Make a figure of `height` x `width` inches, and save it as PNG when the block ends."""
    with mpl.rc_context(_LOOK):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, dpi=DPI, format="png")


@dataclass(frozen=True)
class Axis:
    """One dimension of a grid; its coordinate counts cells by default."""

    name: str
    size: int  # in cells
    first: float = 0.0  # cell's centre
    step: float = 1.0  # to the next
    units: str = ""  # of the coordinate; empty where it counts cells

    @classmethod
    def of(cls, name: str, values: Sequence[Any] | np.ndarray, units: str = "") -> "Axis":
        """Describe a coordinate: by cell number unless it is a regular series, in kilometres where it reaches 10 km."""
        coordinate = np.asarray(values)
        if coordinate.ndim != 1 or coordinate.size < 2 or coordinate.dtype.kind not in "iuf":
            return cls(name, coordinate.size)
        steps = np.diff(coordinate.astype(np.float64))
        first, step = float(coordinate[0]), float(steps.mean())
        if steps[0] == 0 or not np.allclose(steps, step, rtol=1e-3):
            return cls(name, coordinate.size)
        if units in {"m", "metre", "meter", "metres", "meters"} and np.abs(coordinate).max() >= 1e4:
            first, step, units = first / 1e3, step / 1e3, "km"
        return cls(name, coordinate.size, first, step, units)

    @property
    def unit(self) -> str:
        """Units to write, if not 1."""
        return "" if self.units == "1" else self.units

    @property
    def label(self) -> str:
        """Name and units."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def edges(self) -> tuple[float, float]:
        """Outer edges of first and last cell."""
        return self.first - self.step / 2, self.first + self.step * (self.size - 0.5)

    def at(self, cell: int) -> str:
        """Name a cell by its coordinate."""
        return f"{self.name} {self.first + self.step * cell:g} {self.unit}".rstrip()


def grid_axes(dataset: Any, dims: Sequence[str]) -> list[Axis]:
    """Describe dimensions of an xarray object by their coordinates."""
    return [Axis.of(dim, dataset[dim].values, str(dataset[dim].attrs.get("units", ""))) for dim in dims]


def class_colours(classes: int) -> np.ndarray:
    """Return each class's RGB, float [K, 3]; after 20 they start again, darker."""
    listed = len(CLASS_COLOURS)
    return np.array([np.multiply(to_rgb(CLASS_COLOURS[k % listed]), 0.6 ** (k // listed)) for k in range(classes)])


def paint(index: np.ndarray, colours: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Colour class indices: RGBA float [..., 4], transparent where the index is negative."""
    rgba = np.zeros((*index.shape, 4))
    shown = index >= 0
    rgba[shown, :3] = colours[index[shown].astype(np.int64)]
    rgba[shown, 3] = alpha
    return rgba


def class_patch(name: str, colour: Any) -> Patch:
    """Make an entry of a class map's legend."""
    return Patch(facecolor=colour, edgecolor="0.3", linewidth=0.4, label=name)


def class_patches(names: Sequence[str], *maps: np.ndarray) -> list[Patch]:
    """Make the legend of the classes in any of the maps."""
    colours = class_colours(len(names))
    return [class_patch(names[k], tuple(colours[k])) for k in present_classes(*maps)]


def legend_below(
    figure: Figure, handles: list[Patch], columns: int = LEGEND_COLUMNS, loc: Any = "outside lower center"
) -> None:
    """Put a legend below the panels."""
    figure.legend(handles=handles, loc=loc, ncols=columns, handlelength=1.2)


def part_patches(codes: np.ndarray, counts: np.ndarray, what: str) -> list[Patch]:
    """Make the legend of the parts that occur, with counts."""
    return [
        Patch(facecolor=colour, label=f"{part}: {count:,} {what}")
        for code, ((part, colour), count) in enumerate(zip(PART_COLOURS.items(), counts, strict=True))
        if (codes == code).any()
    ]


def present_classes(*maps: np.ndarray) -> list[int]:
    """List the classes in any of the maps."""
    return sorted({int(k) for part in maps for k in np.unique(part) if k >= 0})


def aspect_of(rows: Axis, columns: Axis) -> float:
    """Return height / width of a panel: to scale where both axes share a unit, else of square cells.

    It is never flatter than 0.35 or steeper than 1.5, so that a thin section stays readable.
    """
    same = rows.unit == columns.unit != ""
    height = rows.size * abs(rows.step if same else 1.0)
    width = columns.size * abs(columns.step if same else 1.0)
    return float(np.clip(height / width, 0.35, 1.5))


def show(
    ax: Axes, image: np.ndarray, rows: Axis, columns: Axis, *, bare: bool = False, labels: bool = True, **how: Any
) -> Any:
    """Draw a grid [rows, columns] or [rows, columns, colour] in the coordinates of its axes.

    Row 0 is at the top, except where rows are a northing that grows, so that north is up. The grid may be coarser or
    finer than its axes. If `bare`, names and ticks stay as they are; a panel to the right of the first needs no row
    `labels`. The rest goes to ``imshow``.
    """
    top, bottom = rows.edges
    drawn = ax.imshow(image, extent=(*columns.edges, bottom, top), aspect="auto", origin="upper", **how)
    if bare:
        return drawn
    ax.set_box_aspect(aspect_of(rows, columns))
    ax.set_anchor("N")
    if rows.name in {"y", "northing", "latitude", "lat"} and rows.step > 0 and rows.units:
        ax.invert_yaxis()
    ax.set_xlabel(columns.label)
    ax.locator_params(axis="x", nbins=3)
    ax.locator_params(axis="y", nbins=5)
    ax.spines[["top", "right"]].set_visible(True)
    if labels:
        ax.set_ylabel(rows.label)
    else:
        ax.tick_params(labelleft=False)
    return drawn


def grey_limits(values: np.ndarray) -> tuple[float, float]:
    """Return limits of a grey scale: percentiles 2 and 98, symmetric about zero for signed data."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [2, 98]).tolist()
    reach = max(-low, high)
    if min(-low, high) > 0.2 * reach > 0:
        return -reach, reach
    return (low, high) if high > low else (low - 0.5, low + 0.5)
