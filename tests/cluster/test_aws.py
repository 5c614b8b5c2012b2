"""The cluster-launcher file, by the tools that read it: Ray's own validator, and AWS's own model of a machine."""

import copy
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.exceptions import ParamValidationError
from botocore.validate import ParamValidator

FILE = Path(__file__).parents[2] / "cluster" / "aws.yaml"


def settings() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Validate as ``ray up`` does before it starts anything; returns the configuration with Ray's defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture(scope="module")
def machine() -> Any:
    """AWS's model of what RunInstances takes, which is what Ray hands a node_config to."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def run_instances(node_config: dict[str, Any], shape: Any) -> None:
    report = ParamValidator().validate(node_config | {"MinCount": 1, "MaxCount": 1}, shape)
    if report.has_errors():
        raise ParamValidationError(report=report.generate_report())


def test_ray_takes_it():
    prepared = check(settings())
    assert set(prepared["available_node_types"]) == {"head", "spot", "on-demand"}, "nothing of Ray's defaults slips in"
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    assert prepared["setup_commands"] == []


@pytest.mark.parametrize("kind", ["head", "spot", "on-demand"])
def test_aws_takes_every_machine(kind, machine):
    run_instances(settings()["available_node_types"][kind]["node_config"], machine)


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        ("idle_timeout", 5, jsonschema.ValidationError),
        ("docker.shm_size", "1g", jsonschema.ValidationError),
        ("docker.run_options", "--privileged", jsonschema.ValidationError),
        ("available_node_types.spot.max_worker", 8, jsonschema.ValidationError),
        ("available_node_types.spot.resources.GPU", "1", jsonschema.ValidationError),
        ("head_node_type", "chief", ValueError),
        ("available_node_types.spot.min_workers", 9, ValueError),
    ],
)
def test_ray_catches_a_planted_mistake(place, value, error):
    wrong = settings()
    *path, last = place.split(".")
    node = wrong
    for key in path:
        node = node[key]
    node[last] = value
    with pytest.raises(error):
        check(wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("InstanceTypes", "g6.2xlarge"),
        ("SecurityGroupIds", "sg-0123456789abcdef0"),
        ("InstanceMarketOptions", {"MarketTypes": "spot"}),
        ("BlockDeviceMappings", [{"Ebs": {"VolumeSize": "128"}}]),
    ],
)
def test_aws_catches_a_planted_mistake(key, value, machine):
    node_config = settings()["available_node_types"]["spot"]["node_config"]
    with pytest.raises(ParamValidationError):
        run_instances(node_config | {key: value}, machine)


def test_it_is_closed_and_asks_for_a_token():
    config = settings()
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    kinds = config["available_node_types"]
    groups = {tuple(kind["node_config"]["SecurityGroupIds"]) for kind in kinds.values()}
    assert len(groups) == 1, "without a group of one's own Ray opens port 22 to everybody"
    assert kinds["spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    assert kinds["head"]["resources"] == {"CPU": 0}
