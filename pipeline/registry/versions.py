"""Versions in MLflow's model registry, and the aliases that point at them.

A registered model remembers its former champions, so that a promotion can be taken back.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import mlflow.pytorch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from datasets.errors import InputError
from datasets.provenance import now
from pipeline.checkpoints.checkpoint import rebuild
from pipeline.config import RunConfig
from pipeline.recipe import load_recipe
from pipeline.registry.champion import Standing
from pipeline.registry.export import PROGRAM_PREFIX
from pipeline.scoring.description import ModelDescription
from pipeline.scoring.scorer import Scorer, scorer_of
from pipeline.tracking.store import lacks_file
from pipeline.tracking.tracker import connect

CHAMPION, CHALLENGER = "champion", "challenger"
DESCRIPTION_FILE, RECIPE_FILE = "telegrapher.json", "config.yaml"
FORMER = "former_champions"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second is MLflow's answer for an alias
_NAME = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))\Z")


@contextmanager
def tracking_at(uri: str) -> Iterator[None]:
    """Point MLflow's global calls at `uri` meanwhile, quietly."""
    before = os.environ.get("MLFLOW_TRACKING_URI")  # which MLflow sets with its global URI
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # none takes it back


def _parse(uri: str) -> re.Match[str]:
    if (match := _NAME.match(uri)) is None:
        raise InputError(f"{uri} is not a model's URI; write models:/NAME@{CHAMPION} or models:/NAME/3")
    return match


def label(version: ModelVersion) -> str:
    """Name a version as ``NAME/3``."""
    return f"{version.name}/{version.version}"


