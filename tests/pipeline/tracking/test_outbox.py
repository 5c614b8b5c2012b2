"""A server that goes away and comes back, and what it gets in the end."""

import errno
import os
import threading

from mlflow.tracking import MlflowClient

from pipeline.tracking import outbox
from pipeline.tracking.journal import Journal
from pipeline.tracking.outbox import Outbox, RefusedError
from pipeline.tracking.tracker import Tracker
from pipeline.training.prepare import prepare
from pipeline.training.train import open_tracking


class Server:
    """Takes entries while it is up."""

    def __init__(self) -> None:
        self.up, self.got, self.tried = True, [], threading.Event()

    def take(self, entries):
        self.tried.set()
        if not self.up:
            raise ConnectionError("refused\nat length")
        self.got += entries


def test_entries_arrive_in_order_and_nothing_is_left(tmp_path):
    server = Server()
    box = Outbox(tmp_path / "box", server.take, "the server")
    for number in range(1000):
        box.post(["metrics", number])
    assert box.close()
    assert server.got == [["metrics", number] for number in range(1000)]
    assert (tmp_path / "box").read_bytes() == b""


def test_what_a_server_misses_is_kept_said_once_and_sent_when_it_answers(tmp_path, capsys):
    server = Server()
    server.up = False
    box = Outbox(tmp_path / "box", server.take, "the server")
    for number in range(5):
        box.post([number])
        assert not box.flush()
    assert (tmp_path / "box").read_text() == "".join(f"[{number}]\n" for number in range(5))
    shown = capsys.readouterr().out
    assert shown.count("the server does not answer (refused); training goes on. What it misses waits in") == 1
    server.up = True
    box.post([5])
    assert box.close()
    assert server.got == [[number] for number in range(6)]
    assert "the server answers again and has got what it missed" in capsys.readouterr().out


def test_a_server_that_comes_back_is_noticed_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "_PATIENCE_S", 0.01)
    server = Server()
    server.up = False
    box = Outbox(tmp_path / "box", server.take, "the server")
    box.post([1])
    assert server.tried.wait(60)
    server.up = True
    server.tried.clear()
    assert server.tried.wait(60)
    assert box.close()
    assert server.got == [[1]]


def test_the_next_process_sends_what_a_killed_one_left_and_minds_no_torn_line(tmp_path):
    (tmp_path / "box").write_text('["a"]\n["b"]\n["torn')
    server = Server()
    box = Outbox(tmp_path / "box", server.take, "the server")
    box.post(["c"])
    assert box.close()
    assert server.got == [["a"], ["b"], ["c"]]


def test_mlflow_has_every_step_once_though_it_was_told_twice(recipe, monkeypatch):
    monkeypatch.setattr(outbox, "_PATIENCE_S", 1e6)
    run = prepare(recipe())
    run_id = open_tracking(run)
    with_gap = Journal.open(run, run_id)
    for step in (1, 2, 3):
        with_gap.metrics(step, {"loss": 1.0 / step})
    kept = run.outbox.read_bytes()
    with_gap.close()
    run.outbox.write_bytes(kept)  # as after a kill between sending and noting it
    Tracker(run.tracking_uri, run_id, run.outbox).end("FINISHED")
    client = MlflowClient(run.tracking_uri)
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2, 3]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert run.outbox.read_bytes() == b""


def test_a_line_that_a_full_disk_cut_holds_nothing_up_and_is_sent(tmp_path, monkeypatch):
    server = Server()
    box = Outbox(tmp_path / "box", server.take, "the server")
    write, room = os.write, [5]

    def full(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, data[: room[0]])
        room[0] -= done
        return done

    server.up = False
    monkeypatch.setattr("pipeline.tracking.lines.os.write", full)
    box.post(["metrics", 1])
    box.post(["metrics", 2])
    assert (tmp_path / "box").read_bytes() == b'["met'
    assert not box.flush()
    assert not box.flush(), "the server is away still"
    room[0] = 3
    box.post(["status", "FINISHED"])
    server.up = True
    assert box.close()
    assert server.got == [["metrics", 1], ["metrics", 2], ["status", "FINISHED"]]
    assert (tmp_path / "box").read_bytes() == b""


def test_what_a_server_refuses_does_not_hold_up_the_rest(tmp_path, capsys):
    got = []

    def picky(entries):
        if ["bad"] in entries:
            raise RefusedError("no such run")
        got.extend(entries)

    box = Outbox(tmp_path / "box", picky, "the server")
    for entry in (["good", 1], ["bad"], ["good", 2], ["bad"]):
        box.post(entry)
    assert box.close()
    assert got == [["good", 1], ["good", 2]]
    assert capsys.readouterr().out == "the server refuses bad and perhaps more (no such run)\n"


def test_a_run_that_was_deleted_refuses(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    tracker = Tracker(uri, "0" * 32, tmp_path / "box")
    tracker.tag("a", "b")
    tracker.close()
    assert (tmp_path / "box").read_bytes() == b""
    assert client.get_run(run_id).data.tags.get("a") is None
