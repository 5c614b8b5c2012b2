"""A volume whose slabs take turns gives what the whole volume gives, and what ranks in slabs give to the bit."""

import errno
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import pieces, shelf
from models.config import ConfigError, NetworkConfig, SegmenterConfig
from models.network import TelegraphNetwork
from models.segmenter import Segmenter
from models.shelf import FileShelf, HostShelf, Shelf
from models.stream import Parts, Stream
from models.watch import GridOverflowError
from tests.models.pretended import DEVICE, device_without_numbers
from tests.models.slabs import in_slabs
from tests.models.strategies import build, inputs, networks

SIZES = {1: (16,), 2: (12, 6), 3: (12, 4, 6)}


def step(network: TelegraphNetwork, x_BcN: Tensor, by: Stream | None) -> tuple[list[Tensor], float]:
    """Return output, gradients of input and parameters, and inversion error of a network whose slabs take turns."""
    network.stream, x_BcN = by, x_BcN.clone().requires_grad_()
    output = network(x_BcN)
    probe = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    loss = (probe * output).sum() + output.square().sum()
    gradients = torch.autograd.grad(loss, [x_BcN, *network.parameters()], materialize_grads=True)
    network.stream = None
    return [output.detach(), *gradients], float(network.inversion_error or 0)


def check(network: TelegraphNetwork, x_BcN: Tensor, by: Stream, *, tolerance: float = 1e-11) -> None:
    """Compare output and all gradients of slabs in turns with those of the whole volume."""
    whole, drift = step(network, x_BcN, None)
    found, error = step(network, x_BcN, by)
    for mine, true in zip(found, whole, strict=True):
        assert mine.shape == true.shape
        assert (mine - true).abs().max() <= tolerance * true.abs().max()
    assert error == pytest.approx(drift, abs=1e-9)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize(
    ("space", "layers"),
    [(1, "3 d4 u3p"), (2, "3*2 d4g2 u3"), (2, "1 d1*2 u2"), (3, "3 d2 u4"), (3, "2 u1 d2")],
)
def test_turns_give_what_the_whole_volume_gives(
    space: int, layers: str, kernel: int, scratch: bool, tmp_path: Path
) -> None:
    network = build(space, layers, repeat=4, channels=6, kernel=kernel, coarsening="learned")
    by = Stream(12 // (2 * (kernel - 1)), tmp_path if scratch else None)
    check(network, torch.randn(2, 6, *SIZES[space], dtype=torch.float64), by)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_turns_of_random_networks(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    network = data.draw(networks(boundaries=("zeros",)))
    x_BcN = data.draw(inputs(network))
    least = network.multiple * max(network.config.kernel - 1, 2)
    times = -(-data.draw(st.integers(2, 5), label="slabs at most") * least // x_BcN.shape[2])
    x_BcN = x_BcN.repeat(1, 1, times, *[1] * (network.space - 1))
    scratch = data.draw(st.sampled_from([None, tmp_path_factory.getbasetemp()]), label="scratch")
    count = data.draw(st.integers(2, min(x_BcN.shape[2] // least, 5)), label="slabs")
    with patch.dict(pieces.PIECE_BYTES, cpu=data.draw(st.sampled_from([2**9, 2**12, 2**21]), label="piece")):
        check(network, x_BcN, Stream(count, scratch))


@pytest.mark.parametrize("state_bits", [16, 32])
@pytest.mark.parametrize("force_dtype", ["float32", "bfloat16", "float16"])
def test_exact_states_stay_exact_and_have_the_bits_of_ranks(force_dtype: str, state_bits: int, tmp_path: Path) -> None:
    network = build(
        2, "3*4 d4g2*4 d40*4 u4*4 u3*4", repeat=8, dtype=torch.float32, init_gain=1.0, states="exact",
        force_dtype=force_dtype, state_bits=state_bits, kept_hidden=0,
    )  # fmt: skip
    x_BcN = torch.randn(2, 2, 24, 8) / 4
    network.stream = Stream(3, tmp_path)
    output = network(x_BcN)
    output.square().mean().backward()
    assert float(network.inversion_error) == 0
    by_ranks = in_slabs(network, x_BcN, 3, lambda output, rows: output.square().sum() / (3 * output.numel()))
    assert torch.equal(output, by_ranks.output)


@pytest.mark.parametrize("states", ["float", "exact"])
def test_slabs_of_a_device_wait_in_the_memory_of_the_host(states: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for the device, of which the host's copies are apart all the same."""
    shelves = {False: lambda device: Shelf(), True: HostShelf}
    monkeypatch.setattr(Parts, "shelf", lambda parts, device: shelves[parts.in_turns](device))
    network = build(3, "3 d2*2 u4", repeat=2, coarsening="learned", dtype=torch.float32, init_gain=1.0, states=states)
    check(network, torch.randn(2, 2, 16, 4, 6) / 4, Stream(4), tolerance=1e-3)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("states", ["float", "exact"])
@pytest.mark.parametrize("force_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("channels", "read"), [(2, []), (2, [3, 0]), (40, [])])
def test_weights_lie_on_a_device_and_the_volume_on_the_host(
    channels: int, read: list[int], force_dtype: str, states: str, scratch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without numbers stand for those of a GPU: what mixes them up with the host's is an error there too."""
    monkeypatch.setattr(FileShelf, "_pass", lambda mine, how, tensor, key: seen.add(tensor.device.type))
    seen: set[str] = set()
    network = NetworkConfig(
        layers="4 d3*2 u4p", repeat=2, coarsening="learned", force_dtype=force_dtype, states=states,  # type: ignore[arg-type]
        read_channels=read,
    )  # fmt: skip
    config = SegmenterConfig(network, 3, channels, ["one", "other"], validity=True)
    with device_without_numbers() as device:
        with device:
            segmenter = Segmenter(config, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
        for by in (None, Stream(3, Path(tempfile.gettempdir()) if scratch else None)):
            segmenter.network.stream = by
            assert segmenter.home.type == (DEVICE if by is None else "cpu")
            logits = segmenter(torch.randn(2, channels, 11, 8, 8, device=segmenter.home))
            assert (logits.shape, logits.device) == ((2, 2, 11, 8, 8), segmenter.home)
            logits.square().mean().backward()
            assert {weights.grad.device.type for weights in segmenter.parameters() if weights.grad is not None} == {
                DEVICE
            }
            assert segmenter.network.inversion_error is not None
    assert seen == ({"cpu"} if scratch else set())


def test_padded_samples_in_turns() -> None:
    network = build(2, "3 d4 d2 u4 u3", repeat=2, padding="reflect")
    check(network, torch.randn(3, 2, 19, 7, dtype=torch.float64), Stream(2))


def test_only_the_channels_that_are_read_come_back() -> None:
    network = build(2, "3 d4 u3", repeat=2)
    x_BcN = torch.randn(1, 2, 16, 8, dtype=torch.float64)
    with torch.no_grad():
        whole = network(x_BcN)
        network.stream = Stream(4)
        assert torch.allclose(network(x_BcN, [3, 0]), whole[:, [3, 0]], rtol=1e-12)


def test_what_leaves_the_grid_is_named() -> None:
    network = build(2, "3 8 3", dtype=torch.float32, states="exact", grid_bits=20)
    network.stream, x_BcN = Stream(3), torch.zeros(1, 2, 24, 8)
    x_BcN[0, 0, 23, 0] = 1e6
    with pytest.raises(GridOverflowError, match=r"^the input reaches 1e\+06, but"):
        network(x_BcN)
    x_BcN[0, 0, 23, 0] = 1.0
    with torch.no_grad():
        network.kernels[1].mul_(200)
    with pytest.raises(GridOverflowError, match=r"^layer 2 of 3 "):
        network(x_BcN)


def test_slabs_too_thin_are_refused() -> None:
    network = build(2, "3 d4 u3")
    network.stream = Stream(4)
    with pytest.raises(ConfigError, match=r"12 cells of the first axis of space are too few for 4 slabs: each needs 4"):
        network(torch.zeros(1, 2, 12, 8, dtype=torch.float64))


def test_the_error_is_that_of_all_slabs_and_float16_is_scaled_by_all() -> None:
    network = build(2, "3*20 d4 u3", repeat=2, dtype=torch.float32, init_gain=2.0)
    x_BcN = torch.randn(1, 2, 24, 8)
    (_, whole), (_, turns) = step(network, x_BcN, None), step(network, x_BcN, Stream(6))
    assert turns == pytest.approx(whole, rel=0.2)
    network = build(2, "3*4", repeat=2, dtype=torch.float32, init_gain=1.0, states="exact", force_dtype="float16")
    found = []
    for network.stream in (None, Stream(6)):
        loss = 1e-9 * network(x_BcN)[:, :, -2:].square().sum()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]))
    assert (found[0] - found[1]).norm() <= 0.02 * found[0].norm()


def test_what_passes_in_several_calls_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, true in (("pwritev", os.pwritev), ("preadv", os.preadv)):
        monkeypatch.setattr(os, name, lambda file, parts, at, true=true: true(file, [parts[0][:100]], at))
    check(build(2, "3 d4 u3"), torch.randn(1, 2, 16, 8, dtype=torch.float64), Stream(2, tmp_path))


@pytest.mark.parametrize("slabs", [3, 6])
def test_no_more_than_two_slabs_are_in_memory_at_once(slabs: int, tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most, true = [0], FileShelf._back

    def back(mine: FileShelf, tensor: Tensor, key: tuple[int, int, int]) -> Tensor:
        found = true(mine, tensor, key)
        alive.append(weakref.ref(found))
        most[0] = max(most[0], sum(reference() is not None for reference in alive))
        return found

    network = build(2, "3 d4 4 u3", repeat=2, coarsening="learned")
    with patch.object(FileShelf, "_back", back):
        check(network, torch.randn(1, 2, 24, 8, dtype=torch.float64), Stream(slabs, tmp_path))
    assert most == [8], "state and increment, and those of the adjoint, of two slabs"


def test_nothing_is_left_in_the_scratch_folder_also_after_an_error(tmp_path: Path) -> None:
    network = build(2, "3 d4 u3")
    x_BcN = torch.randn(1, 2, 16, 8, dtype=torch.float64)
    check(network, x_BcN, Stream(2, tmp_path))
    network.stream = Stream(2, tmp_path)
    output = network(x_BcN)
    assert not list(tmp_path.iterdir()), "the file has no name"
    open_files = len(os.listdir("/proc/self/fd"))
    del output
    assert len(os.listdir("/proc/self/fd")) == open_files - 1


def test_two_forward_passes_before_a_backward_one_do_not_share_a_file(tmp_path: Path) -> None:
    network, x_BcN = build(2, "3 d4 u3"), torch.randn(2, 1, 2, 16, 8, dtype=torch.float64)
    sums = torch.zeros(2)
    for network.stream in (None, Stream(2, tmp_path)):
        first, second = network(x_BcN[0]), network(x_BcN[1])
        gradients = torch.autograd.grad((first * second).sum(), list(network.parameters()))
        sums = torch.stack([sums[1], torch.cat([g.flatten() for g in gradients]).norm()])
    assert sums[0] == pytest.approx(float(sums[1]), rel=1e-12)


def test_a_folder_that_is_missing_or_full_is_an_error_and_no_crash(tmp_path: Path) -> None:
    network = build(2, "3 d4 u3")
    x_BcN = torch.randn(1, 2, 16, 8, dtype=torch.float64)
    network.stream = Stream(2, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="none"):
        network(x_BcN)
    network.stream = Stream(2, tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch.object(os, "pwritev", side_effect=full), pytest.raises(OSError, match=r"No space.*missing"):
        network(x_BcN)


def test_a_scratch_file_that_was_cut_short_is_an_error_and_no_hang(tmp_path: Path) -> None:
    network = build(2, "3 d4 u3")
    network.stream = Stream(2, tmp_path)
    output = network(torch.randn(1, 2, 16, 8, dtype=torch.float64))
    assert output.grad_fn.shelf._slabs[0][0].extremes is None
    output.grad_fn.shelf._file.truncate(100)
    with pytest.raises(OSError, match=r"cut short: '.*test_a_scratch"):
        output.sum().backward()


def nothing_met(*_: object) -> None:
    """No slab learns what its neighbour has of the rows about their face."""


def met_by_one(true: Callable[..., None]) -> Callable[..., None]:
    def meet(operator: object, before: list[Tensor], after: list[Tensor]) -> None:
        true(operator, before, [theirs.clone() for theirs in after])

    return meet


def not_put_back(true: Callable[..., None]) -> Callable[..., None]:
    def leave(mine: FileShelf, at: int) -> None:
        where, mine._places[at, 0, 1] = mine._places.get((at, 0, 1)), 0
        true(mine, at)
        if where is not None:
            mine._places[at, 0, 1] = where

    return leave


MUTANTS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "faces not met": (shelf, "_meet", nothing_met),
    "faces met by one side": (shelf, "_meet", met_by_one(shelf._meet)),
    "turns in another order": (Shelf, "each", lambda mine: reversed(mine._slabs)),
    "an increment put in the wrong place": (FileShelf, "_leave", not_put_back(FileShelf._leave)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_notices_turns_that_go_wrong(mutant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = build(2, "3 d4 u3", repeat=2)
    x_BcN = torch.randn(1, 2, 16, 8, dtype=torch.float64)
    check(network, x_BcN, Stream(3, tmp_path))
    monkeypatch.setattr(*MUTANTS[mutant])  # type: ignore[arg-type]
    with pytest.raises((AssertionError, RuntimeError)):
        check(network, x_BcN, Stream(3, tmp_path))
