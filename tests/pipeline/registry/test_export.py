"""One exported program for every size, as torch's own and as ONNX, equal to the network."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from datasets.errors import InputError
from models.config import NetworkConfig, SegmenterConfig
from models.segmenter import Segmenter
from pipeline.registry.export import exported
from pipeline.registry.onnx import write_onnx

EXACT = {"states": "exact", "coarsening": "learned", "boundary": "reflect"}
CASES = [
    (2, "3 d8g4 u4p", EXACT | {"validity": True}),
    (2, "3 d1 u1", {}),
    pytest.param(1, "3 d4 u3", {"boundary": "periodic", "padding": "replicate"}, marks=pytest.mark.slow),
    pytest.param(3, "3 d4 u3", {"coarsening": "learned", "padding": "zeros"}, marks=pytest.mark.slow),
    pytest.param(2, "3 d8 u4", {"force_dtype": "float16", "state_bits": 16}, marks=pytest.mark.slow),
]


def segmenter(space: int, layers: str, settings: dict[str, object]) -> Segmenter:
    torch.manual_seed(0)
    validity = bool(settings.get("validity", False))
    rest = {name: value for name, value in settings.items() if name != "validity"}
    network = NetworkConfig(layers=layers, repeat=2, **rest)  # type: ignore[arg-type]
    config = SegmenterConfig(network, space, 3, ["rock", "salt"], validity)
    ones = [1] * space
    model = Segmenter(config, torch.zeros(3, *ones), torch.full((3, *ones), 2.0)).eval()
    with torch.no_grad():
        for angle in model.network.angles.values():
            angle.normal_(std=0.3)
    return model


def example(space: int) -> torch.Tensor:
    return torch.randn(2, 3, *(9, 10, 7)[:space])


def others(space: int) -> list[torch.Tensor]:
    """Inputs of sizes that no program was traced with, with a cell of no data."""
    found = [torch.randn(batch, 3, *sizes[:space]) for batch, sizes in ((1, (16, 8, 12)), (3, (21, 5, 9)))]
    for raw in found:
        raw[0, 0, 1] = math.nan
    return found


@pytest.mark.parametrize(("space", "layers", "settings"), CASES)
def test_an_onnx_file_serves_any_size_and_equals_the_network(
    space: int, layers: str, settings: dict[str, object], tmp_path: Path
) -> None:
    model = segmenter(space, layers, settings)
    path = write_onnx(model, example(space), tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (raw_in,), (out,) = session.get_inputs(), session.get_outputs()
    assert (raw_in.name, out.name) == ("raw", "probabilities")
    assert [isinstance(size, str) for size in raw_in.shape] == [True, False, *[True] * space]
    # Where a force falls between two numbers of the grid, the runtimes' last bits decide to which it is rounded.
    tolerance = 2e-3 if "state_bits" in settings else 2e-5 if "states" in settings else 1e-6
    for raw in others(space):
        (found,) = session.run(None, {"raw": raw.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, model.probabilities(raw).numpy(), rtol=0, atol=tolerance)


def test_a_program_file_equals_the_network(tmp_path: Path) -> None:
    model = segmenter(2, "3 d8g4 u4p", EXACT | {"force_dtype": "bfloat16"})
    torch.export.save(exported(model, example(2)), tmp_path / "model.pt2")
    served = torch.export.load(tmp_path / "model.pt2").module()
    for raw in others(2):
        with torch.no_grad():
            torch.testing.assert_close(served(raw), model.probabilities(raw), rtol=0, atol=2e-2)


def test_onnx_refuses_forces_that_no_runtime_convolves(tmp_path: Path) -> None:
    model = segmenter(2, "3", {"force_dtype": "bfloat16"})
    with pytest.raises(
        InputError,
        match=r"^network\.force_dtype is bfloat16, in which ONNX Runtime has no convolutions on the CPU; "
        r"write a torch program instead, or train with float16 or float32$",
    ):
        write_onnx(model, example(2), tmp_path / "model.onnx")
    edged = segmenter(2, "3", {"force_dtype": "float16", "boundary": "reflect"})
    with pytest.raises(
        InputError, match=r"^network\.force_dtype is float16 and network\.boundary reflect, .* float32$"
    ):
        write_onnx(edged, example(2), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
