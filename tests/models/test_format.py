"""What was written stays readable: names in the state dict, and a checkpoint of the first format."""

import json
from dataclasses import fields
from pathlib import Path

import torch

from models.config import SEGMENTER_FORMAT, NetworkConfig, SegmenterConfig
from models.segmenter import Segmenter

GOLDEN = Path(__file__).parent / "golden" / "segmenter-format-1.json"
NAMES_AND_SHAPES = {
    "mean": [3, 1, 1],
    "deviation": [3, 1, 1],
    "network.kernels.0": [3, 3, 4, 12],
    "network.kernels.1": [1, 1, 6, 48],
    "network.kernels.2": [3, 3, 4, 3],
    "network.biases.0": [4],
    "network.biases.1": [6],
    "network.biases.2": [4],
    "network.angles.1": [2, 12],
    "network.angles.2": [2, 12],
}
"""Of formats 2 and 3: a change here is a new format, and the old one must still be read."""


def test_the_names_in_a_state_dict_are_those_of_its_format() -> None:
    network = NetworkConfig(layers="4 d6p u4g4", repeat=4, coarsening="learned")
    config = SegmenterConfig(network, 2, 3, ["rock", "salt"])
    state = Segmenter(config, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == NAMES_AND_SHAPES
    assert SEGMENTER_FORMAT == 3
    assert set(config.to_json()) == {
        "format_version", "network", "space", "channels", "classes", "validity", "read_slice",
    }  # fmt: skip


def test_a_checkpoint_of_format_1_is_read_and_computes_what_it_did() -> None:
    golden = json.loads(GOLDEN.read_text())
    config = SegmenterConfig.from_json(golden["segmenter"])
    state = {name: torch.tensor(kept["values"]).view(kept["shape"]) for name, kept in golden["state"].items()}
    model = Segmenter(config, state["mean"], state["deviation"])
    model.load_state_dict(state)
    raw = torch.linspace(-3, 3, 42).sin().view(1, 1, 6, 7)
    expected = torch.tensor(golden["logits"]).view(golden["logits_shape"])
    with torch.no_grad():
        torch.testing.assert_close(model(raw), expected, rtol=1e-5, atol=1e-5)


def test_the_settings_that_format_1_lacked_mean_what_it_meant() -> None:
    golden = json.loads(GOLDEN.read_text())["segmenter"]
    new = {field.name for field in fields(NetworkConfig)} - set(golden["network"])
    assert new == {"boundary", "coarsening", "states", "grid_bits", "state_bits", "kept_hidden"}
    golden["network"]["force_dtype"] = "bfloat16"
    network = SegmenterConfig.from_json(golden).network
    assert (network.boundary, network.coarsening, network.exact) == ("zeros", "haar", False)
