"""The walkthrough of cluster/README.md holds: its commands parse, and name files, options and objects that exist."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from cluster.submit import split_words
from tests.cluster.manifests import containers, document, documents, pods

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "cluster" / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    command.strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").replace("|\n", "| ").splitlines()
    for command in re.split(r" \| | && |\(|\) ", line)
    if command.strip()
]


def words_of(program: str) -> list[list[str]]:
    """Words behind a program's name, for each of its commands."""
    lines = [shlex.split(command.rstrip("& )"), comments=True) for command in COMMANDS if command.startswith(program)]
    return [words[len(program.split()) :] for words in lines]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_shell_understands_every_block(block):
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.filterwarnings("ignore")  # importing all of Ray's command line warns of much
@pytest.mark.parametrize("words", words_of("ray"), ids=lambda words: " ".join(words)[:50])
def test_ray_has_what_it_is_told(words):
    from ray.scripts.scripts import cli

    command: Any = cli
    while isinstance(command, click.Group):
        command = command.commands[words[0]]
        words = words[1:]
    words = words[: words.index("--")] if "--" in words else words
    known = {option for given in command.params for option in given.opts}
    assert {word.split("=")[0] for word in words if word.startswith("-")} <= known


def test_the_helper_takes_what_it_is_told():
    (words,) = words_of("python cluster/submit.py")
    named, options, entry = split_words(words)
    assert named == ["NO_PROXY"]
    assert options == []
    assert entry[:3] == ["python", "-m", "pipeline"]


def test_files_that_are_named_exist():
    named = set(re.findall(r"(?:-f |ray \w+ (?:-y )?)(cluster/\S+)", "\n".join(COMMANDS)))
    assert all((ROOT / name).is_file() for name in named)
    applied = {name for name in named if name.startswith("cluster/kubernetes/")}
    assert applied == {f"cluster/kubernetes/{path.name}" for path in (ROOT / "cluster" / "kubernetes").iterdir()}
    assert {"cluster/Dockerfile", "cluster/aws.yaml"} <= named


def test_the_image_is_built_by_arguments_that_it_has():
    known = re.findall(r"^ARG (\w+)=", (ROOT / "cluster" / "Dockerfile").read_text(), re.MULTILINE)
    given = {name for words in words_of("docker build") for name in re.findall(r"(\w+)=", " ".join(words))}
    assert {"DEVICE", "TORCH_INDEX", "COMMIT"} == given
    assert given <= set(known)


def test_objects_that_kubectl_is_asked_for_exist():
    theirs = {"service/telegrapher-head-svc", "job/sweep"}  # made by KubeRay, named after the cluster and the RayJob
    ours = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in documents()}
    asked = {word for words in words_of("kubectl") for word in words if re.fullmatch(r"[a-z]+/[a-z-]+", word)}
    assert theirs < asked <= theirs | ours
    assert f"service/{document('RayCluster', 'telegrapher')['metadata']['name']}-head-svc" in theirs
    assert f"job/{document('RayJob', 'sweep')['metadata']['name']}" in theirs
    (operator,) = [words[words.index("--namespace") + 1] for words in words_of("helm install")]
    (jobs,) = document("NetworkPolicy", "ray-jobs")["spec"]["ingress"]
    assert {"kubernetes.io/metadata.name": operator} in [
        peer["namespaceSelector"]["matchLabels"] for peer in jobs["from"] if "namespaceSelector" in peer
    ]


def test_secrets_that_pods_read_are_the_ones_that_are_made():
    made = {}
    for words in words_of("kubectl create secret generic"):
        made[words[0]] = {key for word in words for key in re.findall(r"--from-file=(\w+)=", word)}
    read: dict[str, set[str]] = {
        document("RayCluster", "telegrapher")["spec"]["authOptions"]["secretName"]: {"auth_token"}
    }
    for _, container in containers():
        for source in container.get("envFrom", []):
            read.setdefault(source["secretRef"]["name"], set())
        for one in container.get("env", []):
            if "valueFrom" in one:
                reference = one["valueFrom"]["secretKeyRef"]
                read.setdefault(reference["name"], set()).add(reference["key"])
    assert made == read


def test_what_is_yours_to_fill_in_is_named():
    (paragraph,) = re.findall(r"^\*\*Yours\.\*\*.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    text = "\n".join(path.read_text() for path in (ROOT / "cluster" / "kubernetes").iterdir())
    named = re.findall(r"`([^`]+)`", paragraph)
    assert named == ["kubernetes/", "telegrapher:", "my-bucket", "efs-sc", "eks.amazonaws.com/capacityType"]
    assert all(name in text for name in named[1:])


def test_every_port_is_in_the_table_of_what_must_never_be_open():
    (table,) = re.findall(r"^\| port .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    known = {int(port) for port in re.findall(r"\b\d{4,5}\b", table)}
    opened = {port["containerPort"] for _, container in containers() for port in container.get("ports", [])}
    assert opened <= known
    assert not [pod for one in documents() for pod in pods(one) if "hostNetwork" in pod["spec"]]


def test_the_local_head_has_a_token_before_it_starts_and_its_dashboard_on_loopback():
    (words,) = words_of("ray start")
    assert words == ["--head", "--dashboard-host=127.0.0.1"]
    block = next(block for block in BLOCKS if "ray start" in block)
    assert block.index("get-auth-token") < block.index("RAY_AUTH_MODE=token") < block.index("ray start")


def test_the_table_of_files_is_the_folder():
    (table,) = re.findall(r"^\| file .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    named = {name.rstrip("/") for name in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)}
    there = {path.name for path in (ROOT / "cluster").iterdir() if path.name != "__pycache__"}
    assert named == there - {"README.md", "Dockerfile.dockerignore"}
