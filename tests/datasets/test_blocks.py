import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.blocks import apply_view, plan_step, tile, undo_view, view_count
from datasets.errors import InputError

quick = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def shapes_and_blocks(draw):
    shape = draw(st.lists(st.integers(1, 17), min_size=1, max_size=3))
    return shape, [draw(st.integers(1, size)) for size in shape]


@quick
@given(shapes_and_blocks())
def test_tiles_cover_every_cell_with_blocks_of_one_size(shape_and_block):
    shape, block = shape_and_block
    covered = np.zeros(shape, int)
    blocks = tile(shape, block)
    for slices in blocks:
        assert covered[slices].shape == tuple(block)  # also: inside the volume
        covered[slices] += 1
    assert covered.min() >= 1
    assert len(blocks) == np.prod([-(-size // edge) for size, edge in zip(shape, block, strict=True)])
    if all(size % edge == 0 for size, edge in zip(shape, block, strict=True)):
        assert covered.max() == 1


def test_no_block_means_the_whole_volume():
    assert tile((5, 7), None) == [(slice(0, 5), slice(0, 7))]


@pytest.mark.parametrize("block", [[6, 7], [5], [0, 7], [-1, 2]])
def test_a_block_that_does_not_fit_is_refused(block):
    with pytest.raises(InputError, match=r"data\.block is .*volume has \[5, 7\] cells; give one size from 1"):
        tile((5, 7), block)


plans = {
    "seed": st.integers(0, 9),
    "batch": st.integers(1, 7),
    "blocks": st.integers(1, 9),
    "views": st.sampled_from([1, 2, 4, 8]),
}


@quick
@given(**plans)
def test_every_block_comes_once_an_epoch_and_every_view_once_a_cycle(seed, batch, blocks, views):
    stream = [
        pair
        for step in range(-(-blocks * views // batch))
        for pair in plan_step(step, seed=seed, batch=batch, blocks=blocks, views=views)
    ]
    for epoch in range(views):
        assert sorted(block for block, _ in stream[epoch * blocks : (epoch + 1) * blocks]) == list(range(blocks))
    assert len(set(stream[: blocks * views])) == blocks * views


@quick
@given(step=st.integers(0, 50), world=st.integers(1, 5), **plans)
def test_the_plan_is_pure_and_ranks_partition_it(step, world, seed, batch, blocks, views):
    plan = plan_step(step, seed=seed, batch=batch, blocks=blocks, views=views)
    assert plan == plan_step(step, seed=seed, batch=batch, blocks=blocks, views=views)
    assert len(plan) == batch
    assert sorted(pair for rank in range(world) for pair in plan[rank::world]) == sorted(plan)


def test_order_changes_with_epoch_and_seed():
    def order(step, seed):
        return [block for block, _ in plan_step(step, seed=seed, batch=20, blocks=20, views=1)]

    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)


def test_one_view_is_the_identity():
    assert {view for _, view in plan_step(3, seed=5, batch=9, blocks=4, views=1)} == {0}


@pytest.mark.parametrize(("sizes", "count"), [((4, 4), 8), ((3, 4), 4), ((5,), 2), ((), 1)])
def test_views_are_distinct_and_invertible(sizes, count):
    assert view_count(sizes) == count
    array = np.arange(2 * np.prod(sizes, dtype=int) * 3).reshape(2, *sizes, 3)
    axes = tuple(range(1, 1 + len(sizes)))
    seen = set()
    for view in range(count):
        shown = apply_view(array, view, axes)
        assert shown.shape == array.shape
        assert shown.flags["C_CONTIGUOUS"]
        assert np.array_equal(np.sort(shown, axis=None), np.sort(array, axis=None))
        assert np.array_equal(undo_view(shown, view, axes), array)
        seen.add(shown.tobytes())
    assert len(seen) == count
    assert np.array_equal(apply_view(array, 0, axes), array)


@pytest.mark.parametrize("view", range(8))
def test_views_of_tensors_equal_views_of_arrays_whatever_leads(view):
    array = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
    tensor = torch.from_numpy(array)
    expected = apply_view(array, view, (-3, -2))
    assert np.array_equal(apply_view(tensor, view, (-3, -2)).numpy(), expected)
    assert np.array_equal(apply_view(tensor[None], view, (-3, -2))[0].numpy(), expected)
    assert torch.equal(undo_view(apply_view(tensor, view, (-3, -2)), view, (-3, -2)), tensor)
