"""The door to obstore: ranged reads of folders and cloud stores alike, with bounded retries.

Credentials come from the environment's own chain (``AWS_*``, AWS profiles, ``GOOGLE_*``, ``AZURE_*``, instance roles)
and are never logged: of an error of the store only its kind, status and code are shown.
"""

import os
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import LocalStore, from_url

from datasets.errors import AwayError, InputError
from datasets.storage.aws_profiles import profile_credentials
from datasets.storage.cloud_errors import brief, refusal, says_refused
from datasets.storage.traffic import Traffic

T = TypeVar("T")
SCHEMES = ("s3", "gs", "az", "https", "http")
STORE_ERRORS = (BaseError, OSError)
_ATTEMPTS = 3
_TIMEOUT = timedelta(seconds=20)
_RETRY = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=4), "base": 2},
}


class MissingObjectError(InputError):
    """There is no object at this place."""


class TruncatedObjectError(InputError):
    """The object ends before the bytes that were asked for."""


class _ShortAnswerError(OSError):
    """Fewer bytes came than the object has."""


class ReplacedObjectError(InputError):
    """The object is another than when reading began."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Bytes that are wanted of the object `key`: from `start` up to `stop`, or the last `suffix`, or all."""

    key: str
    start: int | None = None
    stop: int | None = None
    suffix: int | None = None
    etag: str | None = None  # version that it must still have; none takes any

    @property
    def length(self) -> int | None:
        """Bytes that must come back, where that is known beforehand."""
        return self.suffix if self.stop is None or self.start is None else self.stop - self.start


@dataclass(frozen=True, slots=True)
class Got:
    """Bytes of an object, its version (none where the store has no versions), and the object's whole length."""

    data: memoryview
    etag: str | None
    size: int


class Objects:
    """Objects in a folder, or below ``s3://bucket/prefix``, ``gs://``, ``az://container/prefix`` or ``https://``.

    Pickles as its URI alone: whoever receives it connects with the credentials of its own environment. `InputError`
    where the scheme is not one of these, or there is no such folder.
    """

    def __init__(self, uri: str | Path) -> None:
        self._root = str(uri)
        self.uri = _shown(self._root).rstrip("/") if is_remote(uri) else self._root  # as it may be shown
        self.store: Any = _connect(self._root)
        self._folder = None if is_remote(uri) else Path(uri).resolve()
        self.traffic = Traffic()

    def __reduce__(self) -> tuple[Any, ...]:
        return Objects, (self._root,)

    def name(self, key: str) -> str:
        """Name of an object, as errors show it."""
        return f"{self.uri}/{key}"

    def get(self, ask: Ask) -> Got:
        """Read an object or some bytes of it; what may pass by itself is tried again with growing pauses.

        `MissingObjectError` where there is none, `TruncatedObjectError` where it is too short, `ReplacedObjectError`
        where its version is not the one asked for, `AwayError` where the store does not answer in the end, any other
        `InputError` where it refuses.
        """
        name = self.name(ask.key)
        replaced = ReplacedObjectError(
            f"{name} was replaced while it was being read; start again once nobody writes there"
        )

        def once() -> Got:
            self.traffic.add(requests=1)
            got = self._get_once(ask)
            self.traffic.add(fetched=len(got.data))
            if ask.etag and got.etag and got.etag != ask.etag:
                raise replaced
            if ask.length not in (None, len(got.data)):
                if got.size < (ask.stop or ask.suffix or 0):
                    raise TruncatedObjectError(f"{name} is cut short")
                raise _ShortAnswerError(f"{len(got.data)} bytes came in place of {ask.length}")
            return got

        try:
            return self.attempt("read", once, ask.key)
        except FileNotFoundError as error:
            raise MissingObjectError(f"there is no object at {name}") from error
        except PreconditionError as error:
            raise replaced from error

    def _get_once(self, ask: Ask) -> Got:
        if self._folder is not None:
            return _read_file(f"{self._folder}/{ask.key}", ask)
        options: Any = {"if_match": ask.etag} if ask.etag else {}
        if ask.suffix is not None:
            options["range"] = {"suffix": ask.suffix}
        elif ask.start is not None and ask.stop is not None:
            options["range"] = (ask.start, ask.stop)
        result = obstore.get(self.store, ask.key, options=options or None)
        return Got(memoryview(result.bytes()), result.meta.get("e_tag"), int(result.meta["size"]))

    def find(self, key: str) -> bytes | None:
        """Read a small object, if there is one."""
        try:
            return bytes(self.get(Ask(key)).data)
        except MissingObjectError:
            return None

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.attempt("read", partial(obstore.head, self.store, key), key)
        except FileNotFoundError:
            return False
        return True

    def attempt(self, done: str, act: Callable[[], T], key: str = "") -> T:
        """Act on the store or its object `key`: attempts as in `get`, and errors, but for `FileNotFoundError`."""
        name, problem = self.name(key) if key else self.uri, ""
        for attempt in range(_ATTEMPTS):
            _pause(attempt)
            try:
                return act()
            except (FileNotFoundError, PreconditionError):
                raise
            except STORE_ERRORS as error:
                problem = str(error) if isinstance(error, _ShortAnswerError) else brief(error)
                if _is_refusal(error):
                    # Without its cause, which may hold parts of the credentials.
                    raise InputError(refusal(name, problem, done)) from None
                if problem.startswith("416"):  # the range is beyond the end
                    raise TruncatedObjectError(f"{name} is cut short") from None
        raise AwayError(
            f"{name} could not be {done} in {_ATTEMPTS} attempts ({problem}); check the store and the network, then do "
            "the same again: it goes on from where this stopped"
        )

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object."""
        self.attempt("written", partial(obstore.put, self.store, key, data), key)

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        with suppress(FileNotFoundError):
            self.attempt("deleted", partial(obstore.delete, self.store, key), key)

    def is_empty(self) -> bool:
        """Whether there is no object."""
        return self.attempt("listed", lambda: not any(True for _ in obstore.list(self.store, chunk_size=1)))

    def names(self, folder: str = "") -> list[str]:
        """List the objects in a folder and below."""
        return [str(entry["path"]) for entry in self._entries(folder)]

    def _entries(self, folder: str) -> list[Any]:
        batches = partial(obstore.list, self.store, folder or None)
        return self.attempt("listed", lambda: [entry for batch in batches() for entry in batch])

    def listing(self, prefix: str) -> list[tuple[str, int, str]] | None:
        """List name, size and version (of a file: when it was changed) of all objects below a prefix, sorted.

        None where there is no listing, as behind ``https://``, or these credentials may not have it.
        """
        if self._root.startswith(("https:", "http:")):
            return None
        stamp = "last_modified" if self._folder is not None else "e_tag"
        try:
            entries = self._entries(prefix)
        except AwayError:
            raise
        except InputError:
            return None
        return sorted((str(entry["path"]), int(entry["size"]), str(entry[stamp])) for entry in entries)

    def clear(self, keep: str) -> None:
        """Delete all objects but one, the root's ``zarr.json`` first: what is half deleted no longer opens."""
        for name in sorted(set(self.names()) - {keep}, key=lambda name: name != "zarr.json"):
            self.delete(name)


