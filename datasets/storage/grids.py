"""Which variables of a volume are cut into the same pieces, and where these lie."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import xarray as xr


@dataclass(frozen=True)
class Grid:
    """Variables that are cut into the same pieces: along `dims`, with the edges `chunks`."""

    names: list[str]
    dims: tuple[str, ...]
    chunks: tuple[tuple[int, ...], ...]

    def pieces(self) -> Iterator[tuple[tuple[int, ...], dict[str, slice]]]:
        """Index and place of every piece, in stored order."""
        bounds = [list(itertools.pairwise(itertools.accumulate(edges, initial=0))) for edges in self.chunks]
        for index in itertools.product(*(range(len(edges)) for edges in self.chunks)):
            yield index, {dim: slice(*bound[at]) for dim, bound, at in zip(self.dims, bounds, index, strict=True)}

    def name(self, group: str, index: tuple[int, ...]) -> str:
        """Name a piece within a store."""
        return "-".join([group, self.names[0], *map(str, index)])


def mask_of(ds: xr.Dataset) -> xr.DataArray | None:
    """Bring the mask, if any, to all dimensions of the data, in the same pieces."""
    if "valid" not in ds:
        return None
    data = ds["data"]
    return ds["valid"].broadcast_like(data).transpose(*data.dims).chunk(data.chunksizes)


def grids(ds: xr.Dataset) -> list[Grid]:
    """Group the variables that Dask computes by the pieces that they are cut into."""
    found: dict[tuple, list[str]] = {}
    for name, var in ds.data_vars.items():
        if var.chunks is not None:
            found.setdefault((tuple(map(str, var.dims)), var.chunks), []).append(str(name))
    return [Grid(names, dims, chunks) for (dims, chunks), names in found.items()]
