"""Time to read blocks of a sharded volume: ours, zarr through xarray and Dask, xbatcher, tensorstore, and raw bytes.

    pip install -r tests/benchmarks/reading.txt
    python -m tests.benchmarks.reading [--quick] [--repeats 15]

From a folder and from a real S3 server on loopback, with and without a latency put between. Every method opens anew for
every read, so that none profits from an index that it read before, but for "index known": ours keeps the indices of the
shards, as it does in training. Connections stay open. The methods take turns, and the median counts. "raw" fetches the
same bytes by obstore, all ranges known beforehand, and decodes nothing: the limit.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datasets.storage.lazy import stored_array
from datasets.storage.objects import Ask
from datasets.storage.reader import ArrayReader
from datasets.storage.shards import coalesce, plan_region
from datasets.store import FORMAT, FORMAT_VERSION, open_volume
from tests.cloud.faults import slow_proxy
from tests.cloud.seaweed import BUCKET, KEY, SECRET, Server, serve

PACKAGES = ("zarr", "obstore", "zstandard", "xarray", "dask")
RESULTS = Path(__file__).parent / "results"
METHODS = ("ours", "ours, index known", "tensorstore", "zarr", "xbatcher", "raw")
Region = tuple[slice, ...]
Read = Callable[[], np.ndarray | None]


@dataclass(frozen=True)
class Sizes:
    """Edges in cells of the volume, a shard and a chunk, all cubes; cells are int16."""

    volume: int = 256
    shard: int = 128
    chunk: int = 32

    def regions(self) -> dict[str, Region]:
        """Blocks that are read: a shard, three quarters of its edge, and as much across eight shards."""
        edge = 3 * self.shard // 4
        first = self.shard - edge // 2
        return {
            "whole shard": (slice(0, self.shard),) * 3,
            "partial shard": (slice(0, edge),) * 3,
            "across 8 shards": (slice(first, first + edge),) * 3,
        }


@dataclass(frozen=True)
class Place:
    """Where the volume lies: a URI, and the port of the S3 server or of the proxy before it."""

    uri: str
    port: int = 0


def write(uri: str, values: np.ndarray, sizes: Sizes) -> None:
    """Store a volume as ours are, but in shards far below 64 MiB."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    from datasets.storage.objects import Objects

    ds = xr.Dataset({"data": (("inline", "crossline", "depth"), values)})
    ds.attrs = {"format": FORMAT, "format_version": FORMAT_VERSION}
    encoding: dict[str, Any] = {
        "chunks": (sizes.chunk,) * 3,
        "shards": (sizes.shard,) * 3,
        "compressors": (ZstdCodec(level=3), Crc32cCodec()),
    }
    target: Any = zarr.storage.ObjectStore(Objects(uri).store) if "://" in uri else uri
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        ds.to_zarr(target, mode="w", zarr_format=3, consolidated=True, encoding={"data": encoding})


def amplitudes(edge: int) -> np.ndarray:
    """Draw int16 that compresses about as seismic amplitudes do, to two thirds."""
    draw = np.random.default_rng(0)
    trace = np.cumsum(draw.normal(0, 300, (edge, edge, edge)), axis=2)
    return np.asarray(trace - trace.mean(axis=2, keepdims=True)).astype(np.int16)


def prepare(method: str, place: Place, region: Region) -> Callable[[], Read]:
    """Return what opens a volume by one method; what that returns reads the region, and is timed."""
    makers = {
        "ours": _ours,
        "ours, index known": _ours_again,
        "tensorstore": _tensorstore,
        "zarr": _zarr,
        "xbatcher": _xbatcher,
        "raw": _raw,
    }
    return makers[method](place, region)


def _reader(place: Place) -> ArrayReader:
    source = stored_array(open_volume(place.uri)["data"])
    assert source is not None
    return source.reader


def _ours(place: Place, region: Region) -> Callable[[], Read]:
    known = _reader(place)

    def fresh() -> Read:
        reader = ArrayReader(known.objects, known.path, known.layout)
        return lambda: reader.read(region)

    return fresh


def _ours_again(place: Place, region: Region) -> Callable[[], Read]:
    reader = _reader(place)
    return lambda: lambda: reader.read(region)


def _raw(place: Place, region: Region) -> Callable[[], Read]:
    reader = _reader(place)
    layout, asks = reader.layout, []
    for plan in plan_region(region, layout.shape, layout.shard, layout.chunk):
        key = f"data/{layout.key(plan.shard)}"
        assert reader._indices is not None
        index = reader._indices.keep(key, reader.objects.get(reader._indices.ask(key)))
        ranges = [found for piece in plan.pieces if (found := index.ranges[piece.index])]
        asks += [
            Ask(key, span.start, span.stop) for span in coalesce(ranges, gap=512 * 1024, slack=0.2, most=8 * 2**20)
        ]

    pool = ThreadPoolExecutor(32)

    def read() -> None:
        for _ in pool.map(reader.objects.get, asks):
            pass

    return lambda: read


def _tensorstore(place: Place, region: Region) -> Callable[[], Read]:
    import tensorstore as ts

    where: dict[str, Any] = {"driver": "file", "path": f"{place.uri}/data/"}
    if place.port:
        where = {
            "driver": "s3",
            "bucket": BUCKET,
            "path": place.uri.split("/", 3)[3] + "/data/",
            "endpoint": f"http://127.0.0.1:{place.port}",
            "aws_region": "us-east-1",
            "aws_credentials": {"type": "environment"},
        }
    context = ts.Context()

    def fresh() -> Read:
        array = ts.open({"driver": "zarr3", "kvstore": where}, context=context, read=True, open=True).result()
        return lambda: np.asarray(array[region].read().result())

    return fresh


