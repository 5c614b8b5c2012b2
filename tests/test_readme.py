"""The README and the pages it leads to tell the truth of today: commands parse, files exist, plans are as printed."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "cluster/README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(*pages: str) -> list[list[str]]:
    """Words after ``python -m pipeline`` of every command line of the pages."""
    lines = "\n".join(block for page in pages for block in blocks(page, "bash")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "-m pipeline" in line]
    return [words[words.index("pipeline") + 1 :] for words in found]


def test_the_plan_is_what_the_command_prints(capsys):
    (shown,) = [block for block in blocks("README.md", "console") if block.startswith("network ")]
    (words,) = [words for words in commands("README.md") if words[0] == "plan"]
    assert main(words) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in shown.splitlines() if line not in printed] == []


def test_what_the_text_says_that_a_plan_plans_is_what_the_command_prints(capsys):
    text = " ".join((ROOT / "docs" / "large-volumes.md").read_text().split())
    told = re.findall(r"`python -m pipeline (plan [^`]+)` plans (\S+) GB .*? and (\S+) ([GM]B)", text)
    assert len(told) == 2
    for words, device, other, unit in told:
        assert main(shlex.split(words)) == 0
        printed = [f"{float(size):.2g} {of}" for size, of in re.findall(r"([\d.]+) ([GM]B)", capsys.readouterr().out)]
        assert f"{float(device):.2g} GB" in printed
        assert f"{float(other):.2g} {unit}" in printed


def test_the_first_two_blocks_are_the_two_commands():
    first, second = blocks("README.md", "bash")[:2]
    assert first.count("\n") == second.count("\n") == 1
    assert "pip install" in first
    assert first.strip().endswith("-m pipeline quickstart")
    assert second.strip().endswith("-m pytest")


@pytest.mark.parametrize("words", commands(*PAGES), ids=lambda words: " ".join(words)[:60])
def test_every_command_names_what_exists(words):
    name, *rest = words
    assert name in COMMANDS
    for word in rest:
        if word.startswith("pipeline/"):
            assert (ROOT / word).is_file(), word
        if word.startswith("--") and word not in ("--print_config", "--help"):
            known = set(COMMANDS[name].flags and [flag for flag, _ in COMMANDS[name].flags])
            setting = word.removeprefix("--").split("=")[0]
            assert setting in known or _is_setting(COMMANDS[name].config, setting), word


def _is_setting(reference: str, dotted: str) -> bool:
    from dataclasses import fields, is_dataclass
    from importlib import import_module
    from typing import get_type_hints

    module, cls = reference.split(":")
    kind = getattr(import_module(module), cls)
    for part in dotted.split("."):
        if not is_dataclass(kind) or part not in {field.name for field in fields(kind)}:
            return False
        kind = get_type_hints(kind)[part]
    return True


def test_the_tree_names_files_that_exist():
    (tree,) = blocks("README.md", "text")
    folder, named = "", []
    for line in tree.splitlines():
        head = re.split(r"\s{2,}", line.strip())[0]
        if not line.startswith(" "):
            folder = head
            assert (ROOT / folder).is_dir()
            continue
        for name in head.split(", "):
            assert list((ROOT / folder).glob(name)), f"{folder}{name}"
            named.append(folder + name)
    assert len(named) > 25


@pytest.mark.parametrize("page", PAGES)
def test_nothing_waits_to_be_filled_in(page):
    assert not re.findall(r"^[A-Z]+_[A-Z_]+", (ROOT / page).read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_picture_is_there(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / page).read_text()):
        place, _, heading = target.partition("#")
        linked = (ROOT / page).parent / place
        assert linked.exists(), target
        if heading:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads], target
