"""The benchmarks run, compare like with like, and say what they should; their figures are not judged here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.config import parse_layers
from tests.benchmarks import __main__ as suite
from tests.benchmarks import inversion, network, paper, peers
from tests.benchmarks.cases import CASES, QUICK, Case, even_hourglass
from tests.benchmarks.measuring import ROOT
from tests.benchmarks.ways import WAYS, Way, make

CPU = torch.device("cpu")
GRADIENT = [name for name in WAYS if not name.startswith("ours-exact") and name != "plain-bf16"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_all_ways_have_the_gradients_of_one_network(case: Case) -> None:
    x_BcN = case.volume(CPU)
    found = {}
    for name in GRADIENT:
        way = make(name, case, CPU)
        way.loss(x_BcN).backward()
        kernels = [weight.grad for weight in way.module.parameters() if weight.dim() > 1]
        if name == "conventional":
            kernels = [grad.movedim((0, 1), (-2, -1)) for grad in kernels if grad is not None]
        found[name] = kernels
    for name, kernels in found.items():
        for mine, true in zip(kernels, found["plain"], strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-3, atol=1e-4 * float(true.abs().max()), msg=name)


def test_a_way_that_computes_something_else_is_not_timed() -> None:
    ways = {name: make(name, QUICK[0], CPU) for name in ("ours", "plain")}
    with torch.no_grad():
        next(ways["ours"].module.parameters()).mul_(3)
    with pytest.raises(ValueError, match="ours, float32 has a loss of"):
        network.same_loss(ways, QUICK[0].volume(CPU))


@pytest.mark.parametrize("name", peers.PEERS)
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore")
def test_peers_are_equal_work_and_differentiate_as_plain_autograd(name: str, case: Case) -> None:
    pytest.importorskip("memcnn" if name == "iunets" else name)
    pytest.importorskip(name)
    x_BCN, net = case.volume(CPU), peers.build(name, case)
    forces = [module for module in net.modules() if isinstance(module, peers.Residual)]
    assert len(forces) == len(parse_layers(case.layers))
    both_BCN = torch.cat([x_BCN, x_BCN], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(net.inverse(net(x_BCN)), both_BCN, rtol=1e-4, atol=1e-5)
    mine = inversion.gradients(net, net(x_BCN))
    stored = peers.build(name, case, stored=True)
    assert mine
    assert inversion.relative(mine, inversion.gradients(stored, stored(x_BCN))) < 1e-5


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda module: module != "memcnn" or None)
    assert peers.installed() == ["revlib"]
    assert peers.missing().startswith("missing: MemCNN 1.5.2, iUNets 0.1; pip install --no-deps -r ")


def _run(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr("sys.argv", [module, "--quick", *arguments])
    {"network": network, "inversion": inversion}[module].main()
    return capsys.readouterr().out


def test_time_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "installed", list)
    table = _run("network", ["--results", str(tmp_path), "--cases", "3-D"], monkeypatch, capsys)
    assert table.startswith("| time / plain autograd | 3-D, C 64, r 2 |")
    (file,) = tmp_path.glob("network-*.json")
    (case,) = json.loads(file.read_text())["cases"]
    assert list(case["ways"]) == list(WAYS)
    assert case["ways"]["plain"]["ratio"] == 1


def test_inversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "installed", list)
    places = ["--results", str(tmp_path), "--picture", str(tmp_path / "inversion.png")]
    table = _run("inversion", places, monkeypatch, capsys)
    assert table.startswith("| inversion error at depth | 10 | 14 |")
    assert "| exact, bf16 force | 0 | 0 |" in table
    assert "| float32 | 0 |" not in table
    assert (tmp_path / "inversion.png").stat().st_size > 10_000


@given(st.integers(0, 3), st.integers(1, 40))
def test_hourglasses_have_even_stages(levels: int, half: int) -> None:
    depth = 2 * (half + 2 * levels + 1)
    case = Case("", 2, 4, even_hourglass(depth, 2, levels), 8)
    counts = [len(layers) for _, layers in case.stages()]
    assert sum(counts) == depth
    assert len(counts) == 2 * levels + 1
    assert not any(count % 2 for count in counts)


def test_operations_are_those_of_convolutions() -> None:
    case = Case("", 2, 4, "8*1 d8*1", 8)
    product = 2 * 9 * 8 * (4 * 64 + 16 * 16)
    assert case.flops(stored=True) == 6 * product
    assert 7 * product < case.flops(stored=False) < 8 * product, "some of them are kept"
    assert all(case.flops(stored=True) > 0 for case in CASES)


def test_a_way_that_fails_is_left_out_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(way: Way, *arguments: Any) -> None:
        if way.tf32:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Way, "train", train)
    seconds = network.time_case(QUICK[0], ["plain", "plain-tf32", "ours"], CPU, 2)
    assert {name: len(taken) for name, taken in seconds.items()} == {"plain": 2, "ours": 2}
    case = {"name": "a case", "ways": {"plain": {"ratio": 1.0, "ratio_spread": 0.0, "seconds": 0.5}}}
    table = network.ratios_table([case], ["plain", "plain-tf32"])
    assert table.splitlines()[3] == "| plain autograd, TF32 as PyTorch sets it | failed |"


def test_the_papers_figures_follow_from_its_recipes() -> None:
    state = {name: paper.state_bytes(name, 1) for name in paper.PAPER}
    layers = {name: len(parse_layers(paper.config_of(name).layers)) for name in paper.PAPER}
    assert [round(3 * state[name] / 1e9, 2) for name in ("seismic", "hyperspectral")] == [2.20, 3.74]
    assert [round(layers[name] * state[name] / 1e9, 2) for name in ("seismic", "hyperspectral")] == [21.96, 22.47]
    assert [round(number / 1e9, 2) for number in paper.kernel_bytes("seismic")] == [0.23, 41.16]
    assert paper.sizes_at("seismic", 0.25) == (64, 64, 64)
    assert paper.measure("bytes", "ours", "hyperspectral", 1 / 16, CPU) < 40 * paper.state_bytes("hyperspectral", 1 / 4)


def test_all_of_them_run_where_neither_ray_nor_a_reader_is_installed() -> None:
    absent = ("ray", "mlflow", "dask", "zarr", "obstore", "jsonargparse", "rasterio", "optuna", "monai")
    modules = ", ".join(f"tests.benchmarks.{name}" for name in suite.SHARES)
    program = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nimport {modules}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_a_benchmark_that_fails_or_takes_too_long_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert suite.run("network", ["--quick"], 0.01) == "stopped after 0 s"
    monkeypatch.setattr(suite, "SHARES", dict.fromkeys(("missing", "cases", "network"), 1.0))
    monkeypatch.setattr(sys, "argv", ["tests.benchmarks", "--quick", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        suite.main()
    missing, cases, ours = capsys.readouterr().out.splitlines()[-3:]
    assert missing.startswith("missing: failed after")
    assert cases.startswith("cases: done in")
    assert ours.startswith("network: done in")
    assert len(list(tmp_path.glob("network-*.json"))) == 1
