"""What the benchmarks share: a clock, the peak of memory, a process of its own for a figure, names and files."""

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
# Blocks come from and return to the system one by one, so that the resident peak is the tensors' peak; each page costs
# time. From 64 KiB on: with 1 MiB the gradients that stay hold freed temporaries apart, half a state at 64 layers.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}


def progress(text: str) -> None:
    """Say on stderr how far a benchmark has come."""
    print(text, file=sys.stderr, flush=True)


def prepare(device: torch.device) -> None:
    """Make figures comparable: one thread on the CPU, and float32 that is float32 on CUDA."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def seconds_of(task: Callable[[], None], device: torch.device, *, wall: bool = False) -> float:
    """Return how long a task takes: processor time on the CPU, which a busy machine does not blur, else wall time."""
    if device.type == "cpu":
        clock = time.perf_counter if wall else time.process_time
        began = clock()
        task()
        return clock() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    task()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def resident(field: str) -> int:
    """Read a field of this process's memory in bytes: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_of(task: Callable[[], None], device: torch.device) -> int:
    """Return the bytes that a task needs at its peak above those held before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    task()
    return resident("VmHWM") - before


def figure(module: str, arguments: Sequence[str], here: Callable[[], float], device: str, *, memory: bool) -> float:
    """Take a figure in a process of its own, or on CUDA here: there the allocator counts, and a process costs 10 s."""
    if device != "cuda":
        return figure_apart(module, arguments, memory=memory)
    found = here()
    gc.collect()
    torch.cuda.empty_cache()
    return found


def figure_apart(module: str, arguments: Sequence[str], *, memory: bool) -> float:
    """Return the figure that `answer_apart` gets."""
    return float(answer_apart(module, arguments, memory=memory))


def answer_apart(module: str, arguments: Sequence[str], *, memory: bool) -> str:
    """Run a benchmark's module in a process of its own and return the last line that it prints.

    Raises
    ------
    RuntimeError
        With the end of what a failing process had to say.
    """
    environment = dict(os.environ)
    if memory:
        environment |= MEMORY
    command = [sys.executable, "-m", module, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{answer.stderr[-2000:]}")
    return str(answer.stdout.splitlines()[-1])


def device_name(device: str) -> str:
    """Name the hardware, fit for a file's name."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} {os.cpu_count()} cores"
    return "-".join(name.lower().split())


def write_results(folder: Path, benchmark: str, device: str, content: dict[str, Any]) -> Path:
    """Write a benchmark's figures as JSON, named by benchmark and device."""
    name = device_name(device)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark}-{name}.json"
    path.write_text(json.dumps({"device": name, "torch": torch.__version__} | content, indent=1) + "\n")
    return path


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out as a Markdown table; the first is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
