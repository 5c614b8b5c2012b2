"""Predicted against measured peak memory, for training steps and predictions of networks of many kinds.

    python -m tests.benchmarks.planning [--device cpu|cuda] [--only NAME ...] [--results DIR]

Every case runs in a process of its own, which measures its peak above what it held before the network was built: the
resident one on the CPU, the allocator's on CUDA. A training case takes two optimiser steps, because the optimiser's
states come with the first.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.config import NetworkConfig, SegmenterConfig
from models.losses import IGNORED
from models.peak import Workload, prediction_peak, training_peak
from models.segmenter import Segmenter
from pipeline.config import TrainingConfig
from pipeline.training.step import build_optimiser, train_step
from tests.benchmarks.measuring import RESULTS, figure, peak_of, write_results

LABELLED = 0.01
"""Share of the cells that are labelled in the training cases."""


@dataclass(frozen=True)
class Case:
    """One network at work.

    Attributes
    ----------
    name
        What it stands for.
    layers, sizes, channels
        Layers in the compact notation, cells of the input along each axis, and its channels.
    network
        Further settings of the network.
    batch, micro_batch
        Samples of a step, and those that run at once.
    training
        Whether a training step is measured, or a prediction.
    optimiser
        The optimiser.
    """

    name: str
    layers: str
    sizes: tuple[int, ...]
    channels: int
    network: dict[str, Any] = field(default_factory=dict)
    batch: int = 1
    micro_batch: int = 1
    training: bool = True
    optimiser: str = "adamw"


EXACT: dict[str, Any] = {"force_dtype": "bfloat16"}
SHORT: dict[str, Any] = {"force_dtype": "bfloat16", "state_bits": 16}
CASES = (
    Case("2-D few channels", "8*3 d8*3 u8*2", (768, 768), 2, {"repeat": 6}),
    Case("2-D many channels", "8*4", (256, 256), 200),
    Case("2-D many channels, high rank", "32*4", (256, 256), 200),
    Case("2-D coarsened to 3200 channels", "8*2 d16*2 d16*2 u8*2 u8*2", (256, 256), 200),
    Case("2-D full rank", "64*4", (384, 384), 64),
    Case("2-D exact bfloat16", "8*3 d16*3 u8*2", (512, 512), 16, EXACT),
    Case("2-D exact bfloat16, many channels", "8*4", (256, 256), 200, EXACT),
    Case("2-D exact, 16-bit states", "8*3 d16*3 u8*2", (512, 512), 16, SHORT),
    Case("2-D exact float32", "8*3 d16*3 u8*2", (512, 512), 16, {"states": "exact"}),
    Case("2-D float16, many channels", "8*4", (192, 192), 200, {"force_dtype": "float16"}),
    Case("2-D reflected edges", "8*3 d8*3 u8*2", (512, 512), 16, {"boundary": "reflect"}),
    Case("2-D periodic, many channels", "8*4", (256, 256), 200, {"boundary": "periodic"}),
    Case("2-D learned coarsening", "8*2 d8*3 u8*2", (512, 512), 16, {"coarsening": "learned"}),
    Case("2-D batch of 2", "8*2 d8*3 u8*2", (384, 384), 16, batch=2, micro_batch=2),
    Case("2-D two micro-batches", "8*2 d8*3 u8*2", (512, 512), 16, batch=2),
    Case("2-D many weights, two micro-batches", "32*40", (64, 64), 256, batch=2),
    Case("2-D groups and pointwise", "16g4*2 16p*2", (512, 512), 32),
    Case("3-D three levels", "8*2 d16*2 d32*2 u16*2 u8*2", (96, 96, 96), 1, {"repeat": 12}),
    Case("3-D three levels, momentum", "8*2 d16*2 d32*4 u16*2 u8*2", (64, 96, 96), 1, {"repeat": 12}, optimiser="sgd"),
    Case("3-D exact bfloat16", "8*2 d16*2 d32*2 u16*2 u8*2", (96, 96, 96), 1, {"repeat": 12, **EXACT}),
    Case("3-D predicted", "8*2 d16*2 d32*2 u16*2 u8*2", (128, 128, 128), 1, {"repeat": 12}, training=False),
    Case("2-D predicted", "8*2 d16*3 u8*2", (512, 512), 24, training=False),
    Case("2-D many channels predicted", "8*4", (384, 384), 200, training=False),
    Case("2-D exact bfloat16 predicted", "8*2 d16*3 u8*2", (768, 768), 16, EXACT, training=False),
    Case("2-D exact, 16-bit states predicted", "8*2 d16*3 u8*2", (768, 768), 16, SHORT, training=False),
)


def segmenter_config(case: Case) -> SegmenterConfig:
    """Describe the segmenter of a case, of two classes."""
    network = NetworkConfig(layers=case.layers, **case.network)
    return SegmenterConfig(network, space=len(case.sizes), channels=case.channels, classes=["one", "other"])


def build(config: SegmenterConfig) -> Segmenter:
    """Make a segmenter with plain statistics and a seed."""
    torch.manual_seed(0)
    ones = [1] * config.space
    return Segmenter(config, torch.zeros(config.channels, *ones), torch.ones(config.channels, *ones))


def predicted(case: Case, device: str = "cpu") -> int:
    """Predict the peak of a case in bytes, on a GPU or by one thread of a CPU, as it is measured."""
    with torch.device("meta"):
        segmenter = build(segmenter_config(case))
    labelled = int(LABELLED * np.prod(case.sizes))
    work = Workload(
        sizes=case.sizes,
        batch=min(case.batch, case.micro_batch),
        labelled=labelled * min(case.batch, case.micro_batch),
        accumulates=case.batch > case.micro_batch,
        optimiser=TrainingConfig(optimiser=case.optimiser).optimiser,  # type: ignore[arg-type]
        threads=0 if device == "cuda" else 1,
    )
    return training_peak(segmenter, work) if case.training else prediction_peak(segmenter, work)


def measured(case: Case, device: torch.device) -> int:
    """Measure the peak of a case in bytes, in this process."""
    config, draw = segmenter_config(case), np.random.default_rng(0)
    training = TrainingConfig(optimiser=case.optimiser)  # type: ignore[arg-type]

    def work(samples: list[tuple[np.ndarray, np.ndarray]], steps: int) -> None:
        segmenter = build(config).to(device)
        if not case.training:
            with torch.no_grad():
                raw_CN = torch.tensor(samples[0][0], device=device)
                segmenter.probabilities(raw_CN[None]).cpu()
            return
        optimiser, _ = build_optimiser(segmenter, training)
        weights = torch.ones(2, device=device)
        for _ in range(steps):
            train_step(segmenter, optimiser, samples, weights, micro_batch=case.micro_batch, clip=5.0)

    def draw_samples(sizes: tuple[int, ...], count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        samples = []
        for _ in range(count):
            labels = np.full(sizes, IGNORED, np.int16)
            chosen = draw.choice(labels.size, max(2, int(LABELLED * labels.size)), replace=False)
            labels.reshape(-1)[chosen] = chosen % 2
            samples.append((draw.standard_normal((case.channels, *sizes), np.float32), labels))
        return samples

    work(draw_samples((16,) * len(case.sizes), case.batch), 2)  # libraries set themselves up
    samples = draw_samples(case.sizes, case.batch)
    return peak_of(lambda: work(samples, 2), device)


def measure_apart(case: Case, device: str) -> int:
    """Measure a case in a process of its own, with one thread; on CUDA here."""
    if device == "cuda":
        return int(figure("", [], lambda: measured(case, torch.device(device)), device, memory=True))
    # Large blocks come from and return to the system one by one, so that the resident peak is the tensors' peak.
    environment = dict(os.environ) | {
        "MALLOC_MMAP_THRESHOLD_": str(2**18),
        "MALLOC_TRIM_THRESHOLD_": str(2**18),
        "OMP_NUM_THREADS": "1",
    }
    answer = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.planning", "--case", json.dumps(asdict(case)), "--device", device],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    if answer.returncode:
        raise RuntimeError(f"{case.name} failed:\n{answer.stderr[-2000:]}")
    return int(answer.stdout.splitlines()[-1])


def main() -> None:
    """Run the benchmark, or one of its cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--only", nargs="*", default=[], help="run the cases whose names contain one of these")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--case", help="JSON of one case: measure it here and print the bytes")
    arguments = parser.parse_args()
    if arguments.case:
        content = json.loads(arguments.case)
        case = Case(**(content | {"sizes": tuple(content["sizes"])}))
        print(measured(case, torch.device(arguments.device)))
        return
    rows: list[dict[str, Any]] = []
    print("| case | predicted MiB | measured MiB | ratio |\n|---|---|---|---|")
    for case in CASES:
        if arguments.only and not any(part in case.name for part in arguments.only):
            continue
        guess, truth = predicted(case, arguments.device), measure_apart(case, arguments.device)
        rows.append({**asdict(case), "predicted_bytes": guess, "measured_bytes": truth, "ratio": guess / truth})
        print(f"| {case.name} | {guess / 2**20:.0f} | {truth / 2**20:.0f} | {guess / truth:.3f} |", flush=True)
        if not arguments.only:
            write_results(arguments.results, "planning", arguments.device, {"cases": rows})


if __name__ == "__main__":
    main()
