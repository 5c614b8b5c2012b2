"""Memory and speed of a conversion, and what a kill costs it: a large SEG-Y cube, made here, becomes a volume.

    python -m tests.benchmarks.converting [--gigabytes 4] [--whole] [--folder DIR] [--results DIR]

The times mean little on a busy machine, so the load (processes, mean of 5 minutes) is written down with them. The
command line runs in a process of its own, whose resident peak (VmHWM) is read until it ends. A second conversion is
killed (SIGKILL) at half of its pieces and started again, unless `--whole` is given. The source is IEEE floats of a
layered cube with noise; the disk needs room for three times its size, twice with `--whole`.
"""

import argparse
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CROSSLINES, SAMPLES = 1000, 1251
ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
LIMIT = 1.5e9


def make_segy(path: Path, size: float, *, crosslines: int = CROSSLINES, samples: int = SAMPLES) -> int:
    """Write a SEG-Y cube of about `size` bytes, inline by inline; every 50th trace is dead (zeros).

    Returns
    -------
    int
        Its number of inlines.
    """
    trace = np.dtype([("header", ">i4", 60), ("samples", ">f4", samples)])
    inlines = max(2, int(size / (trace.itemsize * crosslines)))
    head = bytearray(3600)
    struct.pack_into(">h", head, 3216, 4000)
    struct.pack_into(">h", head, 3220, samples)
    struct.pack_into(">h", head, 3224, 5)
    rng = np.random.default_rng(0)
    layers = np.sin(np.arange(samples) / 9) + np.sin(np.arange(samples) / 23)
    line = np.zeros(crosslines, trace)
    fields = line["header"].view(">i4")
    fields[:, 48] = np.arange(crosslines) + 1  # crossline, bytes 193-196
    shorts = line["header"].view(">i2")
    shorts[:, 57], shorts[:, 58] = samples, 4000  # number of samples and interval, bytes 115-118
    with path.open("wb") as file:
        file.write(head)
        for inline in range(inlines):
            fields[:, 47] = inline + 1
            noise = rng.standard_normal(samples).astype(np.float32)
            line["samples"] = np.roll(layers, inline % 97) * np.linspace(0.5, 2, crosslines)[:, None] + noise
            line["samples"][::50] = 0
            file.write(line.tobytes())
    return inlines


def peak_of(pid: int) -> float:
    """Resident peak of a process so far, in bytes; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024.0
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0.0


def convert(source: Path, out: Path, *, stop_at: int | None = None) -> dict[str, float]:
    """Convert in a process of its own; with `stop_at` it is killed when so many pieces are finished.

    Returns
    -------
    dict
        Seconds and resident peak in bytes.
    """
    words = ["convert", "--source", str(source), "--out", str(out), "--block", "{inline: 96, crossline: 96, twt: 96}"]
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen([sys.executable, "-m", "pipeline", *words], cwd=ROOT, stdout=sys.stderr) as process:
        while process.poll() is None:
            peak = max(peak, peak_of(process.pid))
            if stop_at is not None and len(finished(out)) >= stop_at:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.02)
    if process.returncode != (0 if stop_at is None else -signal.SIGKILL):
        raise SystemExit(f"the conversion ended with {process.returncode}")
    return {"seconds": time.perf_counter() - began, "peak": peak}


def finished(out: Path) -> list[Path]:
    """Pieces of the data that the journal has."""
    return list(out.with_name(f".{out.name}.journal").glob("-data-*.npz"))


def measure(folder: Path, size: float, *, kill: bool) -> dict[str, float]:
    """Convert once in one go and, if asked to, once with a kill at half of the pieces; compare the two."""
    import zarr

    from datasets.store import open_volume

    source, whole, killed = folder / "cube.sgy", folder / "whole.zarr", folder / "killed.zarr"
    inlines = make_segy(source, size)
    one = convert(source, whole)
    array = zarr.open_array(whole / "data", mode="r")
    pieces = int(np.prod([-(-n // edge) for n, edge in zip(array.shape, array.shards or array.shape, strict=True)]))
    figures = {
        "source_gigabytes": source.stat().st_size / 1e9,
        "pieces": pieces,
        "peak_gigabytes": one["peak"] / 1e9,
        "seconds": one["seconds"],
    }
    if not kill:
        return figures
    convert(source, killed, stop_at=max(1, pieces // 2))
    kept = len(finished(killed))
    again = convert(source, killed)
    first, second = open_volume(whole), open_volume(killed)
    for inline in range(0, inlines, max(1, inlines // 5)):
        np.testing.assert_array_equal(first["data"][inline].values, second["data"][inline].values)
    figures["peak_gigabytes"] = max(one["peak"], again["peak"]) / 1e9
    return figures | {"kept_pieces": kept, "seconds_after_kill": again["seconds"]}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the source")
    parser.add_argument("--whole", action="store_true", help="without the conversion that is killed")
    parser.add_argument("--folder", type=Path, help="where there is room; default: the system's temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(Path(folder), arguments.gigabytes * 1e9, kill=not arguments.whole)
    name = f"{platform.machine()}-{os.cpu_count()}-cores"
    arguments.results.mkdir(parents=True, exist_ok=True)
    place = arguments.results / f"converting-{arguments.gigabytes:g}-gigabytes-{name}.json"
    place.write_text(json.dumps({"machine": name, "load_average": os.getloadavg()[1], **figures}, indent=1) + "\n")
    size, seconds, peak = (figures[key] for key in ("source_gigabytes", "seconds", "peak_gigabytes"))
    print(f"{size:.2f} GB in {seconds:.0f} s, resident peak {peak:.2f} GB")
    if not arguments.whole:
        kept, rest = figures["kept_pieces"], figures["seconds_after_kill"]
        print(f"killed with {kept:.0f} of {figures['pieces']:.0f} pieces finished, the rest took {rest:.0f} s")
    if figures["peak_gigabytes"] * 1e9 > LIMIT:
        raise SystemExit(f"more than {LIMIT / 1e9} GB")


if __name__ == "__main__":
    main()
