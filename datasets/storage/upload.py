"""Write a Zarr store below a URI, its root last: what was only begun does not open.

Its root, its journal, what is being written and by whom lie in it, below `BEGUN`, so that any machine can go on.
"""

import asyncio
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import ObjectStore

from datasets.errors import InputError
from datasets.storage.journal import Journal, forget, locked
from datasets.storage.objects import Ask, Objects

ROOT = "zarr.json"
BEGUN = "telegrapher-writing"
_OWNER = f"{BEGUN}/owner.json"


class _RootLast(ObjectStore[Any]):
    def __init__(self, objects: Objects, root: Buffer | None, *, read_only: bool = False) -> None:
        super().__init__(objects.store, read_only=read_only)
        self._objects, self.root = objects, root

    def with_read_only(self, read_only: bool = False) -> "_RootLast":
        return _RootLast(self._objects, self.root, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return self.root if key == ROOT else await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        return self.root is not None if key == ROOT else await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        if key == ROOT:
            self.root, key = value, f"{BEGUN}/{ROOT}"
        await asyncio.to_thread(self._objects.put, key, value.as_numpy_array().data)

    set_if_not_exists = Store.set_if_not_exists  # by `exists` and `set`

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        async for name in super().list_dir(prefix):
            if name.strip("/") != BEGUN:
                yield name

    async def delete_dir(self, prefix: str) -> None:
        if prefix.strip("/"):  # below the root is nothing yet but what says that this was begun
            await super().delete_dir(prefix)


class _StoredJournal(Journal):
    """A journal whose notes are objects of the unfinished store; the folder has copies of what this process wrote."""

    def __init__(self, objects: Objects, owner: bytes, folder: Path, *, resumes: bool, goes_on: bool) -> None:
        super().__init__(folder, resumes=resumes, goes_on=goes_on)
        self._objects, self._owner = objects, owner
        self._known = {name.removeprefix(f"{BEGUN}/") for name in objects.names(BEGUN)}

    def _put(self, file: str, data: bytes) -> None:
        self.refuse_other_owner()
        self._objects.put(f"{BEGUN}/{file}", data)
        super()._put(file, data)
        self._known.add(file)

    def _get(self, file: str) -> bytes:
        return super()._get(file) if super()._has(file) else bytes(self._objects.get(Ask(f"{BEGUN}/{file}")).data)

    def _has(self, file: str) -> bool:
        return file in self._known

    def refuse_other_owner(self) -> None:
        if self._objects.find(_OWNER) != self._owner:
            raise InputError(
                f"{self._objects.uri} is being written by another process since; wait for its end, or choose another "
                "place"
            )


def refuse_existing_upload(uri: str, overwrite: bool) -> None:
    """Raise `InputError` where there is something at `uri` that is not to be replaced."""
    objects = Objects(uri)
    if objects.exists(ROOT):
        if not overwrite:
            raise InputError(f"{objects.uri} exists already; choose another place, or pass --overwrite to replace it")
    elif not objects.exists(_OWNER) and not objects.is_empty():
        raise InputError(f"{objects.uri} holds other things, which --overwrite leaves alone; choose another place")


def was_begun(objects: Objects, key: str | None) -> bool:
    """Tell whether an earlier process began to write what has this key, and did not finish."""
    begun = json.loads(objects.find(_OWNER) or b"{}").get("key")
    return key is not None and begun == key and not objects.exists(ROOT)


def clear_begun(objects: Objects) -> None:
    """Delete what writing left beside a finished store; it opens all the same, so whoever comes next may do it."""
    with suppress(InputError):
        for name in sorted(objects.names(BEGUN), key=lambda name: name == _OWNER):
            objects.delete(name)


@contextmanager
def open_upload(uri: str, key: str | None, *, overwrite: bool) -> Iterator[tuple[Store, Journal]]:
    """Open a store at `uri` for writing, and its journal.

    A cloud store cannot rename, so what is replaced is gone as soon as writing begins. Nor can it be locked: where two
    machines write the same place, the one that began first stops at its next piece. The journal of an earlier process
    that wrote what has the same `key` goes on; without one never. `InputError` where something is not to be replaced,
    the store refuses or does not answer, or another process writes there.
    """
    objects = Objects(uri)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "telegrapher" / hashlib.sha256(uri.encode()).hexdigest()[:32]
    with locked(folder, uri):
        try:
            forget(folder)  # copies that a killed process left, perhaps of another store below this URI
            refuse_existing_upload(uri, overwrite)
            goes_on = was_begun(objects, key)
            if not goes_on:
                objects.put(_OWNER, b"{}")
                objects.clear(keep=_OWNER)
            owner = json.dumps({"key": key, "process": uuid.uuid4().hex}).encode()
            objects.put(_OWNER, owner)
            root = objects.find(f"{BEGUN}/{ROOT}")
            store = _RootLast(objects, None if root is None else default_buffer_prototype().buffer.from_bytes(root))
            journal = _StoredJournal(objects, owner, folder, resumes=key is not None, goes_on=goes_on)
            yield store, journal
            journal.refuse_other_owner()
            assert store.root is not None, "nothing was written"
            objects.put(ROOT, store.root.to_bytes())  # from now on the store opens
            clear_begun(objects)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
