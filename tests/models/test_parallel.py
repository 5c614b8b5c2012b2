"""Data-parallel gradients equal those of the whole batch in one process."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config import NetworkConfig, SegmenterConfig
from models.losses import masked_cross_entropy
from models.segmenter import Segmenter

WORLD = 2


def model_and_batch() -> tuple[Segmenter, Tensor, Tensor]:
    torch.manual_seed(3)
    network = NetworkConfig(layers="3 d4 d20 u3 u3", repeat=2, step=0.6, init_gain=3.0, activation="softplus")
    model = Segmenter(SegmenterConfig(network, 2, 3, ["a", "b", "c"]), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    raw, target = torch.randn(2 * WORLD, 3, 9, 12, dtype=torch.float64), torch.randint(-1, 3, (2 * WORLD, 9, 12))
    return model.double(), raw, target


def gradients(model: nn.Module, raw: Tensor, target: Tensor, parts: int) -> list[Tensor]:
    """Gradients of the summed loss, accumulated over `parts` micro-batches; a wrapper averages over ranks."""
    pieces = list(zip(raw.chunk(parts), target.chunk(parts), strict=True))
    for raw_part, target_part in pieces[:-1]:
        with model.no_sync():  # type: ignore[operator]
            masked_cross_entropy(model(raw_part), target_part)[0].backward()
    masked_cross_entropy(model(pieces[-1][0]), pieces[-1][1])[0].backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=WORLD)
    model, raw, target = model_and_batch()
    share = slice(number, None, WORLD)
    found = {}
    for name, options in {"plain": {}, "views": {"gradient_as_bucket_view": True}}.items():
        model.zero_grad()
        parallel = DistributedDataParallel(model, **options)
        found[name] = gradients(parallel, raw[share], target[share], parts=1)
    model.zero_grad()
    found["accumulated"] = gradients(DistributedDataParallel(model), raw[share], target[share], parts=2)
    if number == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_ranks_give_the_gradients_of_one(tmp_path: Path) -> None:
    model, raw, target = model_and_batch()
    expected = gradients(model, raw, target, parts=1)
    mp.spawn(rank, (str(tmp_path),), nprocs=WORLD)
    for name, found in torch.load(tmp_path / "gradients.pt").items():
        assert len(found) == len(expected)
        for ours, whole in zip(found, expected, strict=True):
            assert (ours * WORLD - whole).abs().max() <= 1e-12 * whole.abs().max(), name
