"""Submit a job with ``ray job submit``: fill in the runtime environment, say what is run, and hand over.

    python cluster/submit.py [--env NAME ...] [OPTIONS OF ray job submit] -- python -m pipeline train RECIPE ...

The job gets this checkout, compressed, its commit, the variables of `PASSED` that are set here and those named by
``--env``, and time to stop with a checkpoint. Values travel in a file that only this user can read, never in the
command line; names are printed, values never. ``ray job submit --working-dir . --runtime-env FILE`` does the same.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

ROOT = Path(__file__).resolve().parents[1]
PASSED = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
"""Variables that reach storage and MLflow; those that are set go with every job."""
PATIENCE_S = "120"
"""Time that ``ray job stop`` grants a run for its last step and checkpoint; Ray's own 3 s may be too few."""


class SubmitError(Exception):
    """The words do not make a job."""


def split_words(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split the command line.

    Returns
    -------
    tuple of list of str
        Names given by ``--env``, options for ``ray job submit``, and the job's own command.

    Raises
    ------
    SubmitError
        Where there is no command, or the runtime environment is given twice.
    """
    place = list(words).index("--") if "--" in words else len(words)
    before, entry = list(words[:place]), list(words[place + 1 :])
    parser = argparse.ArgumentParser(
        prog="python cluster/submit.py",
        usage=str(__doc__).split("\n\n")[1].strip(),
        description=f"Variables that go with the job where they are set: {', '.join(PASSED)}.",
        epilog="`ray job submit --help` explains its options, such as --address, --no-wait and --submission-id.",
        allow_abbrev=False,
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="pass this variable as well")
    known, rest = parser.parse_known_args(before)
    if not entry:
        raise SubmitError("no command; put it behind two dashes: -- python -m pipeline train RECIPE")
    if any(word.startswith("--runtime-env") for word in rest):
        raise SubmitError("--runtime-env is what this fills in; run `ray job submit` itself to give your own")
    return known.env, rest, entry


def variables(named: Sequence[str], here: Mapping[str, str]) -> dict[str, str]:
    """Collect the variables of the job.

    Raises
    ------
    SubmitError
        Where one that was named is not set.
    """
    for name in named:
        if not here.get(name):
            raise SubmitError(f"--env {name}: not set in this shell; export it, or leave it out")
    found = {name: here[name] for name in (*PASSED, *named) if here.get(name)}
    commit = _git("describe", "--always", "--dirty", "--abbrev=40")
    return {"RAY_JOB_STOP_WAIT_TIME_S": PATIENCE_S} | ({"TELEGRAPHER_COMMIT": commit} if commit else {}) | found


def pack(place: Path) -> Path:
    """Pack what Ray would upload from this checkout, compressed: Ray itself stores, in three times the bytes.

    Returns
    -------
    Path
        The archive, or the checkout itself where git does not know what belongs to it.
    """
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    left = [line.removeprefix("/") for line in (ROOT / ".rayignore").read_text().splitlines() if line.startswith("/")]
    gone = {name for name in names for what in left if what == name.split("/")[0] or fnmatch(name, what)}
    files = [name for name in names if name not in gone and (ROOT / name).is_file()]
    if not files:
        return ROOT
    with ZipFile(place, "w", ZIP_DEFLATED) as archive:
        for name in files:
            archive.write(ROOT / name, name)
    return place


def _git(*words: str) -> str:
    """Ask git about this checkout; it says nothing where it cannot."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def submit(words: Sequence[str], here: Mapping[str, str]) -> int:
    """Run ``ray job submit``; returns its exit code.

    Raises
    ------
    SubmitError
        Before anything is run, where the words do not make a job.
    """
    named, options, entry = split_words(words)
    passed = variables(named, here)
    ray = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{here.get('PATH', '')}")
    if ray is None:
        raise SubmitError("the program ray is missing; pip install -e . brings it")
    with tempfile.TemporaryDirectory(prefix="job-") as folder:  # of mode 0700
        if not any(word.split("=")[0] == "--working-dir" for word in options):
            options = ["--working-dir", str(pack(Path(folder) / "checkout.zip")), *options]
        settings = Path(folder) / "runtime-env.yaml"
        settings.write_text(json.dumps({"env_vars": passed}))  # JSON is YAML
        command = ["job", "submit", *options, "--runtime-env", str(settings), "--", *entry]
        shown = re.sub(r"//[^/\s]*@", "//***@", shlex.join(["ray", *command]))  # a password in a URI
        print(f"{shown}\nruntime environment: {', '.join(passed)}", flush=True)
        return subprocess.call([ray, *command], env=dict(here))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return submit(sys.argv[1:] if words is None else words, os.environ)
    except SubmitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("the job goes on; `ray job logs --follow ID` shows it, `ray job stop ID` ends it", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
