"""The benchmark of reading runs, and its peers read what ours reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_its_figures(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.benchmarks.reading", "--quick", "--repeats", "1"]
    methods = ["ours", "ours, index known", "zarr", "raw"]  # the others are no requirement of the project
    answer = subprocess.run(
        [*command, "--results", str(tmp_path), "--methods", *methods],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "across 8 shards" in answer.stdout
    (file,) = tmp_path.glob("reading-*.json")
    report = json.loads(file.read_text())
    assert list(report["milliseconds"]) == ["folder", "S3, 0 ms", "S3, 30 ms"]
    for table in report["milliseconds"].values():
        assert all(list(row) == methods and min(row.values()) > 0 for row in table.values())
    assert report["milliseconds"]["S3, 30 ms"]["partial shard"]["ours"] >= 60, "an index and a range, 30 ms each"
    assert 1 <= report["stamina"]["amplification"] <= 1.3
