"""Many volumes and one model: the table's mistakes, what is skipped, what fails, and what the cluster loses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError, UnfinishedError
from datasets.store import open_node, open_volume, write_volume
from models.config import NetworkConfig
from pipeline import cli
from pipeline.checkpoints.checkpoint import Meta, Snapshot
from pipeline.config import BatchConfig, ClusterConfig, PredictConfig, RunConfig
from pipeline.mapping.batch import Outcome, batch, summary
from pipeline.mapping.predict import predict
from pipeline.mapping.table import Row, read_table
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from tests.pipeline.conftest import tiny_dataset

ROOT = Path(__file__).parents[3]
HERE = ClusterConfig(workers=0, cpus_per_worker=1)


def make_run(folder: Path, source: Path, seed: int) -> str:
    """Make a run with a checkpoint of random weights."""
    config = RunConfig(
        name=f"seed-{seed}",
        runs=str(folder),
        data=DataConfig(source=str(source), space=["y", "x"]),
        split=SplitConfig(block=4, buffer=0, fractions=[0.5, 0.2, 0.3]),
        network=NetworkConfig(layers="4 d4 u4"),
    )
    config.training.seed = seed
    run = prepare(config)
    (run.checkpoints / "step-000001").mkdir()
    weights = new_segmenter(run).state_dict()
    Snapshot(Meta(1, 0.5), weights, {}, run.prepared.segmenter.to_json()).write(run.checkpoints / "step-000001")
    return str(run.folder)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three volumes; the last has a band too few."""
    folder = tmp_path_factory.mktemp("volumes")
    made = [write_volume(tiny_dataset(seed), folder / f"{name}.zarr") for seed, name in enumerate("ab")]
    return [*made, write_volume(tiny_dataset(2, bands=3), folder / "narrow.zarr")]


@pytest.fixture(scope="module")
def models(volumes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, volumes[0], seed) for seed in (0, 1)]


def write_table(path: Path, pairs: list[tuple[object, object]], head: str = "input,output") -> str:
    path.write_text("\n".join([head, *(f"{one},{other}" for one, other in pairs)]) + "\n")
    return str(path)


def when(*stores: Path) -> list[int]:
    return [(store / "zarr.json").stat().st_mtime_ns for store in stores]


def test_every_volume_is_mapped_as_predict_maps_it(models, volumes, tmp_path, capsys):
    outs = [tmp_path / "maps" / f"{name}.zarr" for name in "ab"]
    table = write_table(tmp_path / "table.csv", list(zip(volumes[:2], outs, strict=True)))
    assert [one.state for one in batch(BatchConfig(models[0], table, cluster=HERE))] == ["mapped", "mapped"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed-0 (step-000001): 2 volumes, 0 of them finished before"
    assert lines[1].startswith(f"[1/2] {volumes[0]} -> {outs[0]}: mapped in ")
    assert "water" in lines[1]
    assert lines[-1] == "2 volumes: 2 mapped"
    single = predict(PredictConfig(models[0], str(volumes[1]), str(tmp_path / "single.zarr")))
    one, other = (xr.open_zarr(place).load() for place in (outs[1], single))
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())
    assert {key: one.attrs[key] for key in ("model_digest", "input_digest", "volume")} == {
        key: other.attrs[key] for key in ("model_digest", "input_digest", "volume")
    }
    assert (outs[1].parent / "b.png").is_file()


def test_a_volume_that_fails_does_not_stop_the_others_and_is_tried_again(models, volumes, tmp_path, capsys):
    outs = [tmp_path / f"{name}.zarr" for name in ("missing", "narrow", "b")]
    missing = tmp_path / "later.zarr"
    table = write_table(tmp_path / "table.csv", list(zip([missing, volumes[2], volumes[1]], outs, strict=True)))
    words = ["batch", models[0], table, "--cluster.workers", "0"]
    assert cli.main(words) == 1
    shown = capsys.readouterr()
    assert shown.err == ("error: 2 of 3 volumes failed, for the reasons above; the same command tries them again\n")
    assert f"[1/3] {missing} -> {outs[0]}: failed in 0.0 s: no volume at {missing}; check the path" in shown.out
    assert "has 3 entries of band, which seed-0 (step-000001) takes as channels: it needs the 4" in shown.out
    assert shown.out.splitlines()[-1] == "3 volumes: 2 failed, 1 mapped"
    assert [out.exists() for out in outs] == [False, False, True]
    before = when(outs[2])
    write_volume(tiny_dataset(3), missing)
    with pytest.raises(UnfinishedError, match=r"^1 of 3 volumes failed"):
        batch(BatchConfig(models[0], table, cluster=HERE))
    shown = capsys.readouterr().out
    assert shown.startswith("seed-0 (step-000001): 3 volumes, 1 of them finished before\n")
    assert shown.splitlines()[-1] == "3 volumes: 1 mapped, 1 failed, 1 finished before"
    assert when(outs[2]) == before


