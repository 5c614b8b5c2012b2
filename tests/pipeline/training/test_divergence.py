"""Numbers that leave the finite ones: the run stops before they reach the weights, and says what helps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import all_checkpoints, latest_checkpoint
from pipeline.checkpoints.storage import directory_storage
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.context import Context
from pipeline.training.loop import fit, new_segmenter
from pipeline.training.prepare import prepare
from pipeline.training.step import DivergedError, build_optimiser, train_step
from pipeline.training.train import train

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_without_a_finite_loss_leaves_the_weights_alone(recipe, value):
    model = torch.nn.Conv1d(1, 2, 1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    samples = [(np.full((1, 5), value, np.float32), np.zeros(5, np.int64))]
    optimiser, _ = build_optimiser(model, recipe().training)
    with pytest.raises(DivergedError, match="the loss is nan and the largest entry of its gradient nan"):
        train_step(model, optimiser, samples, torch.ones(2), micro_batch=1, clip=5.0)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_run_that_diverges_names_the_step_and_keeps_its_last_good_checkpoint(recipe):
    config = recipe("wild", optimiser="sgd", clip=0.0, schedule="constant", drops={5: 1e20})
    message = (
        r"^step 7: the loss is nan .* Go on from the newest checkpoint with --resume and a training.rate below 0.02 "
        r"or a training.clip such as 1"
    )
    with pytest.raises(InputError, match=message):
        train(config)
    run = Run.open(Path(config.runs) / "wild")
    assert [path.name for path in all_checkpoints(run.checkpoints)] == ["step-000004"]
    assert latest_checkpoint(run.checkpoints).name == "step-000004"


def test_weights_that_are_not_finite_are_never_kept(recipe):
    run = prepare(recipe())

    def build(run: Run) -> torch.nn.Module:
        model = new_segmenter(run)
        model.register_buffer("spoilt", torch.tensor([1.0, torch.inf]))
        return model

    with pytest.raises(InputError, match=r"^step 4: spoilt is no longer finite; no such step is kept"):
        fit(run, Context(store=directory_storage(run.checkpoints)), build)
    assert all_checkpoints(run.checkpoints) == []


def test_a_run_goes_on_at_a_lower_rate(recipe):
    config = recipe("tamed")
    run = prepare(config)
    asked = iter(range(1, 100))
    fit(run, Context(store=directory_storage(run.checkpoints), interrupted=lambda: next(asked) == 6))
    tamed = train(recipe("tamed", rate=0.01, clip=1.0), resume=True)
    full = [row["rate"] for row in read_history(train(recipe("full")))]
    assert [row["rate"] for row in read_history(tamed)] == pytest.approx([rate / 2 for rate in full[6:]])
    assert Run.open(tamed.folder).config.training == replace(config.training, rate=0.01, clip=1.0)
