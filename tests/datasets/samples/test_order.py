"""The order of samples: every block once a pass, labels at their share, and no kill or change of workers shows."""

from collections import Counter
from fractions import Fraction
from itertools import zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import InputError
from datasets.samples.order import Order, Sample, plan_steps

quick = settings(max_examples=60, deadline=None, derandomize=True)
shares = st.fractions(min_value=Fraction(1, 20), max_value=1, max_denominator=20)
orders = st.builds(
    Order, labelled=st.integers(1, 9), unlabelled=st.integers(1, 9), share=shares, seed=st.integers(0, 9)
)
view_counts = st.sampled_from([1, 2, 4, 8])


def take(order: Order, first: int, count: int) -> list[Sample]:
    return [order.sample(number, views=1) for number in range(first, first + count)]


def stream(order: Order, samples: int, views: int = 1) -> list[Sample]:
    return [order.sample(number, views=views) for number in range(samples)]


@quick
@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 4))
def test_without_a_share_an_epoch_visits_every_block_exactly_once(labelled, unlabelled, seed, epoch):
    blocks = labelled + unlabelled
    order = Order.of(labelled, unlabelled, share=None, batch=blocks, seed=seed)
    visited = [block for block, _ in take(order, epoch * blocks, blocks)]
    assert sorted(visited) == list(range(blocks))
    assert order.epochs((epoch + 1) * blocks) == epoch + 1


@quick
@given(orders, st.integers(0, 60), st.integers(1, 60))
def test_any_stretch_has_labels_at_the_share(order, first, count):
    found = sum(block < order.labelled for block, _ in take(order, first, count))
    assert int(count * order.share) <= found <= -int(-count * order.share // 1)


@quick
@given(orders, view_counts)
def test_each_stream_shows_every_block_once_a_pass_and_every_view_once_a_cycle(order, views):
    samples = stream(order, 400, views)
    with_labels = [sample for sample in samples if sample.block < order.labelled]
    without = [sample for sample in samples if sample.block >= order.labelled]
    for part, blocks in (
        (with_labels, range(order.labelled)),
        (without, range(order.labelled, order.labelled + order.unlabelled)),
    ):
        size = len(blocks)
        for start in range(0, len(part) - size + 1, size):
            assert sorted(block for block, _ in part[start : start + size]) == list(blocks)
        for start in range(0, len(part) - size * views + 1, size * views):
            assert set(Counter(part[start : start + size * views]).values()) == {1}


def test_a_share_of_one_leaves_blocks_without_labels_out():
    assert {block for block, _ in stream(Order.of(3, 40, share=1.0, batch=1, seed=0), 99)} == {0, 1, 2}


@quick
@given(
    order=orders,
    batch=st.integers(1, 7),
    micro_batch=st.integers(1, 4),
    views=view_counts,
    plain_from=st.one_of(st.none(), st.integers(0, 30)),
    lives=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(1, 6)), max_size=6),
)
def test_kills_and_changes_of_world_size_leave_no_trace(order, batch, micro_batch, views, plain_from, lives):
    """A life runs for some steps on some workers; then it is killed, and the next goes back to its last checkpoint."""
    settings = {"batch": batch, "micro_batch": micro_batch, "views": views, "plain_from": plain_from}

    def step_of(step: int, world: int) -> list[Sample]:
        shares = [list(plan_steps(order, range(step, step + 1), rank=r, world=world, **settings)) for r in range(world)]
        groups = [[taken[at : at + micro_batch] for at in range(0, len(taken), micro_batch)] for taken in shares]
        assert all(len(group) == micro_batch for taken in groups for group in taken[:-1])
        return [sample for row in zip_longest(*groups, fillvalue=[]) for group in row for sample in group]

    trained: list[list[Sample]] = []
    for steps, lost, world in lives:
        for step in range(len(trained), len(trained) + steps):
            trained.append(step_of(step, world))
        del trained[max(0, len(trained) - lost) :]
    undisturbed = list(plan_steps(order, range(len(trained)), rank=0, world=1, **settings))
    assert [sample for step in trained for sample in step] == undisturbed
    assert all(len(step) == batch for step in trained)


@quick
@given(order=orders, batch=st.integers(1, 7), start=st.integers(0, 9), world=st.integers(1, 5), rank=st.integers(0, 4))
def test_a_worker_that_reads_ahead_reads_what_it_would_read_step_by_step(order, batch, start, world, rank):
    plan = {"batch": batch, "micro_batch": 2, "views": 4, "plain_from": 6, "rank": rank % world, "world": world}
    ahead = list(plan_steps(order, range(start, start + 5), **plan))
    assert ahead == [s for at in range(start, start + 5) for s in plan_steps(order, range(at, at + 1), **plan)]


def test_orders_change_with_pass_and_seed():
    order, other = Order(20, 0, Fraction(1), 0), Order(20, 0, Fraction(1), 1)
    assert take(order, 0, 20) != take(order, 20, 20)
    assert take(order, 0, 20) != take(other, 0, 20)


@pytest.mark.parametrize(
    ("share", "batch", "words"),
    [
        (0.3, 3, r"data.labelled_share is 0.3 and 2 of 10 .* training.batch 3 would .* take a batch of at least 4"),
        (
            None,
            4,
            r"data.labelled_share is none \(every block once an epoch\) .* take a batch of at least 5, or a larger",
        ),
    ],
)
def test_a_batch_that_leaves_steps_without_labels_is_refused(share, batch, words):
    with pytest.raises(InputError, match=words):
        Order.of(2, 8, share=share, batch=batch, seed=0)
    enough = Order.of(2, 8, share=share, batch=batch + 1, seed=0)
    for step in range(50):
        assert any(block < 2 for block, _ in take(enough, step * (batch + 1), batch + 1))


def test_where_all_blocks_have_labels_any_share_visits_all():
    assert Order.of(5, 0, share=0.1, batch=1, seed=0).share == 1
