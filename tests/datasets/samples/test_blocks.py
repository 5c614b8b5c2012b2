import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import InputError
from datasets.samples.blocks import apply_view, plan_windows, tile, view_count

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


@st.composite
def windows(draw):
    factor = draw(st.sampled_from([1, 2, 4]))
    shape = [factor * draw(st.integers(1, 9)) for _ in range(draw(st.integers(1, 3)))]
    block = [factor * draw(st.integers(1, size // factor)) for size in shape]
    halo = [factor * draw(st.integers(0, 4)) for _ in shape]
    return shape, block, halo, factor


@quick
@given(windows())
def test_windows_hold_their_blocks_within_the_volume_and_are_of_one_size(case):
    shape, block, halo, factor = case
    number = np.arange(np.prod(shape)).reshape(shape)
    found = plan_windows(shape, block, halo, factor)
    assert [window.block for window in found] == tile(shape, block)
    for window in found:
        seen = number[window.seen]
        assert seen.shape == window.sizes  # also: inside the volume
        assert np.array_equal(seen[window.core], number[window.block])
        assert window.sizes == tuple(min(edge + 2 * h, size) for edge, h, size in zip(block, halo, shape, strict=True))
        for cells, wide, reach, size in zip(window.block, window.seen, halo, shape, strict=True):
            assert wide.start % factor == 0
            # All context that the volume has on either side is seen.
            assert wide.start <= max(cells.start - reach, 0)
            assert wide.stop >= min(cells.stop + reach, size)


def test_a_window_at_an_edge_sees_more_of_the_other_side():
    first, middle, last = plan_windows([30], [10], [4], 1)
    assert (first.seen, first.core) == ((slice(0, 18),), (slice(0, 10),))
    assert (middle.seen, middle.core) == ((slice(6, 24),), (slice(4, 14),))
    assert (last.seen, last.core) == ((slice(12, 30),), (slice(8, 18),))


@pytest.mark.parametrize(
    ("halo", "factor", "words"),
    [
        ([1], 1, r"data.halo is \[1\]; give 2 numbers of cells, 0 or more$"),
        ([2, -1], 1, r"data.halo is \[2, -1\]; give 2 numbers"),
        ([4, 3], 2, r"data.halo is \[4, 3\]; .*, multiples of 2 as the network's output grid needs"),
    ],
)
def test_a_halo_that_does_not_fit_is_refused(halo, factor, words):
    with pytest.raises(InputError, match=words):
        plan_windows([8, 8], [4, 4], halo, factor)


@pytest.mark.parametrize(("sizes", "count"), [((4, 4), 8), ((3, 4), 4), ((5,), 2), ((), 1)])
def test_views_are_distinct_and_lose_nothing(sizes, count):
    assert view_count(sizes) == count
    array = np.arange(2 * np.prod(sizes, dtype=int) * 3).reshape(2, *sizes, 3)
    axes = tuple(range(1, 1 + len(sizes)))
    seen = set()
    for view in range(count):
        shown = apply_view(array, view, axes)
        assert shown.shape == array.shape
        assert shown.flags["C_CONTIGUOUS"]
        assert np.array_equal(np.sort(shown, axis=None), np.sort(array, axis=None))
        seen.add(shown.tobytes())
    assert len(seen) == count
    assert np.array_equal(apply_view(array, 0, axes), array)
