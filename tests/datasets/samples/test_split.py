import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from datasets.samples.parts import (
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    deal,
    keep_apart,
    split_blocks,
    split_points,
    split_wells,
)
from datasets.samples.split import label_counts, make_split
from datasets.volume import Volume

quick = settings(max_examples=20, deadline=None, derandomize=True)


def volume_of(labels, dims, *, truth=None, wells=None, classes=None):
    """A volume with labels [*dims] (255 unlabelled) and one vertical dimension in the data where the labels lack it."""
    data_dims = dims if "depth" in dims else (*dims, "depth")
    shape = labels.shape if "depth" in dims else (*labels.shape, 2)
    names = classes or [f"c{index}" for index in range(int(labels[labels != 255].max(initial=0)) + 1)]
    labels = xr.DataArray(labels, dims=dims, attrs={"class_names": names, "unlabelled": 255})
    variables = {"data": (data_dims, np.zeros(shape, np.float32)), "labels": labels}
    if truth is not None:
        variables["truth"] = (dims, truth)
    if wells is not None:
        variables["wells"] = (("well", "axis"), np.asarray(wells), {"dims": ["x", "y"]})
    coords = {dim: np.arange(size) * 25.0 for dim, size in zip(dims, labels.shape, strict=True)}
    return Volume.of(xr.Dataset(variables, coords), DataConfig(space=list(data_dims)))


def patches(seed, shape=(60, 70), classes=4, labelled=0.6):
    """Fields of one class each, as on a land-use map, some of them unlabelled; every class occurs."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, classes, (-(-shape[0] // 6), -(-shape[1] // 6))).astype(np.uint8)
    fields[rng.random(fields.shape) > labelled] = 255
    fields.flat[:classes] = np.arange(classes)
    return np.kron(fields, np.ones((6, 6), np.uint8))[: shape[0], : shape[1]]


def assert_apart(parts, buffer):
    """No cell of a part lies within `buffer` cells (Chebyshev) of another part's."""
    for part in (TRAIN, VALIDATION, TEST):
        others = (parts != part) & (parts != UNUSED)
        if others.any() and (parts == part).any():
            distance = distance_transform_cdt(~others, metric="chessboard")
            assert distance[parts == part].min() > buffer


@quick
@given(
    seed=st.integers(0, 999),
    block=st.integers(5, 20),
    buffer=st.integers(0, 4),
    fractions=st.sampled_from([[0.5, 0.15, 0.35], [0.2, 0.2, 0.6], [0.8, 0.1, 0.1]]),
)
def test_blocks_keep_their_promises(seed, block, buffer, fractions):
    labels = patches(seed)
    counts = np.stack([labels == index for index in range(4)]).astype(np.int32)
    config = SplitConfig(block=block, buffer=buffer, seed=seed, fractions=fractions)
    parts = split_blocks(counts, config)
    assert np.array_equal(parts, split_blocks(counts, config))
    assert parts.dtype == np.uint8
    assert not parts[labels == 255].any()
    assert_apart(parts, buffer)
    assert all((labels[parts == TRAIN] == index).any() for index in range(4))
    if buffer == 0:
        assert (parts[labels != 255] != UNUSED).all()


@pytest.mark.parametrize("fractions", [[0.5, 0.15, 0.35], [0.2, 0.2, 0.6], [0.8, 0.1, 0.1]])
@pytest.mark.parametrize("seed", range(3))
def test_fractions_hold_for_every_class(fractions, seed):
    labels = patches(seed, shape=(160, 160))
    counts = np.stack([labels == index for index in range(4)]).astype(np.int32)
    parts = split_blocks(counts, SplitConfig(block=8, buffer=0, seed=seed, fractions=fractions))
    for class_cells in counts:
        shares = [class_cells[parts == part].sum() / class_cells.sum() for part in (TRAIN, VALIDATION, TEST)]
        assert shares == pytest.approx(fractions, abs=0.05)


def test_the_seed_decides():
    volume = volume_of(patches(0), ("x", "y"))
    one, same, other = (make_split(volume, SplitConfig(block=8, seed=seed)) for seed in (1, 1, 2))
    assert one.identical(same)
    assert not np.array_equal(one, other)


def test_a_class_in_one_block_trains_and_one_in_three_blocks_is_in_every_part():
    counts = np.zeros((3, 40), int)
    counts[0, 7] = 5
    counts[1, [3, 20, 30]] = 9
    counts[2, :] = 50
    for seed in range(10):
        parts = deal(counts, [0.2, 0.2, 0.6], np.random.default_rng(seed))
        assert parts[7] == TRAIN
        assert set(parts[[3, 20, 30]]) == {TRAIN, VALIDATION, TEST}


def test_no_blocks_for_a_part_without_a_share():
    parts = deal(np.full((1, 30), 4), [0.7, 0.0, 0.3], np.random.default_rng(0))
    assert set(parts) == {TRAIN, TEST}


