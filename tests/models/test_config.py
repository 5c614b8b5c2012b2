"""Notation of layers, refusals, and the JSON of a segmenter."""

import json

import pytest

from models.config import ConfigError, Layer, NetworkConfig, SegmenterConfig, hourglass, parse_layers


def test_compact_notation() -> None:
    assert parse_layers("8*2 d16 u4") == (Layer(8), Layer(8), Layer(16, "coarsen"), Layer(4, "refine"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8 x4", r"network.layers: 'x4' is not a layer; write a block rank such as 8, d16"),
        ("0", r"network.layers: '0' is not a layer"),
        ("", r"network.layers is empty; name at least one block rank, such as '8\*4'"),
    ],
)
def test_bad_layers_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(layers=text)


def test_hourglass_has_the_asked_depth_and_returns() -> None:
    layers = parse_layers(hourglass(12, 8, 2))
    assert len(layers) == 12
    assert [layer.resample for layer in layers].count("coarsen") == 2
    assert [layer.resample for layer in layers].count("refine") == 2
    with pytest.raises(ConfigError, match="depth 4 cannot reach 2 levels and return; take a depth of at least 5"):
        hourglass(4, 8, 2)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("repeat", 0, "network.repeat is 0; it must be 1 or more"),
        ("step", 0.0, "network.step is 0.0; the leapfrog needs a positive step, such as 0.2"),
        ("step", float("inf"), "network.step is inf; the leapfrog needs a positive step, such as 0.2"),
        ("init_gain", 1e300, "network.init_gain is 1e.300; it must be positive, and small"),
        ("layers", "4*1000000", r"network.layers: '4\*1000000' is not a layer; .* \(three layers, below 10\^4\)"),
        ("layers", "9999999", "network.layers: '9999999' is not a layer"),
        ("kernel", 4, "network.kernel is 4; take an odd edge length such as 3"),
        ("kept_hidden", float("nan"), "network.kept_hidden is nan; it must be 0, which keeps none, or more"),
        ("kept_hidden", float("inf"), "network.kept_hidden is inf; it must be 0, which keeps none, or more"),
        ("kept_hidden", -0.5, "network.kept_hidden is -0.5; it must be 0, which keeps none, or more"),
        ("init_gain", -1.0, "network.init_gain is -1.0; it must be positive"),
        ("step", [0.2, 0.3], "network.step lists 2 steps for 12 layers; give one number, or one for each layer"),
        ("state_bits", 8, "network.state_bits is 8; states have 16 or 32 bits"),
        ("state_bits", 16, "network.state_bits is 16, but only exact states have bits; set network.states to exact"),
        (
            "grid_bits",
            30,
            "network.grid_bits is 30; with states of 32 bits it must be from 1 to 29, which leaves room "
            "for states up to 1.5",
        ),
    ],
)
def test_bad_numbers_are_named(field: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**{field: value})  # type: ignore[arg-type]


def test_a_segmenter_survives_json() -> None:
    config = SegmenterConfig(NetworkConfig(layers="4 d8 u4", repeat=3), 2, 5, ["rock", "salt"], True, {1: 7})
    text = json.loads(json.dumps(config.to_json()))
    assert text["format_version"] == 3
    assert SegmenterConfig.from_json(text) == config


def test_another_format_is_refused() -> None:
    text = SegmenterConfig(NetworkConfig(), 2, 5, ["rock", "salt"]).to_json() | {"format_version": 9}
    with pytest.raises(ConfigError, match="written in format 9, but formats 1 to 3 are read here"):
        SegmenterConfig.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": 4}, "space is 4; the network convolves over 1, 2 or 3 dimensions"),
        ({"channels": 0}, "channels is 0; the network needs at least one channel"),
        ({"classes": ["rock"]}, r"classes is \['rock'\]; a segmentation needs at least two classes"),
        ({"read_slice": {2: 1}}, "read_slice has cell 1 on axis 2; name axes 0 to 1 and cells from 0 on"),
    ],
)
def test_bad_segmenters_are_named(changes: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"network": NetworkConfig(), "space": 2, "channels": 3, "classes": ["rock", "salt"]}
    with pytest.raises(ConfigError, match=message):
        SegmenterConfig(**(good | changes))  # type: ignore[arg-type]
