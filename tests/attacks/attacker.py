"""A client of which the test writes every byte, and a server with a healthy caller beside it.

The numbers S1 to S30 in these tests are rows of one list of attacks; each test says in words what its row is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hpack
import pytest

import lbkit
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.hpack import Field
from lbkit.transport.server import ServerConnection
from lbkit.wire.messages import frame_message
from tests.support.hpack_blocks import literal
from tests.support.servers import PATIENCE_S, Backend, Item, channel_to, request_fields, serving, unary, until
from tests.support.wire import Frame, data_frame, settings_frame, split_frames

HELLO = frames.PREFACE + settings_frame()
ACK = settings_frame(ack=True)
HEALTHY = "healthy"
BODY = frame_message(Item(text="attack").SerializeToString())
READ_BYTES = 65536

_STATM = Path("/proc/self/statm")
HAS_PROC = _STATM.exists()
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="memory is read from /proc")


def resident() -> int:
    """Return the memory of this process, in bytes; client and server are both in it."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_back_memory() -> None:
    """Have the C library return what is free, or growth would go unnoticed in what earlier tests left."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def block(fields: Iterable[Field]) -> bytes:
    """Compress a header list without tables, so that equal lists are equal bytes and any may be left out."""
    return b"".join(literal(name, value) for name, value in fields)


REQUEST_BLOCK = block(request_fields())


def headers(
    stream_id: int, fragment: bytes = REQUEST_BLOCK, *, end: bool = False, flags: int = frames.END_HEADERS
) -> bytes:
    """Write a HEADERS frame."""
    return frame(frames.HEADERS, flags | (frames.END_STREAM if end else 0), stream_id, fragment)


def continuation(stream_id: int, fragment: bytes, *, end: bool = False) -> bytes:
    """Write a CONTINUATION frame."""
    return frame(frames.CONTINUATION, frames.END_HEADERS if end else 0, stream_id, fragment)


def in_frames(stream_id: int, fragment: bytes) -> bytes:
    """Write a header block of any length, in full frames."""
    size = frames.DEFAULT_FRAME_SIZE
    pieces = [fragment[at : at + size] for at in range(0, len(fragment), size)]
    if len(pieces) == 1:
        return headers(stream_id, fragment)
    rest = [continuation(stream_id, each, end=each is pieces[-1]) for each in pieces[1:]]
    return headers(stream_id, pieces[0], flags=0) + b"".join(rest)


def call(stream_id: int, fields: bytes = REQUEST_BLOCK) -> bytes:
    """Write a whole unary call."""
    return headers(stream_id, fields) + data_frame(stream_id, BODY, end=True)


class Attacker:
    """The client's end of one TCP connection. It reads only when told to, and acknowledges nothing by itself.

    Attributes:
        frames: all that came, in order.
        heads: the header fields that came, by stream; trailers are added.
        bodies: the payload that came, by stream.
        resets: the code of each RST_STREAM that came, by stream.
        goaways: each GOAWAY that came, as last stream id, code, and text.
        raw: every byte that came.
        hung_up: whether the server closed the connection.
        unsent: what ``push`` could not send yet.
        pushed: how many bytes it sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames: list[Frame] = []
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.bodies: Counter[int] = Counter()  # bytes only
        self.resets: dict[int, ErrorCode] = {}
        self.goaways: list[tuple[int, ErrorCode, str]] = []
        self.raw = b""
        self.hung_up = False
        self.unsent = b""
        self.pushed = 0
        self._ended: set[int] = set()
        self._decoder = hpack.Decoder()
        self._rest = b""

    async def send(self, data: bytes) -> bool:
        """Send; False if the server has hung up."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except ConnectionError:
            return False
        await asyncio.sleep(0)  # a socket with room makes nobody wait: the server must have its turn
        return True

    async def flood(self, pieces: Iterable[bytes]) -> int:
        """Send one piece after the other until the server hangs up; return how many it was sent."""
        sent = 0
        for piece in pieces:
            if not await self.send(piece):
                break
            sent += 1
        return sent

    async def push(self, data: bytes) -> bool:
        """Send what the kernel takes, and the rest of it first the next time. False if it takes nothing now."""
        took = 0
        data = self.unsent or data
        with contextlib.suppress(BlockingIOError, ConnectionError):
            took = self.sock.send(data)
        if took:
            self.unsent = data[took:]
            self.pushed += took
        await asyncio.sleep(0)
        return took > 0

    async def settle(self) -> None:
        """Read until the server has seen to all that was sent: it answers a PING, or hangs up."""
        await self.send(frame(frames.PING, 0, 0, b"settled?"))
        while not self.hung_up and not any(each.payload == b"settled?" for each in self.frames):
            await self.read()

    async def read(self) -> None:
        """Read once, and sort what came."""
        data = b""
        # A reset, for we had sent more than the server cared to read.
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                data = await asyncio.get_running_loop().sock_recv(self.sock, READ_BYTES)
        if not data:
            self.hung_up = True
            return
        self.raw += data
        self._rest += data
        while len(self._rest) >= 9:
            end = 9 + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < end:
                break
            (found,) = split_frames(self._rest[:end])
            self._rest = self._rest[end:]
            self._take(found)

    async def until(self, condition: Callable[[], object]) -> None:
        """Read until something has come. Fails the test if the server hangs up before."""
        while not condition():
            assert not self.hung_up, f"hung up after {self.goaways or self.raw[-200:]!r}"
            await self.read()

    async def until_hung_up(self) -> None:
        """Read until the server closes the connection."""
        while not self.hung_up:
            await self.read()

    async def answer(self, stream_id: int) -> dict[bytes, bytes]:
        """Read until a stream ends; return its header fields."""
        await self.until(lambda: stream_id in self._ended)
        return self.heads.get(stream_id, {})

    async def assert_served(self, stream_id: int) -> None:
        """A stream ends with OK; nothing was said against the connection."""
        assert (await self.answer(stream_id)).get(b"grpc-status") == b"0", self.resets
        assert self.goaways == []

    async def assert_goaway(self, code: ErrorCode, *words: str, last: int | None = None) -> None:
        """The server says GOAWAY, once, and hangs up."""
        await self.until_hung_up()
        ((last_id, found, text),) = self.goaways
        assert found == code, text
        for word in words:
            assert word in text
        assert last is None or last_id == last

    async def assert_reset(self, stream_id: int, code: ErrorCode) -> None:
        """The server resets a stream, and says nothing against the connection."""
        await self.until(lambda: stream_id in self.resets)
        assert self.resets[stream_id] == code
        assert self.goaways == []

    @property
    def given_back(self) -> int:
        """How much window the connection was given."""
        return sum(
            int.from_bytes(each.payload, "big")
            for each in self.frames
            if each.kind == frames.WINDOW_UPDATE and each.stream_id == 0
        )

    def count(self, kind: int, flags: int = 0) -> int:
        """Return how many frames of a type came, with these flags set."""
        return sum(each.kind == kind and each.flags & flags == flags for each in self.frames)

    def _take(self, found: Frame) -> None:
        self.frames.append(found)
        stream_id, payload = found.stream_id, found.payload
        if found.kind == frames.HEADERS:
            assert found.flags & frames.END_HEADERS
            fields = {bytes(key): bytes(value) for key, value in self._decoder.decode(payload, raw=True)}
            self.heads.setdefault(stream_id, {}).update(fields)
        elif found.kind == frames.DATA:
            self.bodies[stream_id] += len(payload)
        elif found.kind == frames.RST_STREAM:
            self.resets[stream_id] = ErrorCode(int.from_bytes(payload, "big"))
            self._ended.add(stream_id)
        elif found.kind == frames.GOAWAY:
            last, code = int.from_bytes(payload[:4], "big"), ErrorCode(int.from_bytes(payload[4:8], "big"))
            self.goaways.append((last, code, payload[8:].decode()))
        if found.kind in {frames.HEADERS, frames.DATA} and found.flags & frames.END_STREAM:
            self._ended.add(stream_id)


class Handlers:
    """A behaviour that answers the healthy caller at once, and counts the handlers of everybody else.

    Args:
        busy: whether others wait until ``go_on`` is set.
        stubborn: whether they wait for it even when cancelled.
        reply_bytes: how long the body of their reply is; 0 sends the request back.
    """

    def __init__(self, *, busy: bool = False, stubborn: bool = False, reply_bytes: int = 0) -> None:
        self.go_on = asyncio.Event()
        if not busy:
            self.go_on.set()
        self.stubborn = stubborn
        self.started = self.alive = self.peak = 0
        self._reply = Item(body=bytes(reply_bytes)) if reply_bytes else None  # one for all

    async def __call__(self, request: Any, context: lbkit.ServicerContext) -> Any:
        """Serve a call."""
        if request.text == HEALTHY:
            return request
        self.started += 1
        self.alive += 1
        self.peak = max(self.peak, self.alive)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            if self.stubborn:
                await self.go_on.wait()
            raise
        finally:
            self.alive -= 1
        return self._reply or request


class Scene:
    """A server, and a caller on a connection of its own who notices whether it is still served.

    Attributes:
        made: calls of the healthy caller that were answered.
        growth: the most memory that was seen in use, less what it was at ``mark``.
    """

    def __init__(self, backend: Backend, handlers: Handlers, channel: lbkit.Channel) -> None:
        self.backend = backend
        self.handlers = handlers
        self.made = 0
        self._call = unary(channel)
        self._seen: Counter[str] = Counter()
        self._exceeded: Counter[str] = Counter()
        self._memory = self._most_memory = 0

    @property
    def seen(self) -> Counter[str]:
        """What the server counted since ``mark``."""
        return self.backend.server.counters.seen - self._seen

    @property
    def exceeded(self) -> Counter[str]:
        """Which limits acted since ``mark``."""
        return self.backend.server.counters.exceeded - self._exceeded

    @property
    def growth(self) -> int:
        return self._most_memory - self._memory

    @property
    def connections(self) -> set[ServerConnection]:
        """The server's ends of all connections; one is the healthy caller's."""
        return self.backend.server._connections

    @property
    def tasks(self) -> int:
        """How many calls have a task on the server."""
        assert self.backend.server._dispatcher is not None
        return len(self.backend.server._dispatcher.tasks)

    def connection_of(self, attacker: Attacker) -> ServerConnection:
        """Return the server's end of a connection."""
        peer = f"ipv4:127.0.0.1:{attacker.sock.getsockname()[1]}"
        (found,) = (each for each in self.connections if each.peer == peer)
        return found

    def mark(self) -> None:
        """Count from here."""
        self._seen = self.backend.server.counters.seen.copy()
        self._exceeded = self.backend.server.counters.exceeded.copy()
        if HAS_PROC:
            give_back_memory()
            self._memory = self._most_memory = resident()

    async def healthy(self) -> None:
        """Make one call as the healthy caller, and look at the memory."""
        assert await self._call(Item(text=HEALTHY), timeout=PATIENCE_S) == Item(text=HEALTHY)
        self.made += 1
        if HAS_PROC:
            self._most_memory = max(self._most_memory, resident())

    async def bystander(self, attacker: Attacker, stream_id: int = 1) -> None:
        """Open a stream whose handler waits: what is wrong with others must not end it."""
        await attacker.send(call(stream_id))
        await until(lambda: self.handlers.alive == 1)

    async def assert_lives(self, attacker: Attacker, new_id: int, old_id: int = 1) -> None:
        """The stream of the bystander is served, and so is a new one."""
        self.handlers.go_on.set()
        await attacker.assert_served(old_id)
        await attacker.send(call(new_id))
        await attacker.assert_served(new_id)

    async def keep_calling(self) -> None:
        """Make calls while the test attacks."""
        while True:
            await self.healthy()
            await asyncio.sleep(0.002)  # a caller, not a flood

    @asynccontextmanager
    async def attacker(self, hello: bytes = HELLO, *, rcvbuf: int = 0) -> AsyncGenerator[Attacker, None]:
        """Connect and say hello. A healthy call is made before the connection is closed.

        Args:
            hello: what is sent first.
            rcvbuf: the size of the socket's receive buffer, if it is to be smaller than usual.
        """
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if rcvbuf:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.backend.port))
            attacker = Attacker(sock)
            await attacker.send(hello)
            yield attacker
            await self.healthy()
        finally:
            sock.close()


