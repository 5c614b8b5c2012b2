"""What the page of a run says."""

from typing import Any

import numpy as np

from models.watch import DRIFT
from pipeline.amount import show_bytes, show_seconds
from pipeline.masking import without_secrets
from pipeline.pictures.style import class_colours
from pipeline.planning.depth import Depth
from pipeline.planning.memory import COUNTED
from pipeline.report.card import split_in_words
from pipeline.report.evidence import Evidence
from pipeline.report.page import data_uri
from pipeline.report.reproduce import attribute, commands, digests, portable, sessions, volume_recipe
from pipeline.run import Run
from pipeline.scoring.metrics import MEANS, metric_key, scores
from pipeline.tracking.reading import reading_in_words, summarise_reading

Rows = list[tuple[str, str]]
_MEANINGS = ("overall accuracy", "average accuracy", "agreement beyond chance", "mean intersection over union")
CONTENTS = {
    "what": "What it is",
    "configuration": "Configuration",
    "learning": "Learning",
    "split": "Split",
    "map": "Map",
    "classes": "Classes",
    "memory": "Memory",
    "inversion": "Inversion",
    "reading": "Reading",
    "machine": "Machine",
    "again": "Make it again",
}


def describe(found: Evidence) -> dict[str, Any]:
    """Put what is known of a run into what the template shows."""
    run, own = found.run, next((depth for depth in found.depths if depth.own), None)
    return {
        "name": run.config.name,
        "state": _state(found),
        "warnings": _warnings(found),
        "tiles": _tiles(found),
        "part": found.part,
        "contents": CONTENTS,
        "what": _what(found, own),
        "settings": portable(run.config),
        "pictures": {name: data_uri(path) for name, path in found.pictures.items()},
        **_classes(found),
        "shape": found.volume.label_dims if found.volume else (),
        "leaks": found.leaks,
        "gaps": [_gap(gap) for gap in found.leaks.get("gaps", [])],
        "depths": [(one.layers, show_bytes(one.chain), show_bytes(one.stored)) for one in found.depths],
        "own_depth": own and own.layers,
        "memory": _memory(found, own),
        "counted": COUNTED,
        "inversion": _inversion(found),
        "reading": _reading(found),
        **machine_and_versions(run),
        "sessions": sessions(found),
        "commands": commands(found),
        "volume_recipe": volume_recipe(found),
        "digests": digests(found),
    }


def _state(found: Evidence) -> str:
    steps = found.run.config.training.steps
    last = int(found.history[-1]["step"]) if found.history else 0
    if found.ended:
        return f"finished after {last} steps" + f", {steps} were allowed: it stopped early" * (last < steps)
    word = "interrupted" if found.interrupted else "not ended (still at work, or killed)"
    kept = f"best checkpoint so far of step {found.best.step}" if found.best else "no checkpoint yet"
    return f"{word} at step {last} of {steps}; {kept}"


def _warnings(found: Evidence) -> list[str]:
    codes = {code for _, _, code in sessions(found)}
    texts = []
    if not found.ended:
        scored = "" if found.metrics else ", scored on the validation part: the test part is for the end"
        texts.append(f"This run has not come to its end. What is here is what there is so far{scored}.")
    if any(code.endswith("-dirty") for code in codes):
        texts.append("The code had changes that no commit holds: the commit alone does not reproduce this run.")
    if len(codes) > 1:
        texts.append(f"It was started and resumed from different commits: {', '.join(sorted(codes))}.")
    if found.missing:
        texts.append(f"The volume cannot be shown: {without_secrets(found.missing)}.")
    if found.leaks and found.leaks["violations"]:
        texts.append(found.leaks["statement"])
    return texts


def _tiles(found: Evidence) -> list[tuple[str, str, str]]:
    if found.matrix is None:
        return []
    measured, titled = scores(found.matrix), zip(MEANS.items(), _MEANINGS, strict=True)
    return [(title, f"{getattr(measured, key):.3f}", meaning) for (key, title), meaning in titled]


def _what(found: Evidence, own: Depth | None) -> Rows:
    run, made, volume = found.run, found.run.prepared.segmenter, found.volume
    network, split = made.network, run.config.split
    if volume is None:
        rows: Rows = [("volume", without_secrets(run.config.data.source))]
    else:
        sizes = volume.dataset["data"].sizes
        rows = [
            ("volume", attribute(found, "title")),
            ("cells", ", ".join(f"{dim} {size}" for dim, size in zip(volume.space, volume.shape, strict=True))),
            ("channels", ", ".join(f"{dim} {sizes[dim]}" for dim in volume.channel_dims) or "1"),
            *((key, text) for key in ("source", "licence") if (text := attribute(found, key))),
        ]
    layers = f"{own.layers} layers: {network.layers}" if own else network.layers
    rows += [
        ("classes", str(len(made.classes))),
        ("network", f"{layers}; states {'exact' if network.exact else 'float32'}, force {network.force_dtype}"),
        ("seen at once", " x ".join(map(str, found.block)) + " cells" if found.block else "not known"),
    ]
    if "parameters" in found.metrics:
        rows.append(("parameters", f"{found.metrics['parameters']:,}"))
    rows.append(("split", f"{split_in_words(vars(split))}; buffer of {split.buffer}"))
    if found.best is not None:
        rows.append(("checkpoint", f"step {found.best.step}, validation mean IoU {found.best.score:.3f}"))
    return rows


