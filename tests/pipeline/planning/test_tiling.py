"""A volume mapped block by block has the values that it has in one piece, given the network's reach as a halo."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import InputError
from datasets.samples.blocks import plan_map
from models.config import NetworkConfig, SegmenterConfig
from models.peak import Workload, prediction_peak
from models.reach import reach
from models.segmenter import Segmenter
from pipeline.checkpoints.checkpoint import best_checkpoint, load_segmenter
from pipeline.config import PredictConfig, RegisterConfig
from pipeline.mapping.predict import predict
from pipeline.planning import memory
from pipeline.planning.machine import Memory
from pipeline.planning.memory import plan_prediction
from pipeline.planning.tiling import OutputGrid, Tiling, map_pieces
from pipeline.ranks.slabs import Place
from pipeline.registry.register import register
from pipeline.run import Run
from pipeline.scoring.scorer import run_scorer
from pipeline.scoring.validation import predict_classes, validate
from pipeline.training.train import train

pytestmark = pytest.mark.usefixtures("blank_pictures")


def segmenter(layers: str, space: int, read_slice: dict[int, int], **changes: object) -> Segmenter:
    torch.manual_seed(0)
    network = NetworkConfig(layers=layers, repeat=4, step=0.6, init_gain=4.0, **changes)  # type: ignore[arg-type]
    ones = [1] * space
    return Segmenter(
        SegmenterConfig(network, space, 2, ["a", "b", "c"], False, read_slice),
        torch.zeros(2, *ones),
        torch.ones(2, *ones),
    ).double()


def mapped(model: Segmenter, raw: np.ndarray, tiling: Tiling | None) -> np.ndarray:
    grid = OutputGrid(model.network.multiple, model.factor, list(model.config.read_slice))
    out = np.zeros((len(model.classes), *grid.sizes(raw.shape[1:])))
    for piece in map_pieces(model, read_from(raw), raw.shape[1:], grid, tiling=tiling):
        out[(slice(None), *piece.place)] = piece.found
    return out


def far(model: Segmenter) -> int:
    found = reach(model.network)
    assert found is not None
    return found


def read_from(raw: np.ndarray) -> Callable[[tuple[slice, ...]], np.ndarray]:
    return lambda cells: raw[(slice(None), *cells)]


CASES = [
    ("4 d4 u4", 2, {}), ("4*2", 1, {}), ("4 d4", 2, {}), ("3 d4 d4 u4 u4", 2, {}), ("3 d4 u3", 3, {0: 2}),
    ("3 d3", 3, {}), ("4p d4p", 2, {}), ("4p d4p d4p u4p", 2, {}),
]  # fmt: skip


@given(
    st.sampled_from(CASES),
    st.lists(st.integers(5, 29), min_size=3, max_size=3),
    st.lists(st.integers(1, 30), min_size=3, max_size=3),
    st.sampled_from(["zeros", "reflect"]),
    st.sampled_from(["zeros", "reflect", "replicate"]),
)
@settings(max_examples=20, deadline=None)
def test_blocks_amid_the_reach_leave_no_seam(
    case: tuple[str, int, dict[int, int]], sizes: list[int], block: list[int], boundary: str, padding: str
) -> None:
    layers, space, gone = case
    model = segmenter(layers, space, gone, boundary=boundary, padding=padding)
    shape = [min(size, 17) for size in sizes] if space == 3 else sizes[:space]
    raw = np.random.default_rng(0).normal(size=(2, *shape))
    tiling = Tiling(tuple(block[:space]), (far(model),) * space)
    np.testing.assert_allclose(mapped(model, raw, tiling), mapped(model, raw, None), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layers", ["4 d4 u4", "4*2"])
def test_a_narrower_halo_leaves_seams(layers: str) -> None:
    model = segmenter(layers, 2, {})
    raw = np.random.default_rng(0).normal(size=(2, 48, 40))
    whole = mapped(model, raw, None)
    errors = [np.abs(mapped(model, raw, Tiling((16, 12), (halo, halo))) - whole).max() for halo in (0, 2, far(model))]
    assert errors[0] > 1e-3
    assert errors[0] > errors[1] > 1e-6
    assert errors[2] < 1e-11


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(1, 50),
    st.integers(0, 20),
    st.sampled_from([1, 2, 4, 8]),
)
def test_every_cell_is_in_one_block(shape: list[int], edge: int, halo: int, multiple: int) -> None:
    count = np.zeros(shape, int)
    for window in plan_map(shape, [edge] * len(shape), [halo] * len(shape), multiple):
        count[window.block] += 1
        for block, seen, core, size in zip(window.block, window.seen, window.core, shape, strict=True):
            assert seen.start % multiple == 0
            assert seen.start + core.start == block.start
            assert core.stop - core.start == block.stop - block.start
            assert seen.start == 0 or block.start - seen.start >= halo
            assert seen.stop == size or seen.stop - block.stop >= halo
    assert (count == 1).all()


def test_blocks_that_nobody_wants_are_not_mapped() -> None:
    model, seen = segmenter("4*2", 2, {}), []
    raw = np.random.default_rng(0).normal(size=(2, 24, 24))

    def read(cells: tuple[slice, ...]) -> np.ndarray:
        seen.append(cells)
        return raw[(slice(None), *cells)]

    tiling = Tiling((8, 8), (4, 4))
    (piece,) = map_pieces(
        model, read, (24, 24), OutputGrid(), tiling=tiling, wanted=lambda cells: cells == (slice(16, 24), slice(0, 8))
    )
    assert seen == [(slice(12, 24), slice(0, 12))]
    assert piece.place == (slice(16, 24), slice(0, 8))
    np.testing.assert_array_equal(piece.raw, raw[:, 16:, :8])
    np.testing.assert_allclose(piece.found, mapped(model, raw, None)[:, 16:, :8])


def test_senseless_blocks_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"^block is \[8\] and halo is \[0, 0\], but the volume has \[9, 9\] cells; give"
    ):
        plan_map([9, 9], [8], [0, 0], 1)
    with pytest.raises(InputError, match=r"^block is \[8, 0\] and halo is \[0, 0\], .* a block of 1 cell or more"):
        plan_map([9, 9], [8, 0], [0, 0], 1)


def test_a_run_that_cannot_hold_the_map_is_validated_in_its_blocks(recipe, capsys) -> None:
    """A pointwise network reaches nowhere, so that the scores are those of one piece."""
    config = recipe("blocked", steps=4, validate_every=2, batch=1)
    config = replace(config, network=replace(config.network, layers="4p*2"), data=replace(config.data, block=[8, 8]))
    enough = memory.show_bytes(prediction_peak(trial(config), Workload((24, 24))) - 500)
    run = train(replace(config, training=replace(config.training, memory=enough.replace(" ", ""))))
    assert run.prepared.tiling == Tiling((8, 8), (0, 0))
    assert (
        "the whole volume does not fit: validated and tested in blocks of 8 x 8 cells amid a halo of 0 x 0 cells"
        in (capsys.readouterr().out)
    )
    again = Run.open(run.folder)
    assert again.prepared.tiling == run.prepared.tiling
    model = load_segmenter(best_checkpoint(run.folder))
    whole = replace(again, prepared=replace(again.prepared, tiling=None))
    device = torch.device("cpu")
    np.testing.assert_array_equal(predict_classes(model, again, device), predict_classes(model, whole, device))
    assert validate(model, again, device)[0] == validate(model, whole, device)[0]
    shares = [validate(model, again, device, place=Place(rank, 4))[1] for rank in range(4)]
    assert sum(share.any() for share in shares) > 1, "one rank does it all"
    np.testing.assert_array_equal(sum(shares), validate(model, whole, device)[1])
    in_one_piece = train(replace(config, name="in one piece"))
    assert in_one_piece.prepared.tiling is None
    with pytest.raises(InputError, match=r"maps its volume in one piece, which no longer fits; go on with more memory"):
        train(
            replace(in_one_piece.config, training=replace(config.training, memory=enough.replace(" ", ""))), resume=True
        )


def trial(config) -> Segmenter:
    return memory.trial_segmenter(SegmenterConfig(config.network, 2, 4, ["water", "land"]))


def test_predict_in_blocks_and_by_itself_where_memory_is_short(recipe, tmp_path: Path, monkeypatch, capsys) -> None:
    config = recipe("mapper", steps=2, validate_every=2)
    config = replace(config, network=replace(config.network, layers="4p"))
    run = train(config)
    wanted = PredictConfig(str(run.folder), config.data.source, str(tmp_path / "whole.zarr"), runs=config.runs)
    whole = open_map(predict(wanted))
    blocks = open_map(predict(replace(wanted, out=str(tmp_path / "blocks.zarr"), block=[10, 7])))
    assert "mapping 24 x 24 cells in blocks of 10 x 7 cells amid a halo of 0 x 0 cells" in capsys.readouterr().out
    np.testing.assert_allclose(blocks, whole, atol=1e-6)
    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: Memory(30_000, "available on this machine"))
    alone = open_map(predict(replace(wanted, out=str(tmp_path / "alone.zarr"))))
    assert "mapping 24 x 24 cells in blocks of " in capsys.readouterr().out
    np.testing.assert_allclose(alone, whole, atol=1e-6)
    need = prediction_peak(load_segmenter(best_checkpoint(run.folder)), Workload((24, 24)))
    enough = Memory(2 + int(need / 0.9), "here")
    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: enough)
    assert run_scorer(run).plan(run.volume) is None
    half = run_scorer(run).plan(run.volume, share=0.5)
    assert half is not None
    assert prediction_peak(load_segmenter(best_checkpoint(run.folder)), Workload(half.block)) <= need // 2
    with pytest.raises(
        InputError, match=r"^halo is \[4, 4\], but without a block the whole volume is seen; set a block"
    ):
        predict(replace(wanted, out=str(tmp_path / "no.zarr"), halo=[4, 4]))


def test_a_registered_model_knows_its_blocks_and_their_halo(recipe, tmp_path: Path, monkeypatch, capsys) -> None:
    config = replace(recipe("known", steps=2, validate_every=2), network=NetworkConfig(layers="4 4"))
    run = train(config)
    model = register(RegisterConfig(run=str(run.folder))).uri
    wanted = PredictConfig(model, config.data.source, str(tmp_path / "whole.zarr"), runs=config.runs)
    whole = open_map(predict(wanted))
    blocks = open_map(predict(replace(wanted, out=str(tmp_path / "blocks.zarr"), block=[10, 7])))
    around = far(load_segmenter(best_checkpoint(run.folder)))
    assert around > 0
    assert f"amid a halo of {around} x {around} cells (the network reaches {around})" in capsys.readouterr().out
    np.testing.assert_allclose(blocks, whole, atol=1e-6)
    predictable = load_segmenter(best_checkpoint(run.folder))
    need = prediction_peak(predictable, Workload((24, 20)))
    monkeypatch.setattr(
        "pipeline.scoring.scorer.memory_here", lambda cuda: Memory(2 + int(need / 0.9), "available on this machine")
    )
    alone = open_map(predict(replace(wanted, out=str(tmp_path / "alone.zarr"))))
    assert "mapping 24 x 24 cells in blocks of " in capsys.readouterr().out
    np.testing.assert_allclose(alone, whole, atol=1e-6)


def test_a_dimension_normalised_cell_by_cell_is_never_cut(recipe, tmp_path: Path, monkeypatch, capsys) -> None:
    config = recipe("kept", steps=2, validate_every=2)
    config = replace(config, network=NetworkConfig(layers="4p"), data=replace(config.data, keep=["band", "y"]))
    with pytest.raises(
        InputError,
        match=r"^data.block gives 8 cells of y, each of which data.keep normalises by itself; give all 24, or leave y",
    ):
        train(replace(config, data=replace(config.data, block=[8, 8])))
    train(replace(config, name="cut", data=replace(config.data, block=[24, 8])))
    run = train(config)
    wanted = PredictConfig(str(run.folder), config.data.source, str(tmp_path / "whole.zarr"), runs=config.runs)
    whole = open_map(predict(wanted))
    blocks = open_map(predict(replace(wanted, out=str(tmp_path / "blocks.zarr"), block=[10, 7])))
    assert "in blocks of 24 x 7 cells amid a halo of 0 x 0 cells" in capsys.readouterr().out
    np.testing.assert_allclose(blocks, whole, atol=1e-6)
    need = prediction_peak(load_segmenter(best_checkpoint(run.folder)), Workload((24, 10)))
    monkeypatch.setattr(
        "pipeline.scoring.scorer.memory_here", lambda cuda: Memory(2 + int(need / 0.9), "available on this machine")
    )
    alone = open_map(predict(replace(wanted, out=str(tmp_path / "alone.zarr"))))
    assert "in blocks of 24 x 10 cells" in capsys.readouterr().out
    np.testing.assert_allclose(alone, whole, atol=1e-6)


def open_map(path: Path) -> np.ndarray:
    return xr.open_zarr(path)["probability"].values


def test_the_advice_for_an_approximate_map_works() -> None:
    model = segmenter("4*4 d4*4 d4*8 u4*4 u4*4", 2, {})
    with pytest.raises(InputError, match=r"the network reaches \d+ cells, too far for blocks of its size") as refused:
        plan_prediction(model, (400, 300), Memory(2_000_000, "on the GPU"))
    words = str(refused.value)
    block, halo = (json.loads(words.split(f"--{name} '")[1].split("'")[0]) for name in ("block", "halo"))
    seen = [edge + 2 * around for edge, around in zip(block, halo, strict=True)]
    assert plan_prediction(model, tuple(seen), Memory(2_000_000, "on the GPU")) is None


def test_a_network_that_reaches_too_far_is_approximated_only_where_that_is_wanted() -> None:
    model, memory_there = segmenter("4*4 d4*4 d4*8 u4*4 u4*4", 2, {}), Memory(2_000_000, "on the GPU")
    with pytest.raises(InputError, match=r"too far for blocks of its size"):
        plan_prediction(model, (400, 300), memory_there)
    tiling = plan_prediction(model, (400, 300), memory_there, approximate=True)
    assert tiling is not None
    assert 0 < min(tiling.halo) < far(model)
    around = segmenter("4*2", 2, {}, boundary="periodic")
    with pytest.raises(InputError, match=r"the network reaches the whole volume, too far for blocks"):
        plan_prediction(around, (400, 300), memory_there)


def test_planned_blocks_are_cut_evenly() -> None:
    for edge in range(8, 2000, 8):
        even = memory._even(edge, 8)
        assert edge // 2 < even <= edge
        rest = even // 8
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        assert (even % 8, rest) == (0, 1)


def test_a_periodic_network_is_trained_and_mapped_in_one_piece(recipe, tmp_path: Path) -> None:
    config = recipe("periodic", steps=2, validate_every=2)
    config = replace(config, network=NetworkConfig(layers="4 4", boundary="periodic"))
    run = train(config)
    assert "depends on the whole volume (periodic boundary)" in (run.folder / "model-card.md").read_text()
    wanted = PredictConfig(str(run.folder), config.data.source, str(tmp_path / "whole.zarr"), runs=config.runs)
    predict(wanted)
    wanted = replace(wanted, out=str(tmp_path / "blocks.zarr"), block=[12, 12])
    with pytest.raises(InputError, match=r"depends on the whole volume .* such as --halo '\[3, 3\]'$"):
        predict(wanted)
    predict(replace(wanted, halo=[3, 3]))
