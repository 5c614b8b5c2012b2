"""Peak memory of a training step does not grow with depth, while plain autograd's does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.config import NetworkConfig
from models.network import TelegraphNetwork
from tests.benchmarks.memory import measure_apart, state_bytes
from tests.models.pretended import device_without_numbers
from tests.models.tracking import live_peak

EDGE = 256


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident peak from /proc")
def test_peak_memory_is_flat_in_depth() -> None:
    shallow, deep = (measure_apart("bytes", "ours", depth, EDGE, "cpu") for depth in (8, 64))
    assert deep <= 1.02 * shallow
    assert shallow < 7 * state_bytes(EDGE)
    assert measure_apart("bytes", "plain", 32, EDGE, "cpu") > 2 * shallow


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.parametrize("settings", [{}, {"force_dtype": "bfloat16"}, {"states": "exact"}], ids=str)
def test_on_a_gpu_the_tensors_of_a_step_take_five_states_at_any_depth(settings: dict[str, Any]) -> None:
    """What its libraries take beside them is for `test_devices.py` to find out on one."""
    edge, channels, peaks = 112, 64, []
    for depth in (8, 64):
        with device_without_numbers() as device, device:
            network = TelegraphNetwork(NetworkConfig(layers=f"8*{depth}", **settings), 3, channels)

            def step(network: TelegraphNetwork = network) -> None:
                x_BcN = torch.randn(1, channels, edge, edge, edge)
                network(x_BcN, channels=slice(4)).square().mean().backward()

            peaks.append(live_peak(step) / (4 * channels * edge**3) - 1)  # the input, which is there before
    assert 4.5 < max(peaks) <= 5
    assert peaks[1] <= 1.01 * peaks[0]


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
