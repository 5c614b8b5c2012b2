"""The command line as a user meets it: help for all, one sentence and exit code 2 for what cannot be done."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from pipeline.config import RunConfig
from pipeline.recipe import dump_recipe, load_recipe

ROOT = Path(__file__).parents[2]
HEAVY = "torch xarray dask zarr mlflow ray sklearn matplotlib scipy numpy rasterio"
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; returns its one line on stderr."""

    def run(*words: object) -> str:
        assert cli.main([str(word) for word in words]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return run


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: python -m pipeline {command} ")
    assert cli.COMMANDS[command].summary in text
    for place in cli.COMMANDS[command].places:
        assert f"[{place.upper()}]" in text
    for _, explained in cli.COMMANDS[command].flags:
        assert explained in text
    silent = re.findall(r"--([\w.]+\+?) (?:[A-Z_]+|\{[^}]*\}|\[ITEM,...\]) \(type", text)
    assert silent == [], "settings without a word about them"


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in overview
        assert command.summary in overview
    assert cli.main([]) == 2


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--training.stepz", "3"]])
def test_help_and_refusals_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom pipeline.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        f"print('HEAVY', *(set({HEAVY!r}.split()) & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY"


def test_the_module_hands_on_the_exit_code() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline", "frobnicate"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 'frobnicate' is not a command; choose one of quickstart, ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("frobnicate", "'frobnicate' is not a command; choose one of quickstart, synthesize, "),
        ("train --training.stepz 3", "training.stepz is not a setting; did you mean training.steps? "),
        ("train --training.stepz=3", "training.stepz is not a setting; did you mean training.steps? "),
        ("train --nam x", "nam is not a setting; did you mean name? `python -m pipeline train --help` lists all"),
        ("train --zzzzzz 1", "zzzzzz is not a setting; `python -m pipeline train --help` lists all settings"),
        ("predict a b c d", "'d' is not understood; `python -m pipeline predict --help` lists all settings"),
        ("train --training.steps many", "training.steps is 'many', expected int; "),
        ("train --data.space y", "data.space is 'y', expected a list such as [y]; "),
        ("train --training.augment_until x", "training.augment_until is 'x', expected int or null; "),
        ("train --training.optimiser sgdd", "training.optimiser is 'sgdd', expected one of ['adam', 'adamw', 'sgd']; "),
        ("train --training.steps", "argument --training.steps: expected one argument; "),
        ("train --training.steps 0", "training.steps is 0; it must be 1 or more"),
        ("train --network.layers 8x", "network.layers: '8x' is not a layer; write a block rank such as 8, "),
        ("train nowhere.yaml", "no recipe at nowhere.yaml; the examples are in pipeline/recipes"),
        ("train", "data.source is empty; name a volume made by `python -m pipeline convert` or `synthesize`"),
        ("inspect", "name a volume: python -m pipeline inspect VOLUME.zarr"),
        ("inspect nowhere.zarr", "no volume at nowhere.zarr; check the path, or make one with "),
        ("predict", "predict needs a model, a source and a place: "),
        ("synthesize --shape [3]", "shape is [3]; give three sizes above 0, for inline, crossline and depth"),
    ],
)
def test_one_sentence_says_what_is_wrong(refused: Refused, words: str, sentence: str) -> None:
    assert refused(*words.split()).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trainig: {steps: 3}", "recipe {}: trainig.steps is not a setting; did you mean training.steps? "),
        ("training: {stepz: 3}", "recipe {}: training.stepz is not a setting; did you mean training.steps? "),
        ("training: {steps: many}", "recipe {}: training.steps is 'many', expected int; "),
        ("training: 3", "training is 3, but it is a group of settings such as training.steps; set those"),
        ("network: {init_gain: null}", "network.init_gain is null; give it a value, or leave it out"),
        ("training: {steps: null, memory: null}", "training.steps is null; give it a value, or leave it out"),
        ("data: null", "data is None, but it is a group of settings such as data.source; set those"),
        ("just words", "recipe {}: it holds no settings of the form `key: value`; "),
        ("a: [1,", "recipe {}: not YAML: while parsing a flow node did not find expected node content "),
    ],
)
def test_a_bad_recipe_is_named(refused: Refused, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert refused("train", path).startswith(sentence.format(path))


def test_a_mistake_beside_a_recipe_is_not_blamed_on_it(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("name: good")
    assert refused("train", path, "--training.steps", "many").startswith("training.steps is 'many', expected int; ")


@pytest.mark.parametrize("command", ["train", "synthesize", "predict"])
def test_existing_output_is_refused_before_any_work(refused: Refused, tmp_path: Path, command: str) -> None:
    name = "kept.zarr" if command == "predict" else "kept"
    place = tmp_path / name
    place.mkdir()
    (place / "mine.txt").write_text("precious")
    given = {
        "train": ["--name", "kept", "--runs", tmp_path],
        "synthesize": ["--out", place],
        "predict": ["models:/none@champion", "none.zarr", place],
    }[command]
    line = refused(command, *given)
    assert str(place) in line
    assert line.endswith("pass --overwrite to replace it")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (place / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("command", ["train", "synthesize", "predict"])
def test_overwrite_leaves_other_things_alone(refused: Refused, tiny_volume: Path, tmp_path: Path, command: str) -> None:
    place = tmp_path / "kept.zarr"
    place.mkdir()
    (place / "mine.txt").write_text("precious")
    given = {
        "train": ["--name", "kept.zarr", "--runs", tmp_path, "--data.source", tiny_volume],
        "synthesize": ["--out", place],
        "predict": ["models:/none@champion", tiny_volume, place],
    }[command]
    assert "--overwrite" in refused(command, *given, "--overwrite")
    assert (place / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("out", ["map.tif", "map.png", "map"])
def test_a_map_is_named_by_its_store(refused: Refused, tiny_volume: Path, tmp_path: Path, out: str) -> None:
    line = refused("predict", "models:/none@champion", tiny_volume, tmp_path / out)
    assert "does not end in .zarr; name the store, and the GeoTIFF and the picture are written beside it" in line


def test_a_map_never_replaces_its_source(refused: Refused, tiny_volume: Path) -> None:
    assert "is the source itself" in refused("predict", "models:/m@champion", tiny_volume, tiny_volume, "--overwrite")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "the disk is full; free some room"), (errno.EACCES, "permission denied; choose another place")],
)
def test_what_the_system_refuses(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_volume: Path, number: int, sentence: str
) -> None:
    real = Path.write_text

    def full(path: Path, text: str, **how: str) -> int:
        real(path, text[: len(text) // 2], **how)
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_text", full)
    line = refused(
        *("train", "--data.source", tiny_volume, "--data.space", "[y,x]", "--runs", tmp_path, "--network.layers", "4"),
        *("--split.block", 4, "--split.buffer", 0),
    )
    assert sentence in line
    assert str(tmp_path) in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_said(refused: Refused, tmp_path: Path, tiny_volume: Path) -> None:
    (tmp_path / "runs").touch()
    for runs in (tmp_path / "runs", tmp_path / "runs" / "mine"):
        line = refused(
            *("train", "--data.source", tiny_volume, "--data.space", "[y,x]", "--runs", runs, "--network.layers", "4"),
            *("--split.block", 4, "--split.buffer", 0),
        )
        assert f"{runs}" in line
        assert "a file is in the way" in line


@pytest.mark.parametrize(
    "words", ["train --name {}", "train --name {} --resume", "predict runs/{} {volume} map.zarr", "evaluate runs/{}"]
)
def test_a_name_too_long_for_the_disk_is_one_sentence(
    refused: Refused, tmp_path: Path, tiny_volume: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    settings = ["--data.source", tiny_volume, "--data.space", "[y,x]"] if words.startswith("train") else []
    name = "n" * 300
    line = refused(*words.format(name, volume=tiny_volume).split(), *settings)
    assert name in line
    assert line.endswith(": the name is too long")


def test_what_is_our_own_defect_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EBADF, "bad file descriptor")

    monkeypatch.setattr(cli, "run_command", broken)
    with pytest.raises(OSError, match="bad file descriptor"):
        cli.main(["train"])


def test_an_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_command", interrupted)
    assert cli.main(["train"]) == 130


def test_print_config_writes_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = RunConfig(name="first")
    (tmp_path / "given.yaml").write_text(dump_recipe(given))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(tmp_path / "given.yaml"), "--training.drops", "{120: 0.1}", "--print_config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    given.training.drops = {120: 0.1}
    assert load_recipe(tmp_path / "printed.yaml") == given
    assert yaml.safe_load(printed).keys() == yaml.safe_load(dump_recipe(given)).keys()
