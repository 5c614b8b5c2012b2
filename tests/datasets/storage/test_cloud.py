"""Volumes on a real S3 server: written, read, refused, replaced."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import obstore
import pytest
import xarray as xr

from datasets.config import DataConfig
from datasets.errors import AwayError, InputError
from datasets.storage.objects import Ask, MissingObjectError, Objects
from datasets.store import open_node, open_part, open_volume, write_volume
from datasets.volume import Volume
from tests.cloud.seaweed import KEY, SECRET, Server
from tests.cloud.volumes import EDGES, survey


def contents(uri: str) -> list[str]:
    return sorted(str(entry["path"]) for batch in obstore.list(Objects(uri).store) for entry in batch)


@pytest.fixture
def volume(s3: str) -> str:
    """URI of a small volume."""
    return write_volume(survey(), f"{s3}/v.zarr", chunks=EDGES)


def test_what_is_written_to_s3_comes_back_as_from_a_folder(s3: str, tmp_path: Path) -> None:
    ds = survey().chunk(16)
    local = open_volume(write_volume(ds, tmp_path / "v.zarr", chunks=EDGES)).load()
    remote = open_volume(write_volume(ds, f"{s3}/v.zarr", chunks=EDGES)).load()
    xr.testing.assert_identical(remote.drop_attrs(deep=False), local.drop_attrs(deep=False))
    assert remote.attrs | {"created": ""} == local.attrs | {"created": ""}
    files = sorted(str(path.relative_to(tmp_path / "v.zarr")) for path in (tmp_path / "v.zarr").rglob("*.json"))
    assert [name for name in contents(f"{s3}/v.zarr") if name.endswith(".json")] == files
    config = DataConfig(source=f"{s3}/v.zarr", space=["inline", "crossline", "depth"])
    near = Volume.open(replace(config, source=str(tmp_path / "v.zarr")))
    far = Volume.open(config)
    block = (slice(3, 20), slice(16, 32), slice(0, 40))
    np.testing.assert_array_equal(far.read(block), near.read(block))
    np.testing.assert_array_equal(far.read_labels(block=block), near.read_labels(block=block))
    assert far.digest() == near.digest()
    assert far.traffic is not None
    assert far.traffic.fetched > 0


def test_an_existing_store_is_refused_then_replaced(s3: str, volume: str) -> None:
    with pytest.raises(InputError, match=r"^s3://.*v\.zarr exists already; .*pass --overwrite to replace it$"):
        write_volume(survey(24), volume)
    assert open_volume(volume).sizes["depth"] == 40
    write_volume(survey(24), volume, overwrite=True)
    assert open_volume(volume).load().sizes["depth"] == 24
    assert "telegrapher-writing" not in contents(volume)
    with pytest.raises(InputError, match=r"holds other things, which --overwrite leaves alone; choose another place"):
        write_volume(survey(24), s3, overwrite=True)


def test_what_was_only_begun_does_not_open_and_is_replaced(s3: str, volume: str) -> None:
    ds = survey().chunk(16)
    calls = []

    def interrupted(block: np.ndarray) -> np.ndarray:
        calls.append(block.shape)
        if len(calls) > ds["data"].data.npartitions + 4:  # a sample from the middle is read first, then the pieces
            raise KeyboardInterrupt
        return block

    half = ds.assign(data=ds["data"].copy(data=ds["data"].data.map_blocks(interrupted, meta=np.empty((0,) * 3, "f4"))))
    for uri, overwrite in ((f"{s3}/new.zarr", False), (volume, True)):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            write_volume(half, uri, overwrite=overwrite, chunks=EDGES)
        assert len(contents(uri)) > 1
        assert "zarr.json" not in contents(uri)
        with pytest.raises(InputError, match="is not a Zarr store; make a volume from it with"):
            open_volume(uri)
        write_volume(survey(24), uri)
        assert open_volume(uri).load().sizes["depth"] == 24


def test_a_place_where_nothing_is(s3: str) -> None:
    with pytest.raises(InputError, match=r"^s3://.*nowhere is not a Zarr store; make a volume from it with"):
        open_volume(f"{s3}/nowhere")
    with pytest.raises(MissingObjectError, match=r"there is no object at s3://.*nowhere/x"):
        Objects(f"{s3}/nowhere").get(Ask("x"))
    with pytest.raises(
        InputError, match=r"ftp:// is not a store that is known here; use a folder or s3://, gs://, az://"
    ):
        open_volume("ftp://a/b")


def test_missing_chunks_are_no_data_where_the_user_says_so(volume: str) -> None:
    obstore.delete(Objects(volume).store, "data/c/1/1/1")
    config = DataConfig(source=volume, space=["inline", "crossline", "depth"])
    with pytest.raises(InputError, match=r"the chunk s3://.*data/c/1/1/1 is missing; restore it or convert the source"):
        Volume.open(config).read()
    whole = np.where(survey()["valid"], survey()["data"], np.nan)[None]
    got = Volume.open(replace(config, missing="mask")).read()
    assert np.isnan(got[0, 16:32, 16:32, 16:32]).all()
    whole[0, 16:32, 16:32, 16:32] = np.nan
    np.testing.assert_array_equal(got, whole)


def test_wrong_and_missing_credentials(volume: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(
        InputError, match=r"^s3://.*zarr\.json could not be read \(403 Forbidden SignatureDoesNotMatch\); check"
    ):
        open_volume(volume)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(InputError, match=r"\(403 Forbidden InvalidAccessKeyId\)"):
        open_volume(volume)


@pytest.fixture
def profile(volume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A volume whose credentials are only in a profile."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = x\naws_secret_access_key = y\n[survey]\n{keys}"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "survey")
    return volume


def test_credentials_of_a_profile_open_the_store(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_volume(profile).load().sizes["depth"] == 40
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(InputError, match=r"\(403 Forbidden InvalidAccessKeyId\)"):
        open_volume(profile)  # as the default profile, whose keys are wrong
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_PROFILE", "of no use where the environment has keys")
    assert open_volume(profile).load().sizes["depth"] == 40


def test_profiles_that_cannot_be_used_are_named(profile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match=r"^the AWS profile 'nobody' cannot be used \(ProfileNotFound\); correct AWS_"):
        open_volume(profile)
    (tmp_path / "config").write_text("[profile empty]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_PROFILE", "empty")
    with pytest.raises(InputError, match=r"^the AWS profile 'empty' holds no credentials; correct AWS_PROFILE$"):
        open_volume(profile)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match=r"^AWS_PROFILE is 'empty', but profiles are read by boto3, which is not inst"):
        open_volume(profile)


def test_a_volume_is_read_from_a_web_server(volume: str, s3_server: Server) -> None:
    address = f"{s3_server.web}/{volume.split('/', 3)[3]}"
    xr.testing.assert_identical(open_volume(address).load(), open_volume(volume).load())
    with pytest.raises(InputError, match=r"^http://127.*nowhere is not a Zarr store; make a volume from it with"):
        open_volume(f"{s3_server.web}/nowhere")


@pytest.mark.parametrize(
    ("uri", "environment"),
    [
        ("gs://bucket/volume", {"GOOGLE_SKIP_SIGNATURE": "true"}),
        ("az://container/volume", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_SKIP_SIGNATURE": "true"}),
        ("https://host/volume", {}),
    ],
)
def test_other_stores_are_known(uri: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Objects(uri).uri == uri


@pytest.mark.parametrize("password", ["secret", "se@cret"])
def test_passwords_in_addresses_are_not_shown(password: str) -> None:
    objects = Objects(f"https://user:{password}@127.0.0.1:9/volume?signature=secret")
    assert objects.uri == "https://127.0.0.1:9/volume"


@pytest.mark.slow
def test_another_process_reads_with_its_own_credentials(volume: str, s3_server: Server) -> None:
    code = (
        "import pickle, sys; from datasets.store import open_volume\n"
        f"ds = open_volume({volume!r}); text = pickle.dumps(ds)\n"
        f"assert {SECRET.encode()!r} not in text\n"
        "print(float(pickle.loads(text)['data'].sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert float(done.stdout) == pytest.approx(float(survey()["data"].sum()), rel=1e-4)


@pytest.mark.parametrize("act", [open_node, lambda uri: open_part(uri, "statistics")])
def test_an_address_that_does_not_answer_is_named_in_words(act: Callable[[str], object]) -> None:
    words = (
        r"^http://127\.0\.0\.1:9/v\.zarr could not be read in 3 attempts \([a-z ]*\); check the store and the network"
    )
    with pytest.raises(AwayError, match=words) as caught:
        act("http://user:secret@127.0.0.1:9/v.zarr?signature=secret")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_many_threads_read_one_volume(volume: str) -> None:
    far = Volume.open(DataConfig(source=volume, space=["inline", "crossline", "depth"]))
    expected = far.read()
    wrong: list[int] = []

    def work(number: int) -> None:
        for start in range(0, 32, 5):
            block = (slice(start, start + 8), slice(number, number + 20), slice(0, 40))
            if not np.array_equal(far.read(block), expected[:, *block], equal_nan=True):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
