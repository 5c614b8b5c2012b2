"""The words of `inspect`: one page that is good to read on a terminal."""

import textwrap
from collections.abc import Sequence

from datasets.checkup import Finding
from datasets.describe import Description
from datasets.geometry import Geometry
from pipeline.checkup.doctor import Epoch, Trial

_WIDTH = 110


def lines_of(description: Description, geometry: Geometry, trial: Trial | None, findings: Sequence[Finding]) -> str:
    """Put a volume's content, its geometry, a recipe's view of it and the findings on one page."""
    parts = [str(description)]
    where = geometry.lines(description.sizes)
    if where:
        parts.append(_table("geometry", where))
    if trial is not None and trial.counts and description.labels is not None:
        parts.append(label_table(list(description.labels.counts), trial.counts))
    if trial is not None and trial.epoch is not None:
        parts.append(_table("an epoch of this recipe", _epoch(trial.epoch)))
    parts.append(findings_text(findings))
    return "\n\n".join(parts)


def label_table(classes: Sequence[str], counts: dict[str, list[int]]) -> str:
    """Lay out labelled cells: a row a class, a column a part."""
    width = max(5, *map(len, classes))
    head = f"  {'':<{width}}" + "".join(f"{part:>14}" for part in counts)
    rows = [
        f"  {name:<{width}}" + "".join(f"{cells[index]:>14,}" for cells in counts.values())
        for index, name in enumerate(classes)
    ]
    total = f"  {'all':<{width}}" + "".join(f"{sum(cells):>14,}" for cells in counts.values())
    return "\n".join(["labels by part of the split", head, *rows, total])


def findings_text(findings: Sequence[Finding]) -> str:
    """List the findings by number, each with its way out."""
    if not findings:
        return "nothing to warn of"
    lines = ["1 warning" if len(findings) == 1 else f"{len(findings)} warnings"]
    for number, finding in enumerate(findings, 1):
        start = f"  {number}. "
        lines += textwrap.wrap(
            f"{finding.check}: {finding.text}", _WIDTH, initial_indent=start, subsequent_indent=" " * len(start)
        )
        arrow = " " * len(start) + "-> "
        lines += textwrap.wrap(finding.way_out, _WIDTH, initial_indent=arrow, subsequent_indent=" " * len(arrow))
    return "\n".join(lines)


def _epoch(epoch: Epoch) -> list[tuple[str, str]]:
    size = " x ".join(map(str, epoch.block))
    stored = f", {_bytes(epoch.stored)} as stored" if epoch.stored is not None else ""
    return [
        ("blocks", f"{epoch.blocks:,} of {epoch.of:,} hold training labels, {size} cells each"),
        ("read", f"{_bytes(epoch.fetched)} uncompressed{stored}"),
        (
            "amplification",
            f"{epoch.amplification:.2f} bytes read for each byte used, {epoch.objects:.1f} objects a block",
        ),
        ("time", f"about {_time(epoch.seconds)} of reading in one process, as a few blocks took now"),
    ]


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    return "\n".join([title, *(f"  {key:<{width}}  {text}" for key, text in rows)])


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
