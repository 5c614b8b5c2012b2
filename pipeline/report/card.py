"""The model card: what a model is, what it learned from, how good it is, and where it ends."""

from collections.abc import Mapping
from typing import Any

from pipeline.scoring.description import ModelDescription
from pipeline.scoring.metrics import MEANS


def model_card(name: str, description: ModelDescription, metrics: dict[str, Any]) -> str:
    """Write the card of the model `name` in Markdown; `metrics` are its run's ``metrics.json``."""
    d = description
    return "\n\n".join([_what(name, d), _data(d), _scores(metrics), _limits(d), _use(name, d)]) + "\n"


def _what(name: str, d: ModelDescription) -> str:
    channels = " x ".join(f"{size} {dim}" for dim, size in zip(d.channel_dims, d.channel_sizes, strict=True)) or "1"
    gone = "".join(f", read at {d.space[axis]} cell {cell}" for axis, cell in d.read_slice.items())
    coarser = "" if d.factor == 1 else f", on a grid {d.factor:g} times coarser"
    units = f" ({d.quantity})" if d.quantity else ""
    return f"""# {name}

A telegraph network (fully invertible, hyperbolic) over {", ".join(d.space)}; {len(d.classes)} classes.

- in: raw float32 [batch, {d.channels}, {", ".join(d.space)}], NaN where there is no data; channels: {channels}{units}
- out: probabilities float32 [batch, {len(d.classes)}, {", ".join(d.label_dims)}]{gone}{coarser}
- classes, in order: {", ".join(d.classes)}
- {_reach(d)}
- normalisation is inside the model"""


def _reach(d: ModelDescription) -> str:
    if d.reach is None:
        return "an output cell depends on the whole volume (periodic boundary): map it in one piece"
    whole = [dim for axis, dim in enumerate(d.space) if d.sizes[axis] is not None or axis in d.read_slice]
    start = f" that begin on multiples of {d.multiple} cells" if d.multiple > 1 else ""
    never = f"; {' and '.join(whole)} must never be cut" if whole else ""
    return f"an output cell looks {d.reach} cells far: blocks amid such a halo{start} leave no seam{never}"


def _data(d: ModelDescription) -> str:
    t, split = d.training, d.training["split"]
    known = [key for key in ("title", "source", "licence", "source_sha256") if t.get(key)]
    lines = [
        "## Data and split",
        "",
        *(f"- {key.replace('_', ' ')}: {t[key]}" for key in known),
        f"- shape: {' x '.join(f'{size} {dim}' for dim, size in zip(d.space, t['shape'], strict=True))}",
        f"- split: {split_in_words(split)}",
        f"- buffer between the parts: {split['buffer']} cells; seed {split['seed']}",
        f"- split digest: {t['split_digest']}; volume digest: {t['volume_digest']}",
        "",
        f"| labelled cells | {' | '.join(d.classes)} |",
        "|---" * (len(d.classes) + 1) + "|",
        *(f"| {part} | {' | '.join(map(str, cells))} |" for part, cells in t["labelled_cells"].items()),
    ]
    return "\n".join(lines)


def split_in_words(split: Mapping[str, Any]) -> str:
    """Say which labels train, validate and test by the settings of a `SplitConfig`."""
    if split["method"] == "wells":
        near = f"cells within {split['radius']} of the wells train and validate"
        return f"{near} ({split['validation_wells']} wells validate), all others test"
    if split["method"] == "points":
        return f"{split['points']} cells of each class train, {split['validation_points']} validate, all others test"
    shares = " / ".join(f"{share:g}" for share in split["fractions"])
    return f"blocks of {split['block']} cells dealt {shares} to training, validation and test"


def _scores(metrics: dict[str, Any]) -> str:
    lines = ["## Scores on the test part, labelled cells only", "", "| score | value |", "|---|---|"]
    lines += [f"| {title} | {metrics[f'test/{key}']:.3f} |" for key, title in MEANS.items()]
    for key, value in metrics.items():
        if key.startswith("test/iou/"):
            lines.append(f"| IoU {key.removeprefix('test/iou/')} | {value:.3f} |")
    lines += ["", f"Checkpoint of step {metrics['best_step']}, chosen by the mean IoU on the validation part."]
    if "leaks" in metrics:
        lines += ["", f"Distances between the parts, as measured: {metrics['leaks']}."]
    return "\n".join(lines)


def _limits(d: ModelDescription) -> str:
    lines = [
        "## Limits",
        "",
        "- Trained and tested on one volume: what it does on another survey, sensor or season is not known.",
        "- The whole volume was the network's input, test cells included (without their labels).",
        "- Probabilities are not calibrated.",
    ]
    tested = d.training["labelled_cells"].get("test", [])
    if few := [name for name, cells in zip(d.classes, tested, strict=False) if cells < 50]:
        lines.append(f"- Fewer than 50 test cells, so little is known about: {', '.join(few)}.")
    if fixed := [f"{size} {dim}" for dim, size in zip(d.space, d.sizes, strict=True) if size is not None]:
        lines.append(f"- Normalised entry by entry, so it takes exactly {', '.join(fixed)}.")
    if d.padding == "refuse" and d.multiple > 1:
        lines.append(f"- Sizes must divide by {d.multiple}.")
    return "\n".join(lines)


def _use(name: str, d: ModelDescription) -> str:
    enough = [(2 + d.read_slice.get(axis, 0) // d.multiple) * d.multiple for axis in range(len(d.space))]
    sizes = [size or other for size, other in zip(d.sizes, enough, strict=True)]
    example = ", ".join(map(str, (1, d.channels, *sizes)))
    return f"""## Use without the code that trained it

```python
import mlflow, numpy
model = mlflow.pyfunc.load_model("models:/{name}@champion", model_config={{"device": "cpu"}})
probabilities = model.predict(numpy.zeros(({example}), numpy.float32))
```"""
