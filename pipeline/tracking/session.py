"""How a run was made: command, commit, machine and versions."""

import contextlib
import os
import platform
import re
import sys
from pathlib import Path

import torch

from datasets.provenance import code_version, now, version_of
from pipeline.run import Run

LIBRARIES = ("torch", "numpy", "ray", "mlflow", "zarr", "xarray", "dask", "obstore")
"""Libraries whose versions may change what a run computes or reads."""


def note_start(run: Run) -> None:
    """Note when, how and from which commit a run was started or resumed, and forget how it ended."""
    (run.folder / "outcome.json").unlink(missing_ok=True)
    typed = Path(sys.argv[0]).parent.name == "pipeline"  # else another program called us
    command = ["-m", "pipeline", *sys.argv[1:]] if typed else []
    this = {"at": now(), "command": command, "code": code_version(), "workers": run.config.cluster.workers}
    run.write("started.json", {"sessions": [*run.read("started.json").get("sessions", []), this]})


def note_machine(run: Run) -> None:
    """Write the run's ``machine.json`` in the process that trains, before it builds the network.

    The peak of its resident memory starts anew here: it is that of the training, not of its preparation.
    """
    with contextlib.suppress(OSError):  # not Linux, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")
    machine = {
        "at": now(),
        "system": platform.platform(),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory": _memory("/proc/meminfo", "MemTotal"),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "resident": _memory("/proc/self/status", "VmRSS"),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}},
    }
    run.write("machine.json", machine)


def _field(path: str, name: str) -> str | None:
    """Read one of Linux' ``name : value`` files; None on other systems."""
    text = Path(path).read_text() if Path(path).is_file() else ""
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else None


def _memory(path: str, name: str) -> int | None:
    return int((_field(path, name) or "0").split()[0]) * 1024 or None