def test_the_buffer_costs_the_larger_part_but_never_a_class_of_training():
    parts = np.repeat(np.array([[TRAIN] * 12 + [TEST] * 6], np.uint8), 4, axis=0)
    counts = np.zeros((2, 4, 18), np.int32)
    counts[0] = 1
    kept = keep_apart(parts, counts, 3)
    assert (kept == TEST).sum() == 24
    assert (kept[:, 9:12] == UNUSED).all()
    counts[0, 2, 11], counts[1, 2, 11] = 0, 1  # the only cell of class 1, at the border
    kept = keep_apart(parts, counts, 3)
    assert kept[2, 11] == TRAIN
    assert_apart(kept, 3)
    assert (kept == TEST).any()


def test_columns_stand_for_their_cells_and_the_map_has_coordinates():
    labels = np.full((40, 30, 5), 255, np.uint8)
    labels[:, ::2, 1] = 0
    labels[::3, ::2, 4] = 1
    volume = volume_of(labels, ("x", "y", "depth"))
    split = make_split(volume, SplitConfig(block=6))
    assert split.dims == ("x", "y")
    assert set(split.coords) == {"x", "y"}
    assert split.attrs == {
        "names": ["unused", "train", "validation", "test"],
        "method": "blocks",
        "seed": 0,
        "buffer": 2,
    }
    assert not split.values[:, 1::2].any()
    counts = label_counts(volume, split)
    for code, part in enumerate(("train", "validation", "test"), start=1):
        cells = labels[split.values == code]
        assert counts[part].tolist() == [(cells == 0).sum(), (cells == 1).sum()]
        assert counts[part].tolist() == [(volume.read_labels(split, part) == index).sum() for index in (0, 1)]


def test_named_dims_divide_along_one_axis_only():
    split = make_split(volume_of(patches(3), ("x", "y")), SplitConfig(dims=["x"], block=10, buffer=1))
    assert split.dims == ("x",)
    assert_apart(split.values, 1)


def drilled(n=50, vertical=3, wells=((8, 8), (8, 40), (40, 8), (40, 40), (25, 25), (8, 25))):
    """Truth everywhere, labels in squares of half-width 5; class 1 only around three of the wells."""
    truth = np.zeros((n, n, vertical), np.uint8)
    truth[:, 20:] = 1
    truth[20:, 30:] = 0
    labels = np.full_like(truth, 255)
    for x, y in wells:
        labels[x - 5 : x + 6, y - 5 : y + 6] = truth[x - 5 : x + 6, y - 5 : y + 6]
    return volume_of(labels, ("x", "y", "depth"), truth=truth, wells=wells), np.asarray(wells), labels


@quick
@given(seed=st.integers(0, 99), radius=st.integers(0, 7), buffer=st.integers(0, 4), validation=st.integers(0, 3))
def test_wells_train_validate_and_all_else_tests(seed, radius, buffer, validation):
    volume, wells, labels = drilled()
    config = SplitConfig(method="wells", radius=radius, buffer=buffer, validation_wells=validation, seed=seed)
    split = make_split(volume, config)
    parts = split.values
    assert split.identical(make_split(volume, config))
    assert_apart(parts, buffer)
    assert (parts[tuple(wells.T)] == VALIDATION).sum() == validation
    used = (parts == TRAIN) | (parts == VALIDATION)
    offsets = np.abs(np.stack(np.indices(parts.shape), -1)[:, :, None] - wells).max(-1).min(-1)
    assert not used[offsets > radius].any()
    assert not (used & (labels == 255).all(2)).any()
    away = distance_transform_cdt(~used, metric="chessboard") > buffer
    assert np.array_equal(parts == TEST, away)  # truth is everywhere
    counts = label_counts(volume, split)
    assert counts["train"].all()
    assert counts["test"].sum() == away.sum() * 3


def test_both_classes_reach_training_and_validation_wherever_a_draw_allows_it():
    volume, _, _ = drilled()
    for seed in range(20):
        split = make_split(volume, SplitConfig(method="wells", radius=4, validation_wells=2, seed=seed))
        counts = label_counts(volume, split)
        assert counts["train"].all()
        assert counts["validation"].all()


def test_a_column_between_two_wells_belongs_to_the_nearer():
    counts = np.ones((1, 20, 5), np.int32)
    config = SplitConfig(method="wells", radius=6, validation_wells=1, buffer=0)
    wells = np.array([[6, 2], [11, 2]])
    parts = split_wells(counts, np.zeros((20, 5), bool), wells, config)
    left, right = parts[6, 2], parts[11, 2]
    assert {left, right} == {TRAIN, VALIDATION}
    assert parts[:, 2].tolist() == [left] * 9 + [right] * 9 + [UNUSED] * 2


def test_without_truth_only_labelled_columns_test():
    volume, _, labels = drilled()
    volume = Volume.of(volume.dataset.drop_vars("truth"), DataConfig(space=["x", "y", "depth"]))
    parts = make_split(volume, SplitConfig(method="wells", radius=2, buffer=1)).values
    assert (parts == TEST).any()
    assert not parts[(labels == 255).all(2)].any()


