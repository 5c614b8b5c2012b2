"""A map is written as it comes: no more than a block is held, no shard is written twice, a stop costs a block."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from datasets import prediction, viewing
from datasets.errors import AwayError, InputError
from datasets.prediction import Finished, Labelled, lay_out, no_data_cells, write_prediction
from datasets.storage import layout
from datasets.store import open_node, write_volume
from models.config import NetworkConfig
from pipeline.checkpoints.checkpoint import Meta, Snapshot
from pipeline.mapping.batch import Task, map_task
from pipeline.mapping.volume_map import Mapped, map_to
from pipeline.planning.machine import Memory
from pipeline.planning.memory import _even
from pipeline.planning.tiling import Piece, Tiling
from pipeline.scoring.scorer import Scorer, run_scorer
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from tests.pipeline.conftest import tiny_dataset

MIB = 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 16 MiB, whose probabilities take 8, in shards of 256 KiB."""
    path = tmp_path_factory.mktemp("large") / "large.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "SHARD_BYTES", 2**18)
        return write_volume(tiny_dataset(size=1024), path, block={"y": 128, "x": 128})


@pytest.fixture
def scorer(recipe) -> Scorer:
    """A network that looks at one cell, with random weights."""
    config = recipe("mapper")
    config.network = NetworkConfig(layers="2p")
    run = prepare(config)
    (run.checkpoints / "step-000001").mkdir()
    weights = new_segmenter(run).state_dict()
    Snapshot(Meta(1, 0.5), weights, {}, run.prepared.segmenter.to_json()).write(run.checkpoints / "step-000001")
    return run_scorer(run)


def test_neither_the_volume_nor_its_map_is_held(scorer, large, tmp_path, monkeypatch):
    monkeypatch.setattr(viewing, "_CELLS", 2**12)
    monkeypatch.setattr(viewing, "_DRAWN", 2**12)
    monkeypatch.setattr("pipeline.mapping.volume_map.draw_volume", lambda *_, **__: None)  # takes 25 MiB for any volume
    map_to(scorer, str(large), str(tmp_path / "first.zarr"), block=[128, 128])  # imports what it needs
    tracemalloc.start()
    try:
        map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[128, 128])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * MIB
    whole = map_to(scorer, str(large), str(tmp_path / "whole.zarr"))
    assert whole.shares.endswith("(4 cells without data)")
    made, expected = (xr.open_zarr(tmp_path / name, mask_and_scale=False) for name in ("map.zarr", "whole.zarr"))
    np.testing.assert_array_equal(made["class"].values, expected["class"].values)
    np.testing.assert_allclose(made["probability"].values, expected["probability"].values, atol=1e-6)


def stop_after(pieces: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stop the next map after some pieces; the list has how many each map makes."""
    mapped, made = Scorer.map, []

    def some(*words, **settings) -> Iterator[Piece]:
        made.append(0)
        for piece in mapped(*words, **settings):
            if len(made) == 1 and made[0] == pieces:
                raise KeyboardInterrupt
            made[-1] += 1
            yield piece

    monkeypatch.setattr(Scorer, "map", some)
    return made


def shown(folder: Path) -> dict[str, int]:
    """List what a user sees of a folder, with the times of the last change."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_stop_in_the_middle_leaves_what_was_there(scorer, large, tmp_path, monkeypatch):
    map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[512, 512])
    before = shown(tmp_path)
    stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[512, 512])
    assert shown(tmp_path) == before


