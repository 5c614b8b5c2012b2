"""The manifests of ``cluster/kubernetes``, and the published schemas that a Kubernetes with KubeRay checks them by."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

FOLDER = Path(__file__).parents[2] / "cluster" / "kubernetes"
KUBERNETES = "1.33"
RAY_KINDS = {"RayCluster": "rayclusters-v1.json", "RayJob": "rayjobs-v1.json"}


def documents() -> list[dict[str, Any]]:
    """Every object of every file."""
    return [document for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]


def document(kind: str, name: str) -> dict[str, Any]:
    """The one object of this kind and name."""
    (found,) = [one for one in documents() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def title(one: dict[str, Any]) -> str:
    return f"{one['kind']}-{one['metadata']['name']}"


def pods(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Templates of the pods that an object makes."""
    spec = one.get("spec", {})
    groups = [spec, spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", [])]
    yield from (group["template"] for group in groups if "template" in group)
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container, with the object that it belongs to."""
    for one in documents():
        for pod in pods(one):
            yield from ((one, container) for container in pod["spec"]["containers"])


def check_core(one: dict[str, Any]) -> None:
    """Validate an object of Kubernetes itself; an unknown field is an error."""
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


def check_ray(one: dict[str, Any], folder: Path) -> None:
    """Validate an object of KubeRay as the API server does, defaults first; an unknown field is an error."""
    schema = _strict(json.loads((folder / RAY_KINDS[one["kind"]]).read_text()))
    jsonschema.Draft7Validator(schema).validate(_with_defaults(one, schema))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(part) for name, part in schema.items()}
    if strict.get("x-kubernetes-int-or-string") is True:
        strict["type"] = ["integer", "string"]
    if isinstance(strict.get("properties"), dict) and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if strict.get("nullable") is True:
        return {"anyOf": [strict, {"type": "null"}]}
    return strict


def _with_defaults(value: Any, schema: Any) -> Any:
    if isinstance(value, list):
        return [_with_defaults(part, schema.get("items", {})) for part in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    missing = {name: part["default"] for name, part in known.items() if name not in value and "default" in part}
    return {name: _with_defaults(part, known.get(name, {})) for name, part in (missing | value).items()}
