"""The benchmark of feeding runs in every place; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.feeding", "--quick", "--steps", "6", "--results", str(tmp_path)]
    answer = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert "| once warm |" in answer.stdout
    (file,) = tmp_path.glob("feeding-*.json")
    found = json.loads(file.read_text())["places"]
    assert list(found) == ["folder", "S3, 0 ms", "S3, 30 ms"]
    for fed in found.values():
        assert fed["training"] > 0
        assert 0 <= fed["waiting_warm"] <= 1
        assert fed["amplification"] >= 1
    assert found["S3, 30 ms"]["reading"] > 0.03, "every sample asks the server at least once"
