"""Every training sample is a function of its step: whoever reads it, whenever, under whatever view."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.config import DataConfig
from datasets.errors import InputError
from datasets.samples.blocks import apply_view
from datasets.samples.parts import TEST, TRAIN, UNUSED, VALIDATION
from datasets.volume import IGNORE, Volume, coarsen_labels
from tests.datasets.samples.coded import blocks_of, coded, everywhere, loader, same, samples_of

quick = settings(max_examples=20, deadline=None, derandomize=True)


@quick
@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 3))
def test_a_resumed_run_sees_what_the_whole_one_would_have_seen(start: int, batch: int, seed: int) -> None:
    volume = coded(12, 8)
    whole = list(loader(volume, batch=batch, seed=seed).steps(0, start + 4))
    resumed = list(loader(volume, batch=batch, seed=seed).steps(start, start + 4))
    assert all(same(a, b) for a, b in zip(whole[start:], resumed, strict=True))
    assert all(len(samples) == batch for samples in whole)


def test_steps_and_seeds_differ() -> None:
    volume = coded(12, 8)
    one, other = loader(volume), loader(volume, seed=1)
    assert not same(samples_of(one, 0), samples_of(one, 1))
    assert not all(same(samples_of(one, step), samples_of(other, step)) for step in range(3))


@quick
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 20))
def test_ranks_share_the_batch_without_gap_or_copy(world: int, batch: int, step: int) -> None:
    volume = coded(12, 8)
    together = samples_of(loader(volume, batch=batch), step)
    shares = [samples_of(loader(volume, batch=batch, rank=rank, world=world), step) for rank in range(world)]
    assert sum(map(len, shares)) == batch
    for position, sample in enumerate(together):
        assert same([sample], [shares[position % world][position // world]])


@pytest.mark.parametrize(("block", "views"), [([4, 4], 8), ([4, 2], 4), (None, 4)])
def test_a_view_turns_data_and_labels_alike(block: list[int] | None, views: int) -> None:
    volume = coded(12, 8)
    cells = block or [12, 8]
    seen = set()
    for samples in loader(volume, block=block).steps(0, 60):
        for raw, labels in samples:
            assert raw.shape == (3, *cells)
            assert (raw.dtype, labels.dtype) == (np.float32, np.int16)
            assert raw.flags.c_contiguous
            assert labels.flags.c_contiguous
            np.testing.assert_array_equal(labels, raw[0])
            np.testing.assert_array_equal(raw[1], -raw[0])
            steps = np.sign(np.diff(raw[0], axis=0)[0, 0]) * 8, np.sign(np.diff(raw[0], axis=1)[0, 0])
            upright = abs(np.diff(raw[0], axis=1)[0, 0]) == 1
            seen.add((*map(np.sign, steps), upright))
    assert len(seen) == views


def test_only_horizontal_axes_are_turned() -> None:
    number = np.arange(4 * 4 * 6).reshape(4, 4, 6)
    attrs = {"class_names": [str(k) for k in range(96)]}
    dims = ("inline", "crossline", "depth")
    dataset = xr.Dataset({"data": (dims, number.astype(np.float32)), "labels": (dims, number.astype(np.uint8), attrs)})
    volume = Volume.of(dataset, DataConfig(source="cube.zarr", space=["depth", "inline", "crossline"]))
    split = xr.DataArray(np.full((4, 4), TRAIN, np.uint8), dims=["inline", "crossline"])
    seen = set()
    for ((raw, labels),) in loader(volume, split, block=None, batch=1).steps(0, 8):
        np.testing.assert_array_equal(labels, raw[0])
        assert (np.diff(raw[0], axis=0) == 1).all()  # depth still goes down
        seen.add(raw.tobytes())
    assert len(seen) == 8


def test_labels_of_fewer_dimensions_turn_with_the_axes_they_have() -> None:
    volume = coded(6, 6)
    deep = Volume.of(volume.dataset, DataConfig(source="coded.zarr", space=["band", "y", "x"]))
    seen = set()
    for ((raw, labels),) in loader(deep, everywhere(volume), block=None, batch=1).steps(0, 8):
        np.testing.assert_array_equal(labels, raw[0, 0])
        np.testing.assert_array_equal(labels, -raw[0, 1])
        seen.add(labels.tobytes())
    assert len(seen) == 8


def test_an_axis_that_the_output_is_read_at_is_not_flipped() -> None:
    number = np.arange(30).reshape(5, 6)
    attrs = {"class_names": [str(k) for k in range(30)]}
    labels = ("y", number[:, 4].astype(np.uint8), attrs)
    dataset = xr.Dataset({"data": (("y", "x"), number.astype(np.float32)), "labels": labels})
    volume = Volume.of(dataset, DataConfig(source="line.zarr", space=["y", "x"], read_slice={"x": 4}))
    split = xr.DataArray(np.full(5, TRAIN, np.uint8), dims=["y"])
    seen = [samples[0] for samples in loader(volume, split, block=None, batch=1).steps(0, 4)]
    for raw, line in seen:
        np.testing.assert_array_equal(line, raw[0, :, 4])
    assert len({raw.tobytes() for raw, _ in seen}) == 2


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (8, 12), (7, 7), (9, 6)])
def test_coarse_labels_lie_under_the_cells_they_are_of(rows: int, columns: int) -> None:
    """A size that the factor does not divide is no exception: the last, incomplete cell moves when a view flips."""
    volume = coded(rows, columns)
    for ((raw, labels),) in loader(volume, block=None, factor=2, batch=1).steps(0, 8):
        np.testing.assert_array_equal(labels, coarsen_labels(raw[0].astype(np.int64), 2, len(volume.classes)))


def test_views_end_at_their_step() -> None:
    volume = coded(8, 8)
    plain = {volume.read(block).tobytes() for block in blocks_of(loader(volume))}
    shown = loader(volume, augment_until=5)
    assert all(raw.tobytes() in plain for step in range(5, 20) for raw, _ in samples_of(shown, step))
    assert not all(raw.tobytes() in plain for step in range(5) for raw, _ in samples_of(shown, step))
    never = loader(volume, augment_until=0)
    assert all(raw.tobytes() in plain for step in range(9) for raw, _ in samples_of(never, step))


def test_blocks_without_training_labels_are_skipped() -> None:
    volume = coded(8, 12)
    split = everywhere(volume, TEST)
    split[5, 1] = TRAIN
    split[0, 8:] = TRAIN
    found = loader(volume, split, batch=2)
    assert blocks_of(found) == [(slice(0, 4), slice(8, 12)), (slice(4, 8), slice(0, 4))]
    for samples in found.steps(0, 10):
        assert sorted((labels != IGNORE).sum() for _, labels in samples) == [1, 4]


def test_only_training_labels_are_ever_read() -> None:
    volume = coded(8, 12)
    split = everywhere(volume, UNUSED)
    split[:, 3:6], split[:, 6:9], split[:, 9:] = TRAIN, VALIDATION, TEST
    dense = volume.dataset.assign(truth=volume.dataset["labels"].copy(data=np.full((12, 8), 7, np.uint8)))
    volume = Volume.of(dense, DataConfig(source="coded.zarr", space=["y", "x"]))
    allowed = {IGNORE, *volume.read_labels(split, "train").ravel().tolist()}
    seen = {int(k) for samples in loader(volume, split).steps(0, 12) for _, labels in samples for k in labels.ravel()}
    assert seen == allowed


def test_no_data_reaches_the_network_as_nan() -> None:
    volume = coded(4, 4)
    valid = volume.dataset["data"] != 5
    hidden = Volume.of(volume.dataset.assign(valid=valid), DataConfig(source="coded.zarr", space=["y", "x"]))
    for ((raw, labels),) in loader(hidden, block=None, batch=1).steps(0, 8):
        assert np.isnan(raw[0][labels == 5]).all()
        assert np.isnan(raw).sum() == 1


def test_labels_are_learned_in_the_block_and_not_in_its_halo() -> None:
    volume = coded(12, 8)
    seen: dict[int, int] = {}
    tested = loader(volume, halo=[2, 1], batch=6)
    for samples in tested.steps(0, 4):
        for raw, labels in samples:
            assert raw.shape == (3, 8, 6)
            inside = labels != IGNORE
            np.testing.assert_array_equal(labels[inside], raw[0][inside])
            rows, columns = np.nonzero(inside)
            assert inside.sum() == np.ptp(rows + 1) ** 0 * 16 == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            for number in labels[inside].tolist():
                seen[number] = seen.get(number, 0) + 1
    assert seen == dict.fromkeys(range(96), 4)  # each cell is learned once an epoch, whatever windows it lies in


def test_a_halo_reads_no_more_than_the_volume_has() -> None:
    volume = coded(12, 8)
    whole = volume.read().tobytes()
    for raw, labels in samples_of(loader(volume, halo=[12, 12], augment_until=0), 0):
        assert raw.tobytes() == whole
        assert (labels != IGNORE).sum() == 16


def test_blocks_without_labels_come_at_their_share() -> None:
    volume = coded(12, 8)
    split = everywhere(volume, TEST)
    split[0, 0] = TRAIN
    for share, every in ((0.5, 2), (0.25, 4)):
        found = loader(volume, split, batch=4, labelled_share=share)
        assert len(found.windows) == 6
        counts = [sum((labels != IGNORE).any() for _, labels in samples) for samples in found.steps(0, 10)]
        assert counts == [4 // every] * 10
    once = loader(volume, split, batch=6, labelled_share=None)
    for samples in once.steps(0, 3):
        assert sorted((labels != IGNORE).sum() for _, labels in samples) == [0] * 5 + [1]


def test_a_whole_volume_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = loader(coded(12, 8), block=None)
    monkeypatch.setattr(Volume, "read", None)
    before = samples_of(tested, 0)
    list(tested.steps(0, 10))
    assert same(before, samples_of(tested, 0))  # no view was made in place


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({}, TEST, "no block holds a training label; take larger blocks, or another split.seed"),
        ({"block": [4, 20]}, TRAIN, r"data.block is \[4, 20\], but the volume has \[12, 8\] cells; give one size"),
        (
            {"block": [5, 4], "factor": 2},
            TRAIN,
            r"data.block \[5, 4\] puts a block at \[5, 0\], which is not on the network's output grid; take sizes that "
            r"are multiples of 2 and divide the volume \[12, 8\]",
        ),
    ],
)
def test_refusals(changed: dict[str, object], code: int, words: str) -> None:
    volume = coded(12, 8)
    with pytest.raises(InputError, match=words):
        loader(volume, everywhere(volume, code), **changed)


def test_views_of_a_sample_undo_to_the_same_block() -> None:
    volume = coded(4, 4)
    raw = volume.read()
    views = {apply_view(raw, view, [1, 2]).tobytes() for view in range(8)}
    shown = {sample[0].tobytes() for samples in loader(volume, block=None, batch=2).steps(0, 4) for sample in samples}
    assert shown == views  # in as many epochs as there are views, each comes once


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"halo": [2, 2]}, r"data.halo is \[2, 2\], but without data.block the whole volume is seen; set a block"),
        (
            {"block": [4, 4], "halo": [2]},
            r"data.halo is \[2\]; give a number of cells, 0 or more, for each of data.space",
        ),
        ({"block": [4, 4], "halo": [2, -2]}, r"data.halo is \[2, -2\]; give a number of cells, 0 or more"),
        (
            {"labelled_share": 0.0},
            r"data.labelled_share is 0; give a share above 0 and up to 1, or none for every block",
        ),
        ({"labelled_share": 1.5}, r"data.labelled_share is 1.5; give a share above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        DataConfig(space=["y", "x"], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("block", "halo"), [(None, None), ([8, 8], None), ([4, 4], [2, 2]), ([4, 8], [4, 0])])
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("cut", [2, 4])
def test_rows_of_a_sample_are_those_of_its_view(
    block: list[int] | None, halo: list[int] | None, factor: int, cut: int
) -> None:
    volume = coded(12, 8)
    whole = loader(volume, block=block, halo=halo, factor=factor)
    parts = [
        loader(volume, block=block, halo=halo, factor=factor, rows=rows)
        for rows in (slice(0, cut), slice(cut, whole.windows[0].sizes[0]))
    ]
    seen = set()
    for step in range(40):
        for one, *others in zip(samples_of(whole, step), *(samples_of(part, step) for part in parts), strict=True):
            assert others[0][0].shape[1] == cut
            assert others[0][1].shape[0] == cut // factor
            for kind in (0, 1):
                np.testing.assert_array_equal(np.concatenate([part[kind] for part in others], axis=1 - kind), one[kind])
            seen.add(one[0].tobytes())
        for part in parts:
            if part._kept is not None:
                assert sum(raw.shape[1] for raw, _ in part._kept.values()) <= whole.windows[0].sizes[0]
    assert len(seen) > 3
    assert sum(part.sample_bytes for part in parts) == whole.sample_bytes
