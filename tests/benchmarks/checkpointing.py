"""What checkpoints cost a training step: the time that training is held up, the processor in the background, the write.

    python -m tests.benchmarks.checkpointing [--rounds 5] [--results DIR]

Training is held up while a snapshot is copied and handed over; its write, sums and all, runs behind the next steps.
Both are processor time, which a busy machine does not blur; how long the write takes is wall time, by the disk.
A checkpoint is due every ten steps, as in the recipes of the small survey and Indian Pines, whose networks these are;
the third has heavy weights and short steps, the worst case.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.config import NetworkConfig, SegmenterConfig
from models.segmenter import Segmenter
from pipeline.checkpoints.checkpoint import Meta, Snapshot, copied
from pipeline.checkpoints.storage import Behind, directory_storage
from pipeline.config import TrainingConfig
from pipeline.training.step import build_optimiser, train_step
from tests.benchmarks.measuring import RESULTS, markdown, prepare, progress, write_results

EVERY = 10
"""Steps between two checkpoints: `training.validate_every` of the recipes."""


@dataclass(frozen=True)
class Case:
    """A network and what it trains on.

    Attributes
    ----------
    name
        Name for the table.
    layers, repeat
        The network.
    channels, shape
        The data.
    """

    name: str
    layers: str
    repeat: int
    channels: int
    shape: tuple[int, ...]


CASES = (
    Case("small survey", "8*2 d8*2 d8*2 u8*2 u8*2", 8, 1, (64, 64, 64)),
    Case("Indian Pines", "8*2 d8*2 d8*3 u8*2 u8*2", 1, 200, (144, 144)),
    Case("heavy weights", "32*2 d32*4 d32*6 u32*4 u32*2", 1, 200, (64, 64)),
)


def measure(case: Case, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure one case; times are medians over the rounds, in seconds."""
    torch.manual_seed(0)
    config = SegmenterConfig(
        network=NetworkConfig(layers=case.layers, repeat=case.repeat),
        space=len(case.shape),
        channels=case.channels,
        classes=["one", "other"],
    )
    statistic = (case.channels, *[1] * len(case.shape))
    model = Segmenter(config, torch.zeros(statistic), torch.ones(statistic))
    optimiser, schedule = build_optimiser(model, TrainingConfig())
    draw = np.random.default_rng(0)
    raw = draw.standard_normal((case.channels, *case.shape)).astype(np.float32)
    samples = [(raw, draw.integers(0, 2, case.shape))]
    weights = torch.ones(2)

    def step() -> None:
        train_step(model, optimiser, samples, weights, micro_batch=1, clip=5.0)
        schedule.step()

    behind_s: list[float] = []
    write_s: list[float] = []
    store = directory_storage(folder)

    def timed_store(snapshot: Snapshot | None, meta: Meta) -> None:
        wall, processor = time.perf_counter(), time.thread_time()
        store(snapshot, meta)
        behind_s.append(time.thread_time() - processor)
        write_s.append(time.perf_counter() - wall)

    behind, held_s, step_s = Behind(folder, timed_store), [], []
    step()  # warms up
    for number in range(1, rounds + 1):
        step_s.append(_processor(step))
        began = time.thread_time()
        training = {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        meta = Meta(number, 0.5)
        behind(Snapshot(meta, copied(model.state_dict()), copied(training), config.to_json()), meta)
        held_s.append(time.thread_time() - began)
    behind.close()
    newest = max(folder.glob("step-*"))
    period = EVERY * statistics.median(step_s)
    return {
        "case": case.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "checkpoint_bytes": sum(path.stat().st_size for path in newest.iterdir()),
        "step_s": statistics.median(step_s),
        "held_up_s": statistics.median(held_s),
        "behind_s": statistics.median(behind_s),
        "write_s": statistics.median(write_s),
        "held_up_share": statistics.median(held_s) / period,
        "behind_share": statistics.median(behind_s) / period,
    }


def _processor(task: Callable[[], None]) -> float:
    began = time.thread_time()
    task()
    return time.thread_time() - began


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the figures out."""
    head = [
        "network",
        "parameters",
        "checkpoint",
        "a step",
        "held up",
        "of step time",
        "behind",
        "of step time",
        "write",
    ]
    return markdown(
        [
            head,
            *(
                [
                    row["case"],
                    f"{row['parameters'] / 1e6:.2f} M",
                    f"{row['checkpoint_bytes'] / 1e6:.1f} MB",
                    f"{row['step_s'] * 1e3:.0f} ms",
                    f"{row['held_up_s'] * 1e3:.1f} ms",
                    f"{row['held_up_share']:.2%}",
                    f"{row['behind_s'] * 1e3:.1f} ms",
                    f"{row['behind_share']:.2%}",
                    f"{row['write_s'] * 1e3:.0f} ms",
                ]
                for row in rows
            ),
        ]
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps and checkpoints of each network")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args()
    prepare(torch.device("cpu"))
    rows = []
    for case in CASES:
        progress(case.name)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(case, Path(folder), arguments.rounds))
    write_results(arguments.results, "checkpointing", "cpu", {"every": EVERY, "cases": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
