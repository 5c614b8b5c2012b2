"""`inspect` as a user meets it: a page, JSON, and what a recipe makes of the volume, with the faults planted for it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from datasets import viewing
from datasets.config import DataConfig
from datasets.samples.loader import Loader
from datasets.samples.split import make_split
from datasets.storage import layout, overviews
from datasets.store import open_volume, write_volume
from datasets.viewing import viewable
from datasets.volume import Volume
from pipeline import cli
from pipeline.checkup.inspect import Report, examine
from pipeline.config import InspectConfig, RunConfig
from pipeline.recipe import dump_recipe
from tests.pipeline.conftest import tiny_dataset

Recipe = Callable[..., RunConfig]


@pytest.fixture
def look(tmp_path: Path) -> Callable[[RunConfig], Report]:
    """Examine a recipe's volume before it."""

    def run(config: RunConfig) -> Report:
        path = tmp_path / "recipe.yaml"
        path.write_text(dump_recipe(config))
        return examine(InspectConfig(source=str(path), picture=str(tmp_path / "look.png")))

    return run


def texts(report: Report, check: str) -> list[str]:
    return [f"{found.text} -> {found.way_out}" for found in report.findings if found.check == check]


def test_a_page_and_a_picture(tiny_volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "p.png"
    assert cli.main(["inspect", str(tiny_volume), "--picture", str(picture)]) == 0
    page = capsys.readouterr().out
    for words in (
        "  band 4 x y 24 x x 24\n",
        "cell         10 m along y, 10 m along x",
        "orientation  y towards south, x towards east",
        "1%: ",
        "1 warning\n  1. CRS: positions without a coordinate reference system\n     -> convert with crs, such as EPSG",
        f"picture: {picture}",
    ):
        assert words in page
    assert picture.stat().st_size > 1000


def test_a_recipe_by_position_or_by_name(
    recipe: Recipe, tiny_volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe()
    config.data.block = [12, 12]
    path = tmp_path / "run.yaml"
    path.write_text(dump_recipe(config))
    seen = []
    for words in ([path], [tiny_volume, "--recipe", path]):
        assert cli.main(["inspect", *map(str, words), "--json", "--picture", str(tmp_path / "p.png")]) == 0
        seen.append(json.loads(capsys.readouterr().out))
    first, second = (dict(report["trial"]["epoch"], seconds=0) for report in seen)
    assert first == second
    assert (first["blocks"], first["of"], first["block"]) == (4, 4, [12, 12])
    assert first["used"] == 4 * 24 * 24 * (4 + 1)
    assert first["amplification"] == 4
    assert 0 < first["stored"] < first["fetched"]
    counts = seen[0]["trial"]["counts"]
    assert {part: sum(cells) for part, cells in counts.items()}.keys() == {"train", "validation", "test"}
    labelled = seen[0]["description"]["labels"]["counts"]
    assert sum(map(sum, counts.values())) == sum(labelled.values())
    assert seen[0]["findings"][0].keys() == {"check", "text", "way_out"}


def test_the_page_of_a_recipe(recipe: Recipe, look: Callable[[RunConfig], Report]) -> None:
    page = str(look(recipe()))
    assert "labels by part of the split\n" in page
    assert "            train    validation          test\n" in page
    assert "blocks         1 of 1 hold training labels, 24 x 24 cells each" in page
    assert "amplification  1.00 bytes read for each byte used" in page


def test_what_a_recipe_gets_wrong(recipe: Recipe, look: Callable[[RunConfig], Report], tmp_path: Path) -> None:
    config = recipe()
    config.data.block = [12, 12]
    assert texts(look(config), "chunks") == [
        "4.00 bytes are read for each byte of a block, because the chunks do not divide it -> "
        "convert again with block: {y: 12, x: 12}"
    ]
    fitted = write_volume(tiny_dataset(), tmp_path / "fitted.zarr", chunks={"y": 12, "x": 12})
    config.data.source = str(fitted)
    assert texts(look(config), "chunks") == []
    config.data.block = [48, 48]
    (text,) = texts(look(config), "recipe")
    assert "data.block is [48, 48], but the volume has [24, 24] cells" in text
    assert text.endswith("-> correct the recipe; train would refuse it")


def test_an_epoch_is_read_with_the_halos(recipe: Recipe, look: Callable[[RunConfig], Report], tmp_path: Path) -> None:
    config = recipe()
    config.data.block, config.data.halo = [4, 6], [2, 3]
    config.data.source = str(write_volume(tiny_dataset(), tmp_path / "halo.zarr", chunks={"y": 4, "x": 6}))
    report = look(config)
    volume = Volume.open(config.data)
    split = make_split(volume, config.split)
    loader = Loader(volume, split, config.data, factor=1, batch=1, seed=0, augment_until=None)
    sizes = [math.prod(window.sizes) for window in loader.windows]
    assert report.trial is not None
    epoch = report.trial.epoch
    assert epoch is not None
    assert set(sizes) == {8 * 12}
    assert epoch.used == sum(sizes) * 4 * (4 + 1)  # bands, and bytes of a cell and its mask
    assert (epoch.block, epoch.seen, epoch.blocks) == ([4, 6], [8, 12], len(sizes))
    assert " hold training labels, 4 x 6 cells each, 8 x 12 with their halo\n" in str(report)
    (text,) = texts(report, "chunks")
    assert f"{epoch.amplification:.2f} bytes are read for each byte of a block and its halo, because" in text
    assert text.endswith("-> convert again with block: {y: 4, x: 6}, or take larger blocks")
    config.data.source = str(write_volume(tiny_dataset(size=60), tmp_path / "whole.zarr"))
    config.data.block, config.data.halo = [20, 20], [10, 10]
    assert texts(look(config), "chunks") == [
        "2.25 bytes are read for each byte of a block and its halo, because the chunks do not divide it -> "
        "convert again with block: {y: 10, x: 10}, or take larger blocks"
    ]
    config.data.source = str(
        write_volume(
            tiny_dataset(size=60), tmp_path / "fitted.zarr", block={"y": 10, "x": 10}, chunks={"y": 10, "x": 10}
        )
    )
    assert texts(look(config), "chunks") == []


@pytest.mark.parametrize("dims", ["depth y x", "layer y x", "band date y x", "date band"])
@pytest.mark.parametrize("labelled", [True, False])
def test_volumes_without_lines_are_drawn(tmp_path: Path, dims: str, labelled: bool) -> None:
    names = dims.split()
    values = np.random.default_rng(0).random([5, 6, 7, 8][: len(names)]).astype(np.float32)
    ds = xr.Dataset({"data": (names, values)})
    if labelled:
        ds["labels"] = ((names), (values > 0.5).astype(np.uint8), {"class_names": ["a", "b"], "class_values": [0, 1]})
    path = write_volume(ds, tmp_path / "v.zarr")
    report = examine(InspectConfig(source=str(path), picture=str(tmp_path / "p.png")))
    assert report.picture.stat().st_size > 1000


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_was_found_is_said_even_where_it_cannot_be_drawn(
    tiny_volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    place = tmp_path / "file" / "p.png"
    place.parent.touch()
    assert cli.main(["inspect", str(tiny_volume), "--picture", str(place), *flags]) == 2
    said = capsys.readouterr()
    assert "positions without a coordinate reference system" in said.out
    assert "picture: " not in said.out
    assert said.err == f"error: {place}: a file is in the way; move it, or choose another place\n"


def test_labels_that_are_few_missing_or_unequal(
    recipe: Recipe, look: Callable[[RunConfig], Report], tmp_path: Path
) -> None:
    ds = tiny_dataset(size=60)
    labels = np.zeros((60, 60), np.uint8)
    labels[:3, :2] = 1
    ds["labels"].values[:] = labels
    config = recipe()
    config.data.source = str(write_volume(ds, tmp_path / "few.zarr"))
    found = texts(look(config), "labels")
    assert found[0].startswith("fewer than 50 training labels: land 6 -> label more of them, merge them into other")
    assert found[1].startswith("validation has no label of land -> ")
    assert found[2].startswith("test has no label of land -> ")
    assert "times the training labels of the smallest -> keep training.class_weights" in found[3]
    ds["labels"].values[:] = 0
    config.data.source = str(write_volume(ds, tmp_path / "none.zarr"))
    assert texts(look(config), "labels")[0].startswith("no cell is labelled land -> check class_names")


def test_no_data_that_the_network_is_not_told_of(
    recipe: Recipe, look: Callable[[RunConfig], Report], tmp_path: Path
) -> None:
    ds = tiny_dataset()
    ds["valid"].values[:, :8] = False
    config = recipe()
    config.data = DataConfig(source=str(write_volume(ds, tmp_path / "gaps.zarr")), space=["y", "x"])
    (text,) = texts(look(config), "no data")
    assert text == (
        "33.3% of the cells hold no data, which the network cannot tell from the mean -> set data.validity: true"
    )
    config.data = replace(config.data, validity=True)
    assert texts(look(config), "no data") == []


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.yaml").write_text("name: x")
    for words, sentence in (
        (["inspect", str(tmp_path / "empty.yaml")], "names no volume as data.source; name it: inspect VOLUME --recipe"),
        (["inspect", "v.zarr", "--recipe", "nowhere.yaml"], "error: no recipe at nowhere.yaml; the examples are in"),
    ):
        assert cli.main(words) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("stored", [True, False], ids=["overviews", "none stored"])
def test_a_large_volume_is_looked_at_coarsely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool) -> None:
    for module in (layout, overviews):
        monkeypatch.setattr(module, "SHARD_BYTES", 2**12)
    monkeypatch.setattr(overviews, "FINE_ENOUGH", 16)
    monkeypatch.setattr(viewing, "_CELLS", 2**10)
    ds = tiny_dataset(size=60)
    path = write_volume(ds, tmp_path / "large.zarr", overviews=stored)
    small = viewable(path, open_volume(path))
    assert dict(small.sizes) == {"band": 4, "y": 15, "x": 15}
    assert small["data"].dtype == np.float32
    np.testing.assert_array_equal(small["labels"].values, ds["labels"].values[::4, ::4])
    held = ds["data"].where(ds["valid"])
    expected = held.coarsen(y=4, x=4).mean()
    away = {"y": slice(2, None), "x": slice(2, None)}  # means of means differ where there are gaps
    np.testing.assert_allclose(small["data"].isel(away).values, expected.isel(away).values, rtol=1e-4, atol=1e-5)
    report = examine(InspectConfig(source=str(path), picture=str(tmp_path / "p.png")))
    assert Path(report.picture).stat().st_size > 1000


def test_an_older_volume_is_measured(tiny_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = InspectConfig(source=str(tiny_volume), picture=str(tmp_path / "p.png"))
    stored = examine(config)
    monkeypatch.setattr("pipeline.checkup.inspect.read_summary", lambda _: None)
    measured = examine(config)
    assert measured.description.percentiles == stored.description.percentiles
    assert measured.description.mean == pytest.approx(stored.description.mean)
