"""Data-parallel, sharded and accumulated gradients equal those of the whole batch in one process."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from models.config import NetworkConfig, SegmenterConfig, States
from models.losses import masked_cross_entropy
from models.segmenter import Segmenter

WORLD = 2
STATES: tuple[States, ...] = ("float", "exact")


def model_and_batch(states: States) -> tuple[Segmenter, Tensor, Tensor]:
    torch.manual_seed(3)
    network = NetworkConfig(
        layers="3 d4g2 d20p u3 u3", repeat=2, step=0.6, init_gain=3.0, activation="softplus",
        boundary="reflect", coarsening="learned", states=states,
    )  # fmt: skip
    model = Segmenter(SegmenterConfig(network, 2, 3, ["a", "b", "c"]), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    raw, target = torch.randn(2 * WORLD, 3, 9, 12, dtype=torch.float64), torch.randint(-1, 3, (2 * WORLD, 9, 12))
    return model.double(), raw, target


def gradients(model: nn.Module, raw: Tensor, target: Tensor, parts: int) -> list[Tensor]:
    """Gradients of the summed loss, accumulated over `parts` micro-batches; a wrapper averages over ranks."""
    pieces = list(zip(raw.chunk(parts), target.chunk(parts), strict=True))
    for number, (raw_part, target_part) in enumerate(pieces, start=1):
        if isinstance(model, DistributedDataParallel) and number < parts:
            with model.no_sync():
                masked_cross_entropy(model(raw_part), target_part)[0].backward()
        else:
            masked_cross_entropy(model(raw_part), target_part)[0].backward()
    found = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in found)
    return [g.full_tensor() if isinstance(g, DTensor) else g.clone() for g in found if g is not None]


def rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=WORLD)
    mesh, share, found = init_device_mesh("cpu", (WORLD,)), slice(number, None, WORLD), {}
    for states in STATES:
        _, raw, target = model_and_batch(states)

        def fresh(states: States = states) -> Segmenter:
            return model_and_batch(states)[0]

        wrapped = {
            "plain": (DistributedDataParallel(fresh()), 1),
            "views": (DistributedDataParallel(fresh(), gradient_as_bucket_view=True), 1),
            "accumulated": (DistributedDataParallel(fresh()), 2),
            "sharded": (fully_shard(fresh(), mesh=mesh), 1),
            "sharded and accumulated": (fully_shard(fresh(), mesh=mesh), 2),
        }
        for name, (model, parts) in wrapped.items():
            found[f"{states}, {name}"] = gradients(model, raw[share], target[share], parts)
    if number == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.barrier()
    dist.destroy_process_group()
    # A thread of the backend that asks for the interpreter's lock while it is torn down aborts the process (Python
    # before 3.14): seen once, after all work was done, on a busy machine. So the interpreter is not torn down.
    os._exit(0)


def close(found: list[Tensor], expected: list[Tensor], name: str) -> None:
    assert len(found) == len(expected)
    for ours, whole in zip(found, expected, strict=True):
        assert (ours - whole).abs().max() <= 1e-12 * whole.abs().max(), name


@pytest.mark.parametrize("states", STATES)
def test_accumulated_gradients_are_those_of_the_whole_batch(states: States) -> None:
    model, raw, target = model_and_batch(states)
    expected = gradients(model, raw, target, parts=1)
    model.zero_grad()
    close(gradients(model, raw, target, parts=4), expected, states)


def test_two_ranks_give_the_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(rank, (str(tmp_path),), nprocs=WORLD)
    found = torch.load(tmp_path / "gradients.pt")
    assert len(found) == 5 * len(STATES)
    for name, ours in found.items():
        model, raw, target = model_and_batch(name.split(",")[0])
        close([gradient * WORLD for gradient in ours], gradients(model, raw, target, parts=1), name)