def test_a_defect_in_one_volume_is_told_with_its_kind(models, volumes, tmp_path, capsys, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("pipeline.mapping.batch.map_to", broken)
    table = write_table(tmp_path / "table.csv", [(volumes[0], tmp_path / "a.zarr")])
    with pytest.raises(UnfinishedError):
        batch(BatchConfig(models[0], table, cluster=HERE))
    assert "failed in 0.0 s: ZeroDivisionError: of all things" in capsys.readouterr().out


def test_only_a_map_of_the_same_model_and_the_same_volume_is_finished(models, volumes, tmp_path, capsys):
    source, out = tmp_path / "volume.zarr", tmp_path / "map.zarr"
    write_volume(open_volume(volumes[0]).load(), source)
    table = write_table(tmp_path / "table.csv", [(source, out)])
    config = BatchConfig(models[0], table, cluster=HERE)
    batch(config)
    before = when(out)
    assert [one.state for one in batch(config, overwrite=True)] == ["finished before"]
    assert when(out) == before
    refusal = rf"^{table}, line 2: {out} exists already; choose another place, or pass --overwrite to replace it$"
    with pytest.raises(InputError, match=refusal):
        batch(BatchConfig(models[1], table, cluster=HERE))
    write_volume(open_volume(volumes[0]).load().assign_attrs(source_sha256="2" * 64), source, overwrite=True)
    with pytest.raises(InputError, match=refusal):
        batch(config)
    assert when(out) == before
    assert [one.state for one in batch(config, overwrite=True)] == ["mapped"]
    source.rename(tmp_path / "away.zarr")
    with pytest.raises(UnfinishedError):
        batch(config)
    assert out.exists()


def test_a_map_that_was_cut_short_is_made_again(models, volumes, tmp_path, monkeypatch):
    out = tmp_path / "a.zarr"
    config = BatchConfig(models[0], write_table(tmp_path / "table.csv", [(volumes[0], out)]), cluster=HERE)
    whole = xr.Dataset.to_zarr

    def cut(self: xr.Dataset, place: Path, **options: object) -> None:
        whole(self, place, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_zarr", cut)
        with pytest.raises(KeyboardInterrupt):
            batch(config)
    assert not out.exists()
    assert [one.state for one in batch(config)] == ["mapped"]


def test_volumes_and_maps_behind_uris(models, volumes, s3, tmp_path, capsys):
    write_volume(open_volume(volumes[0]).load(), f"{s3}/a.zarr")
    table = write_table(tmp_path / "table.csv", [(f"{s3}/a.zarr", f"{s3}/maps/a.zarr")])
    config = BatchConfig(models[0], table, cluster=HERE)
    batch(config)
    here = predict(PredictConfig(models[0], str(volumes[0]), str(tmp_path / "here.zarr")))
    found = open_map(f"{s3}/maps/a.zarr")
    xr.testing.assert_identical(found.drop_attrs(), xr.open_zarr(here).load().drop_attrs())
    assert found.attrs["volume"] == f"{s3}/a.zarr"
    assert [one.state for one in batch(config)] == ["finished before"]
    with pytest.raises(InputError, match=r"line 2: s3://.*/maps/a.zarr exists already; choose another place, or pass"):
        batch(BatchConfig(models[1], table, cluster=HERE))
    batch(BatchConfig(models[1], table, cluster=HERE), overwrite=True)
    assert open_map(f"{s3}/maps/a.zarr").attrs["model_digest"] != found.attrs["model_digest"]


def open_map(uri: str) -> xr.Dataset:
    return xr.open_zarr(open_node(uri).store).load()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"has the columns \[\]; name two of them input and output in its first line$"),
        ("input,out\na,b\n", r"has the columns \['input', 'out'\]; name two of them"),
        ("input,output\n", r"names no volume; give each a line with its input and its output$"),
        ("input,output\na.zarr\n", r", line 2: output is empty; give a path or a URI$"),
        ("input,output\n\na.zarr,b.tif\n", r", line 3: .*b.tif does not end in .zarr; name the store"),
        ("input,output\na.zarr,./a.zarr\n", r", line 2: .*a.zarr is the source itself; choose another place$"),
        (
            "input,output\na.zarr,b.zarr\nc.zarr,./b.zarr\n",
            r", line 3: .*b.zarr is the output of .*, line 2 too; give each volume its own$",
        ),
        (
            "input,output\na.zarr,s3://bkt/c.zarr\ns3://bkt/c.zarr,d.zarr\n",
            r", line 2: s3://bkt/c.zarr is the input of .*, line 3; choose another place$",
        ),
    ],
)
def test_a_bad_table_is_refused_before_any_work(text, sentence, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=rf"^{table}.*{sentence}" if not sentence.startswith(",") else sentence):
        batch(BatchConfig("nowhere", str(table), cluster=HERE))