def _classes(found: Evidence) -> dict[str, Any]:
    names, counts = found.run.prepared.segmenter.classes, found.run.prepared.counts
    matrix = np.zeros((len(names), len(names)), np.int64) if found.matrix is None else found.matrix
    measured, predicted = scores(matrix), matrix.sum(axis=0)
    precision = np.diag(matrix) / np.where(predicted > 0, predicted, np.nan)
    counted = {
        "training cells": counts["train"],
        "validation cells": counts["validation"],
        "scored cells": measured.support,
    }
    scored: dict[str, Any] = {"accuracy": measured.accuracy, "precision": precision, "IoU": measured.iou}
    forest = [found.metrics.get(f"forest/iou/{metric_key(name)}", np.nan) for name in names]
    if not np.isnan(forest).all():
        scored["IoU of a random forest"] = forest
    columns = [[f"{count:,}" for count in column] for column in counted.values()]
    columns += [["-" if np.isnan(score) else f"{score:.3f}" for score in column] for column in scored.values()]
    return {
        "class_heads": ["class", *counted, *scored],
        "classes": list(zip(names, *columns, strict=True)),
        "colours": [f"#{bytes(round(255 * part) for part in colour).hex()}" for colour in class_colours(len(names))],
    }


def _memory(found: Evidence, own: Depth | None) -> Rows:
    rows: Rows = []
    if own is not None:
        rows += [
            ("reversible chain, predicted", show_bytes(own.chain)),
            ("stored activations, predicted roughly", show_bytes(own.stored)),
        ]
    if found.peak is not None:
        before = found.run.read("machine.json").get("resident")
        held = f"; {show_bytes(before)} before it built the network" if before else ""
        what = "peak of the GPU's allocator" if found.run.config.cluster.gpu else f"all that the process held{held}"
        rows.append(("measured", f"{show_bytes(found.peak)}, {what}"))
    return rows


def _gap(gap: dict[str, Any]) -> tuple[Any, ...]:
    metres = "-" if gap["metres"] is None else f"{gap['metres']:,.4g}"
    return " and ".join(gap["parts"]), gap["distance"], metres, gap["violations"]


def _inversion(found: Evidence) -> str:
    errors = [row["inversion_error"] for row in found.history if "inversion_error" in row]
    if not errors:
        return "No step noted how well its backward pass recovered the input."
    if max(errors) == 0:
        return f"0 in all {len(errors)} steps: every backward pass recovered its input bit for bit."
    verdict = "below" if max(errors) < DRIFT else "ABOVE"
    return f"At most {max(errors):.2g} over {len(errors)} steps, {verdict} the {DRIFT:g} from which a run warns."


def _reading(found: Evidence) -> Rows:
    if not (summary := summarise_reading(found.history)):
        return []
    workers = max(found.run.config.cluster.workers, 1)
    rows = [
        ("in short", reading_in_words(summary)),
        ("time in steps", show_seconds(summary["step_s"] / workers)),
        ("waited for samples", f"{show_seconds(summary['waited_s'] / workers)} a worker"),
    ]
    if "fetched_mib" in summary:
        rows.append(("fetched", f"{summary['fetched_mib']:,.1f} MiB in {summary['requests']:,.0f} requests"))
    if speeds := [row["voxels_per_second"] for row in found.history if "voxels_per_second" in row]:
        rows.append(("speed", f"{np.median(speeds):,.0f} cells a second (median of the steps)"))
    return rows


def machine_and_versions(run: Run | None) -> dict[str, Rows]:
    """Say where and by which versions a run was made, if that is noted."""
    if run is None or not (noted := run.read("machine.json")):
        return {"machine": [], "versions": []}
    cluster = run.config.cluster
    memory = f", {show_bytes(noted['memory'])} of memory" if noted.get("memory") else ""
    workers = f"{cluster.workers} on Ray ({cluster.address})" if cluster.workers else "this process, without Ray"
    if cluster.slabs > 1:
        workers += f", each sample in {cluster.slabs} slabs"
    if cluster.turns > 1:
        workers += f", each sample in {cluster.turns} turns"
    return {
        "machine": [
            ("processor", f"{noted['processor']}, {noted['cores']} cores{memory}"),
            ("GPU", ", ".join(noted["gpus"]) or "none"),
            ("system", noted["system"]),
            ("workers", workers),
        ],
        "versions": list(noted["versions"].items()),
    }