@dataclass(frozen=True)
class Registry:
    """A registry that answers, by its MLflow URI and a client of it."""

    uri: str
    client: MlflowClient

    @classmethod
    def open(cls, uri: str, wanted: str) -> "Registry":
        """Open the registry that should hold `wanted`; `InputError` where none is, or MLflow does not answer."""
        if lacks_file(uri):
            raise InputError(
                f"no MLflow database at {uri.removeprefix('sqlite:///')}, so no {wanted}; register a model first, "
                "or say where it is with --tracking_uri or --runs"
            )
        return cls(uri, connect(uri))

    def find(self, model: str) -> ModelVersion:
        """Find a version by its URI; `InputError`, which lists what there is, where none is."""
        match = _parse(model)
        try:
            if match["alias"]:
                return self.client.get_model_version_by_alias(match["name"], match["alias"])
            return self.client.get_model_version(match["name"], match["version"])
        except MlflowException as error:
            raise InputError(f"no {model} at {self.uri}; {self._inventory()}") from error

    def alias(self, name: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias points at, or none."""
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in _MISSING:  # a server that fails has no say in who is champion
                raise
            return None

    def require(self, name: str) -> None:
        """Raise `InputError` where no registered model has this name."""
        try:
            self.client.get_registered_model(name)
        except MlflowException as error:
            raise InputError(f"no registered model {name!r} at {self.uri}; {self._inventory()}") from error

    def fetch(self, version: ModelVersion) -> Path:
        """Bring a version's files here; returns their folder."""
        with tracking_at(self.uri):
            return Path(mlflow.artifacts.download_artifacts(f"models:/{label(version)}"))

    def enter(self, version: ModelVersion) -> bool:
        """Give a new version its alias; tells whether it is the champion: the first."""
        first = self.alias(version.name, CHAMPION) is None
        if first:
            self._crown(version, "the first version")
        else:
            self._point(CHALLENGER, version)
        return first

    def promote(self, version: ModelVersion, reason: str) -> None:
        """Make a version the champion; the one before is remembered."""
        if before := self.alias(version.name, CHAMPION):
            self._remember(version.name, [*self._former(version.name, before), int(before.version)])
            self._note(before, "replaced", f"by {label(version)}")
        self._crown(version, reason)
        challenger = self.alias(version.name, CHALLENGER)
        if challenger and challenger.version == version.version:
            self.client.delete_registered_model_alias(version.name, CHALLENGER)

    def roll_back(self, name: str) -> tuple[ModelVersion, ModelVersion]:
        """Make the last former champion that is still there champion again; returns it, and the one it replaces."""
        if (present := self.alias(name, CHAMPION)) is None:
            raise InputError(f"{name} has no {CHAMPION}; {self._inventory()}")
        former = self._former(name, present)
        while former:
            try:
                back = self.client.get_model_version(name, str(former[-1]))
                break
            except MlflowException as error:
                if error.error_code not in _MISSING:
                    raise
                former.pop()  # deleted since
        else:
            raise InputError(
                f"no version of {name} was {CHAMPION} before {label(present)}, so there is nothing to go back to; "
                f"name another one: python -m pipeline promote models:/{name}/N --force"
            )
        # The alias moves before the memory is shortened, so that a stop in between loses nothing: see `_former`.
        self._note(present, "withdrawn", f"for {label(back)}")
        self._crown(back, f"{label(present)} was withdrawn")
        self._remember(name, former[:-1])
        return back, present

    def _former(self, name: str, present: ModelVersion) -> list[int]:
        """Return former champions, oldest first, without the present one, which a move cut short leaves there."""
        former = json.loads(self.client.get_registered_model(name).tags.get(FORMER, "[]"))
        while former and former[-1] == int(present.version):
            former.pop()
        return list(former)

    def _remember(self, name: str, former: list[int]) -> None:
        self.client.set_registered_model_tag(name, FORMER, json.dumps(former))

    def _crown(self, version: ModelVersion, reason: str) -> None:
        self._note(version, "promoted", reason)
        self._point(CHAMPION, version)

    def _point(self, alias: str, version: ModelVersion) -> None:
        self.client.set_registered_model_alias(version.name, alias, str(version.version))

    def _note(self, version: ModelVersion, what: str, reason: str) -> None:
        self.client.set_model_version_tag(version.name, str(version.version), what, f"{now()}: {reason}")

    def _inventory(self) -> str:
        shown = []
        for model in self.client.search_registered_models(max_results=20):
            found = self.client.search_model_versions(f"name = '{model.name}'")
            newest = max((int(one.version) for one in found), default=0)
            aliases = "".join(f", @{alias} = {number}" for alias, number in sorted(model.aliases.items()))
            shown.append(f"models:/{model.name}/1{f'..{newest}' * (newest > 1)}{aliases}")
        if shown:
            return f"there is {'; '.join(shown)}"
        return "the registry is empty: fill it with `python -m pipeline register runs/NAME`"


def standing(version: ModelVersion) -> Standing:
    """Return how a version did, by its tags."""
    return Standing.of(label(version), version.tags)


def read_scorer(folder: Path, version: ModelVersion, asked: str) -> Scorer:
    """Make a version's network again, from its description and the weights of its program.

    Unlike the program, for those without our code, it runs on a GPU, in less memory, which can be planned. `InputError`
    where the version was not registered by this version of our program.
    """
    if (stored := next(folder.rglob(DESCRIPTION_FILE), None)) is None:
        raise InputError(f"{asked} was not registered by this program: it has no {DESCRIPTION_FILE}")
    try:
        description = ModelDescription.from_json(json.loads(stored.read_text()))
    except ValueError as error:
        raise InputError(
            f"{asked} cannot be read ({DESCRIPTION_FILE}: {error}); register its run again "
            "with this program, or run the model's own by mlflow.pyfunc"
        ) from error
    weights = mlflow.pytorch.load_model(str(folder)).state_dict()
    network = rebuild(description.network, {name.removeprefix(PROGRAM_PREFIX): own for name, own in weights.items()})
    return scorer_of(network, description, asked, label(version))


def read_recipe(folder: Path) -> RunConfig | None:
    """Read the recipe among a version's files, if any."""
    stored = next(folder.rglob(RECIPE_FILE), None)
    return None if stored is None else load_recipe(stored)


def load_registered(uri: str, *, tracking_uri: str) -> Scorer:
    """Load a version from the registry; see `pipeline.registry.load.load_model`."""
    _parse(uri)  # a wrong one is refused before MLflow is asked
    registry = Registry.open(tracking_uri, uri)
    version = registry.find(uri)
    return read_scorer(registry.fetch(version), version, uri)
