"""docs/your-survey.md does what it says: its files and its commands, in their order, on a small cube."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import segyio

from pipeline import cli

PAGE = (Path(__file__).parents[2] / "docs/your-survey.md").read_text()
INLINES, CROSSLINES, SAMPLES = range(100, 132), range(300, 332), 4.0 * np.arange(32)


def write_survey(folder: Path) -> None:
    """A cube of two dipping reflectors, and picks of both on every fourth inline and crossline."""
    picks: dict[str, list[str]] = {"top.csv": ["inline,crossline,twt"], "base.csv": ["inline,crossline,twt"]}
    spec = segyio.spec()
    spec.format, spec.samples, spec.tracecount = 5, SAMPLES, len(INLINES) * len(CROSSLINES)
    draw = np.random.default_rng(0)
    with segyio.create(folder / "survey.sgy", spec) as file:
        for number, (inline, crossline) in enumerate((i, j) for i in INLINES for j in CROSSLINES):
            top, base = 30 + 0.5 * (inline - 100), 80 + 0.3 * (crossline - 300)
            trace = draw.normal(0, 0.1, len(SAMPLES))
            trace += sum(np.exp(-(((SAMPLES - time) / 6) ** 2)) for time in (top, base))
            header = {189: inline, 193: crossline, 181: 25 * inline, 185: 25 * crossline, 115: len(SAMPLES), 117: 4000}
            file.header[number], file.trace[number] = header, trace.astype(np.float32)
            if inline % 2 == crossline % 2 == 0:
                picks["top.csv"].append(f"{inline},{crossline},{top}")
                picks["base.csv"].append(f"{inline},{crossline},{base}")
    for name, lines in picks.items():
        (folder / name).write_text("\n".join(lines) + "\n")


@pytest.mark.usefixtures("blank_pictures")
def test_the_page_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_survey(tmp_path)
    for name, text in re.findall(r"^`(\S+\.yaml)` .*?^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    commands = re.findall(r"^python -m pipeline (.+)$", PAGE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == [
        "convert", "inspect", "inspect", "plan", "train", "register", "predict", "export", "export",
    ]  # fmt: skip
    for command in commands:
        words = shlex.split(command)
        if words[0] == "train":
            words += ["--cluster.workers", "0", "--training.steps", "4", "--training.validate_every", "2"]
        assert cli.main(words) == 0, (command, capsys.readouterr().err)
    with segyio.open("mine-classes.sgy", ignore_geometry=True) as file:
        assert file.tracecount == len(INLINES) * len(CROSSLINES)
        assert set(np.unique(file.trace.raw[:])) <= {0.0, 1.0, 2.0}
        assert "-1 no data, 0 overburden, 1 reservoir, 2 basement" in file.text[0].decode()
    with segyio.open("mine-reservoir.sgy", ignore_geometry=True) as file:
        assert 0 <= file.trace.raw[:].min() < file.trace.raw[:].max() <= 1
    assert (tmp_path / "runs/mine/report.html").is_file()
    assert (tmp_path / "surveys/mine.png").is_file()


def test_every_way_out_of_the_table_is_a_setting():
    rows = re.findall(r"^\| `(--.+?)`", PAGE, re.MULTILINE)
    assert len(rows) == 5
    recipe = Path(__file__).parents[2] / "pipeline/recipes/quickstart.yaml"
    for row in rows:
        assert cli.main(["plan", str(recipe), "--shape", "[512, 512, 512]", *shlex.split(row)]) == 0, row
