"""The accuracy benchmark in small: the U-Net is a fair twin, and finished seeds are not repeated."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config import NetworkConfig, SegmenterConfig
from pipeline.config import RunConfig
from pipeline.recipe import dump_recipe, load_recipe
from pipeline.run import Run
from pipeline.training.context import Context
from pipeline.training.loop import Outcome, fit, new_segmenter
from pipeline.training.prepare import prepare
from pipeline.training.state import Progress
from tests.benchmarks import accuracy, precision
from tests.benchmarks.over_seeds import RESULTS
from tests.benchmarks.unet import UNetTwin, nearest_width, size_of, unet, unet_twin


def twin(*, validity: bool, read_slice: dict[int, int], sizes: tuple[int, ...]) -> UNetTwin:
    torch.manual_seed(0)
    config = SegmenterConfig(
        network=NetworkConfig(layers="4"),
        space=len(sizes),
        channels=2,
        classes=["a", "b", "c"],
        validity=validity,
        read_slice=read_slice,
    )
    statistic = [2, *[1] * len(sizes)]
    return UNetTwin(config, torch.full(statistic, 5.0), torch.full(statistic, 2.0), sizes, 20_000)


@pytest.mark.parametrize("validity", [False, True])
@pytest.mark.parametrize(
    ("sizes", "read_slice", "out"),
    [
        ((13, 10), {}, (13, 10)),
        ((5, 9, 11), {0: 2}, (9, 11)),
        ((9, 5, 11), {1: 0}, (9, 11)),
        ((9, 8, 7), {}, (9, 8, 7)),
    ],
    ids=["map", "time goes", "band goes", "cube"],
)
def test_the_twin_answers_on_the_labels_grid_at_any_size(
    validity: bool, sizes: tuple[int, ...], read_slice: dict[int, int], out: tuple[int, ...]
) -> None:
    network = twin(validity=validity, read_slice=read_slice, sizes=sizes)
    raw = 5 + 2 * torch.randn(2, 2, *sizes)
    raw[:, :, :2] = torch.nan
    logits = network(raw)
    assert logits.shape == (2, 3, *out)
    assert torch.isfinite(logits).all()


def test_the_twin_sees_normalised_data_with_no_data_as_the_mean() -> None:
    network = twin(validity=True, read_slice={}, sizes=(8, 8)).eval()
    seen = []
    network.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    raw = torch.full((1, 2, 8, 8), 9.0)
    raw[0, 1, 0, 0] = torch.nan
    network(raw)
    (x_BCN,) = seen
    assert x_BCN.shape == (1, 4, 8, 8)
    assert (x_BCN[0, 0] == 2).all()
    assert (x_BCN[0, 1, 0, 0], x_BCN[0, 3, 0, 0]) == (0, 0)
    assert x_BCN[0, 2:].sum() == 2 * 64 - 1


def test_an_axis_that_goes_becomes_channels_in_its_order() -> None:
    network = twin(validity=False, read_slice={1: 0}, sizes=(8, 3, 8)).eval()
    seen = []
    network.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    raw = torch.randn(1, 2, 8, 3, 8)
    network(raw)
    torch.testing.assert_close(seen[0].reshape(2, 3, 8, 8), ((raw[0] - 5) / 2).transpose(1, 2))


@pytest.mark.parametrize("parameters", [30_000, 3_000_000])
def test_the_width_meets_the_number_of_parameters(parameters: int) -> None:
    def ratio(width: int) -> float:
        with torch.device("meta"):
            return size_of(unet(2, 20, 16, width)) / parameters

    width = nearest_width(2, 20, 16, parameters)
    assert 0.8 < ratio(width) < 1.25
    off = abs(np.log(ratio(width)))
    assert off <= abs(np.log(ratio(width - 1)))
    assert off <= abs(np.log(ratio(width + 1)))


def test_a_network_smaller_than_any_u_net_meets_the_narrowest_twin() -> None:
    assert nearest_width(2, 20, 16, 1) == 4


def test_the_twin_is_trained_by_the_same_loop_from_the_runs_seed(recipe: Callable[..., RunConfig]) -> None:
    run = prepare(recipe("twin", steps=8))
    start, again = unet_twin(run), unet_twin(run)
    for one, other in zip(start.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    outcome = fit(run, Context(), unet_twin)
    assert outcome.progress.step == 8
    assert isinstance(outcome.model, UNetTwin)
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), outcome.model.parameters(), strict=True))


def test_the_benchmark_prints_a_table_and_repeats_nothing(
    recipe: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = recipe("tiny", steps=4)
    place = tmp_path / "tiny.yaml"
    place.write_text(dump_recipe(config))
    command = ["accuracy", str(place), "--seeds", "2", "--results", str(tmp_path), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", command)
    accuracy.main()
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["telegraph network", "MONAI U-Net", "random forest"]
    saved = json.loads((tmp_path / "accuracy-tiny.json").read_text())["results"]
    assert sorted((row["variant"], row["seed"]) for row in saved) == [
        (method, seed) for method in ("forest", "telegraph", "unet") for seed in (0, 1)
    ]
    assert all(0 <= row["oa"] <= 1 for row in saved)

    done = []
    score = accuracy.score

    def counted(run: object, method: str) -> dict[str, object]:
        done.append(method)
        return score(run, method)  # type: ignore[arg-type]

    monkeypatch.setattr(accuracy, "score", counted)
    accuracy.main()
    assert done == []
    place.write_text(dump_recipe(replace(config, training=replace(config.training, rate=0.01))))
    accuracy.main()
    assert done == ["telegraph", "unet"] * 2  # the forest does not depend on the learning rate


def test_the_telegraph_network_of_the_benchmark_is_the_runs_own(recipe: Callable[..., RunConfig]) -> None:
    run = prepare(recipe("own", steps=4))
    row = accuracy.score(run, "telegraph")
    assert row["parameters"] == sum(parameter.numel() for parameter in new_segmenter(run).parameters())
    assert np.isfinite(row["miou"])


def test_the_unet_gets_the_rate_that_validates_best(
    recipe: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(recipe("rates", steps=4))
    tried = {}

    def fake(run: Run, build: object) -> Outcome:
        training = run.config.training
        tried[training.rate] = training.steps
        progress = Progress(best_score=1 if training.rate == 3e-3 else 0, best_step=1)
        return Outcome(progress, False, torch.nn.Identity())

    monkeypatch.setattr(accuracy, "train_best", fake)
    assert accuracy.train_unet(run).progress.best_score == 1
    assert tried == {1e-3: 8, 3e-3: 8, 1e-2: 8}


def test_the_table_shows_mean_and_sample_deviation() -> None:
    rows = [
        {"variant": "forest", "oa": 1.0, "aa": value, "kappa": -value, "miou": value, "parameters": 0, "seconds": 1.0}
        for value in (0.1, 0.2)
    ]
    line = accuracy.table("tiny", rows).splitlines()[-1]
    assert line == "| random forest | - | 1.000 ± .000 | .150 ± .071 | -.150 ± .071 | .150 ± .071 | 1 |"


def test_precision_is_compared_on_the_same_seeds(
    recipe: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "tiny.yaml"
    place.write_text(dump_recipe(recipe("tiny", steps=4)))
    command = ["precision", str(place), "--seeds", "2", "--results", str(tmp_path), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", [*command, "--only", "float32,exact; 16 bits at 2^-8"])
    precision.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["| float32", "| exact; 16 bits at 2^-8"]
    assert rows[1][2] == "+.000 ± .000"
    assert rows[2][3] == "0e+00 |", "exact states are recovered bit for bit"
    saved = json.loads((tmp_path / "precision-tiny.json").read_text())["results"]
    assert all(row["inversion_error"] > 0 for row in saved if row["variant"] == "float32")


@pytest.mark.parametrize("name", ["indian-pines", "timelapse"])
def test_the_kept_results_are_those_of_todays_recipes(name: str) -> None:
    recipe = load_recipe(Path(accuracy.__file__).parents[2] / f"pipeline/recipes/{name}.yaml")
    kept = json.loads((RESULTS / f"accuracy-{name}.json").read_text())["results"]
    for row in kept:
        split = replace(recipe.split, seed=row["seed"])
        config = replace(recipe, split=split, training=replace(recipe.training, seed=row["seed"]))
        assert accuracy.fingerprint(config, row["variant"]) == row["mark"]
        haloed = replace(config, data=replace(config.data, block=[16, 16], halo=[4, 4]))
        assert accuracy.fingerprint(haloed, row["variant"]) != row["mark"]
