"""A conversion that is killed goes on, one of something else starts anew; statistics and overviews are the data's."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.statistics import measure, read_summary
from datasets.storage import layout, overviews
from datasets.storage.journal import Journal, open_journal
from datasets.store import open_part, open_volume, write_volume

ROOT = Path(__file__).parents[3]
SHARD = 2**14
SLOWLY = """
import sys, time
from pathlib import Path
from datasets.storage import layout, overviews
from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.storage.journal import Journal

layout.SHARD_BYTES = overviews.SHARD_BYTES = int(sys.argv[3])
overviews.FINE_ENOUGH = 32
note = Journal.note

def slow(self, name, arrays=None):
    note(self, name, arrays)
    time.sleep(0.05)

Journal.note = slow
dims = ["inline", "crossline", "twt"]
convert(ConvertConfig(source=sys.argv[1], out=sys.argv[2], dims=dims, chunks=dict.fromkeys(dims, 16)))
"""


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (layout, overviews):
        monkeypatch.setattr(module, "SHARD_BYTES", SHARD)
    monkeypatch.setattr(overviews, "FINE_ENOUGH", 32)


@pytest.fixture
def cube(tmp_path: Path) -> ConvertConfig:
    """A cube of 0.6 MB and, where these are small, 36 shards, with a hole."""
    values = np.random.default_rng(0).normal(size=(48, 64, 48)).astype(np.float32)
    values[:9, :9] = np.nan
    np.save(tmp_path / "cube.npy", values)
    dims = ["inline", "crossline", "twt"]
    return ConvertConfig(
        source=str(tmp_path / "cube.npy"), out=str(tmp_path / "cube.zarr"), dims=dims, chunks=dict.fromkeys(dims, 16)
    )


def finished(config: ConvertConfig) -> set[str]:
    out = Path(config.out)
    return {path.name for path in out.with_name(f".{out.name}.journal").glob("-data-*.npz")}


def kill_half_way(config: ConvertConfig) -> set[str]:
    """Convert in another process and kill it (SIGKILL) after some pieces; returns those that were finished."""
    words = [sys.executable, "-c", SLOWLY, config.source, config.out, str(SHARD)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        while len(finished(config)) < 8:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not Path(config.out).exists()
    return finished(config)


def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Listen to what a conversion in this process writes."""
    names: list[str] = []
    note = Journal.note

    def listen(self: Journal, name: str, arrays: dict | None = None) -> None:
        names.append(name)
        note(self, name, arrays)

    monkeypatch.setattr(Journal, "note", listen)
    return names