@asynccontextmanager
async def crowd(port: int, count: int, hello: bytes = HELLO) -> AsyncGenerator[list[socket.socket], None]:
    """Open many connections, say hello on each, and leave them alone."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(contextlib.closing(socket.socket()))
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            sockets.append(sock)
            with contextlib.suppress(ConnectionError):  # it may have been one too many
                await loop.sock_sendall(sock, hello)
        yield sockets


@asynccontextmanager
async def attacked(
    handlers: Handlers | None = None, *, sndbuf: int = 0, **options: Any
) -> AsyncGenerator[Scene, None]:
    """Run a server with a healthy caller, who must be served before, during and after the attack.

    Args:
        handlers: the server's behaviour.
        sndbuf: the size of the server's socket send buffers, if they are to be smaller than usual.
        options: of the server.
    """
    handlers = handlers or Handlers()
    async with serving(handlers, **options) as backend:
        if sndbuf:  # accepted sockets inherit it
            backend.server._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        async with channel_to(backend) as channel:
            scene = Scene(backend, handlers, channel)
            await scene.healthy()
            scene.mark()
            caller = asyncio.create_task(scene.keep_calling())
            try:
                yield scene
                assert not caller.done(), "the healthy caller was not served"
                await scene.healthy()
            finally:
                handlers.go_on.set()
                caller.cancel()
                await asyncio.gather(caller, return_exceptions=True)
