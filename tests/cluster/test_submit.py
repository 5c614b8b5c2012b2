"""The helper that submits jobs: what it hands to ``ray job submit``, what it shows, and what it refuses."""

import json
import shlex
import stat
from pathlib import Path

import pytest

from cluster import submit as helper

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-9f2c"
TRAIN = ["python", "-m", "pipeline", "train", "pipeline/recipes/quickstart.yaml"]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Calls of ``ray``, with the runtime environment as it was while ray would have read it."""
    calls: list[dict] = []

    def call(words: list[str], env: dict[str, str]) -> int:
        path = Path(words[words.index("--runtime-env") + 1])
        calls.append({"words": words, "env": env, "file": path, "mode": stat.S_IMODE(path.parent.stat().st_mode)})
        calls[-1]["runtime"] = json.loads(path.read_text())
        return 7

    monkeypatch.setattr(helper.subprocess, "call", call)
    for name in helper.PASSED:
        monkeypatch.delenv(name, raising=False)
    return calls


def test_it_hands_over_what_ray_job_submit_would_be_given_by_hand(called, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("MY_SETTING", "mine")
    monkeypatch.setenv("HOME_MADE", "stays here")
    code = helper.main(["--env", "MY_SETTING", "--address", "http://127.0.0.1:8265", "--no-wait", "--", *TRAIN])
    (call,) = called
    assert code == 7, "ray's exit code is ours"
    program, *words = call["words"]
    assert Path(program).name == "ray"
    assert words == [
        "job", "submit", "--working-dir", str(call["file"].with_name("checkout.zip")),
        "--address", "http://127.0.0.1:8265", "--no-wait", "--runtime-env", str(call["file"]), "--", *TRAIN,
    ]  # fmt: skip
    assert set(call["runtime"]) == {"env_vars"}
    commit = call["runtime"]["env_vars"].pop("TELEGRAPHER_COMMIT")
    assert len(commit.removesuffix("-dirty")) == 40
    assert call["runtime"]["env_vars"] == {
        "RAY_JOB_STOP_WAIT_TIME_S": "120", "AWS_SECRET_ACCESS_KEY": SECRET, "MY_SETTING": "mine",
    }  # fmt: skip
    shown = capsys.readouterr().out.splitlines()
    assert shlex.split(shown[0]) == ["ray", *words]
    names = "RAY_JOB_STOP_WAIT_TIME_S, TELEGRAPHER_COMMIT, AWS_SECRET_ACCESS_KEY, MY_SETTING"
    assert shown[1] == f"runtime environment: {names}"


def test_no_value_is_shown_or_left_behind(called, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    helper.main(["--", *TRAIN, "--tracking.uri", f"https://me:{SECRET}@mlflow.example"])
    (call,) = called
    assert call["mode"] == 0o700
    assert not call["file"].exists()
    assert SECRET not in "".join(capsys.readouterr())
    assert "https://***@mlflow.example" not in call["words"], "only what is shown is masked"


def test_another_working_directory_is_kept(called):
    helper.main(["--working-dir", "/elsewhere", "--", *TRAIN])
    assert called[0]["words"].count("--working-dir") == 1
    assert "checkout.zip" not in " ".join(called[0]["words"])


def test_without_git_the_checkout_itself_is_handed_over(called, monkeypatch):
    monkeypatch.setattr(helper, "_git", lambda *words: "")
    helper.main(["--", *TRAIN])
    assert called[0]["words"][called[0]["words"].index("--working-dir") + 1] == str(ROOT)
    assert "TELEGRAPHER_COMMIT" not in called[0]["runtime"]["env_vars"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--address", "auto"], "error: no command; put it behind two dashes: -- python -m pipeline train RECIPE\n"),
        (["--"], "error: no command; put it behind two dashes: -- python -m pipeline train RECIPE\n"),
        (
            ["--env", "NOWHERE", "--", "true"],
            "error: --env NOWHERE: not set in this shell; export it, or leave it out\n",
        ),
        (
            ["--runtime-env-json={}", "--", "true"],
            "error: --runtime-env is what this fills in; run `ray job submit` itself to give your own\n",
        ),
    ],
)
def test_a_refusal_says_what_to_do_and_runs_nothing(called, capsys, words, text):
    assert helper.main(words) == 2
    assert capsys.readouterr().err == text
    assert called == []


def test_ray_knows_the_options_that_it_is_given():
    from ray.dashboard.modules.job.cli import submit

    assert {"--working-dir", "--runtime-env"} <= {option for given in submit.params for option in given.opts}