def _opened_by_zarr(place: Place) -> xr.Dataset:
    import zarr

    from datasets.storage.objects import Objects

    store: Any = zarr.storage.ObjectStore(Objects(place.uri).store, read_only=True) if place.port else place.uri
    ds = xr.open_zarr(store, chunks=None, mask_and_scale=False)
    # Dask in pieces of a shard: the default, pieces of a chunk, is far slower.
    return ds.chunk(dict(zip(ds["data"].dims, ds["data"].encoding["shards"], strict=True)))


def _zarr(place: Place, region: Region) -> Callable[[], Read]:
    def fresh() -> Read:
        data = _opened_by_zarr(place)["data"]
        return lambda: data[region].values

    return fresh


def _xbatcher(place: Place, region: Region) -> Callable[[], Read]:
    import xbatcher

    def fresh() -> Read:
        ds = _opened_by_zarr(place)
        edges = {str(dim): part.stop - part.start for dim, part in zip(ds["data"].dims, region, strict=True)}
        cut = ds.isel({dim: slice(part.start, None) for dim, part in zip(edges, region, strict=True)})
        batches = xbatcher.BatchGenerator(cut, input_dims=edges, preload_batch=False)
        return lambda: batches[0]["data"].values

    return fresh


def measure(
    place: Place, regions: dict[str, Region], methods: tuple[str, ...], repeats: int, expected: np.ndarray
) -> dict[str, dict[str, float]]:
    """Median milliseconds of every method and region; all read the same values, or it fails."""
    table: dict[str, dict[str, float]] = {}
    for name, region in regions.items():
        makers = {method: prepare(method, place, region) for method in methods}
        times: dict[str, list[float]] = {method: [] for method in methods}
        for repeat in range(repeats + 1):
            for method in methods:
                read = makers[method]()
                started = time.perf_counter()
                values = read()
                elapsed = time.perf_counter() - started
                if repeat:  # the first read opens the connections
                    times[method].append(1e3 * elapsed)
                elif values is not None:
                    np.testing.assert_array_equal(values, expected[region], err_msg=method)
        table[name] = {method: round(statistics.median(some), 2) for method, some in times.items()}
    return table


def stamina(place: Place, sizes: Sizes, blocks: int) -> dict[str, float]:
    """Read many blocks that start and end on chunks, in random order: memory kept, and bytes fetched a byte used."""
    reader = _reader(place)
    edge = 2 * sizes.chunk
    corners = list(range(0, sizes.volume - edge + 1, sizes.chunk))
    draw = random.Random(0)
    resident: list[int] = []
    for number in range(blocks):
        reader.read(tuple(slice(corner, corner + edge) for corner in draw.choices(corners, k=3)))
        if number in (blocks // 5, blocks - 1):
            resident.append(_resident())
    growth = (resident[-1] - resident[0]) / 2**20
    traffic = reader.objects.traffic
    return {
        "blocks": blocks,
        "growth_mib": round(growth, 1),
        "amplification": round(traffic.fetched / traffic.used, 3),
        "requests_per_block": round(traffic.requests / blocks, 2),
    }


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not say how much memory is resident")


@contextmanager
def places(folder: Path, sizes: Sizes, values: np.ndarray, latencies: list[float]) -> Iterator[dict[str, Place]]:
    """Store the volume in a folder and on a server, and offer that with every latency."""
    with ExitStack() as stack:
        write(str(folder / "v.zarr"), values, sizes)
        found = {"folder": Place(str(folder / "v.zarr"))}
        server: Server = stack.enter_context(serve(folder / "seaweed"))
        os.environ.update(server.environment(), AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
        write(f"s3://{BUCKET}/v.zarr", values, sizes)
        for latency in latencies:
            port = stack.enter_context(slow_proxy(server.port, latency)) if latency else server.port
            found[f"S3, {1000 * latency:.0f} ms"] = Place(f"s3://{BUCKET}/v.zarr", port)
        yield found


def run(sizes: Sizes, repeats: int, blocks: int, methods: tuple[str, ...], latencies: list[float]) -> dict[str, Any]:
    """Measure everything; see the module."""
    values = amplitudes(sizes.volume)
    report: dict[str, Any] = {"milliseconds": {}}
    with tempfile.TemporaryDirectory() as folder, places(Path(folder), sizes, values, latencies) as found:
        for name, place in found.items():
            if place.port:
                os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{place.port}"
            report["milliseconds"][name] = measure(place, sizes.regions(), methods, repeats, values)
            _print_table(name, report["milliseconds"][name], methods)
        report["stamina"] = stamina(found["folder"], sizes, blocks)
        print(f"\n{report['stamina']}")
    return report


def _print_table(name: str, table: dict[str, dict[str, float]], methods: tuple[str, ...]) -> None:
    print(f"\n{name} (ms)".ljust(22) + "".join(f"{method:>19}" for method in methods), flush=True)
    for region, row in table.items():
        print(f"{region:<20}" + "".join(f"{row[method]:19.1f}" for method in methods), flush=True)


def main() -> None:
    """Run the benchmark and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="reads of which the median counts")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="some of the methods only")
    parser.add_argument("--quick", action="store_true", help="a tiny volume and few blocks: does it run at all?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    choice = parser.parse_args()
    sizes, blocks = (Sizes(32, 16, 4), 50) if choice.quick else (Sizes(), 1000)
    report = run(sizes, choice.repeats, blocks, tuple(choice.methods), [0.0, 0.03])
    machine = f"{platform.machine()}-{os.cpu_count()}-cores"
    busy = round(os.getloadavg()[0], 1)
    report |= {"sizes": asdict(sizes), "machine": machine, "load": busy, "versions": {p: version(p) for p in PACKAGES}}
    choice.results.mkdir(parents=True, exist_ok=True)
    (choice.results / f"reading-{machine}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
