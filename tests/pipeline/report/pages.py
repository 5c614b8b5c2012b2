"""What the tests of a run's page need: a run whose texts try to break out of it, and a page taken apart."""

import json
from html.parser import HTMLParser
from pathlib import Path

from datasets.config import DataConfig, SplitConfig
from datasets.store import write_volume
from models.config import NetworkConfig
from pipeline.config import ClusterConfig, RunConfig, TrainingConfig
from pipeline.run import Run
from pipeline.training.train import train
from tests.pipeline.conftest import tiny_dataset

HOSTILE = ['<b>water</b> & "sea"', "</td></table><script>alert('land')</script>"]
SECTIONS = ["what", "configuration", "learning", "split", "map", "classes", "memory", "inversion", "reading", "machine"]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, its text, and whether every element was closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def pictures(self) -> set[str]:
        return {str(image["alt"]).split(":")[0].split(",")[0] for image in self.all("img")}


def settings(volume: Path, folder: Path, space: list[str]) -> RunConfig:
    return RunConfig(
        name="tiny",
        runs=str(folder),
        data=DataConfig(source=str(volume), space=space),
        split=SplitConfig(block=4, buffer=0, fractions=[0.5, 0.2, 0.3]),
        network=NetworkConfig(layers="4 d4 u4"),
        training=TrainingConfig(steps=4, rate=0.02, validate_every=2, batch=2, micro_batch=2),
        cluster=ClusterConfig(workers=0, cpus_per_worker=1),
    )


def hostile_run(folder: Path) -> Run:
    """Train a 2-D run to its end."""
    scene = tiny_dataset()
    scene["labels"].attrs["class_names"] = HOSTILE
    scene.attrs |= {"title": "<i>tiny</i>", "conversion": json.dumps({"settings": {"name": "<u>"}, "sha256": {}})}
    return train(settings(write_volume(scene, folder / "tiny.zarr"), folder / "runs", ["y", "x"]))
