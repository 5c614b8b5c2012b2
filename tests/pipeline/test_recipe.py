from pathlib import Path

import pytest
import yaml

from datasets.errors import InputError
from models.config import ConfigError, hourglass, parse_layers
from pipeline.config import RunConfig
from pipeline.recipe import dump_recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "pipeline" / "recipes"
RUNS = [path for path in sorted(RECIPES.rglob("*.yaml")) if path.parent.name not in ("convert", "synthesize", "views")]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_recipe_is_understood(path):
    recipe = load_recipe(path)
    assert recipe.data.source
    assert recipe.data.space


def test_a_recipe_survives_writing_and_reading(tmp_path):
    recipe = load_recipe(RECIPES / "paper" / "seismic.yaml", ["--training.steps", "7"])
    assert recipe.training.steps == 7
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "r.yaml") == recipe


def test_the_papers_networks_have_their_published_depth_and_width():
    seismic = load_recipe(RECIPES / "paper" / "seismic.yaml")
    layers = parse_layers(seismic.network.layers)
    assert len(layers) == 30
    ranks = [layer.rank for layer in layers]
    assert ranks == [8] * 2 + [16] * 3 + [32] * 16 + [16] * 3 + [8] * 6
    assert seismic.network.repeat * 8 ** sum(layer.resample == "coarsen" for layer in layers) == 6144
    change = load_recipe(RECIPES / "paper" / "hyperspectral.yaml")
    assert len(parse_layers(change.network.layers)) == 18
    assert not any(layer.resample == "refine" for layer in parse_layers(change.network.layers))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainig": {"steps": 3}}, "trainig"),
        ({"training": {"stepz": 3}}, "stepz"),
        ({"training": {"steps": "many"}}, "many"),
        ({"training": {"steps": 0}}, "training.steps is 0; it must be 1 or more"),
        ({"split": {"fractions": [1, 1, 1]}}, "three shares that add up to 1"),
        ({"data": {"space": ["a", "a"]}}, "one to three different dimensions"),
        ({"name": "a/b"}, "take a plain folder name"),
    ],
)
def test_a_bad_recipe_names_what_is_wrong(tmp_path, change, words):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(InputError, match=words):
        load_recipe(path)


def test_a_missing_recipe_says_where_examples_are(tmp_path):
    with pytest.raises(InputError, match=r"no recipe at .*nowhere\.yaml; the examples are in pipeline/recipes"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [("8 x9", "'x9' is not a layer"), ("", "names? at least one|is empty"), ("8*0", "'8\\*0' is not a layer")],
)
def test_bad_layers_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_layers(text)


def test_hourglass_has_the_asked_depth_and_comes_back():
    layers = parse_layers(hourglass(13, 4, 2))
    assert len(layers) == 13
    resampled = [layer.resample for layer in layers]
    assert resampled.count("coarsen") == resampled.count("refine") == 2
    with pytest.raises(ConfigError, match="depth 4 cannot reach 2 levels and return; take a depth of at least 5"):
        hourglass(4, 4, 2)


def test_defaults_are_a_valid_configuration():
    assert RunConfig().training.steps == 100
