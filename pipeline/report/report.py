"""The command `report`."""

import tempfile
from pathlib import Path

from datasets.errors import InputError
from pipeline.config import ReportConfig
from pipeline.report.content import describe
from pipeline.report.evidence import gather
from pipeline.report.page import write_page
from pipeline.report.sweep import write_sweep_report
from pipeline.run import Run
from pipeline.tracking.outbox import reason
from pipeline.tracking.store import lacks_file


def report(config: ReportConfig, *, overwrite: bool = False) -> Path:
    """Write the page of a run or a sweep, log it to MLflow where that answers, and return its place.

    A page outside the run's folder is replaced only with `overwrite`. `InputError` where there is no run, or the page
    cannot go where it should.
    """
    if not config.run:
        raise InputError("name the folder of a run: python -m pipeline report runs/NAME")
    folder = Path(config.run)
    run = None if (folder / "sweep.json").is_file() else Run.open(folder)  # refused before the page gets a folder
    out = None if config.out is None else _place(Path(config.out), overwrite)
    if run is None:
        page, uri, run_id = write_sweep_report(folder, out)
    else:
        page, uri, run_id = write_report(run, out), run.tracking_uri, run.read("tracking.json").get("run_id", "")
    print(f"report:      {page}")
    print(f"MLflow:      {_log(uri, run_id, page)}")
    return page


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write the page of a run, into its folder by default."""
    with tempfile.TemporaryDirectory() as aside:
        return write_page("report.html.j2", describe(gather(run, Path(aside))), out or run.folder / "report.html")


def _place(out: Path, overwrite: bool) -> Path:
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"out is {str(out)!r}, which does not end in .html; name the page itself")
    if out.is_dir():
        raise InputError(f"{out} is a folder; name the page itself")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another place, or pass --overwrite to replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _log(uri: str, run_id: str, page: Path) -> str:
    from pipeline.tracking.tracker import Tracker  # takes two seconds, and the page is written by then

    if not run_id:
        return "not logged: it has no MLflow run"
    if lacks_file(uri):
        return f"not logged: there is no {uri.removeprefix('sqlite:///')}"
    try:
        Tracker(uri, run_id).artifact(page)
    except Exception as error:  # of HTTP, SQL, the file system, a run deleted there
        return f"not logged: {reason(error)}"
    return f"logged as {page.name}"
