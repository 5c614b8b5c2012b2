"""The reader gives what zarr gives, in few requests, and never zeros for what is not there."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

from datasets.errors import InputError
from datasets.storage.codecs import CorruptChunkError, Decoder
from datasets.storage.lazy import stored_array
from datasets.storage.metadata import parse_layout
from datasets.storage.objects import Objects
from datasets.storage.reader import ArrayReader
from datasets.store import open_volume, write_volume

COMPRESSORS = [(), (ZstdCodec(),), (ZstdCodec(), Crc32cCodec()), (BloscCodec(typesize=4),), (GzipCodec(),)]


def reader_of(folder: Path, *, sparse: bool = False) -> ArrayReader:
    layout = parse_layout(json.loads((folder / "zarr.json").read_text()), str(folder))
    return ArrayReader(Objects(folder), "", layout, sparse=sparse)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_reads_what_zarr_reads(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dims = data.draw(st.integers(0, 3))
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(dims))
    chunk = tuple(data.draw(st.integers(1, 4)) for _ in range(dims))
    shard = tuple(edge * data.draw(st.integers(1, 3)) for edge in chunk)
    dtype = data.draw(st.sampled_from(["uint8", "int16", "float32", "float64", "bool", ">i4", "int64"]))
    inner = (
        *data.draw(st.sampled_from([(), (TransposeCodec(order=tuple(reversed(range(dims)))),)])),
        BytesCodec(endian=data.draw(st.sampled_from(["little", "big"]))),
        *data.draw(st.sampled_from(COMPRESSORS)),
    )
    place = data.draw(st.sampled_from(["start", "end"]))
    sharded = dims > 0 and data.draw(st.booleans())
    serializer = [ShardingCodec(chunk_shape=chunk, codecs=inner, index_location=place)] if sharded else inner
    folder = tmp_path_factory.mktemp("array") / "a"
    keys = data.draw(st.sampled_from([{"name": "default", "separator": "/"}, {"name": "v2", "separator": "."}]))
    array = zarr.create(
        shape, store=folder, dtype=dtype, chunks=shard if sharded else chunk, codecs=serializer, zarr_format=3,
        fill_value=data.draw(st.sampled_from([0, 1])), chunk_key_encoding=keys,
    )  # fmt: skip
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    written = tuple(slice(0, data.draw(st.integers(0, size))) for size in shape)
    array[written] = values[written]
    reader = reader_of(folder, sparse=True)
    whole = (slice(None),) * len(shape)
    starts = [data.draw(st.integers(0, size)) for size in shape]
    region = tuple(slice(start, data.draw(st.integers(start, size))) for start, size in zip(starts, shape, strict=True))
    for _ in range(2):  # the second time from what was kept of the index
        np.testing.assert_array_equal(reader.read(region), array[region])
    assert reader.read(region).dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(whole), array[...])


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """An array of 2 x 2 x 2 shards of 4 x 4 x 4 chunks of 8 x 8 x 8 noisy cells, as volumes are stored."""
    values = np.random.default_rng(0).integers(0, 999, (64, 64, 64)).astype(np.int16)
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.create_array(
            tmp_path / "a", data=values, chunks=(8, 8, 8), shards=(32, 32, 32), compressors=[ZstdCodec(), Crc32cCodec()]
        )
    return tmp_path / "a", values


def cube(*bounds: int) -> tuple[slice, ...]:
    return (slice(*bounds),) * 3


def test_requests_are_few_and_bytes_are_counted(sharded: tuple[Path, np.ndarray]) -> None:
    folder, values = sharded
    reader = reader_of(folder)
    traffic = reader.objects.traffic
    np.testing.assert_array_equal(reader.read(cube(0, 32)), values[:32, :32, :32])
    assert traffic.requests == 1, "a whole shard is one request"
    assert traffic.fetched / traffic.used < 1.02
    reader = reader_of(folder)
    traffic = reader.objects.traffic
    np.testing.assert_array_equal(reader.read(cube(0, 24)), values[:24, :24, :24])
    assert 2 <= traffic.requests <= 12, "27 chunks in a few requests, after the index"
    assert traffic.fetched / traffic.used < 1.3
    before = traffic.requests
    reader.read(cube(8, 16))
    assert traffic.requests == before + 1, "the index is known"
    reader = reader_of(folder)
    np.testing.assert_array_equal(reader.read(cube(24, 40)), values[24:40, 24:40, 24:40])
    assert reader.objects.traffic.requests == 16, "an index and a chunk of each of 8 shards"
    assert reader.objects.traffic.used > 8 * 8**3 * 10 / 8, "at least 10 bits a cell"


def test_a_chunk_of_which_half_is_wanted_counts_half(sharded: tuple[Path, np.ndarray]) -> None:
    reader = reader_of(sharded[0])
    reader.read((slice(0, 4), slice(0, 8), slice(0, 8)))
    stored = reader.objects.traffic.fetched - reader.layout.index_bytes
    assert reader.objects.traffic.used == pytest.approx(stored / 2)


def damage(folder: Path, where: int, length: int = 1) -> Path:
    """Spoil bytes of the first shard, from its start or (negative) its end."""
    path = folder / "c" / "0" / "0" / "0"
    content = bytearray(path.read_bytes())
    for at in range(where, where + length):
        content[at] ^= 0xFF
    path.write_bytes(content)
    return path


def test_a_broken_chunk_is_named_or_masked(sharded: tuple[Path, np.ndarray]) -> None:
    folder, values = sharded
    damage(folder, 300)  # in the middle of the first chunk
    reader = reader_of(folder)
    words = r"chunk \[0, 0, 0\] of the array in the shard .*c/0/0/0 is broken: its checksum is wrong; restore it"
    with pytest.raises(InputError, match=words):
        reader.read(cube(0, 16))
    np.testing.assert_array_equal(reader.read(cube(8, 16)), values[8:16, 8:16, 8:16])
    got, gone = reader.read_masked(cube(4, 16))
    expected = np.zeros_like(gone)
    expected[:4, :4, :4] = True
    np.testing.assert_array_equal(gone, expected)
    np.testing.assert_array_equal(got[~gone], values[4:16, 4:16, 4:16][~gone])


def test_a_broken_index_and_a_truncated_shard_are_named_or_masked(sharded: tuple[Path, np.ndarray]) -> None:
    folder, _ = sharded
    path = damage(folder, -100)
    for content in (path.read_bytes(), path.read_bytes()[:-5], path.read_bytes()[:10], b""):
        path.write_bytes(content)
        for region in (cube(0, 16), cube(0, 32)):
            with pytest.raises(InputError, match=r"^chunk \[0, 0, 0\] of the array in the shard .*c/0/0/0 is broken: "):
                reader_of(folder).read(region)
            assert reader_of(folder).read_masked(region)[1].all()
    path.write_bytes(damage(folder.parent / "a", 0, 0).read_bytes() + bytes(5000))
    _, gone = reader_of(folder).read_masked(cube(24, 40))
    assert gone[:8, :8, :8].all()
    assert gone.sum() == 8**3


def test_a_missing_shard_or_chunk_is_an_error_a_fill_value_or_a_mask(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(8, 8), chunks=(2, 2), shards=(4, 4), dtype="f4", fill_value=7)
    array[0:2, 0:4] = 1.0
    rows = {r"chunk \[1, 0\]": slice(2, 4), r"chunk \[2, 0\]": slice(4, 8)}
    for name, part in rows.items():
        with pytest.raises(InputError, match=rf"{name} of the array in the shard .*c/\d/\d is missing; restore it"):
            reader_of(tmp_path / "a").read((part, slice(0, 4)))
    whole = slice(None), slice(None)
    np.testing.assert_array_equal(reader_of(tmp_path / "a", sparse=True).read(whole), array[...])
    values, gone = reader_of(tmp_path / "a").read_masked(whole)
    np.testing.assert_array_equal(values, array[...])
    np.testing.assert_array_equal(gone, array[...] == 7)
    assert not reader_of(tmp_path / "a", sparse=True).read_masked(whole)[1].any()


def test_a_shard_replaced_between_index_and_chunks_is_named(sharded: tuple[Path, np.ndarray]) -> None:
    folder, _ = sharded
    reader = reader_of(folder)
    reader.read(cube(0, 8))
    path = folder / "c" / "0" / "0" / "0"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"c/0/0/0 was replaced while it was being read; start again"):
        reader.read(cube(8, 16))


def test_a_zstd_frame_that_does_not_say_how_long_it_is() -> None:
    import zstandard

    cells = np.arange(64, dtype=np.int16)
    packer = zstandard.ZstdCompressor().compressobj()
    streamed = packer.compress(cells.tobytes()) + packer.flush()
    decode = Decoder([{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}], (64,), cells.dtype)
    assert zstandard.frame_content_size(streamed) == -1
    np.testing.assert_array_equal(decode(streamed), cells)
    with pytest.raises(CorruptChunkError, match="it holds 0 bytes in place of 128"):
        decode(streamed[:-5])


def test_unknown_codecs_and_grids_are_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(8,), chunks=(2,), dtype="f4")
    document = json.loads((tmp_path / "a" / "zarr.json").read_text())
    layout = parse_layout({**document, "codecs": [{"name": "bytes"}, {"name": "lzma"}]}, "a")
    with pytest.raises(InputError, match=r"the codec 'lzma' is not one that is read here \(transpose, bytes, crc32c"):
        ArrayReader(Objects(tmp_path), "a", layout)
    with pytest.raises(InputError, match="a has chunks of unequal size"):
        parse_layout({**document, "chunk_grid": {"name": "rectangular"}}, "a")
    with pytest.raises(InputError, match="the metadata of a are not those of a Zarr v3 array"):
        parse_layout({"zarr_format": 3, "node_type": "array"}, "a")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_lazy_indexing_is_numpys(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    values = np.arange(7 * 6 * 5, dtype=np.int32).reshape(7, 6, 5)
    folder = tmp_path_factory.mktemp("lazy") / "v.zarr"
    ds = open_volume(write_volume(xr.Dataset({"data": (("z", "y", "x"), values)}), folder, chunks={"z": 2, "y": 3}))
    part = st.one_of(
        st.integers(-5, 4),
        st.slices(5),
        st.lists(st.integers(-5, 4), min_size=1, max_size=4).map(np.array),
    )
    key = tuple(data.draw(part) for _ in range(3))
    expected = xr.DataArray(values, dims=("z", "y", "x"))
    np.testing.assert_array_equal(ds["data"][key].values, expected[key].values)


def test_only_an_untouched_variable_is_read_without_dask(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(4, 6)
    ds = open_volume(write_volume(xr.Dataset({"data": (("y", "x"), values)}), tmp_path / "v.zarr"))
    source = stored_array(ds["data"])
    assert source is not None
    np.testing.assert_array_equal(source.read((slice(1, 3), slice(0, 6))), values[1:3])
    for changed in (ds["data"] + 1, ds["data"][1:], ds["data"].load(), xr.DataArray(values)):
        assert stored_array(changed) is None


def test_two_openings_of_a_volume_count_their_own_bytes(tmp_path: Path) -> None:
    path = write_volume(xr.Dataset({"data": (("y", "x"), np.arange(12.0).reshape(3, 4))}), tmp_path / "v.zarr")
    first, second = open_volume(path), open_volume(path)
    second["data"].load()
    del second
    source = stored_array(first["data"])
    assert source is not None
    assert source.reader.objects.traffic.used == 0
    source.read((slice(0, 3), slice(0, 4)))
    assert source.reader.objects.traffic.used > 0


def test_a_volume_of_version_1_may_leave_zeros_out_and_one_of_version_2_may_not(tmp_path: Path) -> None:
    values = np.zeros((4, 4), np.int16)
    values[0, 0] = 1
    path = write_volume(xr.Dataset({"data": (("y", "x"), values)}), tmp_path / "v.zarr", chunks={"y": 2, "x": 2})
    assert len(list((path / "data" / "c").rglob("*"))) == 2 + 4, "empty chunks are written"
    (path / "data" / "c" / "1" / "1").unlink()
    with pytest.raises(InputError, match=r"the chunk .*v\.zarr/data/c/1/1 is missing; restore it or convert"):
        open_volume(path).load()
    masked = open_volume(path, missing="mask")
    expected = np.ones((4, 4), bool)
    expected[2:, 2:] = False
    np.testing.assert_array_equal(masked["valid"].values, expected)
    np.testing.assert_array_equal(masked["data"].values, values)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["format_version"] = 1
    (path / "zarr.json").write_text(json.dumps(document))
    np.testing.assert_array_equal(open_volume(path)["data"].values, values)
