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
        parts.append(_label_table(list(description.labels.counts), trial.counts))
    if trial is not None and trial.epoch is not None:
        parts.append(_table("an epoch of this recipe", _epoch(trial.epoch)))
    return "\n\n".join([*parts, _findings_text(findings)])


def _label_table(classes: Sequence[str], counts: dict[str, list[int]]) -> str:
    """Lay out labelled cells: a row a class, a column a part."""
    rows = [*zip(classes, zip(*counts.values(), strict=True), strict=True), ("all", map(sum, counts.values()))]
    cells = [(name, "  ".join(f"{count:>12,}" for count in row)) for name, row in rows]
    return _table("labels by part of the split", [("", "  ".join(f"{part:>12}" for part in counts)), *cells])


def _findings_text(findings: Sequence[Finding]) -> str:
    """List the findings by number, each with its way out."""
    if not findings:
        return "nothing to warn of"
    lines = ["1 warning" if len(findings) == 1 else f"{len(findings)} warnings"]
    for number, finding in enumerate(findings, 1):
        start = f"  {number}. "
        arrow = " " * len(start) + "-> "
        for first, text in ((start, f"{finding.check}: {finding.text}"), (arrow, finding.way_out)):
            lines += textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
    return "\n".join(lines)


def _epoch(epoch: Epoch) -> list[tuple[str, str]]:
    size = " x ".join(map(str, epoch.block))
    stored = f", {_bytes(epoch.stored)} as stored" if epoch.stored is not None else ""
    each = f"{epoch.amplification:.2f} bytes read for each byte used, {epoch.objects:.1f} objects a block"
    return [
        ("blocks", f"{epoch.blocks:,} of {epoch.of:,} hold training labels, {size} cells each"),
        ("read", f"{_bytes(epoch.fetched)} uncompressed{stored}"),
        ("amplification", each),
        ("time", f"about {_time(epoch.seconds)} of reading in one process, as a few blocks took now"),
    ]


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(5, *(len(key) for key, _ in rows))
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
