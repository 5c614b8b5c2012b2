"""Write a Zarr store below a URI, its root last: what was only begun does not open, and may be begun anew."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore, WrapperStore

from datasets.errors import InputError
from datasets.objects import Objects, open_objects

ROOT = "zarr.json"
BEGUN = "telegrapher-writing"  # an object that says that what lies beside it is a store that was begun


class RootLast(WrapperStore[Store]):
    """A store that keeps its root's metadata to itself until `finish`, and writes as `Objects.put` does."""

    def __init__(self, store: Store, objects: Objects) -> None:
        super().__init__(store)
        self._objects = objects
        self._root: Buffer | None = None

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read an object; the root from memory."""
        if key == ROOT:
            return self._root
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether an object was written, or kept for later."""
        return self._root is not None if key == ROOT else await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object, the root for later."""
        if key == ROOT:
            self._root = value
        else:
            await asyncio.to_thread(self._objects.put, key, value.as_numpy_array().data)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object that is not there yet."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await asyncio.gather(*(self.set(key, value) for key, value in values))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List what belongs to the store."""
        async for name in self._store.list_dir(prefix):
            if name != BEGUN:
                yield name

    def _with_store(self, store: Store) -> "RootLast":
        same = RootLast(store, self._objects)
        same._root = self._root
        return same

    async def delete_dir(self, prefix: str) -> None:
        """Delete what is below a prefix; there is nothing yet below the root but the sign that this was begun."""
        if prefix.strip("/"):
            await super().delete_dir(prefix)

    def finish(self) -> None:
        """Write the root: from now on the store opens."""
        assert self._root is not None, "nothing was written"
        self._objects.put(ROOT, self._root.to_bytes())
        self._objects.delete(BEGUN)


def refuse_existing_upload(uri: str, overwrite: bool) -> None:
    """Raise `InputError` where there is something at `uri` that is not to be replaced; see `upload`."""
    objects = open_objects(uri)
    if objects.exists(ROOT):
        if not overwrite:
            raise InputError(f"{objects.uri} exists already; choose another place, or pass --overwrite to replace it")
    elif not objects.exists(BEGUN) and not objects.is_empty():
        raise InputError(f"{objects.uri} holds other things, which --overwrite leaves alone; choose another place")


def upload(uri: str, write: Callable[[Store], None], *, overwrite: bool) -> None:
    """Let `write` fill a store at `uri`, and make it one that opens only once all of it is there.

    A cloud store cannot rename, so a store that is replaced is gone as soon as writing begins.

    Raises
    ------
    InputError
        Where there is something that is not to be replaced, or the store refuses or does not answer.
    """
    refuse_existing_upload(uri, overwrite)
    objects = open_objects(uri)
    store = RootLast(ObjectStore(objects.store), objects)
    objects.put(BEGUN, b"")
    objects.clear(keep=BEGUN)
    write(store)
    store.finish()
