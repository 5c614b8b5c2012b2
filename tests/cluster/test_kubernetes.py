"""The manifests fit Kubernetes' and KubeRay's published schemas, and each other; planted mistakes are caught."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.cli import COMMANDS
from tests.cluster.manifests import (
    FOLDER,
    RAY_KINDS,
    check_core,
    check_ray,
    containers,
    document,
    documents,
    pods,
    title,
)

ROOT = FOLDER.parents[1]
CORE = [one for one in documents() if one["kind"] not in RAY_KINDS]
GROUPS = [document("RayCluster", "telegrapher")["spec"]["headGroupSpec"]]
GROUPS += document("RayCluster", "telegrapher")["spec"]["workerGroupSpecs"]


@pytest.fixture(scope="module")
def kuberay(shared_data: Path) -> Path:
    """KubeRay's own schemas."""
    if not (shared_data / "kuberay").is_dir():
        pytest.skip(f"no schemas of KubeRay at {shared_data / 'kuberay'}")
    return shared_data / "kuberay"


def planted(kind: str, name: str, place: str, value: Any) -> dict[str, Any]:
    """Copy an object with one value replaced, added, or (None) taken away."""
    wrong = copy.deepcopy(document(kind, name))
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    node: Any = wrong
    for key in path:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return wrong


@pytest.mark.parametrize("one", CORE, ids=title)
def test_objects_of_kubernetes_fit_its_schema(one):
    check_core(one)


@pytest.mark.parametrize(
    ("kind", "name", "place", "value"),
    [
        ("Deployment", "mlflow", "spec.template.spec.containers.0.port", 5000),
        ("Deployment", "mlflow", "spec.template.spec.containers.0.ports.0.containerPort", "5000"),
        ("Deployment", "mlflow", "spec.template.spec.containers.0.env.0.value", 5),
        ("Deployment", "mlflow", "spec.selector", None),
        ("StatefulSet", "postgres", "spec.serviceNames", "postgres"),
        ("Service", "postgres", "spec.ports.0.port", None),
        ("NetworkPolicy", "postgres", "spec.ingress.0.form", []),
        ("PersistentVolumeClaim", "runs", "spec.accessModes", "ReadWriteMany"),
    ],
)
def test_a_mistake_in_an_object_of_kubernetes_is_caught(kind, name, place, value):
    with pytest.raises(kubernetes_validate.ValidationError):
        check_core(planted(kind, name, place, value))


@pytest.mark.parametrize("one", [one for one in documents() if one["kind"] in RAY_KINDS], ids=title)
def test_objects_of_kuberay_fit_its_schema(one, kuberay):
    check_ray(one, kuberay)


@pytest.mark.parametrize(
    ("kind", "name", "place", "value"),
    [
        ("RayCluster", "telegrapher", "spec.enableInTreeAutoscaler", True),
        ("RayCluster", "telegrapher", "spec.authOptions.mode", "tokens"),
        ("RayCluster", "telegrapher", "spec.autoscalerOptions.version", 2),
        ("RayCluster", "telegrapher", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("RayCluster", "telegrapher", "spec.headGroupSpec.template", None),
        ("RayCluster", "telegrapher", "spec.workerGroupSpecs.0.minReplicas", "0"),
        ("RayCluster", "telegrapher", "spec.workerGroupSpecs.0.groupName", None),
        ("RayCluster", "telegrapher", "spec.workerGroupSpecs.0.template.spec.containers.0.name", None),
        ("RayCluster", "telegrapher", "spec.workerGroupSpecs.0.template.spec.containers.0.ressources", {}),
        ("RayCluster", "telegrapher", "spec.workerGroupSpecs.1.template.spec.tolerations.0.effects", "NoSchedule"),
        ("RayJob", "sweep", "spec.entrypoint", ["python", "-m", "pipeline"]),
        ("RayJob", "sweep", "spec.runtimeEnv", {}),
        ("RayJob", "sweep", "spec.submitterPodTemplate.spec.containers", None),
    ],
)
def test_a_mistake_in_an_object_of_kuberay_is_caught(kind, name, place, value, kuberay):
    with pytest.raises(jsonschema.ValidationError):
        check_ray(planted(kind, name, place, value), kuberay)


@pytest.mark.parametrize("group", GROUPS, ids=["head", "spot", "on-demand"])
def test_ray_counts_what_kubernetes_grants(group):
    (container,) = group["template"]["spec"]["containers"]
    limits, start = container["resources"]["limits"], group["rayStartParams"]
    assert limits == container["resources"]["requests"]
    head = container["name"] == "ray-head"
    assert start == {"num-cpus": "0" if head else limits["cpu"], "num-gpus": limits.get("nvidia.com/gpu", "0")}
    assert head or group["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert head or group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"], "the autoscaler's to raise"


def test_workers_come_with_the_work_and_on_spot_machines_first():
    assert document("RayCluster", "telegrapher")["spec"]["enableInTreeAutoscaling"] is True
    markets = [group["template"]["spec"].get("nodeSelector", {}) for group in GROUPS[1:]]
    assert [list(market.values()) for market in markets] == [["SPOT"], ["ON_DEMAND"]]
    patience = GROUPS[1]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 60 < patience < 120, "AWS takes a spot machine two minutes after its notice"


@pytest.mark.parametrize("group", GROUPS, ids=["head", "spot", "on-demand"])
def test_every_node_asks_for_the_token_of_the_secret(group):
    secret = document("RayCluster", "telegrapher")["spec"]["authOptions"]["secretName"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["env"][:2] == [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "auth_token"}}},
    ]


