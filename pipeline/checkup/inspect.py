"""Examine a converted volume, alone or before a recipe."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from textwrap import fill, wrap

import xarray as xr

from datasets.checkup import Finding, check_classes, check_layout, check_values
from datasets.config import DataConfig
from datasets.describe import Description, describe
from datasets.dims import NOT_HORIZONTAL
from datasets.errors import InputError
from datasets.maps.geometry import Geometry, geometry
from datasets.statistics import measure, read_summary
from datasets.storage.objects import is_remote
from datasets.store import open_volume
from datasets.viewing import viewable
from datasets.volume import Volume
from pipeline.amount import show_bytes, show_seconds
from pipeline.checkup.doctor import Epoch, Trial, try_recipe
from pipeline.config import InspectConfig
from pipeline.pictures.maps import draw_volume
from pipeline.pictures.sections import backdrop
from pipeline.pictures.style import grid_axes
from pipeline.recipe import load_recipe

_LABEL = 40  # letters a line beside the colour bar
_WIDTH = 110  # letters in a line of a finding


@dataclass(frozen=True)
class Report:
    """All that `inspect` finds out, without a recipe no `trial`."""

    description: Description
    geometry: Geometry
    trial: Trial | None
    findings: list[Finding]
    picture: Path

    def __str__(self) -> str:
        parts, trial = [str(self.description)], self.trial
        if where := self.geometry.lines(self.description.sizes):
            parts.append(_table("geometry", where))
        if trial and trial.counts and self.description.labels is not None:
            parts.append(_label_table(list(self.description.labels.counts), trial.counts))
        if trial and trial.epoch:
            parts.append(_table("an epoch of this recipe", _epoch(trial.epoch)))
        return "\n\n".join([*parts, _findings_text(self.findings)])


def inspect(config: InspectConfig, *, json: bool = False) -> Path:
    """Print what a volume holds and what is wrong with it, draw it, and return the picture's place.

    `InputError` where volume or recipe is missing.
    """

    def tell(found: Report) -> None:
        print(dumps(asdict(found), indent=1, default=str) if json else found, flush=True)

    report = examine(config, tell)
    if not json:
        print(f"picture: {report.picture}")
    return report.picture


def examine(config: InspectConfig, tell: Callable[[Report], None] | None = None) -> Report:
    """Look at a volume, `tell` what was found, and draw it; parameters and errors as `inspect`."""
    if not config.source and not config.recipe:
        raise InputError("name a volume: python -m pipeline inspect VOLUME.zarr")
    if _is_recipe(config.source):
        config = replace(config, recipe=config.source, source="")
    recipe = load_recipe(config.recipe) if config.recipe else None
    place = config.source or (recipe.data.source if recipe else "")
    if not place:
        raise InputError(f"recipe {config.recipe} names no volume as data.source; name it: inspect VOLUME --recipe ...")
    dataset = open_volume(place)
    summary = read_summary(place)
    if summary is None:
        summary = measure(dataset)
    where = geometry(dataset)
    description = describe(place, dataset, summary, where.crs)
    findings = check_values(summary, where) + check_layout(dataset["data"])
    findings += check_classes(description.labels.counts) if description.labels else []
    trial = None
    if recipe is not None:
        trial, found = try_recipe(recipe, dataset, description.valid_share, place)
        findings += found
    beside = Path(Path(place).name if is_remote(place) else place)  # a remote volume's picture is drawn here
    picture = Path(config.picture or beside.with_suffix(".png"))
    report = Report(description, where, trial, findings, picture)
    if tell is not None:
        tell(report)
    _draw(viewable(place, dataset), picture)
    return report


def _is_recipe(source: str) -> bool:
    """Tell a recipe from a view of a store of others, which names its source at the top."""
    if not source.endswith((".yaml", ".yml")):
        return False
    path = Path(source)
    return not (path.is_file() and any(line.startswith("source:") for line in path.read_text().splitlines()))


def _draw(dataset: xr.Dataset, picture: Path) -> None:
    data = dataset["data"]
    shown = dataset["labels"].dims if "labels" in dataset else data.dims
    if "labels" not in dataset and not {"inline", "crossline"} & set(data.dims):
        shown = tuple(dim for dim in data.dims if dim not in NOT_HORIZONTAL) or data.dims
    dims = [str(dim) for dim in data.dims if dim in shown][-3:]
    if len(shown) > len(dims):  # labels along more than can be drawn
        dataset = dataset.drop_vars("labels", errors="ignore")
    volume = Volume.of(dataset, DataConfig(space=dims))
    labels = volume.read_labels() if volume.label_dims == tuple(dims) else None
    image = backdrop(volume.read(), range(len(dims)), colour="band" in data.dims)
    unit, name = str(data.attrs.get("units", "")), str(data.attrs.get("long_name", "data"))
    quantity = name if unit in ("", "1") else f"{name} ({unit})"
    draw_volume(image, labels, volume.classes, grid_axes(dataset, dims), picture, quantity=fill(quantity, _LABEL))


def _label_table(classes: Sequence[str], counts: dict[str, list[int]]) -> str:
    rows = [*zip(classes, zip(*counts.values(), strict=True), strict=True), ("all", map(sum, counts.values()))]
    cells = [(name, "  ".join(f"{count:>12,}" for count in row)) for name, row in rows]
    return _table("labels by part of the split", [("", "  ".join(f"{part:>12}" for part in counts)), *cells])


def _findings_text(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing to warn of"
    lines = [f"{len(findings)} warning{'s' * (len(findings) > 1)}"]
    for number, finding in enumerate(findings, 1):
        start = f"  {number}. "
        arrow = " " * len(start) + "-> "
        for first, text in ((start, f"{finding.check}: {finding.text}"), (arrow, finding.way_out)):
            lines += wrap(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
    return "\n".join(lines)


def _epoch(epoch: Epoch) -> list[tuple[str, str]]:
    size, seen = (" x ".join(map(str, cells)) for cells in (epoch.block, epoch.seen))
    halo = "" if seen == size else f", {seen} with their halo"
    stored = f", {show_bytes(epoch.stored)} as stored" if epoch.stored is not None else ""
    each = f"{epoch.amplification:.2f} bytes read for each byte used, {epoch.objects:.1f} objects a block"
    return [
        ("blocks", f"{epoch.blocks:,} of {epoch.of:,} hold training labels, {size} cells each{halo}"),
        ("read", f"{show_bytes(epoch.fetched)} uncompressed{stored}"),
        ("amplification", each),
        ("time", f"about {show_seconds(epoch.seconds)} of reading in one process, as a few blocks took now"),
    ]


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(5, *(len(key) for key, _ in rows))
    return "\n".join([title, *(f"  {key:<{width}}  {text}" for key, text in rows)])
