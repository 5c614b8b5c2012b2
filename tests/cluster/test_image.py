"""The Dockerfile by hadolint, a linter that parses it as Docker does; it is not built here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "Dockerfile"


def lint(text: str) -> str:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    assert bool(done.returncode) == bool(done.stdout), done
    return done.stdout


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions with their words, comments and line breaks taken out."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]


def test_the_linter_has_nothing_to_say():
    assert lint(FILE.read_text()) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        ("FROM python:${PYTHON}", "FROM python", "DL3006"),
        ("USER 1000", "USER root", "DL3002"),
        ("pip install --no-cache-dir", "pip install", "DL3042"),
        ("COPY models models", "ADD models models", "DL3020"),
        ("RUN useradd", "RIN useradd", "unexpected 'R'"),
    ],
)
def test_the_linter_catches_a_planted_mistake(right, wrong, code):
    text = FILE.read_text()
    assert right in text
    if code:
        assert code in lint(text.replace(right, wrong))


def test_it_runs_as_nobody_in_particular_and_on_a_base_that_stays():
    words = instructions(FILE.read_text())
    assert [rest for word, rest in words if word == "USER"][-1] == "1000"
    (base,) = [rest for word, rest in words if word == "ARG" and rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=\d+\.\d+\.\d+-slim-\w+", base)
    assert not [word for word, _ in words if word == "EXPOSE"]


def test_what_it_copies_is_there_and_reaches_the_builder():
    ignored = (FILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    sources = [one for word, rest in instructions(FILE.read_text()) if word == "COPY" for one in rest.split()[:-1]]
    assert {"models", "datasets", "pipeline", "pyproject.toml"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    assert ignored[1:] == ["*", *(f"!{source}" for source in sources), "**/__pycache__"]


def test_its_comments_name_arguments_that_it_has():
    text = FILE.read_text()
    named = set(re.findall(r"--build-arg (\w+)=", text))
    assert named == {"TORCH_INDEX", "DEVICE"}
    assert named <= {rest.partition("=")[0] for word, rest in instructions(text) if word == "ARG"}


def test_it_installs_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [one for one in project["dependencies"] if one.startswith("torch")]
    assert f"'{torch}'" in FILE.read_text()
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", FILE.read_text())
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
