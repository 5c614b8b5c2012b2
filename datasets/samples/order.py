"""Which block and which view every sample of a run shows: pure planning on counts and seeds.

Samples are numbered over all workers and the whole run, so the number of samples taken is the only state: a run goes
on at the exact block, in mid-epoch and on another number of workers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datasets.errors import InputError

_LABELLED, _VIEWS, _UNLABELLED = 0, 1, 2  # streams of random numbers that do not depend on each other


class Sample(NamedTuple):
    """Number of a block, those with labels first, and of a view, as of `datasets.samples.blocks.apply_view`."""

    block: int
    view: int


@dataclass(frozen=True)
class Order:
    """The endless sequence of samples.

    Blocks with labels and blocks without are two streams, each of which shows every block once a pass, in a fresh
    order. They are interleaved as evenly as whole numbers allow: any n samples in sequence hold ``n * share`` blocks
    with labels, rounded down or up. With a share of ``labelled / (labelled + unlabelled)`` both end their passes
    together: an epoch that visits every block exactly once.
    """

    labelled: int  # blocks with labels, at least one
    unlabelled: int
    share: Fraction  # of the samples that have labels, above 0
    seed: int  # of orders and views, 0 or more

    @classmethod
    def of(cls, labelled: int, unlabelled: int, *, share: float | None, batch: int, seed: int) -> "Order":
        """Make the order of a run from ``data.labelled_share``; none takes every block once an epoch.

        `InputError` where some steps of `batch` samples over all workers would have no label: they would move the
        weights by momentum and decay alone.
        """
        exact = Fraction(str(share)) if share is not None and unlabelled else Fraction(labelled, labelled + unlabelled)
        if batch * exact < 1:
            what = "none (every block once an epoch)" if share is None else f"{share:g}"
            raise InputError(
                f"data.labelled_share is {what} and {labelled} of {labelled + unlabelled} blocks hold training labels, "
                f"so some steps of training.batch {batch} would have no label at all; take a batch of at least "
                f"{-(-exact.denominator // exact.numerator)}, or a larger share"
            )
        return cls(labelled, unlabelled, exact, seed)

    def epochs(self, samples: int) -> float:
        """Count the passes over the blocks with labels that so many samples make."""
        return self._with_labels(samples) / self.labelled

    def _with_labels(self, samples: int) -> int:
        return samples * self.share.numerator // self.share.denominator

    def sample(self, number: int, *, views: int) -> Sample:
        """Return the sample of a number, from 0 up; in ``views`` visits a block is seen once under each view."""
        before = self._with_labels(number)
        if self._with_labels(number + 1) > before:
            visit, place = divmod(before, self.labelled)
            block = int(_permutation(self.seed, _LABELLED, visit, self.labelled)[place])
        else:
            visit, place = divmod(number - before, self.unlabelled)
            block = self.labelled + int(_permutation(self.seed, _UNLABELLED, visit, self.unlabelled)[place])
        cycle, turn = divmod(visit, views)
        return Sample(block, int(np.random.default_rng([self.seed, _VIEWS, cycle, block]).permutation(views)[turn]))


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, visit: int, blocks: int) -> np.ndarray:
    """Order of the blocks of a stream on a pass; kept, because every sample of it asks."""
    return np.random.default_rng([seed, stream, visit]).permutation(blocks)


def plan_steps(
    order: Order,
    steps: range,
    *,
    batch: int,
    micro_batch: int,
    views: int,
    plain_from: int | None,
    rank: int,
    world: int,
) -> Iterator[Sample]:
    """Yield the samples that one worker reads, step by step.

    A step's `batch` is cut into micro-batches, which never depend on the number of workers, as sums over what is run
    at once round; of these a worker takes every `world`-th from `rank` on. From step `plain_from` on, if any, only
    view 0 of the `views` is shown.
    """
    for step in steps:
        shown = views if plain_from is None or step < plain_from else 1
        for number in share_of_rank(batch, micro_batch, rank, world):
            yield order.sample(step * batch + number, views=shown)


def share_of_rank(batch: int, micro_batch: int, rank: int, world: int) -> list[int]:
    """Return which samples of a step one worker takes, in whole micro-batches."""
    return [number for number in range(batch) if number // micro_batch % world == rank]
