"""Conversions to a real S3 server: one that is killed goes on, also on another machine; two do not mix."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import obstore
import pytest
import xarray as xr

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.storage import layout, overviews
from datasets.storage.journal import Journal
from datasets.storage.objects import Ask, Objects
from datasets.storage.upload import BEGUN
from datasets.store import open_part, open_volume
from tests.datasets.storage.test_writing import ROOT, SHARD, SLOWLY, noted


@pytest.fixture
def cube(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConvertConfig:
    """A cube that becomes 36 shards behind a URI."""
    for module in (layout, overviews):
        monkeypatch.setattr(module, "SHARD_BYTES", SHARD)
    monkeypatch.setattr(overviews, "FINE_ENOUGH", 32)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    values = np.random.default_rng(0).normal(size=(48, 64, 48)).astype(np.float32)
    values[:9, :9] = np.nan
    np.save(tmp_path / "cube.npy", values)
    dims = ["inline", "crossline", "twt"]
    return ConvertConfig(
        source=str(tmp_path / "cube.npy"), out=f"{s3}/cube.zarr", dims=dims, chunks=dict.fromkeys(dims, 16)
    )


def finished(config: ConvertConfig) -> set[str]:
    names = {Path(name).name for name in Objects(config.out).names(BEGUN)}
    return {name for name in names if name.startswith("-data-")}


def kill_half_way(config: ConvertConfig) -> set[str]:
    words = [sys.executable, "-c", SLOWLY, config.source, config.out, str(SHARD)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 90
        while len(finished(config)) < 8:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(InputError, match="is not a Zarr store"):
        open_volume(config.out)
    return finished(config)


def interrupt_half_way(config: ConvertConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    note = Journal.note

    def stopped(self: Journal, name: str, arrays: dict | None = None) -> None:
        note(self, name, arrays)
        if len(finished(config)) > 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note", stopped)
        with pytest.raises(KeyboardInterrupt):
            convert(config)


def test_a_killed_conversion_goes_on_on_another_machine(
    cube: ConvertConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = kill_half_way(cube)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another machine"))
    names = noted(monkeypatch)
    convert(cube)
    again = {f"{name}.npz" for name in names if name.startswith("-data-")}
    assert len(again) > 10
    assert not again & done
    assert "this was begun and stopped before: going on with it" in capsys.readouterr().out
    whole = replace(cube, out=str(tmp_path / "whole.zarr"))
    convert(whole)
    first, second = (open_volume(config.out).load().drop_attrs() for config in (cube, whole))
    xr.testing.assert_identical(first, second)
    for group in ("statistics", "overviews/1"):
        near, far = open_part(whole.out, group), open_part(cube.out, group)
        assert near is not None
        assert far is not None
        xr.testing.assert_identical(near.load(), far.load())
    assert Objects(cube.out).names(BEGUN) == []


def test_what_is_left_of_another_conversion_is_not_used(
    cube: ConvertConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_half_way(cube, monkeypatch)
    np.save(cube.source, np.load(cube.source) + 1)
    done = finished(cube)
    names = noted(monkeypatch)
    convert(cube)
    assert "begun here is thrown away: only the same source, settings and program go on" in capsys.readouterr().out
    assert done <= {f"{name}.npz" for name in names}
    np.testing.assert_array_equal(open_volume(cube.out)["data"].values, np.load(cube.source))


def test_an_interruption_says_that_the_pieces_are_kept(
    cube: ConvertConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_half_way(cube, monkeypatch)
    assert "stopped: what is finished is kept, and the same command goes on with it" in capsys.readouterr().out


def test_the_first_of_two_machines_stops_at_its_next_piece(
    cube: ConvertConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, other = Journal.note, json.dumps({"key": "another", "process": "of another machine"}).encode()
    objects = Objects(cube.out)

    def robbed(self: Journal, name: str, arrays: dict | None = None) -> None:
        if len(finished(cube)) >= 3:
            obstore.put(objects.store, f"{BEGUN}/owner.json", other)
        note(self, name, arrays)

    monkeypatch.setattr(Journal, "note", robbed)
    with pytest.raises(InputError, match=r"^s3://.*cube\.zarr is being written by another process since; wait for its"):
        convert(cube)
    assert not objects.exists("zarr.json")
    assert bytes(objects.get(Ask(f"{BEGUN}/owner.json")).data) == other


def test_two_processes_of_one_machine_do_not_write_one_volume(
    cube: ConvertConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, refused = Journal.note, []

    def second(self: Journal, name: str, arrays: dict | None = None) -> None:
        if not refused:
            refused.append(True)
            with pytest.raises(InputError, match=r"another process is writing s3://.*cube\.zarr; wait for its end"):
                convert(cube)
        note(self, name, arrays)

    monkeypatch.setattr(Journal, "note", second)
    convert(cube)
    assert refused
    assert not list((Path(os.environ["XDG_CACHE_HOME"]) / "telegrapher").iterdir())
