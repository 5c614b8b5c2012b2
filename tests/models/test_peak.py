"""Predicted peak memory against the tensors that are really alive, and against resident memory."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.config import NetworkConfig, SegmenterConfig
from models.fit import largest_sizes, most_layers
from models.losses import masked_cross_entropy
from models.peak import (
    Workload,
    prediction_ledgers,
    prediction_peak,
    training_ledgers,
    training_peak,
    waiting_bytes,
)
from models.pieces import cells_of_piece, cut_cells, cut_grid, rows_of_piece
from models.segmenter import Segmenter
from models.stream import Stream
from tests.benchmarks.planning import CASES, measure_apart, predicted
from tests.models.pretended import device_without_numbers
from tests.models.tracking import live_peak


def segmenter(network: NetworkConfig, space: int, channels: int) -> Segmenter:
    config = SegmenterConfig(network, space, channels, ["one", "other"])
    return Segmenter(config, torch.zeros(1, *[1] * space), torch.ones(1, *[1] * space))


class Middle:
    """The second of three slabs, whose neighbours send zeros: what it holds does not depend on the numbers."""

    index, count = 1, 3

    def trade(self, before: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        assert before is not None
        assert after is not None
        return torch.zeros_like(before), torch.zeros_like(after)

    def over_all(self, numbers: Tensor, how: Literal["sum", "max"]) -> Tensor:
        return numbers.clone()


def train(
    network: NetworkConfig, work: Workload, channels: int, by: Stream | None = None, slab: Middle | None = None
) -> None:
    """Take two steps of the optimiser on random data, one cell of 64 of it labelled."""
    model = segmenter(network, len(work.sizes), channels)
    model.network.stream = by
    optimiser = torch.optim.Adam(model.parameters())
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        target = torch.full((work.batch, *work.sizes), -1)
        target.view(-1)[::64] = 1
        raw = torch.randn(work.batch, channels, *work.sizes)
        masked_cross_entropy(model(raw, slab), target)[0].backward()
        del raw, target
        optimiser.step()


KINDS: dict[str, tuple[NetworkConfig, tuple[int, ...], int, int]] = {
    "convolutions": (NetworkConfig(layers="8*2 d8 u8", repeat=2), (192, 192), 8, 1),
    "batch of two in 1-D": (NetworkConfig(layers="8*2 d8 u8", repeat=2), (2**15,), 8, 2),
    "products": (NetworkConfig(layers="4*2"), (96, 96), 128, 1),
    "products, bfloat16": (NetworkConfig(layers="4*2", force_dtype="bfloat16"), (96, 96), 128, 1),
    "exact, 16 bits": (NetworkConfig(layers="8*2", force_dtype="bfloat16", state_bits=16), (512, 384), 16, 1),
    "products, float16": (NetworkConfig(layers="4*2", force_dtype="float16", states="float"), (96, 96), 128, 1),
    "3-D, float16": (NetworkConfig(layers="16 d16 u16", repeat=2, force_dtype="float16"), (32, 64, 64), 8, 1),
    "nearly all is kept": (NetworkConfig(layers="8*20", kept_hidden=100), (128, 128), 16, 1),
    "nearly all is kept, bfloat16": (
        NetworkConfig(layers="8*20", kept_hidden=100, force_dtype="bfloat16"),
        (128, 128),
        16,
        1,
    ),
    "all kept": (NetworkConfig(layers="8*2 d8*2 u8", repeat=2, kept_hidden=100), (192, 192), 8, 1),
    "none kept, products": (NetworkConfig(layers="4*4", kept_hidden=0), (96, 96), 128, 1),
    "3-D, six rows at once": (NetworkConfig(layers="8*3", repeat=12), (20, 80, 80), 1, 1),
    "3-D, six rows of two levels": (NetworkConfig(layers="8 d16 u8", repeat=12), (52, 56, 56), 1, 1),
    "3-D, exact": (NetworkConfig(layers="8*3", repeat=12, states="exact"), (56, 56, 56), 1, 1),
    "3-D, bfloat16": (NetworkConfig(layers="8*3", repeat=12, force_dtype="bfloat16"), (48, 56, 56), 1, 1),
    "3-D, reflected": (NetworkConfig(layers="8 d8 u8", repeat=2, boundary="reflect"), (32, 32, 40), 8, 1),
    "learned, padded": (NetworkConfig(layers="8 d8 u8", repeat=2, coarsening="learned"), (191, 193), 8, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_holds_what_was_predicted(kind: str) -> None:
    config, sizes, channels, batch = KINDS[kind]
    work = Workload(sizes, batch, labelled=batch * math.prod(sizes) // 64, optimiser="adam")
    guess = training_peak(segmenter(config, len(sizes), channels), work)
    assert guess == pytest.approx(live_peak(lambda: train(config, work, channels)), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_holds_what_was_predicted(kind: str) -> None:
    config, sizes, channels, batch = KINDS[kind]

    def predict() -> None:
        with torch.no_grad():
            segmenter(config, len(sizes), channels).probabilities(torch.randn(batch, channels, *sizes))

    guess = prediction_peak(segmenter(config, len(sizes), channels), Workload(sizes, batch))
    assert guess == pytest.approx(live_peak(predict), rel=0.1)


@given(
    batch=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=3),
    cell_bytes=st.integers(1, 20000),
    weight_bytes=st.integers(0, 10**8),
)
def test_the_largest_piece_is_that_of_the_cut(batch: int, sizes: list[int], cell_bytes: int, weight_bytes: int) -> None:
    pieces = [
        len(range(batch)[samples]) * len(range(sizes[0])[rows]) for samples, rows in cut_grid(batch, sizes, cell_bytes)
    ]
    assert rows_of_piece(batch, sizes, cell_bytes) == max(pieces) * math.prod(sizes[1:])
    cells = math.prod(sizes)
    longest = max(piece.stop - piece.start for piece in cut_cells(cells, cell_bytes, weight_bytes))
    assert abs(cells_of_piece(cells, cell_bytes, weight_bytes) - longest) <= 1


SLABS: dict[str, tuple[NetworkConfig, tuple[int, ...], int]] = {
    "convolutions": (NetworkConfig(layers="8*2 d8 u8", repeat=2), (96, 512), 8),
    "products": (NetworkConfig(layers="4*2"), (48, 96), 128),
    "exact, bfloat16": (NetworkConfig(layers="8*2", force_dtype="bfloat16", state_bits=16), (192, 768), 16),
    "3-D": (NetworkConfig(layers="8 d8 u8", repeat=2), (20, 64, 64), 8),
    "3-D, all kept": (NetworkConfig(layers="8 d8 u8", repeat=2, kept_hidden=100), (20, 64, 64), 8),
}
"""Thin slabs: what lies beyond their faces counts."""
TURNS: dict[str, tuple[NetworkConfig, tuple[int, ...], int, int]] = {
    "convolutions": (NetworkConfig(layers="8*2 d8 u8", repeat=4), (192, 384), 8, 4),
    "products": (NetworkConfig(layers="4*2"), (96, 96), 128, 3),
    "exact, 16 bits": (NetworkConfig(layers="8*2", force_dtype="bfloat16", state_bits=16), (512, 384), 16, 8),
    "learned, padded": (NetworkConfig(layers="8 d8 u8", repeat=4, coarsening="learned"), (383, 193), 8, 4),
    "3-D": (NetworkConfig(layers="8 d8 u8", repeat=8), (40, 64, 64), 2, 5),
    "3-D, exact, thin": (NetworkConfig(layers="4 d4 u4", repeat=16, states="exact"), (48, 64, 96), 1, 12),
    "3-D, exact, kernel of 5": (NetworkConfig(layers="1 1", repeat=32, states="exact", kernel=5), (48, 64, 96), 1, 12),
    "wide kernels": (NetworkConfig(layers="32 d32 d32 u32 u32", repeat=12), (64, 48, 48), 1, 8),
}


@pytest.mark.parametrize("kind", SLABS)
def test_a_slab_holds_what_was_predicted(kind: str) -> None:
    config, sizes, channels = SLABS[kind]
    work = Workload(sizes, labelled=math.prod(sizes) // 64, optimiser="adam")
    guess = training_peak(segmenter(config, len(sizes), channels), work)
    assert guess == pytest.approx(live_peak(lambda: train(config, work, channels, slab=Middle())), rel=0.1)

    def predict() -> None:
        with torch.no_grad():
            segmenter(config, len(sizes), channels).probabilities(torch.randn(1, channels, *sizes), Middle())

    guess = prediction_peak(segmenter(config, len(sizes), channels), Workload(sizes))
    assert guess == pytest.approx(live_peak(predict), rel=0.1)


@pytest.mark.parametrize("away", ["", "states"])
@pytest.mark.parametrize("kind", TURNS)
def test_slabs_in_turns_hold_what_was_predicted(kind: str, away: Literal["", "states"], tmp_path: Path) -> None:
    config, sizes, channels, turns = TURNS[kind]
    work = Workload(sizes, labelled=math.prod(sizes) // 64, optimiser="adam", turns=turns, away=away)
    by = Stream(turns, tmp_path if away else None)
    guess = training_peak(segmenter(config, len(sizes), channels), work)
    assert guess == pytest.approx(live_peak(lambda: train(config, work, channels, by)), rel=0.1)

    def predict() -> None:
        with torch.no_grad():
            model = segmenter(config, len(sizes), channels)
            model.network.stream = by
            model.probabilities(torch.randn(1, channels, *sizes))

    guess = prediction_peak(segmenter(config, len(sizes), channels), work)
    assert guess == pytest.approx(live_peak(predict), rel=0.1)


@pytest.mark.parametrize("book", [training_peak, prediction_peak])
def test_several_threads_convolve_directly(book: Callable[[Segmenter, Workload], int]) -> None:
    model = segmenter(NetworkConfig(layers="8*3", repeat=12), 3, 1)
    alone, two = (book(model, Workload((56, 56, 56), threads=threads)) for threads in (1, 2))
    assert alone > 1.05 * two


ON_A_GPU: dict[str, tuple[NetworkConfig, tuple[int, ...], int, int]] = {
    "convolutions": (NetworkConfig(layers="8*2 d8 u8", repeat=2), (512, 512), 32, 1),
    "small pieces": (NetworkConfig(layers="8*2 d8 u8", repeat=2), (192, 192), 8, 2),
    "bfloat16": (NetworkConfig(layers="8*2 d8 u8", force_dtype="bfloat16"), (512, 512), 64, 1),
    "float16": (NetworkConfig(layers="8*2", force_dtype="float16"), (512, 512), 64, 2),
    "16 bits": (NetworkConfig(layers="8*2", force_dtype="bfloat16", state_bits=16), (512, 768), 64, 1),
    "exact": (NetworkConfig(layers="8*3", repeat=12, states="exact"), (128, 128, 96), 1, 1),
    "3-D": (NetworkConfig(layers="8 d16*2 u8", repeat=12), (128, 128, 96), 1, 1),
    "products": (NetworkConfig(layers="4*2"), (192, 192), 256, 1),
    "products, bfloat16": (NetworkConfig(layers="4*2", force_dtype="bfloat16"), (192, 192), 256, 1),
    "reflected": (NetworkConfig(layers="8 d8 u8", repeat=2, boundary="reflect"), (64, 64, 80), 16, 1),
}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.parametrize("kind", ON_A_GPU)
def test_a_gpu_holds_what_was_predicted_beside_what_its_libraries_take(kind: str) -> None:
    config, sizes, channels, batch = ON_A_GPU[kind]
    work = Workload(sizes, batch, threads=0)

    def step() -> None:
        model, target = segmenter(config, len(sizes), channels), torch.full((batch, *sizes), -1)
        raw = torch.randn(batch, channels, *sizes)
        model(raw).square().mean().backward()
        del raw, target

    def predict() -> None:
        with torch.no_grad():
            segmenter(config, len(sizes), channels).probabilities(torch.randn(batch, channels, *sizes))

    for book, task in ((training_peak, step), (prediction_peak, predict)):
        with device_without_numbers() as device, device:
            held = live_peak(task)
        assert book(segmenter(config, len(sizes), channels), work) == pytest.approx(held, rel=0.03)


def test_what_lies_elsewhere_is_counted_there() -> None:
    model = segmenter(NetworkConfig(layers="8*2 d8 u8", repeat=2), 2, 8)
    here, away = (Workload((192, 192), labelled=576, turns=4, away=where) for where in ("states", "volume"))
    for book in (training_ledgers, prediction_ledgers):
        (both, same), (device, host) = book(model, here), book(model, away)
        assert same is both
        assert max(device.peak, host.peak) < both.peak <= device.peak + host.peak
    training, mapping = (waiting_bytes(model, away, training=trains) for trains in (True, False))
    assert training == 2 * mapping == 4 * 16 * 192 * 192 * 4
    uneven = Workload((192, 192), turns=5, away="volume")  # of 39 rows at most, that is 40 of whole coarse cells
    assert waiting_bytes(model, uneven, training=True) == 5 * 4 * 16 * 40 * 192 * 4
    assert waiting_bytes(model, uneven, training=True, pinned=True) == 5 * 4 * 2**19


@settings(max_examples=8, deadline=None)
@given(memory=st.integers(2 * 10**6, 10**9), batch=st.integers(1, 2))
def test_the_largest_grid_fits_and_the_next_does_not(memory: int, batch: int) -> None:
    model, work = segmenter(NetworkConfig(layers="4 d8 u4", repeat=4), 2, 2), Workload((32, 48), batch)
    found = largest_sizes(model, work, memory, training_peak)
    assert found is not None
    units = found[1] // 2
    assert training_peak(model, Workload(found, batch)) <= memory
    larger = (round(16 * (units + 1) / 24) * 2, 2 * (units + 1))
    assert training_peak(model, Workload(larger, batch)) > memory
    layers = most_layers(model, Workload(found, batch), memory)
    assert layers is not None
    repeated = NetworkConfig(layers=f"4*{layers // 3} d8*{layers // 3} u4*{layers // 3}", repeat=4)
    assert training_peak(segmenter(repeated, 2, 2), Workload(found, batch)) <= memory


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.lists(st.sampled_from(["2", "4p", "d4", "8"]), min_size=1, max_size=4),
    batch=st.integers(1, 2),
    kept=st.sampled_from([0.0, 0.3, 2.0, 5.0, 100.0]),
    force=st.sampled_from(["float32", "bfloat16"]),
    more=st.floats(0, 2),
)
def test_the_layers_that_are_promised_fit_whatever_they_keep(
    tokens: list[str], batch: int, kept: float, force: str, more: float
) -> None:
    config = NetworkConfig(layers=" ".join(tokens), kept_hidden=kept, force_dtype=force)  # type: ignore[arg-type]
    model, work = segmenter(config, 2, 3), Workload((32, 48), batch)
    peak = training_peak(model, work)
    memory = int(peak * (1 + more))
    promised = most_layers(model, work, memory)
    assert promised is not None
    depth = len(model.network.plan.layers)
    assert promised % depth == 0
    times = promised // depth
    deeper = segmenter(replace(config, layers=" ".join(f"{token}*{times}" for token in tokens)), 2, 3)
    assert training_peak(deeper, work) <= memory
    if not kept:  # then no more would fit
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        assert memory - peak < work.copies * times * weights


def test_nothing_fits_into_too_little() -> None:
    model = segmenter(NetworkConfig(layers="4 d8 u4"), 2, 2)
    assert largest_sizes(model, Workload((32, 32)), 100, training_peak) is None
    assert most_layers(model, Workload((32, 32)), 100) is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident peak from /proc")
@pytest.mark.parametrize("name", ["2-D few channels", "2-D exact bfloat16", "2-D many channels predicted"])
def test_the_resident_peak_is_predicted_within_a_tenth(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    assert predicted(case) == pytest.approx(measure_apart(case, "cpu"), rel=0.1)
