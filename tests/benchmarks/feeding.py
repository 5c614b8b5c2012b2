"""How long training waits for its samples: blocks of a stored survey, from a folder and from S3 with latency.

    python -m tests.benchmarks.feeding [--quick] [--steps 60] [--device cuda]

The same steps are run three times: training as it is, the reading without the step ("reading alone"), and the step
without the reading ("step alone"). Training is fed well where it takes as long as the longer of the two, and waits for
nothing where the step is the longer. "waiting" is the share of the time that the loop stood still for samples, all of
it and once warm: the first tenth of the steps is what nobody could read ahead. Every sample is read from the store:
blocks of chunks amid a halo, so that more bytes are fetched than used.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.config import DataConfig, SplitConfig, SynthesisConfig
from datasets.samples.loader import Loader
from datasets.synthetic.survey import synthesize
from models.config import NetworkConfig
from pipeline.config import ClusterConfig, RunConfig, TrainingConfig
from pipeline.run import Run
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from pipeline.training.step import build_optimiser, train_step
from tests.benchmarks.measuring import RESULTS, device_name, markdown, progress, write_results
from tests.cloud.faults import slow_proxy
from tests.cloud.seaweed import BUCKET, KEY, SECRET, serve


@dataclass(frozen=True)
class Sizes:
    """Edges in cells of survey, chunk, block and halo, all cubes; threads that read, and layers of the network."""

    survey: int = 192
    chunk: int = 16
    block: int = 48
    halo: int = 8
    threads: int = 2
    layers: str = "8*2 d8*2 d8*2 u8*2 u8*2"


@dataclass(frozen=True)
class Fed:
    """What one place gave: seconds a step in training, of reading alone and of the step alone, and shares."""

    training: float
    reading: float
    step: float
    waiting: float
    waiting_warm: float
    amplification: float


@contextmanager
def places(folder: Path, sizes: Sizes) -> Iterator[dict[str, tuple[str, str]]]:
    """Write the survey to a folder and to a server; yields name -> URI and endpoint."""
    survey = SynthesisConfig(shape=[sizes.survey] * 3, chunks=[sizes.chunk] * 3, wells=8, radius=3, salt=0.3)
    with ExitStack() as stack:
        server = stack.enter_context(serve(folder / "server"))
        os.environ.update(server.environment(), AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
        found = {}
        for uri in (str(folder / "survey.zarr"), f"s3://{BUCKET}/survey.zarr"):
            synthesize(SynthesisConfig(**{**asdict(survey), "out": uri}))
        found["folder"] = (str(folder / "survey.zarr"), "")
        for latency in (0.0, 0.03):
            port = stack.enter_context(slow_proxy(server.port, latency)) if latency else server.port
            found[f"S3, {1000 * latency:.0f} ms"] = (f"s3://{BUCKET}/survey.zarr", f"http://127.0.0.1:{port}")
        yield found


def recipe(source: str, runs: Path, sizes: Sizes, *, steps: int, cuda: bool) -> RunConfig:
    """Make a recipe that visits every block once an epoch, labels or none, so that all of the survey is read."""
    return RunConfig(
        name="feeding",
        runs=str(runs),
        data=DataConfig(
            source=source,
            space=["inline", "crossline", "depth"],
            block=[sizes.block] * 3,
            halo=[sizes.halo] * 3,
            labelled_share=0.5,
        ),
        split=SplitConfig(method="wells", radius=3, buffer=2, validation_wells=2),
        network=NetworkConfig(layers=sizes.layers, repeat=8, init_gain=4.0),
        training=TrainingConfig(steps=steps, batch=2, rate=1e-3),
        cluster=ClusterConfig(workers=0, gpu=cuda, loader_workers=sizes.threads),
    )


def loader_of(run: Run, factor: int) -> Loader:
    """Make a loader that has read nothing yet."""
    config = run.config
    return Loader(
        Run.open(run.folder).volume,
        run.split,
        config.data,
        factor=factor,
        batch=config.training.batch,
        seed=0,
        augment_until=None,
        workers=config.cluster.loader_workers,
        prefetch_bytes=config.cluster.prefetch_bytes,
    )


def feed(run: Run, device: torch.device) -> Fed:
    """Train, read alone, and step alone, one after the other."""
    config, steps = run.config, run.config.training.steps
    model = new_segmenter(run).to(device)
    optimiser, _ = build_optimiser(model, config.training)
    weights = torch.tensor(run.prepared.weights, dtype=torch.float32, device=device)

    def step(samples: list[Any]) -> None:
        train_step(
            model, optimiser, samples, weights,
            micro_batch=config.training.micro_batch, clip=config.training.clip, interrupted=False,
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize()

    factor = int(model.factor)
    step(next(loader_of(run, factor).steps(0, 1)))  # kernels are chosen, and memory is taken, once

    def timed(loader: Loader, work: bool) -> list[tuple[float, float]]:
        """Return the clock and the time waited so far, before the first step and after each."""
        marks = [(time.perf_counter(), 0.0)]
        with closing(loader.steps(0, steps)) as stream:
            for samples in stream:
                if work:
                    step(samples)
                marks.append((time.perf_counter(), loader.waited))
        return marks

    fed = loader_of(run, factor)
    marks, read = timed(fed, work=True), timed(loader_of(run, factor), work=False)
    same = next(loader_of(run, factor).steps(0, 1))
    began = time.perf_counter()
    for _ in range(steps):
        step(same)
    alone = (time.perf_counter() - began) / steps
    warm = marks[max(1, steps // 10)]
    traffic = fed.volume.traffic
    assert traffic is not None
    return Fed(
        training=(marks[-1][0] - marks[0][0]) / steps,
        reading=(read[-1][0] - read[0][0]) / steps,
        step=alone,
        waiting=marks[-1][1] / (marks[-1][0] - marks[0][0]),
        waiting_warm=(marks[-1][1] - warm[1]) / (marks[-1][0] - warm[0]),
        amplification=traffic.fetched / traffic.used,
    )


def main() -> None:
    """Run the benchmark, print its table and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=60, help="training steps")
    parser.add_argument("--quick", action="store_true", help="a tiny survey: does it run at all?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    choice = parser.parse_args()
    device, load = torch.device(choice.device), round(os.getloadavg()[0], 1)
    sizes = Sizes(32, 16, 16, 4, layers="4") if choice.quick else Sizes()
    if device.type == "cpu":
        torch.set_num_threads(1)  # the other core reads
    found: dict[str, Fed] = {}
    with tempfile.TemporaryDirectory() as folder, places(Path(folder), sizes) as where:
        for name, (uri, endpoint) in where.items():
            progress(f"{name} ...")
            if endpoint:
                os.environ["AWS_ENDPOINT_URL"] = endpoint
            config = recipe(uri, Path(folder) / name, sizes, steps=choice.steps, cuda=device.type == "cuda")
            found[name] = feed(prepare(config), device)
    head = ["survey in", "training, s a step", "reading alone", "step alone", "waiting", "once warm", "bytes / used"]
    rows = [
        [name, f"{fed.training:.3f}", f"{fed.reading:.3f}", f"{fed.step:.3f}", f"{fed.waiting:.1%}",
         f"{fed.waiting_warm:.1%}", f"{fed.amplification:.2f}"]
        for name, fed in found.items()
    ]  # fmt: skip
    print(f"{device_name(choice.device)}, {choice.steps} steps, load {load}")
    print(markdown([head, *rows]))
    places_found = {name: asdict(fed) for name, fed in found.items()}
    content = {"sizes": asdict(sizes), "steps": choice.steps, "load": load, "places": places_found}
    write_results(choice.results, "feeding", choice.device, content)


if __name__ == "__main__":
    main()
