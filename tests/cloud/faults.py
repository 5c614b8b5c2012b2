"""What cloud storage does to its readers: a proxy on loopback that delays, refuses, breaks off and lies, by a seed.

Requests pass to the real server unchanged, signatures included; only answers to chosen requests are spoilt.
"""

import asyncio
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

EXPIRED = (
    "<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"
    "<Token-0>{token}</Token-0></Error>"
)
Matcher = Callable[[str, str], bool]


@dataclass
class Faults:
    """What goes wrong, and how often: shares of the requests that `matches` chooses.

    Attributes
    ----------
    latency
        Seconds before every request is passed on.
    busy, reset, stall, truncate
        Shares of answers that are 503, that end in a reset in mid-body, that wait `stall_seconds` in mid-body, that
        are cut short but say so honestly (as a broken server's are: the length fits, bytes are missing).
    expired
        Whether all credentials are refused, in words that repeat them.
    matches
        Chooses the requests, by method and path.
    at_most, per_object
        Faults after which all goes well, in total and for one path, so that what must be survived surely is.
    before
        Called with method and path before a chosen request is passed on, to meddle meanwhile.
    """

    latency: float = 0.0
    busy: float = 0.0
    reset: float = 0.0
    stall: float = 0.0
    stall_seconds: float = 5.0
    truncate: float = 0.0
    expired: bool = False
    matches: Matcher = field(default=lambda method, path: method == "GET")
    at_most: int = 10**9
    per_object: int = 10**9
    before: Callable[[str, str], None] | None = None


class FaultyProxy:
    """Stands between a client and the server at `target`; `faults` may be changed while it runs."""

    def __init__(self, target: int, seed: int = 0) -> None:
        self.target, self.faults, self.requests, self.done = target, Faults(), 0, 0
        self.port = 0
        self._random = random.Random(seed)
        self._spoilt: Counter[bytes] = Counter()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        back: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await _head(reader):
                back = back or await asyncio.open_connection("127.0.0.1", self.target)
                if not await self._answer(head, reader, writer, back):
                    break
        for one in (writer, *(back[1:] if back else ())):
            one.close()

    async def _answer(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        """Pass one request on; false where the connection is to be closed."""
        faults = self.faults
        method, path = head.split(b" ", 2)[:2]
        chosen = faults.matches(method.decode(), path.decode())
        self.requests += 1
        sent = await _body(head, reader)
        if faults.latency:
            await asyncio.sleep(faults.latency)
        if chosen and faults.before:
            await asyncio.to_thread(faults.before, method.decode(), path.decode())
        if faults.expired:
            token = _header(head, b"authorization").decode()
            return await _refuse(writer, "403 Forbidden", EXPIRED.format(token=token))
        fault = self._draw(faults, path) if chosen else ""
        if fault == "busy":
            return await _refuse(writer, "503 Slow Down", "<Error><Code>SlowDown</Code></Error>")
        back[1].write(head + sent)
        await back[1].drain()
        answer = await _head(back[0])
        body = b"" if method == b"HEAD" else await _body(answer, back[0])
        half = len(body) // 2
        if fault == "truncate" and half:
            answer = _with_length(answer, half)
            body = body[:half]
        if fault in ("reset", "stall") and half:
            writer.write(answer + body[:half])
            await writer.drain()
            if fault == "reset":
                writer.transport.abort()
                return False
            await asyncio.sleep(faults.stall_seconds)
            writer.write(body[half:])
        else:
            writer.write(answer + body)
        await writer.drain()
        return b"connection: close" not in answer.lower()

    def _draw(self, faults: Faults, path: bytes) -> str:
        if self.done >= faults.at_most or self._spoilt[path] >= faults.per_object:
            return ""
        dice = self._random.random()
        for name in ("busy", "reset", "stall", "truncate"):
            share = getattr(faults, name)
            if dice < share:
                self.done += 1
                self._spoilt[path] += 1
                return name
            dice -= share
        return ""


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if b"chunked" in _header(head, b"transfer-encoding"):
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            piece = await reader.readexactly(int(line.split(b";")[0], 16) + 2)
            body += line + piece
            if len(piece) == 2:
                return body
    return await reader.readexactly(int(_header(head, b"content-length") or 0))


def _with_length(head: bytes, length: int) -> bytes:
    """Let an answer say that it is shorter than it was."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([lines[0], f"Content-Length: {length}".encode(), *lines[1:]])


async def _refuse(writer: asyncio.StreamWriter, status: str, text: str) -> bool:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
    await writer.drain()
    return True


@contextmanager
def faulty_proxy(target: int, seed: int = 0) -> Iterator[FaultyProxy]:
    """Run a proxy in a thread of its own."""
    proxy = FaultyProxy(target, seed)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="faulty-proxy", daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(proxy.serve(), loop).result(10)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


async def _serve_for_ever(target: int, latency: float) -> None:
    proxy = FaultyProxy(target)
    proxy.faults = Faults(latency=latency)
    server = await proxy.serve()
    print(proxy.port, flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def slow_proxy(target: int, latency: float) -> Iterator[int]:
    """Run a proxy that only delays, in a process of its own, so that it takes no time from who measures; its port."""
    words = [sys.executable, "-m", "tests.cloud.faults", str(target), str(latency)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(_serve_for_ever(int(sys.argv[1]), float(sys.argv[2])))
