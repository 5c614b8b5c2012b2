"""A map is written as it comes: no more than a block is held, no shard is written twice, and a stop leaves nothing."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import layout, viewing
from datasets.prediction import Labelled, lay_out, no_data_cells, write_prediction
from datasets.store import write_volume
from models.config import NetworkConfig
from pipeline.mapping.scorer import Scorer, run_scorer
from pipeline.mapping.volume_map import map_to
from pipeline.planning.tiling import Piece
from pipeline.training.checkpoint import Meta, write_checkpoint
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
    write_checkpoint(run.checkpoints / "step-000001", Meta(1, 0.5), weights, {}, run.prepared.segmenter.to_json())
    return run_scorer(run)


def test_neither_the_volume_nor_its_map_is_held(scorer, large, tmp_path, monkeypatch):
    monkeypatch.setattr(viewing, "_CELLS", 2**12)
    monkeypatch.setattr("pipeline.mapping.volume_map.draw_volume", lambda *_, **__: None)  # 25 MiB for any volume
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


def test_a_stop_in_the_middle_leaves_what_was_there(scorer, large, tmp_path, monkeypatch):
    map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[512, 512])
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    mapped = Scorer.map

    def stopped(*words, **settings) -> Iterator[Piece]:
        yield next(mapped(*words, **settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "map", stopped)
    with pytest.raises(KeyboardInterrupt):
        map_to(scorer, str(large), str(tmp_path / "map.zarr"), block=[512, 512])
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 3),
    edges=st.lists(st.sampled_from([8, 12, 40, 100, 128, 176]), min_size=1, max_size=2),
    over=st.integers(0, 7),
)
def test_every_shard_lies_in_one_block(tmp_path_factory, count: int, edges: list[int], over: int) -> None:
    dims = ["y", "x"][: len(edges)]
    sizes = [edge * count + over for edge in edges]
    source = xr.Dataset({"data": (dims, np.zeros(sizes, np.float32))})
    empty = lay_out(source, dims, factor=1, classes=["a", "b", "c"], attrs={})
    truth = np.random.default_rng(0).random((3, *sizes), np.float32)

    def pieces() -> Iterator[Labelled]:
        starts = [range(0, size, edge) for size, edge in zip(sizes, edges, strict=True)]
        for corner in np.ndindex(*(len(own) for own in starts)):
            begin = [own[at] for own, at in zip(starts, corner, strict=True)]
            place = tuple(slice(at, at + edge) for at, edge in zip(begin, edges, strict=True))
            place = tuple(slice(own.start, min(own.stop, size)) for own, size in zip(place, sizes, strict=True))
            found = truth[(slice(None), *place)]
            yield Labelled.of(place, found, no_data_cells(found, [], 1))

    path = tmp_path_factory.mktemp("shards") / "map.zarr"
    write_prediction(empty, pieces(), path, block=edges)
    group = zarr.open_group(path, mode="r")
    for name, ahead in (("class", []), ("probability", [3])):
        array = group[name]
        assert isinstance(array, zarr.Array)
        unit = array.shards or array.chunks
        assert all(edge % own == 0 for edge, own in zip([*ahead, *edges], unit, strict=True))
    np.testing.assert_array_equal(group["probability"][:], truth)
    np.testing.assert_array_equal(group["class"][:], truth.argmax(axis=0))
