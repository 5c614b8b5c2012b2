"""Read ahead in threads: values come in the order of their keys, however long each takes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def read_ahead(
    keys: Iterable[Key], read: Callable[[Key], Value], *, workers: int, ahead: int
) -> Generator[Value, None, None]:
    """Yield ``read(key)`` of every key, in order; what it raises is raised when its turn comes.

    Threads: decompression and network release the interpreter's lock, and a fork of a process that has used Dask's or
    Zarr's threads may hang. Closing the iterator, or an exception, cancels what has not begun, waits for
    what has, and ends the threads; use `contextlib.closing`.

    Parameters
    ----------
    keys
        Taken only as far as is read ahead; may be endless.
    workers
        Threads; 0 reads in the caller's thread when a value is asked for, nothing ahead.
    ahead
        Values, 1 or more, that are read or being read and not yielded, at most.
    """
    if workers == 0:
        yield from map(read, keys)
        return
    left = iter(keys)
    threads = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        waiting: deque[Future[Value]] = deque(threads.submit(read, key) for key in islice(left, ahead))
        while waiting:
            waiting[0].result()
            head = waiting.popleft()
            waiting.extend(threads.submit(read, key) for key in islice(left, 1))
            yield head.result()
            del head  # the caller alone decides how long a value lives
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
