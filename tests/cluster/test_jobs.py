"""Jobs for real: from a clean checkout to a Ray head that asks for a token, on a volume in a real S3 store."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from datasets.store import open_node
from pipeline import cli
from pipeline.checkpoints.checkpoint import latest_checkpoint, read_meta
from pipeline.run import Run
from tests.cloud.seaweed import BUCKET, Server
from tests.cluster.head import RAY, ray, serve
from tests.pipeline.processes import largest_difference, wait_for_step, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
VOLUME = f"s3://{BUCKET}/jobs/small.zarr"
PIPELINE = [sys.executable, "-m", "pipeline"]


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    with serve(cpus=3) as environment:
        yield environment


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("jobs") / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place)], check=True)
    return place


@pytest.fixture(scope="module")
def submit(head: dict[str, str], checkout: Path, s3_server: Server) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Submit a job by the checkout's helper, with the caller's credentials, which the cluster does not have."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "cluster/submit.py", "--env", "NO_PROXY", "--", *PIPELINE, *words],
            cwd=checkout, env=head | s3_server.environment(), capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def volume(submit: Callable[..., subprocess.CompletedProcess[str]]) -> str:
    """A synthetic survey that a job wrote into the store."""
    done = submit("synthesize", "pipeline/recipes/synthesize/small.yaml", "--out", VOLUME, "--shape", "[48, 48, 32]")
    assert done.returncode == 0, done.stdout + done.stderr
    return VOLUME


def recipe(runs: Path, volume: str, name: str, workers: int, steps: int, every: int) -> list[str]:
    return [
        "train", "pipeline/recipes/quickstart.yaml", "--name", name, "--runs", str(runs), "--data.source", volume,
        "--cluster.address", "auto", "--cluster.workers", str(workers), "--cluster.cpus_per_worker", "1",
        "--training.batch", "2", "--training.steps", str(steps), "--training.validate_every", str(every),
    ]  # fmt: skip


def walk() -> str:
    """The jobs of the page, as they are written there but smaller: a survey, a run of two workers, a map, a sweep."""
    page = (ROOT / "cluster" / "README.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (block,) = [one for one in blocks if "synthesize" in one and "$PWD" in one]
    smaller = {
        "synthesize": "--shape '[48, 48, 32]'",
        "train": "--training.steps 4 --training.validate_every 2",
        "tune": "--training.steps 4 --training.validate_every 2 --sweep.trials 2",
    }
    for name, settings in smaller.items():
        block, count = re.subn(rf"(pipeline {name} \S+)", rf"\1 {settings}", block)
        assert count == 1
    return block


def status(job: str, head: dict[str, str]) -> str:
    return ray(["job", "status", job], head).stdout


def test_nobody_gets_in_without_the_token(head):
    stranger = {name: value for name, value in head.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": "/nonexistent"}
    for environment in (stranger | {"RAY_AUTH_MODE": "disabled"}, stranger | {"RAY_AUTH_TOKEN": "a" * 64}):
        done = ray(["job", "submit", "--", "true"], environment)
        assert done.returncode != 0
        assert "authentication" in (done.stdout + done.stderr).lower()


def test_the_walk_of_the_page_ends_with_a_sweep(head, checkout):
    done = subprocess.run(
        ["bash", "-euo", "pipefail"], input=walk(), cwd=checkout, env=head,
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("succeeded") == 4
    assert "mapping 48 x 48 x 32 cells in one piece, in 2 slabs" in done.stdout
    assert set(np.unique(open_node(str(checkout / "maps" / "small.zarr"))["class"][:])) <= {0, 1}
    assert Run.open(checkout / "runs" / "quickstart").read("metrics.json")["steps"] == 4
    table = (checkout / "runs" / "quickstart-sweep" / "trials.md").read_text()
    assert len(table.splitlines()) == 2 + 2
    assert table in done.stdout


def test_one_worker_on_a_volume_in_the_store_reports_to_the_teams_server(
    submit, volume, tmp_path, s3_server, mlflow_server
):
    words = recipe(tmp_path, volume, "one", workers=1, steps=6, every=3)
    done = submit(*words, "--tracking.uri", mlflow_server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ray job submit --working-dir ")
    assert s3_server.environment()["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
    assert "step 6/6" in done.stdout, "the log is streamed"
    assert "succeeded" in done.stdout + done.stderr
    run = Run.open(tmp_path / "one")
    assert run.read("metrics.json")["steps"] == 6
    assert run.tracking_uri == mlflow_server
    tags = MlflowClient(mlflow_server).get_run(run.read("tracking.json")["run_id"]).data.tags
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    known = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert tags["code_version"] == known.removesuffix("-dirty"), "the upload is no checkout, but knows its commit"


def test_a_refused_recipe_fails_the_job_with_its_sentence(submit, head, tmp_path):
    done = submit(*recipe(tmp_path, f"s3://{BUCKET}/jobs/nowhere.zarr", "lost", workers=1, steps=6, every=3))
    assert done.returncode == 1, "Ray's own code for a job that failed"
    assert "error: " in done.stdout
    assert "nowhere.zarr" in done.stdout
    (job,) = [word.strip("'") for word in done.stdout.split() if word.startswith("'raysubmit_")][:1]
    said = status(job, head)
    assert f"Job '{job}' failed" in said
    assert "exit code 2" in said, "ours, by which a refusal is told from a crash"
    assert not (tmp_path / "lost").exists()


def run_until_stopped(job: str, words: list[str], checkout: Path, head: dict[str, str]) -> str:
    """Submit a job by the plain command, stop it once it has said how far it is, and return all that it said."""
    command = [RAY, "job", "submit", "--working-dir", ".", "--submission-id", job, *words]
    with subprocess.Popen(
        command, cwd=checkout, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            heard = []
            for line in process.stdout:
                heard.append(line)
                if re.search(r"step \d+/", line):
                    break
            assert "RUNNING" in status(job, head), f"the log comes while the job runs: {heard}"
            stopped = ray(["job", "stop", job], head)
            assert stopped.returncode == 0, stopped.stdout + stopped.stderr
            heard += process.stdout.readlines()
        finally:
            process.kill()
    assert f"Job '{job}' was stopped" in status(job, head)
    return "".join(heard)


def test_two_workers_stop_with_a_checkpoint_and_go_on(head, volume, checkout, tmp_path, s3_server):
    variables = tmp_path / "environment.json"
    variables.write_text(json.dumps({"env_vars": s3_server.environment() | {"RAY_JOB_STOP_WAIT_TIME_S": "600"}}))
    words = ["--runtime-env", str(variables), "--", *PIPELINE]
    words += recipe(tmp_path, volume, "two", workers=2, steps=100_000, every=10)
    steps = []
    for job in ("first", "second"):
        heard = run_until_stopped(job, words + ["--resume"] * (job == "second"), checkout, head)
        run = Run.open(tmp_path / "two")
        steps.append(run.read("outcome.json")["step"])
        assert f"stopped at step {steps[-1]} with a checkpoint; go on with the same command and --resume" in heard
        assert read_meta(latest_checkpoint(run.checkpoints)).step == steps[-1]
        said = [int(step) for step in re.findall(r"step (\d+)/100000", heard)]
        assert said[0] > [0, *steps][-2], "it goes on where it was"
        client, run_id = MlflowClient(run.tracking_uri), run.read("tracking.json")["run_id"]
        assert client.get_run(run_id).info.status == "KILLED"
    history = [json.loads(line)["step"] for line in (run.folder / "history.jsonl").read_text().splitlines()]
    assert history == list(range(1, steps[-1] + 1)), "no step is lost and none taken twice"


def driver_of(name: str) -> int:
    """Find the process that trains the run of a name; its workers and the shell that started it look otherwise."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # ended in between
            continue
        if words[1:4] == ["-m", "pipeline", "train"] and words[words.index("--name") + 1] == name:
            return int(place.parent.name)
    raise AssertionError(f"nobody trains {name}")