def test_a_killed_conversion_goes_on(
    cube: ConvertConfig, small_shards: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = kill_half_way(cube)
    monkeypatch.setattr("datasets.provenance.code_version", lambda: "another commit")
    names = noted(monkeypatch)
    convert(cube)
    again = {f"{name}.npz" for name in names if name.startswith("-data-")}
    assert len(again) > 10
    assert not again & done
    assert "this was begun and stopped before: going on with it" in capsys.readouterr().out
    whole = replace(cube, out=cube.out.replace("cube.zarr", "whole.zarr"))
    convert(whole)
    first, second = (open_volume(config.out).load().drop_attrs() for config in (cube, whole))
    xr.testing.assert_identical(first, second)
    np.testing.assert_array_equal(first["data"].values, np.load(cube.source))
    for group in ("statistics", "overviews/1"):
        xr.testing.assert_identical(open_part(cube.out, group).load(), open_part(whole.out, group).load())
    assert sorted(path.name for path in Path(cube.out).parent.iterdir()) == ["cube.npy", "cube.zarr", "whole.zarr"]


@pytest.mark.parametrize("change", ["source", "settings", "bytes that the code makes"])
def test_what_is_left_of_another_conversion_is_not_used(
    cube: ConvertConfig,
    small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    done = kill_half_way(cube)
    if change == "source":
        np.save(cube.source, np.load(cube.source) + 1)
    elif change == "settings":
        cube = replace(cube, nodata=0.5)
    else:
        monkeypatch.setattr("datasets.provenance._MAKES", 0)
    names = noted(monkeypatch)
    convert(cube)
    assert "begun here is thrown away: only the same source, settings and program go on" in capsys.readouterr().out
    assert done <= {f"{name}.npz" for name in names}
    np.testing.assert_array_equal(open_volume(cube.out)["data"].values, np.load(cube.source))


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the quota of the disk is used up")]
)
def test_an_interruption_and_a_full_disk_keep_the_pieces(
    cube: ConvertConfig,
    small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    words: str,
) -> None:
    kept = "stopped: what is finished is kept, and the same command goes on with it"
    refused = (
        rf"^{words}: .*cube\.zarr could not be written; free some space, and the same command goes on, or remove .*"
    )
    full = OSError(number, "No space left on device")
    note, before = Journal.note, 0
    for least, stop in ((3, full), (6, KeyboardInterrupt()), (9, full)):
        with monkeypatch.context() as patch:

            def stopped(self: Journal, name: str, arrays: dict | None = None) -> None:
                note(self, name, arrays)
                if len(finished(cube)) > least:  # noqa: B023
                    raise stop  # noqa: B023

            patch.setattr(Journal, "note", stopped)
            with pytest.raises((InputError, KeyboardInterrupt), match=refused if stop is full else None):
                convert(cube)
        assert kept in capsys.readouterr().out
        assert len(finished(cube)) > max(least, before)
        before = len(finished(cube))
    names = noted(monkeypatch)
    convert(cube)
    assert len([name for name in names if name.startswith("-data-")]) == 36 - before
    np.testing.assert_array_equal(open_volume(cube.out)["data"].values, np.load(cube.source))
    assert sorted(path.name for path in Path(cube.out).parent.iterdir()) == ["cube.npy", "cube.zarr"]


def test_two_processes_do_not_write_one_volume(cube: ConvertConfig) -> None:
    with (
        open_journal(Path(cube.out), "mine", begun=False),
        pytest.raises(InputError, match=r"another process is writing .*cube\.zarr; wait for its end, or choose"),
    ):
        convert(cube)
    convert(cube)


def test_the_stored_statistics_are_those_of_the_stored_data(cube: ConvertConfig, small_shards: None) -> None:
    convert(cube)
    stored = read_summary(cube.out)
    assert stored is not None
    measured = measure(open_volume(cube.out))
    xr.testing.assert_allclose(stored, measured, rtol=1e-12)
    held = np.load(cube.source)
    assert int(stored["count"]) == np.isfinite(held).sum()
    assert float(stored["mean"]) == pytest.approx(np.nanmean(held, dtype=np.float64))


def halves(values: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """Average cubes by loops."""
    shape = [-(-size // step) for size, step in zip(values.shape, steps, strict=True)]
    coarse = np.full(shape, np.nan, np.float32)
    for at in np.ndindex(*shape):
        cube = values[tuple(slice(i * step, (i + 1) * step) for i, step in zip(at, steps, strict=True))]
        if np.isfinite(cube).any():
            coarse[at] = np.nanmean(cube, dtype=np.float64)
    return coarse


@pytest.mark.parametrize("edge", [16, 15], ids=["along with the data", "from the written data"])
def test_overviews_are_means_of_the_cells_with_data(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, edge: int
) -> None:
    monkeypatch.setattr(overviews, "FINE_ENOUGH", 20)
    values = np.random.default_rng(1).normal(size=(2, 75, 61)).astype(np.float32)
    valid = np.random.default_rng(2).random(values.shape) < 0.5
    valid[:, :8, :8] = False
    dims = ("band", "y", "x")
    ds = xr.Dataset(
        {"data": (dims, values), "valid": (dims, valid)},
        {"y": ("y", 100.0 - 2 * np.arange(75), {"units": "m"}), "x": ("x", np.arange(61.0))},
    )
    path = write_volume(ds, tmp_path / "v.zarr", block={"y": edge, "x": edge}, overviews=True)
    group = zarr.open_group(path / "overviews", mode="r")
    assert [entry["factors"] for entry in group.attrs["levels"]] == [
        {"band": 1, "y": 2, "x": 2}, {"band": 1, "y": 2, "x": 2},
    ]  # fmt: skip
    expected = halves(np.where(valid, values, np.nan), (1, 2, 2))
    first, second = (open_part(path, f"overviews/{number}") for number in (1, 2))
    np.testing.assert_allclose(first["data"].values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second["data"].values, halves(expected, (1, 2, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(first["y"][:2], [99, 95])
    assert float(first["y"][-1]) == 100 - 2 * 74
    assert first["y"].attrs["units"] == "m"
    shards = zarr.open_array(path / "overviews/1/data", mode="r").shards
    data_shards = zarr.open_array(path / "data", mode="r").shards
    assert data_shards is not None
    assert (shards is not None and shards[1] * 2 == data_shards[1]) == (edge == 16)


def test_small_volumes_need_no_overviews(cube: ConvertConfig) -> None:
    convert(cube)
    assert open_part(cube.out, "overviews") is None