def is_remote(uri: str | Path) -> bool:
    """Whether this is a URI, not a path of this machine."""
    return "://" in str(uri)


def _shown(uri: str) -> str:
    """Leave out of a URI what may be a password or a signature."""
    return re.sub(r"//[^/]*@", "//", uri).partition("?")[0]


def _pause(attempt: int) -> None:
    """Wait before another attempt: longer each time, and not in step with others who wait."""
    if attempt:
        time.sleep(random.uniform(0.2, 0.4) * 2**attempt)


def _read_file(path: str, ask: Ask) -> Got:
    """Read a file by the operating system, in a third of the time of a store's request."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        start = max(0, status.st_size - ask.suffix) if ask.suffix is not None else ask.start or 0
        if start:
            file.seek(start)
        data = file.read(-1 if ask.length is None else ask.length)
    return Got(memoryview(data), f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}", status.st_size)


def _connect(uri: str) -> Any:
    if not is_remote(uri):
        if not Path(uri).is_dir():
            raise InputError(f"there is no folder at {uri}; check the path")
        return LocalStore(Path(uri).resolve())
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        raise InputError(f"{scheme}:// is not a store that is known here; use a folder or {'://, '.join(SCHEMES)}://")
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if scheme == "s3" else uri
    client = {"timeout": _TIMEOUT, "connect_timeout": timedelta(seconds=5), "allow_http": endpoint.startswith("http:")}
    provider = profile_credentials() if scheme == "s3" else None
    given = {} if provider is None else {"credential_provider": provider}
    try:
        return from_url(uri, client_options=client, retry_config=_RETRY, **given)  # type: ignore[call-overload]
    except (BaseError, ValueError) as error:
        raise InputError(f"{_shown(uri)} cannot be opened ({brief(error)}); write {scheme}://BUCKET/PREFIX") from None


def _is_refusal(error: BaseException) -> bool:
    """Whether the store refuses these credentials: asking again is idle."""
    return isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError) or says_refused(error)
