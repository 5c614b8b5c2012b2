"""What reading cost: between two reports, over a whole run with its restarts, and in the words of the terminal."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipeline.checkpoints.storage import directory_storage
from pipeline.run import Run
from pipeline.tracking.reading import ReadingMeter, reading_in_words, summarise_reading
from pipeline.training.context import Context
from pipeline.training.loop import fit
from pipeline.training.prepare import prepare
from tests.pipeline.ranks.ranks import on_ranks

CPU = torch.device("cpu")


class Notes:
    """A listener that keeps the numbers."""

    def __init__(self):
        self.rows = []

    def metrics(self, step, values):
        self.rows.append({"step": step, **values})

    def progress(self, line):
        pass


def counters():
    loader = SimpleNamespace(samples_read=0, bytes_read=0, waited=0.0)
    traffic = SimpleNamespace(fetched=0, used=0.0, requests=0)
    return loader, traffic


def test_a_report_counts_from_the_one_before():
    loader, traffic = counters()
    loader.waited, traffic.fetched, traffic.used = 5.0, 2**30, 2.0**30  # before training: not ours
    meter = ReadingMeter(loader, traffic)
    loader.samples_read, loader.bytes_read, loader.waited = 4, 3 * 2**20, 6.0
    traffic.fetched, traffic.used, traffic.requests = 2**30 + 6 * 2**20, 2.0**30 + 4 * 2**20, 7
    meter.step(1.0)
    meter.step(2.0)
    assert meter.waiting_share == pytest.approx(1 / 4)
    assert meter.report(CPU) == {
        "reading/samples": 4,
        "reading/read_mib": 3,
        "reading/waited_s": 1,
        "reading/step_s": 4,
        "reading/fetched_mib": 6,
        "reading/used_mib": 4,
        "reading/requests": 7,
        "reading/waiting_share": 0.25,
        "reading/amplification": 1.5,
    }
    loader.samples_read = 5
    meter.step(1.0)
    again = meter.report(CPU)
    assert (again["reading/samples"], again["reading/waiting_share"]) == (1, 0)
    assert "reading/amplification" not in again  # nothing was fetched


def test_a_store_that_does_not_count_leaves_its_numbers_out():
    loader, _ = counters()
    assert ReadingMeter(loader).report(CPU).keys() == {
        "reading/samples", "reading/read_mib", "reading/waited_s", "reading/step_s", "reading/waiting_share",
    }  # fmt: skip


def row(step, waited, worked, samples=2.0, **more):
    values = {"waited_s": waited, "step_s": waited + worked, "samples": samples, "read_mib": 10.0, **more}
    return {"step": step, **{f"reading/{key}": value for key, value in values.items()}}


def test_the_summary_of_a_run_adds_its_reports_and_knows_the_cold_one():
    history = [
        {"step": 1, "loss": 1.0},
        row(2, 5.0, 5.0),
        {"step": 3, "loss": 1.0},
        row(4, 1.0, 9.0),
        row(6, 0.0, 20.0),
    ]
    summary = summarise_reading(history)
    assert (summary["samples"], summary["read_mib"]) == (6, 30)
    assert summary["waiting_share"] == pytest.approx(6 / 40)
    assert summary["warm_waiting_share"] == pytest.approx(1 / 30)
    assert reading_in_words(summary) == "waited 15.0% of the step time (3.3% once warm), 6 samples, 30.0 MiB"
    assert summarise_reading([{"step": 1, "loss": 1.0}]) == {}


def test_the_amplification_of_a_run_is_that_of_all_its_bytes():
    history = [row(2, 0.0, 1.0, fetched_mib=30.0, used_mib=10.0), row(4, 0.0, 1.0, fetched_mib=10.0, used_mib=30.0)]
    summary = summarise_reading(history)
    assert summary["amplification"] == 1.0
    assert reading_in_words(summary).endswith(", 1.00 bytes fetched for each one used")


def test_the_loop_logs_the_traffic_of_a_store_that_counts(recipe, monkeypatch):
    run = prepare(recipe(steps=8))
    traffic = SimpleNamespace(fetched=0, used=0.0, requests=0)
    monkeypatch.setattr(type(run.volume), "traffic", traffic)

    class Reads(Notes):
        def metrics(self, step, values):
            super().metrics(step, values)
            traffic.fetched, traffic.used, traffic.requests = (
                traffic.fetched + 3,
                traffic.used + 2,
                traffic.requests + 1,
            )

    notes = Reads()
    fit(run, Context(listener=notes))
    reports = [row for row in notes.rows if "reading/samples" in row]
    assert [row["step"] for row in reports] == [4, 8]
    assert [row["reading/samples"] for row in reports] == [8, 8]
    assert [row["reading/requests"] for row in reports] == [3, 4]  # a report is made before its step is noted
    assert all(row["reading/amplification"] == pytest.approx(1.5) for row in reports)
    assert all(0 <= row["waiting_share"] <= 1 for row in notes.rows)


def one_of_two(rank: int, world: int, folder: str) -> None:
    """Train on one of two workers; the first writes down what was reported."""
    run, notes = Run.open(folder), Notes()
    store = directory_storage(run.checkpoints) if rank == 0 else lambda *_: None
    fit(run, Context(rank=rank, world=world, listener=notes, store=store))
    if rank == 0:
        run.write("notes.json", {"rows": notes.rows})


@pytest.mark.slow
def test_a_report_sums_over_the_ranks(recipe):
    config = recipe(steps=6, batch=3, validate_every=3)
    run = prepare(replace(config, data=replace(config.data, block=[8, 8], halo=[4, 4])))
    on_ranks(one_of_two, 2, str(run.folder))
    alone = Notes()
    fit(run, Context(listener=alone))
    together = run.read("notes.json")["rows"]
    for one, two in zip(alone.rows, together, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
        for key in ("reading/samples", "reading/read_mib"):
            assert one.get(key) == two.get(key)
