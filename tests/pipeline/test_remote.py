"""The command line on a cloud store: convert, synthesize, inspect, train's source."""

from pathlib import Path

import numpy as np
import pytest

from datasets.store import open_volume
from pipeline.cli import main


def test_convert_and_inspect_on_s3(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(0, 1, (6, 12, 14)).astype(np.float32)
    np.save("cube.npy", values)
    words = ["--source", "cube.npy", "--out", f"{s3}/cube.zarr", "--dims", "[band,y,x]"]
    assert main(["convert", *words]) == 0
    np.testing.assert_array_equal(open_volume(f"{s3}/cube.zarr")["data"].values, values)
    capsys.readouterr()
    assert main(["inspect", f"{s3}/cube.zarr"]) == 0
    shown = capsys.readouterr().out
    assert f"{s3}/cube.zarr" in shown
    assert "band 6 x y 12 x x 14" in shown
    assert (tmp_path / "cube.png").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cube.npy", "cube.png"]
    assert main(["convert", *words]) == 0
    assert "cube.zarr is there already, of the same source and settings: nothing to do" in capsys.readouterr().out
    assert main(["convert", *words, "--nodata", "5"]) == 2
    assert "cube.zarr exists already; choose another place, or pass --overwrite" in capsys.readouterr().err
    assert main(["convert", *words, "--overwrite"]) == 0


def test_synthesize_on_s3(s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--out", f"{s3}/survey.zarr", "--shape", "[24,24,24]", "--radius", "1"]) == 0
    assert open_volume(f"{s3}/survey.zarr").load()["data"].shape == (24, 24, 24)


def test_a_wrong_secret_is_one_sentence(
    s3: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    assert main(["inspect", f"{s3}/survey.zarr"]) == 2
    shown = capsys.readouterr().err
    assert "survey.zarr/zarr.json could not be read (403 Forbidden SignatureDoesNotMatch); check the address" in shown
    assert shown.count("\n") == 1
    assert "not-the-secret" not in shown
