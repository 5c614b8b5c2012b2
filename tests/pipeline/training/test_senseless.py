"""Settings that are numbers and make no sense are refused before any work, with their name."""

import math
from dataclasses import replace

import pytest

from datasets.errors import InputError
from datasets.volume import Volume
from pipeline.config import TrainingConfig
from pipeline.training.train import train


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": math.nan}, r"^training\.rate is nan; it must be a number below 2\^63$"),
        ({"clip": math.inf}, r"^training\.clip is inf; it must be a number below 2\^63$"),
        ({"weight_decay": 1e300}, r"^training\.weight_decay is 1e\+300; it must be a number below 2\^63$"),
        ({"seed": -1}, r"^training\.seed is -1; it must not be negative$"),
        ({"drops": {4: 0.1, 6: -1.0}}, r"^training\.drops has \{6: -1\.0\}; give steps from 0 on, and factors of the"),
        ({"drops": {-4: 0.1}}, r"^training\.drops has \{-4: 0\.1\}"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        TrainingConfig(**settings)


def test_cells_that_are_all_normalised_away_are_refused(recipe):
    config = recipe("nothing")
    dims = list(Volume.open(config.data).dataset["data"].dims)
    with pytest.raises(InputError, match=r"^data\.keep names all of .*, which makes every cell 0; leave one out$"):
        train(replace(config, data=replace(config.data, keep=dims)))
