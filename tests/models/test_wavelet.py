"""The transform between levels is orthogonal, also where it is learned, and Haar's first band is the mean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.network import TelegraphNetwork
from models.wavelet import coarsen, refine, resample_in_place
from tests.models.reference import resample
from tests.models.strategies import build


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
    memory = fine.clone()
    coarse = resample_in_place(memory, "coarsen")
    torch.testing.assert_close(coarse, coarsen(fine), rtol=0, atol=1e-14)
    back = resample_in_place(coarse, "refine")
    torch.testing.assert_close(back, fine, rtol=0, atol=1e-13)
    assert back.data_ptr() == memory.data_ptr()
    assert resample_in_place(back, "") is back


def test_the_first_channels_are_the_block_means() -> None:
    x_BNC = torch.randn(1, 4, 6, 3)
    means = x_BNC.view(1, 2, 2, 3, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(coarsen(x_BNC)[..., :3], 2 * means)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), channels=st.integers(1, 9))
def test_learned_angles_make_an_orthogonal_transform_and_the_reference_agrees(sizes: list[int], channels: int) -> None:
    fine = torch.randn(2, *(2 * size for size in sizes), channels, dtype=torch.float64)
    angles = torch.randn(len(sizes), channels, dtype=torch.float64)
    coarse = coarsen(fine, angles)
    torch.testing.assert_close(coarse.movedim(-1, 1), resample(fine.movedim(-1, 1), "coarsen", angles))
    torch.testing.assert_close(refine(coarse, angles), fine, rtol=0, atol=1e-13)
    memory = resample_in_place(fine.clone(), "coarsen", angles)
    torch.testing.assert_close(memory, coarse, rtol=0, atol=1e-13)
    torch.testing.assert_close(resample_in_place(memory, "refine", angles), fine, rtol=0, atol=1e-13)


def test_angles_of_zero_are_haar() -> None:
    fine = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(coarsen(fine, torch.zeros(2, 3, dtype=torch.float64)), coarsen(fine), rtol=0, atol=1e-14)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    channels=st.integers(1, 9),
    dtype=st.sampled_from([torch.int16, torch.int32]),
    learned=st.booleans(),
)
def test_whole_numbers_are_turned_to_the_nearest_and_back_to_the_same_bits(
    sizes: list[int], channels: int, dtype: torch.dtype, learned: bool
) -> None:
    fine = torch.randint(-4000, 4000, (2, *(2 * size for size in sizes), channels), dtype=dtype)
    angles = 0.5 * torch.randn(len(sizes), channels) if learned else None
    coarse = resample_in_place(fine.clone(), "coarsen", angles)
    assert coarse.dtype == dtype
    exact = coarsen(fine.double(), None if angles is None else angles.double())
    assert (coarse - exact).abs().max() <= 2.5 * len(sizes)
    assert torch.equal(resample_in_place(coarse, "refine", angles), fine)


@pytest.mark.parametrize("states", ["float", "exact"])
def test_a_learned_coarsening_starts_at_haar_and_stays_orthogonal_while_it_learns(states: str) -> None:
    x_BcN = torch.randn(1, 4, 8, 8)
    learned, haar = (
        build(2, "3 d4 u3", channels=4, states=states, coarsening=name, init_gain=1.0, dtype=torch.float32)
        for name in ("learned", "haar")
    )
    with torch.no_grad():
        for angle in learned.angles.values():
            angle.zero_()
        torch.testing.assert_close(learned(x_BcN), haar(x_BcN), rtol=0, atol=2e-5)
    assert all(not angle.any() for angle in TelegraphNetwork(learned.config, 2, 4).angles.values())
    optimiser, first = torch.optim.AdamW(learned.parameters(), lr=1e-2), None
    for _ in range(200):
        optimiser.zero_grad()
        loss = (learned(x_BcN) - x_BcN.flip(1)).square().mean()
        loss.backward()
        optimiser.step()
        first = float(loss.detach()) if first is None else first
    assert float(loss.detach()) < 0.5 * first
    for at, angle in learned.angles.items():
        assert angle.abs().max() > 0.05, at
        eye = torch.eye(4 * angle.shape[1])
        turned = coarsen(eye.view(-1, 2, 2, angle.shape[1]), angle.detach()).flatten(1)
        assert (turned @ turned.T - eye).abs().max() <= 1e-6
    if states == "exact":
        assert learned.inversion_error == 0
