"""A batch as a team runs it: volumes and maps behind URIs, a model of MLflow's server, tasks on Ray."""

import pytest
import xarray as xr
from zarr.storage import ObjectStore

from datasets.storage.objects import Objects
from datasets.store import write_volume
from pipeline import cli
from pipeline.config import PredictConfig
from pipeline.mapping.predict import predict
from pipeline.recipe import dump_recipe
from tests.pipeline.conftest import tiny_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*words: object) -> None:
    assert cli.main([str(word) for word in words]) == 0


def test_volumes_and_maps_in_the_store_and_the_champion_on_ray(recipe, s3, mlflow_server, tmp_path, capsys):
    import ray

    config = recipe("plots", steps=4)
    config.tracking.uri = mlflow_server
    path = tmp_path / "plots.yaml"
    path.write_text(dump_recipe(config))
    run("train", path)
    run("register", tmp_path / "runs" / "plots")
    names = ("north", "south", "west")
    for seed, name in enumerate(names):
        write_volume(tiny_dataset(seed + 5), f"{s3}/volumes/{name}.zarr")
    rows = [f"{s3}/volumes/{name}.zarr,{s3}/maps/{name}.zarr" for name in names]
    table = tmp_path / "volumes.csv"
    table.write_text("\n".join(["input,output", *rows[:2]]) + "\n")
    words = ["batch", "models:/plots@champion", table, "--tracking_uri", mlflow_server]
    words += ["--cluster.workers", 2, "--cluster.cpus_per_worker", 1]
    capsys.readouterr()
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        run(*words)
        assert capsys.readouterr().out.splitlines()[-1] == "2 volumes: 2 mapped"
        table.write_text("\n".join(["input,output", *rows]) + "\n")
        run(*words)
        assert capsys.readouterr().out.splitlines()[-1] == "3 volumes: 2 finished before, 1 mapped"
    finally:
        ray.shutdown()
    for name in names:
        stored = Objects(f"{s3}/maps/{name}.zarr").store
        found = xr.open_zarr(ObjectStore(stored, read_only=True), mask_and_scale=False)
        words = ["models:/plots/1", f"{s3}/volumes/{name}.zarr", str(tmp_path / f"{name}.zarr")]
        here = xr.open_zarr(predict(PredictConfig(*words, tracking_uri=mlflow_server)), mask_and_scale=False)
        xr.testing.assert_allclose(found.load().drop_attrs(), here.load().drop_attrs())
        assert found.attrs["model_version"] == "plots/1"
        assert found["class"].attrs["class_names"] == ["water", "land"]
