"""Decode a Zarr v3 chunk as its metadata say, by zstandard, numcodecs and google-crc32c."""

import math
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from numcodecs.blosc import Blosc
from numcodecs.gzip import GZip
from zstandard import ZstdError

from datasets.errors import InputError

Buffer = bytes | memoryview
_THREAD = threading.local()


class CorruptChunkError(ValueError):
    """Bytes that are not the chunk they should be: a wrong checksum, length, or compressed stream."""


class Decoder:
    """Turns the stored bytes of a chunk into its cells; the codecs are those of the metadata, in the order of encoding.

    `InputError` where one is not transpose, bytes, zstd, blosc, gzip or crc32c.
    """

    def __init__(self, codecs: Sequence[Mapping[str, Any]], shape: Sequence[int], dtype: np.dtype) -> None:
        self._steps: list[Callable[[Any], Buffer]] = []
        order = list(range(len(shape)))
        self._dtype = dtype
        for codec in codecs:
            name, settings = str(codec["name"]), codec.get("configuration") or {}
            if name == "transpose":
                order = [order[axis] for axis in settings["order"]]
            elif name == "bytes":
                if settings.get("endian"):
                    self._dtype = dtype.newbyteorder(">" if settings["endian"] == "big" else "<")
            elif name in _STEPS:
                self._steps.insert(0, _STEPS[name])
            else:
                known = ", ".join(["transpose", "bytes", *_STEPS])
                raise InputError(f"the codec {name!r} is not one that is read here ({known}); convert the source again")
        self._shape = [shape[axis] for axis in order]
        self._axes = np.argsort(order)
        self._bytes = math.prod(self._shape) * self._dtype.itemsize

    def __call__(self, data: Buffer) -> np.ndarray:
        """Decode one chunk; `CorruptChunkError` where the bytes are none."""
        try:
            for step in self._steps:
                data = step(data)
        except (RuntimeError, ValueError, EOFError, OSError, zlib.error, ZstdError) as error:
            raise CorruptChunkError(str(error) or "it cannot be decompressed") from error
        if len(data) != self._bytes:
            raise CorruptChunkError(f"it holds {len(data)} bytes in place of {self._bytes}")
        return np.frombuffer(data, self._dtype).reshape(self._shape).transpose(self._axes)


def _unzstd(data: Buffer) -> Buffer:
    """Decompress one frame; each thread keeps its decompressor's working memory."""
    known = zstandard.frame_content_size(data)
    if known < 0:  # a frame that was streamed does not say how long it is
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if not hasattr(_THREAD, "zstd"):
        _THREAD.zstd = zstandard.ZstdDecompressor()
    return bytes(_THREAD.zstd.decompress(data))


def _checked(data: Buffer) -> Buffer:
    view = memoryview(data).toreadonly()
    body, stored = view[:-4], view[-4:]
    # An array over the same memory, because google_crc32c takes no memoryview.
    found = google_crc32c.value(np.frombuffer(body, np.uint8)) if len(stored) == 4 else -1
    if found != int.from_bytes(stored, "little"):
        raise CorruptChunkError("its checksum is wrong")
    return body


_STEPS = {"crc32c": _checked, "zstd": _unzstd, "blosc": Blosc().decode, "gzip": GZip().decode}
