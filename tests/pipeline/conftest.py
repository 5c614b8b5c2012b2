"""A tiny volume and recipe that a network learns in seconds."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow.store.db.utils as mlflow_tables
import numpy as np
import pytest
import sqlalchemy
import xarray as xr
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from datasets.config import DataConfig, SplitConfig
from datasets.store import write_volume
from models.config import NetworkConfig
from pipeline.config import ClusterConfig, RunConfig, TrainingConfig
from pipeline.run import Run
from pipeline.tracking.journal import read_history


def tiny_dataset(seed: int = 0, size: int = 24, bands: int = 4) -> xr.Dataset:
    """Make a (band, y, x) scene of two classes in a chequer of fields, with noise, a hole without data, few labels."""
    draw = np.random.default_rng(seed)
    field = (np.add.outer(np.arange(size) // 4, np.arange(size) // 4) % 2).astype(np.uint8)
    spectra = np.array([[0.0] * bands, [1.0] * bands])
    data = (spectra[field].transpose(2, 0, 1) + draw.normal(0, 0.7, (bands, size, size))).astype(np.float32)
    valid = np.ones_like(data, bool)
    valid[:, :2, :2] = False
    labels = np.where(draw.random((size, size)) < 0.7, field, 255).astype(np.uint8)
    return xr.Dataset(
        {
            "data": (("band", "y", "x"), data, {"long_name": "reflectance", "units": "1"}),
            "valid": (("band", "y", "x"), valid),
            "labels": (
                ("y", "x"),
                labels,
                {"class_names": ["water", "land"], "class_values": [0, 1], "unlabelled": 255},
            ),
        },
        coords={
            "y": ("y", 1000.0 - 10 * np.arange(size), {"units": "m"}),
            "x": ("x", 500.0 + 10 * np.arange(size), {"units": "m"}),
        },
        attrs={
            "title": "tiny",
            "source": "made here",
            "source_sha256": "0" * 64,
            "licence": "MIT",
            "created": "2026-01-01T00:00:00+00:00",
            "format": "telegrapher-volume",
            "format_version": 1,
        },
    )


@pytest.fixture(scope="session", autouse=True)
def tables_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give new SQLite stores of MLflow a copy of their tables: it makes them by all its migrations, which takes 2 s."""
    made = tmp_path_factory.mktemp("mlflow") / "tables.db"
    make = mlflow_tables._initialize_tables

    def copy(engine: sqlalchemy.Engine) -> None:
        if engine.dialect.name != "sqlite":
            return make(engine)
        if not made.exists():
            make(sqlalchemy.create_engine(f"sqlite:///{made}"))
        with closing(sqlite3.connect(made)) as source, closing(engine.raw_connection()) as target:
            source.backup(target.driver_connection)

    mlflow_tables._initialize_tables = copy
    yield
    mlflow_tables._initialize_tables = make


@pytest.fixture
def team(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let all runs of a test report to the team's MLflow, and see that it was told every step that they took."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    yield
    folders = [path.parent for path in (tmp_path / "runs").glob("*/tracking.json")]
    assert folders, "no run reported"
    for folder in folders:
        run = Run.open(folder)
        assert run.tracking_uri == mlflow_server
        assert run.outbox.stat().st_size == 0
        points = MlflowClient(mlflow_server).get_metric_history(run.read("tracking.json")["run_id"], "loss")
        told = {point.step: point.value for point in points}
        assert told == pytest.approx({row["step"]: row["loss"] for row in read_history(run)})


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pictures empty where no test looks into them: to render those of a tiny run takes longer than to train."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **how: Path(path).touch())


@pytest.fixture(scope="session")
def tiny_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the tiny volume."""
    return write_volume(tiny_dataset(), tmp_path_factory.mktemp("tiny") / "tiny.zarr")


@pytest.fixture
def recipe(tiny_volume: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Make a recipe over the tiny volume; keywords replace fields of its parts (``steps`` and the like: training)."""

    def make(name: str = "tiny", workers: int = 0, **training: Any) -> RunConfig:
        settings = {"steps": 12, "rate": 0.02, "validate_every": 4, "batch": 2} | training
        return RunConfig(
            name=name,
            runs=str(tmp_path / "runs"),
            data=DataConfig(source=str(tiny_volume), space=["y", "x"]),
            split=SplitConfig(block=4, buffer=0, fractions=[0.5, 0.2, 0.3]),
            network=NetworkConfig(layers="4 d4 u4"),
            training=TrainingConfig(**settings),
            cluster=ClusterConfig(workers=workers, cpus_per_worker=1),
        )

    return make