@pytest.mark.parametrize("where", ["folder", "uri"])
def test_a_map_that_was_stopped_is_gone_on_with(scorer, large, tmp_path, monkeypatch, capsys, request, where):
    out = str(tmp_path / "maps" / "map.zarr") if where == "folder" else f"{request.getfixturevalue('s3')}/map.zarr"
    whole = map_to(scorer, str(large), str(tmp_path / "whole.zarr"), block=[512, 512])
    made = stop_after(3, monkeypatch)
    monkeypatch.setattr("pipeline.scoring.scorer.plan_prediction", lambda *_, **__: Tiling((512, 512), (0, 0)))
    with pytest.raises(KeyboardInterrupt):
        map_to(scorer, str(large), out, speak=True)
    with pytest.raises(InputError, match=r"is not a Zarr store|no volume at"):
        open_node(out)
    assert "what is finished is kept, and the same command goes on with it" in capsys.readouterr().out
    monkeypatch.setattr(
        "pipeline.scoring.scorer.plan_prediction", lambda *_, **__: Tiling((1024, 512), (0, 0))
    )  # more memory is free by now
    monkeypatch.setattr("datasets.provenance.code_version", lambda: "another commit")
    again = map_to(scorer, str(large), out, speak=True)
    assert made == [3, 1]
    assert "this was begun and stopped before: going on with it" in capsys.readouterr().out
    assert again.shares == whole.shares
    found, expected = open_node(out), open_node(str(tmp_path / "whole.zarr"))
    for name in ("class", "probability"):
        np.testing.assert_array_equal(found[name][...], expected[name][...])
    if where == "folder":
        assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["map.png", "map.tif", "map.zarr"]


@pytest.mark.parametrize("change", ["less memory", "another volume", "no seams"])
def test_another_map_is_not_gone_on_with(scorer, large, tmp_path, monkeypatch, capsys, change):
    out, source = str(tmp_path / "map.zarr"), large
    scorer = replace(scorer, description=replace(scorer.description, reach=4))
    made = stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        map_to(scorer, str(large), out, block=[512, 512], halo=[3, 3] if change == "no seams" else [4, 4])
    monkeypatch.setattr("pipeline.scoring.scorer.plan_prediction", lambda *_, **__: Tiling((256, 512), (4, 4)))
    if change == "another volume":
        source = write_volume(tiny_dataset(size=1024).assign_attrs(source_sha256="another"), tmp_path / "other.zarr")
    if change == "less memory":
        monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda _: Memory(2**20, "left"))
    map_to(scorer, str(source), out)
    assert made == [2, 8]
    said = f"{out} was begun in blocks of 512 x 512 cells amid a halo of"
    assert (said in capsys.readouterr().out) == (change != "another volume")


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), AwayError("the store does not answer")])
def test_a_source_that_is_away_for_a_while_costs_nothing(scorer, large, tmp_path, monkeypatch, error):
    mapped = Scorer.map

    def away(*words, **settings) -> Iterator[Piece]:
        yield next(mapped(*words, **settings))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "map", away)
        with pytest.raises(InputError, match=r"large.zarr cannot be read \(Input/output|the store does not answer"):
            map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[512, 512])
    made = stop_after(-1, monkeypatch)
    map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[512, 512])
    assert made == [3]


def test_two_writers_of_one_place_do_not_mix(scorer, large, tmp_path, monkeypatch):
    mapped, refused = Scorer.map, []

    def twice(*words, **settings) -> Iterator[Piece]:
        with pytest.raises(InputError, match=r"^another process is writing .*map.zarr; wait for its end, or choose"):
            map_to(scorer, str(large), str(tmp_path / "map.zarr"))
        refused.append(True)
        yield from mapped(*words, **settings)

    monkeypatch.setattr(Scorer, "map", twice)
    map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[512, 512])
    assert refused
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "runs") == ["map.png", "map.tif", "map.zarr"]


def test_a_map_without_a_geotiff_is_a_map(scorer, tmp_path, capsys):
    ds = tiny_dataset()
    uneven = ds.assign_coords(x=("x", ds["x"].values + 9.0 * (ds["x"].values > 600), {"units": "m"}))
    source = write_volume(uneven, tmp_path / "uneven.zarr")
    made = map_to(scorer, str(source), str(tmp_path / "map.zarr"))
    assert made.written == [str(tmp_path / name) for name in ("map.zarr", "map.png")]
    assert "map.tif was not made: the x coordinates are not evenly spaced" in capsys.readouterr().out


