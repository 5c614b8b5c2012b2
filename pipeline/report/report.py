"""One self-contained HTML page of a run: what it is, how good it is, what it took, how to make it again."""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datasets.errors import InputError
from datasets.provenance import code_version
from pipeline.config import ReportConfig
from pipeline.report.content import describe
from pipeline.report.evidence import gather
from pipeline.run import Run

NAME = "report.html"


def report(config: ReportConfig, *, overwrite: bool = False) -> Path:
    """Write the page of a run, and log it to the run's MLflow run where that answers.

    Parameters
    ----------
    config
        Which run, and where the page goes.
    overwrite
        Whether a page at another place than the run's folder is replaced.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    InputError
        Where there is no run, or the page cannot go where it should.
    """
    if not config.run:
        raise InputError("name the folder of a run: python -m pipeline report runs/NAME")
    run = Run.open(config.run)
    out = run.folder / NAME if config.out is None else _place(Path(config.out), overwrite)
    page = write_report(run, out)
    print(f"report:      {page}")
    print(f"MLflow:      {_log(run, page)}")
    return page


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write the page of a run, whole or not at all.

    Parameters
    ----------
    run
        The run.
    out
        Where to; none means its folder.
    """
    out = run.folder / NAME if out is None else out
    with tempfile.TemporaryDirectory() as aside:
        text = render(describe(gather(run, Path(aside))))
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, out)
    return out


def render(content: dict[str, object]) -> str:
    """Lay content out as HTML; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = f"{datetime.now(UTC).isoformat(timespec='seconds')}, commit {code_version()}"
    return environment.get_template("report.html.j2").render(**content, made=made)


def _place(out: Path, overwrite: bool) -> Path:
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"out is {str(out)!r}, which does not end in .html; name the page itself")
    if out.is_dir():
        raise InputError(f"{out} is a folder; name the page itself")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another place, or pass --overwrite to replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _log(run: Run, page: Path) -> str:
    """Upload the page to the run's MLflow run; returns what became of it. The page is there either way."""
    from pipeline.tracking.tracker import Tracker  # MLflow takes two seconds to import, and the page is written by then

    known = run.read("tracking.json")
    uri = run.tracking_uri
    file = uri.removeprefix("sqlite:///")
    if not known.get("run_id"):
        return "not logged: this run has no MLflow run"
    if file != uri and not Path(file).is_file():
        return f"not logged: there is no {file}"
    try:
        Tracker(uri, known["run_id"]).artifact(page)
    except Exception as error:  # the store decides the type: HTTP, SQL, file system, a run deleted there
        return f"not logged: {str(error).splitlines()[0]}"
    return f"logged as {page.name}"
