"""Work on several ranks of this machine, without Ray: a process each, on one thread, joined by gloo."""

import os
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist

Work = Callable[[int, int, str], None]
"""What a rank does, given its number, that of all, and the folder of a run; at the top of a file."""


def on_ranks(work: Work, world: int, folder: str) -> None:
    """Run `work` on each of `world` ranks, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one, (work, world, port, folder), nprocs=world)


def _one(rank: int, work: Work, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    work(rank, world, folder)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # as in tests/models/test_parallel.py
