"""Promotion of a version to champion, and the way back."""

from dataclasses import replace
from typing import Any

import xarray as xr

from datasets.errors import InputError
from datasets.samples.split import make_split
from datasets.volume import Volume
from pipeline.config import PromoteConfig, RunConfig
from pipeline.masking import MASK
from pipeline.registry.champion import Standing, compare, difference
from pipeline.registry.versions import CHALLENGER, CHAMPION, Registry, label, read_recipe, read_scorer, standing
from pipeline.scoring.hits import count_hits, test_labels
from pipeline.scoring.metrics import scores
from pipeline.tracking.store import store_uri
from pipeline.training.prepare import split_digest


def promote(config: PromoteConfig, *, rollback: bool = False, force: bool = False) -> bool:
    """Make a version champion if it is better; prints why, and tells whether the champion is another.

    Stored scores on the same volume and split are compared; else both versions are scored anew on the test part of the
    new one. With `force` it becomes champion whatever the scores say, with `rollback` the former champion does instead.
    `InputError` where there is no such model, the versions cannot be compared, or there is nothing to go back to.
    """
    if not config.model:
        raise InputError("promote needs a model: python -m pipeline promote NAME, or models:/NAME/3")
    if rollback and (force or config.model.startswith("models:/")):
        raise InputError(
            "--rollback takes the NAME of a model and nothing else; to choose the version yourself, write "
            "python -m pipeline promote models:/NAME/3 --force"
        )
    registry = Registry.open(store_uri(config.tracking_uri, config.runs), config.model)
    if rollback:
        registry.require(config.model)
        back, withdrawn = registry.roll_back(config.model)
        print(f"{label(back)} is champion again, in place of {label(withdrawn)}.")
        return True
    new = _candidate(registry, config.model)
    if new is None:
        return False
    old = registry.alias(new.name, CHAMPION)
    if old is not None and old.version == new.version:
        print(f"{label(new)} is the champion already.")
        return False
    mine, theirs = standing(new), None if old is None else standing(old)
    if force:
        wins, reason = True, f"{label(new)} becomes champion as it was told to (--force), without a comparison."
    else:
        if theirs is not None and difference(mine, theirs) and mine.factor == theirs.factor:
            mine, theirs = _score_both(registry, new, old, config.source)
        wins, reason = compare(mine, theirs)
    if wins:
        registry.promote(new, reason)
    print(reason)
    return wins


def _candidate(registry: Registry, model: str) -> Any:
    if model.startswith("models:/"):
        return registry.find(model)
    registry.require(model)
    found = registry.alias(model, CHALLENGER)
    if found is None:
        if (present := registry.alias(model, CHAMPION)) is None:
            raise InputError(f"{model} has neither a {CHALLENGER} nor a {CHAMPION}; name a version: models:/{model}/1")
        print(f"{label(present)} is the champion, and there is no challenger.")
    return found


def _score_both(registry: Registry, new: Any, old: Any, source: str | None) -> tuple[Standing, Standing]:
    tested = standing(new)
    start = f"{label(new)} and {label(old)} were tested on {difference(tested, standing(old))}"
    folder = registry.fetch(new)
    recipe = read_recipe(folder)
    if recipe is None:
        raise InputError(
            f"{start}, and {label(new)} does not carry the recipe that says where its test cells are; "
            "register its run again, or pass --force if you know better"
        )
    volume, split = _test_part(recipe, tested, source, start)
    print(f"{start}; scoring both on the test part of {label(new)} ...", flush=True)
    old_folder, where = registry.fetch(old), recipe.data.source
    measured = []
    for version, files in ((new, folder), (old, old_folder)):
        scorer = read_scorer(files, version, f"models:/{label(version)}")
        try:
            target, seen = test_labels(scorer, volume, split, where), scorer.view(volume.dataset, where)
            miou = scores(count_hits(scorer, seen, target, scorer.plan(seen, approximate=True))).miou
        except InputError as error:
            raise InputError(f"{start}, and cannot be compared: {error}; pass --force if you know better") from error
        measured.append(replace(tested, version=label(version), miou=miou))
    print(_seen(volume, split, read_recipe(old_folder), new, old))
    return measured[0], measured[1]


def _test_part(recipe: RunConfig, stand: Standing, source: str | None, start: str) -> tuple[Volume, xr.DataArray]:
    data = recipe.data if source is None else replace(recipe.data, source=source)
    way_out = "say where it lies with --source, or pass --force if you know better"
    if MASK in data.source:
        raise InputError(
            f"{start}, and of the address of the volume of {stand.version} what opens it was not kept ({data.source}); "
            f"{way_out}"
        )
    try:
        volume = Volume.open(data)
    except InputError as error:
        raise InputError(f"{start}, and the volume of {stand.version} cannot be opened ({error}); {way_out}") from error
    if volume.digest() != stand.volume_digest:
        raise InputError(f"{start}, and {data.source} is not the volume that {stand.version} was tested on; {way_out}")
    split = make_split(volume, recipe.split)
    if split_digest(split) != stand.split_digest:
        raise InputError(
            f"{start}, and this program draws another split than the one that {stand.version} was tested on; "
            "train it again, or pass --force if you know better"
        )
    return volume, split


def _seen(volume: Volume, split: xr.DataArray, theirs: RunConfig | None, new: Any, old: Any) -> str:
    who = f"{label(old)} trained or validated on"
    if theirs is not None and standing(old).volume_digest == standing(new).volume_digest:
        test = volume.read_labels(split, "test") >= 0
        known = make_split(volume, theirs.split)
        learned = (volume.read_labels(known, "train") >= 0) | (volume.read_labels(known, "validation") >= 0)
        if not (count := (test & learned).sum()):
            return f"none of these {test.sum()} test cells is one that {who}"
        return f"warning: {who} {count} of these {test.sum()} test cells, so its score is too high"
    source = new.tags.get("source_sha256")
    if source and source == old.tags.get("source_sha256"):
        return f"warning: both learned from the same source, so {label(old)} may have trained on some of these cells"
    return f"note: {label(old)} learned from another volume; whether that holds some of these cells is not known"
