"""The page of a sweep: what was found, what was turned away and failed, as far as it has come."""

from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.trials import forget_trials, read_trials, write_trials
from tests.pipeline.report.pages import Page


def page_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", str(folder)]) == 0
    assert f"report:      {folder / 'report.html'}" in capsys.readouterr().out
    page = Page(folder / "report.html")
    assert not page.open, "an element is not closed"
    assert not page.all("script")
    return page.source


def test_a_sweep_at_work_shows_what_there_is(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page_of(sweep, capsys)
    for words in (
        "not ended (still at work, or stopped); 1 trials begun",
        '<th scope="row">trial-one</th><td>4 d4 u4</td><td>1</td><td>0.625</td>',
        "0.001 to 0.01, logarithmic",
        "highest validation mIoU, lowest s a step",
        "depth 3, levels 1, rank 9000, learning rate 0.002</th><td>needs &lt;124&gt; MB",
        "memory of a worker</dt><dd>2.5 MB",
        "git checkout abc123\n",
        " --resume --runs ",
        "    # go on with this one",
    ):
        assert words in text, words
    assert "<img" not in text


def test_a_sweep_that_ended_shows_trials_pictures_and_failures(
    ended_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page_of(ended_sweep, capsys)
    cells = "<td>5</td><td>1</td><td>2</td><td>0.004</td><td>0.750</td><td>1,234</td><td>1.5 MB</td>"
    cells += "<td>9 MB</td><td>0.25</td>"
    for words in (
        f"trial-one</th>{cells}<td>8 (stopped)</td><td>yes</td>",
        "A trial failed: ValueError: it &lt;broke&gt;",
        'src="data:image/png;base64,',
        "The best is depth 5, levels 1, rank 2, learning rate 0.004.",
        "--resume --finish --runs ",
        "    # retrain, test and register the best",
    ):
        assert words in text, words
    assert "at &lt;here&gt;" not in text
    assert text.count("<figure>") == 1
    forget_trials(ended_sweep)  # as a sweep does that goes on
    assert "not ended (still at work, or stopped)" in page_of(ended_sweep, capsys)


def test_a_sweep_from_before_peaks_were_measured_still_has_its_page(
    ended_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = read_trials(ended_sweep)
    assert known is not None
    write_trials(ended_sweep, [{key: row[key] for key in row if key != "peak"} for row in known["rows"]], [])
    text = page_of(ended_sweep, capsys)
    assert "<td>1,234</td><td>1.5 MB</td><td>0.25</td>" in text
    assert "measured peak" not in text


def test_a_page_of_nothing_is_refused_and_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none"), "--out", str(tmp_path / "new" / "page.html")]) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