def test_a_source_that_cannot_be_read_is_blamed_itself(scorer, large, tmp_path, monkeypatch):
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("datasets.volume.Volume.read", forbidden)
    with pytest.raises(InputError, match=r"large.zarr cannot be read \(Permission denied\)$"):
        map_to(scorer, str(large), str(tmp_path / "map.zarr"))
    assert not list(tmp_path.glob("*map*"))


def test_a_task_beside_others_fills_its_share_of_the_memory(monkeypatch):
    told = []

    def noted(*_: object, share: float, **__: object) -> Mapped:
        told.append(share)
        return Mapped([], "")

    monkeypatch.setattr("pipeline.mapping.batch.map_to", noted)
    monkeypatch.setattr("pipeline.mapping.batch.loaded", lambda *_: None)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    state, _, words = map_task(Task("model", "uri", "digest", "volume.zarr", "map.zarr"), 2)
    assert (state, words, told) == ("mapped", "", [0.25])
    map_task(Task("model", "uri", "digest", "volume.zarr", "map.zarr", cores=32), 2)  # more workers than cores
    assert told == [0.25, 0.0625]


def test_an_array_larger_than_a_chunk_of_dask_can_be_written(tmp_path):
    source = xr.Dataset({"data": (("y", "x"), np.zeros((300, 200), np.float32))})
    with dask.config.set({"array.chunk-size": "1kiB"}):
        empty = lay_out(source, ["y", "x"], factor=1, classes=["a", "b", "c"], attrs={})
        found = np.zeros((3, 300, 200), np.float32)
        whole = Labelled.of((slice(0, 300), slice(0, 200)), found, no_data_cells(found, [], 1))
        write_prediction(empty, lambda _: iter([whole]), tmp_path / "map.zarr")
    assert (xr.open_zarr(tmp_path / "map.zarr")["probability"].values == 0).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 3),
    edges=st.lists(st.integers(2, 300).map(lambda edge: _even(edge, 1)), min_size=1, max_size=2),
    over=st.integers(0, 7),
    limit=st.sampled_from([2**8, 2**11, 2**26]),
)
@example(count=1, edges=[4, 49], over=1, limit=2**8)  # y, with little beyond its block, grew before x
def test_no_shard_lies_in_two_blocks(monkeypatch, count: int, edges: list[int], over: int, limit: int) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CHUNK_BYTES", limit // 4)
    monkeypatch.setattr(prediction, "SHARD_BYTES", limit)
    dims = ["y", "x"][: len(edges)]
    sizes = [edge * count + over for edge in edges]
    source = xr.Dataset({"data": (dims, np.zeros(sizes, np.float32))})
    empty = lay_out(source, dims, factor=1, classes=["a", "b", "c"], attrs={})
    encoding = prediction._encoding(empty, edges)
    for name in ("class", "probability"):
        unit = encoding[name].get("shards", encoding[name]["chunks"])[-len(edges) :]
        assert all(edge % own == 0 for edge, own in zip(edges, unit, strict=True))


def test_pieces_make_the_whole(tmp_path):
    truth = np.random.default_rng(0).random((3, 50, 41), np.float32)
    source = xr.Dataset({"data": (("y", "x"), truth[0])})

    def pieces(_: Finished) -> Iterator[Labelled]:
        for y, x in np.ndindex(4, 3):
            place = (slice(14 * y, min(14 * y + 14, 50)), slice(16 * x, min(16 * x + 16, 41)))
            found = truth[(slice(None), *place)]
            yield Labelled.of(place, found, no_data_cells(found, [], 1))

    write_prediction(
        lay_out(source, ["y", "x"], factor=1, classes=["a", "b", "c"], attrs={}),
        pieces,
        tmp_path / "map.zarr",
        block=[14, 16],
    )
    made = xr.open_zarr(tmp_path / "map.zarr", mask_and_scale=False)
    np.testing.assert_array_equal(made["probability"].values, truth)
    np.testing.assert_array_equal(made["class"].values, truth.argmax(axis=0))