def test_one_ray_and_one_image_everywhere():
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    (ray,) = re.findall(r"^ARG RAY=(\S+)$", dockerfile, re.MULTILINE)
    assert document("RayCluster", "telegrapher")["spec"]["rayVersion"] == ray
    images = {container["image"] for _, container in containers()}
    assert images == {"telegrapher:0.1.0-cpu", "telegrapher:0.1.0-cuda", "postgres:17.6-bookworm"}
    assert all(f"telegrapher:0.1.0-{device}" in dockerfile for device in ("cpu", "cuda"))


def test_nothing_is_open_to_the_outside():
    for one in documents():
        spec = one.get("spec", {})
        assert one["kind"] != "Ingress"
        assert spec.get("type", "ClusterIP") == "ClusterIP", title(one)
        assert spec.get("headGroupSpec", {}).get("serviceType", "ClusterIP") == "ClusterIP"
        for pod in pods(one):
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys(), title(one)
            assert not any("hostPath" in volume for volume in pod["spec"].get("volumes", []))
    for one, container in containers():
        assert not any("hostPort" in port for port in container.get("ports", [])), title(one)
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, title(one)


def test_nobody_comes_in_but_by_the_policies():
    nobody = document("NetworkPolicy", "nobody")["spec"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress"]}
    labels = [pod.get("metadata", {}).get("labels", {}) for one in documents() for pod in pods(one)]
    ray = {"ray.io/cluster": document("RayCluster", "telegrapher")["metadata"]["name"]}
    labels += [ray | {"ray.io/node-type": kind} for kind in ("head", "worker")]  # the operator's own
    ports = {port["containerPort"] for _, container in containers() for port in container.get("ports", [])} | {8265}
    for policy in (one["spec"] for one in documents() if one["kind"] == "NetworkPolicy"):
        for rule in policy.get("ingress", []):
            assert {port["port"] for port in rule.get("ports", [])} <= ports
            here = [peer["podSelector"] for peer in rule["from"] if "namespaceSelector" not in peer]
            for selector in [policy["podSelector"], *here]:
                wanted = selector["matchLabels"].items()
                assert any(wanted <= label.items() for label in labels), selector


def test_services_find_their_pods_and_pods_their_volumes():
    claims = {one["metadata"]["name"] for one in documents() if one["kind"] == "PersistentVolumeClaim"}
    for one in documents():
        if one["kind"] == "Service":
            owners = [pod for other in documents() for pod in pods(other) if other["metadata"] == one["metadata"]]
            (pod,) = owners
            assert one["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
            named = {port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
            assert {port["port"] for port in one["spec"]["ports"]} == named
        for pod in pods(one):
            volumes = pod["spec"].get("volumes", [])
            assert {volume["persistentVolumeClaim"]["claimName"] for volume in volumes} <= claims
            there = {volume["name"] for volume in volumes} | {
                claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])
            }
            for container in pod["spec"]["containers"]:
                assert {mount["name"] for mount in container.get("volumeMounts", [])} <= there


def test_the_job_runs_a_command_that_exists_on_a_cluster_that_exists(monkeypatch):
    from pkgutil import resolve_name

    from pipeline.cli import _by_name
    from pipeline.recipe import build, parse, recipe_parser

    spec = document("RayJob", "sweep")["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": document("RayCluster", "telegrapher")["metadata"]["name"]}
    python, dash, module, name, *words = shlex.split(spec["entrypoint"])
    assert (python, dash, module) == ("python", "-m", "pipeline")
    command = COMMANDS[name]
    monkeypatch.chdir(ROOT)
    parser = recipe_parser(resolve_name(command.config))
    config = build(resolve_name(command.config), parser, parse(parser, _by_name(words, command.places, switch=False)))
    worker = document("RayCluster", "telegrapher")["spec"]["workerGroupSpecs"][0]
    assert config.cluster.address == "auto"
    assert config.cluster.gpu
    assert config.cluster.cpus_per_worker <= int(worker["rayStartParams"]["num-cpus"])
    assert config.runs == worker["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"]
    assert config.tracking.uri == "http://mlflow:5000"
    folder = yaml.safe_load(spec["runtimeEnvYAML"])["working_dir"]
    assert f"WORKDIR {folder}\n" in (ROOT / "cluster" / "Dockerfile").read_text()


@pytest.mark.parametrize("path", sorted(FOLDER.parent.rglob("*.*")), ids=lambda path: path.name)
def test_every_file_says_what_it_is_for(path):
    if path.is_file() and "__pycache__" not in path.parts:
        first = path.read_text().splitlines()[0]
        assert first.startswith(("# ", '"""')), path