def test_a_killed_driver_takes_its_workers_along_and_the_next_job_goes_on(
    submit, head, volume, tmp_path, s3_server, monkeypatch
):
    """The cluster lives on, so that workers left over would write beside those of the next job."""
    words = recipe(tmp_path, volume, "orphaned", workers=2, steps=24, every=6)
    whole: list[subprocess.CompletedProcess[str]] = []
    job = threading.Thread(target=lambda: whole.append(submit(*words)))
    job.start()
    wait_for_step(tmp_path / "orphaned", 9)
    os.kill(driver_of("orphaned"), signal.SIGKILL)
    job.join()
    assert whole[0].returncode == 1, whole[0].stdout + whole[0].stderr
    assert "failed" in whole[0].stdout + whole[0].stderr
    again = submit(*words, "--resume")
    assert again.returncode == 0, again.stdout + again.stderr
    run = Run.open(tmp_path / "orphaned")
    taken = [json.loads(line)["step"] for line in (run.folder / "history.jsonl").read_text().splitlines()]
    back = [place for place in range(1, len(taken)) if taken[place] != taken[place - 1] + 1]
    assert len(back) <= 1, "the workers of the first driver went on beside those of the second"
    assert all(taken[place] in (7, 13, 19) for place in back), "not from its newest checkpoint"
    assert set(taken) == set(range(1, 25))
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    alone = recipe(tmp_path, volume, "alone", workers=0, steps=24, every=6)
    alone[alone.index("--cluster.address") + 1] = "local"
    assert cli.main(alone) == 0
    assert largest_difference(weights_of(Run.open(tmp_path / "alone")), weights_of(run)) == 0
