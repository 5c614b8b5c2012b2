"""Training without Ray: the same loop, the same folder, the same checkpoints."""

import torch

from pipeline.run import Run
from pipeline.tracking.journal import Journal
from pipeline.training.checkpoint import latest_checkpoint
from pipeline.training.context import Context
from pipeline.training.finish import finish
from pipeline.training.interrupt import asked_to_stop
from pipeline.training.loop import fit
from pipeline.training.storage import stored_behind


def train_here(run: Run, run_id: str) -> None:
    """Train a prepared run in this process, and feed the MLflow run `run_id`."""
    resume = latest_checkpoint(run.checkpoints)
    journal = Journal.open(run, run_id)
    before = torch.get_num_threads()
    torch.set_num_threads(run.config.cluster.cpus_per_worker or before)
    try:
        with asked_to_stop() as asked:
            with stored_behind(run.checkpoints) as store:
                context = Context(
                    device=torch.device("cuda" if run.config.cluster.gpu else "cpu"),
                    resume=resume,
                    store=store,
                    interrupted=asked.is_set,
                    listener=journal,
                )
                outcome = fit(run, context)
            finish(run, outcome, journal, context.device)
    finally:
        journal.close()
        torch.set_num_threads(before)
