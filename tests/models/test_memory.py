"""Peak memory of a training step does not grow with depth, while plain autograd's does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.memory import measure_apart, state_bytes

EDGE = 256


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident peak from /proc")
def test_peak_memory_is_flat_in_depth() -> None:
    shallow, deep = (measure_apart("bytes", "ours", depth, EDGE, "cpu") for depth in (8, 64))
    assert deep <= 1.02 * shallow
    assert shallow < 7 * state_bytes(EDGE)
    assert measure_apart("bytes", "plain", 32, EDGE, "cpu") > 2 * shallow


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident peak from /proc")
def test_the_benchmark_runs_and_writes_table_and_picture(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--quick"]
    places = ["--picture", str(tmp_path / "memory.png"), "--results", str(tmp_path)]
    answer = subprocess.run([*command, *places], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("| layers | 8 | 16 |")
    assert (tmp_path / "memory.png").stat().st_size > 10_000
    (file,) = tmp_path.glob("memory-*.json")
    curves = json.loads(file.read_text())["curves"]
    assert list(curves) == ["ours", "plain"]
    assert all([point["depth"] for point in points] == [8, 16] for points in curves.values())
