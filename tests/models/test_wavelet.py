"""The Haar transform is orthogonal, and its first band is the mean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.wavelet import coarsen, refine, resample_in_place
from tests.models.reference import resample


@settings(max_examples=20, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), channels=st.integers(1, 40), batch=st.integers(1, 2))
def test_it_is_orthogonal_and_its_transpose_is_its_inverse(sizes: list[int], channels: int, batch: int) -> None:
    space = len(sizes)
    fine = torch.randn(batch, *(2 * size for size in sizes), channels, dtype=torch.float64)
    coarse = torch.randn(batch, *sizes, channels * 2**space, dtype=torch.float64)
    assert coarsen(fine).shape == coarse.shape
    torch.testing.assert_close(refine(coarsen(fine)), fine, rtol=0, atol=1e-13)
    torch.testing.assert_close(coarsen(refine(coarse)), coarse, rtol=0, atol=1e-13)
    left, right = (coarsen(fine) * coarse).sum(), (fine * refine(coarse)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-11, abs=1e-11)
    torch.testing.assert_close(coarsen(fine).movedim(-1, 1), resample(fine.movedim(-1, 1), "coarsen"))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), channels=st.integers(1, 40))
def test_in_place_is_the_same_transform(sizes: list[int], channels: int) -> None:
    fine = torch.randn(2, *(2 * size for size in sizes), channels, dtype=torch.float64)
    coarse, spare = resample_in_place(fine.clone(), "coarsen", torch.empty_like(fine))
    torch.testing.assert_close(coarse, coarsen(fine), rtol=0, atol=1e-14)
    back, spare = resample_in_place(coarse, "refine", spare)
    torch.testing.assert_close(back, fine, rtol=0, atol=1e-13)
    assert back.is_contiguous()
    assert back.data_ptr() != spare.data_ptr()
    assert resample_in_place(back, "", spare)[0] is back


def test_the_first_channels_are_the_block_means() -> None:
    x_BNC = torch.randn(1, 4, 6, 3)
    means = x_BNC.view(1, 2, 2, 3, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(coarsen(x_BNC)[..., :3], 2 * means)
