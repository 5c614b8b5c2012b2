"""What memory this machine has left."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that a worker may fill, and whose they are, for a sentence."""

    size: int
    where: str


def memory_here(cuda: bool) -> Memory | None:
    """Return the memory of this machine's GPU, or what its processes may still take; None where nobody knows."""
    if cuda:
        if not torch.cuda.is_available():
            return None
        free, _ = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        free -= free // 16  # workspaces of cuBLAS and cuDNN, which no plan counts and nobody has measured yet
        return Memory(free, f"free on the GPU ({torch.cuda.get_device_name()})")
    if sys.platform != "linux":
        return None
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    room = _room_in_group(Path("/sys/fs/cgroup"))
    if room is not None and room < available:
        return Memory(room, "left of this container's limit")
    return Memory(available, "available on this machine")


def _room_in_group(folder: Path) -> int | None:
    """Return what a container may still take by its control group, version 2 or 1; none where there is no limit."""
    versions = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit, used in versions:
        try:
            most, taken = ((folder / name).read_text().strip() for name in (limit, used))
            lines = (folder / limit).with_name("memory.stat").read_text().splitlines()
        except OSError:
            continue
        if most == "max":
            return None
        # Files that were read or written lie in memory too, and give way.
        statistics = dict(line.split() for line in lines)
        cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
        return max(int(most) - int(taken) + cached, 0)
    return None
