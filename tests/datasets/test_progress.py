"""What a long piece of work says: a bar on a terminal, lines elsewhere, nothing where it is short."""

import pytest

from datasets import progress
from datasets.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def work(clock: list[float], seconds: float, *, done: int = 0) -> None:
    with Progress("writing", 20_000_000_000, done=done) as told:
        for _ in range(10):
            clock[0] += seconds / 10
            told.add(1_000_000_000)


def test_lines_every_few_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 30, done=10_000_000_000)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  writing  60% of 20.0 GB, 333.3 MB/s, 0 min 24 s left"
    assert lines[-1] == "  writing 100% of 20.0 GB, 333.3 MB/s, 0 min 00 s left"
    assert len(lines) == 6


def test_a_bar_on_a_terminal(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    work(clock, 30)
    shown = capsys.readouterr().out
    assert shown.count("\r") == 11
    assert shown.endswith(
        "\rwriting [###############               ]  50% of 20.0 GB, 333.3 MB/s, 0 min 30 s left\x1b[K\n"
    )


def test_short_work_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 0.4)
    assert capsys.readouterr().out == ""
