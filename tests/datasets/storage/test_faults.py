"""What cloud storage does to its readers and writers, between us and a real S3 server."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import zarr

from datasets.errors import AwayError, InputError
from datasets.storage.metadata import parse_layout
from datasets.storage.objects import Ask, Objects
from datasets.storage.reader import ArrayReader
from datasets.storage.upload import BEGUN
from datasets.store import is_made, open_volume, write_volume
from tests.cloud.faults import Faults, FaultyProxy, Matcher
from tests.cloud.seaweed import KEY, SECRET
from tests.cloud.volumes import EDGES, survey


@pytest.fixture
def volume(s3: str) -> str:
    """URI of a small volume."""
    return write_volume(survey(), f"{s3}/v.zarr", chunks=EDGES)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(busy=0.4, latency=0.005),
        Faults(reset=0.3, per_object=2),
        Faults(truncate=0.3, per_object=2),
        Faults(busy=0.1, reset=0.1, truncate=0.1, per_object=2),
        Faults(stall=0.5, stall_seconds=0.5, at_most=4),
        pytest.param(Faults(stall=0.5, stall_seconds=5, at_most=4), marks=pytest.mark.slow),
    ],
    ids=["503 storm", "reset in mid-body", "truncated body", "all at once", "stalls", "stalls of 5 s"],
)
def test_faults_that_pass_are_survived(volume: str, faulty_s3: FaultyProxy, faults: Faults) -> None:
    faulty_s3.faults = faults
    ds = open_volume(volume)
    np.testing.assert_array_equal(ds["data"].values, survey()["data"].values)
    np.testing.assert_array_equal(ds["valid"].values, survey()["valid"].values)
    assert faulty_s3.done > 0, "the faults did happen"


@pytest.mark.parametrize("faults", [Faults(busy=0.3), Faults(reset=0.2, per_object=2)], ids=["503 storm", "resets"])
def test_writing_survives_faults(s3: str, faulty_s3: FaultyProxy, faults: Faults) -> None:
    faulty_s3.faults = replace(faults, matches=lambda method, path: method == "PUT")
    uri = write_volume(survey(), f"{s3}/v.zarr", chunks=EDGES)
    assert faulty_s3.done > 0, "the faults did happen"
    np.testing.assert_array_equal(open_volume(uri)["data"].values, survey()["data"].values)


def deletes(method: str, path: str) -> bool:
    return method == "DELETE" or path.endswith("?delete")


@pytest.mark.parametrize(
    "matches",
    [deletes, lambda method, path: method == "HEAD", lambda method, path: "list-type" in path],
    ids=["delete", "head", "list"],
)
def test_replacing_a_store_survives_faults_that_outlast_one_attempt(
    volume: str, faulty_s3: FaultyProxy, matches: Matcher
) -> None:
    faulty_s3.faults = Faults(busy=1, at_most=7, matches=matches)
    write_volume(survey(24), volume, overwrite=True, chunks=EDGES)
    assert faulty_s3.done == 7, "the faults did happen"
    assert open_volume(volume).load().sizes["depth"] == 24


def test_what_cannot_be_listed_for_good_is_no_matter_of_credentials(volume: str, faulty_s3: FaultyProxy) -> None:
    faulty_s3.faults = Faults(busy=1, matches=lambda method, path: "list-type" in path)
    for act in (Objects(volume).names, lambda: Objects(volume).listing("data")):
        with pytest.raises(
            AwayError, match=r"^s3://.*v\.zarr could not be listed in 3 attempts \(503 .*; check the store"
        ):
            act()


def test_a_store_whose_traces_cannot_be_deleted_is_finished_and_the_next_deletes_them(
    s3: str, faulty_s3: FaultyProxy
) -> None:
    uri, passes = f"{s3}/v.zarr", faulty_s3.faults

    def refuse(method: str, path: str) -> None:
        faulty_s3.faults = Faults(expired=True)

    faulty_s3.faults = Faults(matches=deletes, before=refuse)
    write_volume(survey(), uri, chunks=EDGES, key="made")
    assert faulty_s3.faults.expired, "the fault did happen"
    faulty_s3.faults = passes
    assert open_volume(uri).load().sizes["depth"] == 40
    assert Objects(uri).names(BEGUN)
    assert not is_made(uri, "other")
    assert is_made(uri, "made")
    assert Objects(uri).names(BEGUN) == []


@pytest.mark.slow
def test_writing_that_fails_for_good_names_the_object_and_can_be_done_again(s3: str, faulty_s3: FaultyProxy) -> None:
    faulty_s3.faults = Faults(busy=1, matches=lambda method, path: method == "PUT" and "data/c/1/1/1" in path)
    with pytest.raises(
        InputError, match=r"^s3://.*/data/c/1/1/1 could not be written in 3 attempts \(503 .*SlowDown\)"
    ):
        write_volume(survey(), f"{s3}/v.zarr", chunks=EDGES)
    faulty_s3.faults = Faults()
    write_volume(survey(), f"{s3}/v.zarr", chunks=EDGES)
    np.testing.assert_array_equal(open_volume(f"{s3}/v.zarr")["data"].values, survey()["data"].values)


def only_chunk(method: str, path: str) -> bool:
    return method == "GET" and path.split("?")[0].endswith("data/c/1/1/1")


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(truncate=1, matches=only_chunk), r"chunk s3://.*v\.zarr/data/c/1/1/1 is broken: "),
        pytest.param(
            Faults(busy=1, matches=only_chunk),
            r"^s3://.*v\.zarr/data/c/1/1/1 could not be read in 3 attempts \(503 .*check the store and the network",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Faults(reset=1, matches=only_chunk),
            r"^s3://.*v\.zarr/data/c/1/1/1 could not be read in 3 attempts \(connection lost\); check the store",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["truncated for ever", "503 for ever", "reset for ever"],
)
def test_faults_that_stay_name_the_object(volume: str, faulty_s3: FaultyProxy, faults: Faults, words: str) -> None:
    faulty_s3.faults = faults
    ds = open_volume(volume)
    np.testing.assert_array_equal(ds["data"][:16, :16, :16].values, survey()["data"][:16, :16, :16].values)
    with pytest.raises(InputError, match=words):
        ds["data"].load()


@pytest.fixture
def sharded(s3: str) -> tuple[zarr.Array, np.ndarray]:
    """An array of 2 x 2 shards of 4 x 4 chunks, below the address."""
    values = np.random.default_rng(0).integers(0, 99, (16, 16))
    store = zarr.storage.ObjectStore(Objects(f"{s3}/a").store)
    return zarr.create_array(store, name="data", data=values, chunks=(2, 2), shards=(8, 8)), values


def reader_of(uri: str) -> ArrayReader:
    objects = Objects(uri)
    document = json.loads(bytes(objects.get(Ask("data/zarr.json")).data))
    return ArrayReader(objects, "data", parse_layout(document, "data"))


def test_indices_and_ranges_that_come_truncated_are_asked_for_again(
    s3: str, sharded: tuple[zarr.Array, np.ndarray], faulty_s3: FaultyProxy
) -> None:
    reader = reader_of(f"{s3}/a")
    faulty_s3.faults = Faults(truncate=1, at_most=2)
    np.testing.assert_array_equal(reader.read((slice(0, 4), slice(0, 4))), sharded[1][:4, :4])
    assert faulty_s3.done == 2
    faulty_s3.faults = Faults(truncate=1)
    with pytest.raises(InputError, match=r"c/1/1 could not be read in 3 attempts \(\d+ bytes came in place of \d+\)"):
        reader.read((slice(8, 10), slice(8, 10)))


@pytest.mark.parametrize("length", [0, 100, 200])
def test_an_object_that_was_cut_short_is_broken(s3: str, sharded: tuple[zarr.Array, np.ndarray], length: int) -> None:
    objects, values = Objects(f"{s3}/a"), sharded[1]
    objects.put("data/c/1/1", bytes(objects.get(Ask("data/c/1/1")).data)[:length])
    for cells in (slice(4, 10), slice(4, 16)):  # a part of the shard, and the whole
        with pytest.raises(InputError, match=r"^chunk \[4, 4\] of data in the shard s3://.*/data/c/1/1 is broken: "):
            reader_of(f"{s3}/a").read((cells, cells))
        found, gone = reader_of(f"{s3}/a").read_masked((cells, cells))
        np.testing.assert_array_equal(np.argwhere(gone)[0], [4, 4])
        np.testing.assert_array_equal(found[~gone], values[cells, cells][~gone])
        assert gone.sum() == (cells.stop - 8) ** 2


def test_an_object_replaced_during_a_read_is_named(
    s3: str, sharded: tuple[zarr.Array, np.ndarray], faulty_s3: FaultyProxy
) -> None:
    array, values = sharded
    reader = reader_of(f"{s3}/a")
    reads = []

    def replaced(method: str, path: str) -> None:
        reads.append(path)
        if len(reads) == 2:  # the index was read, the chunks come next
            array[:8, :8] = values[:8, :8] + 1

    faulty_s3.faults = Faults(matches=lambda method, path: method == "GET" and "c/0/0" in path, before=replaced)
    with pytest.raises(InputError, match=r"^s3://.*a/data/c/0/0 was replaced while it was being read; start again"):
        reader.read((slice(0, 4), slice(0, 4)))


def test_expired_credentials_give_one_clear_error_without_secrets(volume: str, faulty_s3: FaultyProxy) -> None:
    ds = open_volume(volume)
    faulty_s3.faults = Faults(expired=True)
    for act in (lambda: ds["data"].load(), lambda: open_volume(volume), lambda: write_volume(survey(8), f"{volume}2")):
        started = time.monotonic()
        with pytest.raises(
            InputError, match=r"s3://.*could not be .*\(403 Forbidden.*credentials of the env"
        ) as caught:
            act()
        assert time.monotonic() - started < 20
        chain: BaseException | None = caught.value
        while chain is not None:
            assert SECRET not in str(chain)
            assert KEY not in str(chain)
            chain = chain.__cause__
