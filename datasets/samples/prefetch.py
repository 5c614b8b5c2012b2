"""Values are read ahead in threads, and come in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def read_ahead(
    keys: Iterable[Key], read: Callable[[Key], Value], *, workers: int, ahead: int
) -> Generator[Value, None, None]:
    """Yield ``read(key)`` of every key, in order; what it raises is raised when its turn comes.

    `workers` are threads: decompression and network release the interpreter's lock, and a fork of a process that has
    used Dask's or Zarr's may hang. Closing the iterator, or an exception, cancels what has not begun, waits for what
    has, and ends them; use `contextlib.closing`. 0 reads in the caller's thread when a value is asked for.

    At most `ahead` values, 1 or more, are read or being read and not yielded; `keys` may be endless.
    """
    if workers == 0:
        yield from map(read, keys)
        return
    left = iter(keys)
    threads = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        waiting = deque(threads.submit(read, key) for key in islice(left, ahead))
        while waiting:
            waiting[0].result()
            head = waiting.popleft()
            waiting.extend(threads.submit(read, key) for key in islice(left, 1))
            yield head.result()
            del head  # the caller alone decides how long a value lives
    finally:
        threads.shutdown(cancel_futures=True)