def test_wells_of_the_configuration_come_first():
    volume, _, _ = drilled()
    config = SplitConfig(method="wells", wells=[[8, 8], [25, 25], [8, 40]], radius=2, validation_wells=1)
    parts = make_split(volume, config).values
    assert (parts[[8, 25, 8], [8, 25, 40]] != TEST).all()
    assert parts[40, 8] == TEST


maps = patches(5)


@pytest.mark.parametrize(
    ("volume", "config", "message"),
    [
        (volume_of(maps, ("x", "y")), SplitConfig(dims=["z"]), r"split\.dims names \['z'\].*\['x', 'y'\]"),
        (volume_of(maps[0], ("depth",)), SplitConfig(), r"vary along \['depth'\] only.*split\.dims"),
        (volume_of(maps, ("x", "y"), classes=["a", "b", "c", "d", "oats"]), SplitConfig(), "'oats' has no label"),
        (volume_of(maps, ("x", "y")), SplitConfig(method="wells"), r"brings no wells; name .* split\.wells"),
        (
            volume_of(maps, ("x", "y")),
            SplitConfig(method="wells", wells=[[3, 70], [1, 1], [2, 2]]),
            r"well at \[3, 70\], outside the map of \[60, 70\] cells",
        ),
        (volume_of(maps, ("x", "y"), wells=[[3, 3], [9, 9]]), SplitConfig(method="wells"), "2 of 2 wells; leave"),
        (
            volume_of(maps, ("x", "y"), wells=[[3, 3], [50, 50]]),
            SplitConfig(method="wells", validation_wells=1, radius=2),
            r"class 'c\d' has no training labels; try another split\.seed than 0, more wells or a larger split\.radius",
        ),
        (volume_of(maps, ("x", "y")), SplitConfig(block=100), r"no labels left.*smaller split\.block than 100"),
        (volume_of(maps, ("x", "y")), SplitConfig(buffer=60), r"beside a buffer of 60 cells.*smaller split\.buffer"),
        (volume_of(maps, ("x", "y")), SplitConfig(fractions=[0.0, 0.5, 0.5]), r"nothing to training"),
    ],
)
def test_what_cannot_be_split_is_refused(volume, config, message):
    with pytest.raises(InputError, match=message):
        make_split(volume, config)


def test_a_volume_without_labels_is_refused():
    volume = Volume.of(xr.Dataset({"data": (("x", "y"), np.zeros((4, 4)))}), DataConfig(space=["x", "y"]))
    with pytest.raises(InputError, match="no labels to split; convert its source again"):
        make_split(volume, SplitConfig())


def test_a_large_map_is_quick():
    import time

    counts = (np.random.default_rng(0).random((16, 400, 400)) < 0.05).astype(np.int32)
    start = time.perf_counter()
    split_blocks(counts, SplitConfig(block=8))
    assert time.perf_counter() - start < 2


@quick
@given(seed=st.integers(0, 99), points=st.integers(1, 5), validation=st.integers(0, 3), buffer=st.integers(0, 2))
def test_points_of_each_class_train_and_validate_and_all_else_tests(seed, points, validation, buffer):
    labels = patches(seed)
    counts = np.stack([labels == index for index in range(4)]).astype(np.int32)
    config = SplitConfig(method="points", points=points, validation_points=validation, buffer=buffer, seed=seed)
    parts = split_points(counts, config)
    assert np.array_equal(parts, split_points(counts, config))
    for class_M in counts > 0:
        assert (class_M & (parts == TRAIN)).sum() == min(points, class_M.sum())
        assert (class_M & (parts == VALIDATION)).sum() <= validation
    assert not (parts[labels == 255] != UNUSED).any()
    assert_apart(parts, buffer)
    if buffer == 0:
        assert ((parts == TEST) == ((labels != 255) & (parts != TRAIN) & (parts != VALIDATION))).all()


def test_labels_without_a_name_are_refused():
    labels = patches(0)
    labels[3, 4] = 7
    volume = volume_of(labels, ("x", "y"), classes=["a", "b", "c", "d"])
    with pytest.raises(InputError, match=r"^the volume's labels go beyond its 4 class names; name all classes$"):
        make_split(volume, SplitConfig(buffer=1, block=6))


def test_shares_that_are_no_numbers_and_dimensions_named_twice_are_refused():
    with pytest.raises(
        InputError, match=r"^split\.fractions is \[nan, 0\.5, 0\.5\]; give three shares that add up to 1"
    ):
        SplitConfig(fractions=[float("nan"), 0.5, 0.5])
    with pytest.raises(
        InputError, match=r"^split\.dims names \['x', 'x'\], but the labels have the dimensions .*; take each once$"
    ):
        make_split(volume_of(patches(0), ("x", "y")), SplitConfig(dims=["x", "x"]))


@pytest.mark.parametrize("setting", ["block", "buffer", "radius", "seed"])
def test_a_setting_below_its_least_is_named(setting):
    with pytest.raises(InputError, match=rf"split\.{setting} (is )?-1[,;].* a block has 1 cell or more, and"):
        SplitConfig(**{setting: -1})