def test_what_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"table .*none.csv cannot be read \(No such file or directory\); give a CSV"):
        batch(BatchConfig("nowhere", str(tmp_path / "none.csv")))
    with pytest.raises(InputError, match=r"^batch needs a model and a table: python -m pipeline batch models:/NAME@"):
        batch(BatchConfig("nowhere"))
    table = write_table(tmp_path / "table.csv", [("a.zarr", "b.zarr")])
    with pytest.raises(InputError, match=r"'nowhere' is neither a registered model"):
        batch(BatchConfig("nowhere", table))


def test_tables_as_spreadsheets_write_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.csv"
    table.write_bytes('\ufeffname, output ,input\r\nx, "m,1.zarr" ,v.zarr\r\n'.encode())
    assert read_table("table.csv") == [Row(str(tmp_path / "v.zarr"), str(tmp_path / "m,1.zarr"), "table.csv, line 2")]


def test_the_summary_counts_what_became_of_each():
    row = Row("/a.zarr", "/b.zarr", "t, line 2")
    assert summary([Outcome(row, "mapped", 12.34, "x"), Outcome(row, "finished before")]).splitlines() == [
        "state            seconds  volume",
        "mapped              12.3  /a.zarr",
        "finished before      0.0  /a.zarr",
        "2 volumes: 1 mapped, 1 finished before",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_that_is_killed_goes_on_where_it_was(models, volumes, tmp_path):
    outs = [tmp_path / f"{number}.zarr" for number in range(12)]
    table = write_table(tmp_path / "table.csv", [(volumes[0], out) for out in outs])
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "batch", models[0], table, "--cluster.workers", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2/12]"):
            process.kill()
    assert process.wait(60) == -signal.SIGKILL
    there = [out for out in outs if out.exists()]
    before = when(*there)
    states = [one.state for one in batch(BatchConfig(models[0], table, cluster=HERE))]
    assert states.count("finished before") == len(there)
    assert 2 <= len(there) < 12
    assert when(*there) == before
    first, last = (xr.open_zarr(outs[index]).load().drop_attrs() for index in (0, -1))
    xr.testing.assert_allclose(first, last)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_ray_a_lost_process_costs_one_volume(models, volumes, tmp_path, capsys):
    import ray

    from pipeline.mapping.spread import spread

    died = tmp_path / "died-once"

    def end_or_square(number: int, threads: int) -> int:
        if number == 2 or (number == 3 and not died.exists()):
            died.touch()
            os._exit(1)
        return number * number + threads

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        found = dict(spread(end_or_square, [1, 3, 2], ClusterConfig(workers=1, cpus_per_worker=1, max_failures=1)))
        assert {0: found[0], 1: found[1]} == {0: 2, 1: 10}, "a process that was lost once is not tried again"
        assert isinstance(found[2], ray.exceptions.WorkerCrashedError)
        outs = [tmp_path / f"{name}.zarr" for name in ("a", "b", "narrow")]
        table = write_table(tmp_path / "table.csv", list(zip(volumes, outs, strict=True)))
        words = ["batch", models[0], table, "--cluster.workers", "2", "--cluster.cpus_per_worker", "1"]
        assert cli.main(words) == 1
        shown = capsys.readouterr().out
        assert shown.splitlines()[-1] == "3 volumes: 2 mapped, 1 failed"
        assert [out.exists() for out in outs] == [True, True, False]
        alone = predict(PredictConfig(models[0], str(volumes[1]), str(tmp_path / "alone.zarr")))
        xr.testing.assert_allclose(xr.open_zarr(outs[1]).load(), xr.open_zarr(alone).load())
        assert cli.main(words) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "3 volumes: 2 finished before, 1 failed"
    finally:
        ray.shutdown()
