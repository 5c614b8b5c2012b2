"""No file of cluster/ holds a secret: not by its kind, not by the name of what it sets, not by its looks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "cluster").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
LOOKS = {
    "an access key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a token of GitHub, Slack or Google": r"\b(?:gh[pousr]_\w{30,}|xox[abpr]-[\w-]{10,}|AIza[\w-]{35})\b",
    "a password in a URI": r"://[^\s:/@]+:(?!\$)[^\s@/]+@",
    "a long random word": r"\b(?=[A-Za-z/+]*\d)(?=[\d/+]*[A-Za-z])[A-Za-z0-9+]{32,}={0,2}",
}
NAMES = re.compile(r"(?i)(password|passwd|secret|token|credential|access_key|api_key)$")
HARMLESS = {"automountServiceAccountToken", "secretName", "auth_token"}  # a switch, and names of a Secret and a file


def suspicions(text: str) -> list[str]:
    """Name what looks like a secret."""
    found = [what for what, pattern in LOOKS.items() if re.search(pattern, text)]
    for name, value in re.findall(
        r"(?m)^[ \t]*(?:export |ARG |ENV |- )?([A-Za-z_]+)[ \t]*[=:][ \t]*[\"']?([^\s\"'#{]+)", text
    ):
        if NAMES.search(name) and name not in HARMLESS and not value.startswith(("$", "/", "~", "(", "[")):
            found.append(f"a value for {name}")
    return found


def variables(node: Any) -> Iterator[dict[str, Any]]:
    """Every entry of every list of environment variables."""
    if isinstance(node, dict):
        yield from (entry for entry in node.get("env", []) if isinstance(node.get("env"), list))
        for part in node.values():
            yield from variables(part)
    elif isinstance(node, list):
        for part in node:
            yield from variables(part)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_looks_clean(path):
    assert suspicions(path.read_text()) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_an_object_names_secrets_and_holds_none(path):
    for one in yaml.safe_load_all(path.read_text()):
        assert one.get("kind") != "Secret"
        for entry in variables(one):
            if NAMES.search(entry["name"]):
                assert "value" not in entry, entry["name"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("AWS_ACCESS_KEY_ID: " + "AKIA" + "ABCDEFGH12345678", "an access key of AWS"),
        ("env:\n  password: hunter2", "a value for password"),
        ("ARG MLFLOW_TRACKING_TOKEN=abc", "a value for MLFLOW_TRACKING_TOKEN"),
        ("export RAY_AUTH_TOKEN=" + "0a1b2c3d" * 8, "a long random word"),
        ("uri: postgresql://mlflow:" + "hunter2@postgres/mlflow", "a password in a URI"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "a private key"),
    ],
)
def test_a_planted_secret_is_seen(line, what):
    assert what in suspicions(f"name: x\n{line}\n")
