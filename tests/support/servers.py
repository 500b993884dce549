"""lbkit servers and channels for tests, and peers whose every frame the test writes, over loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import hpack

import lbkit
from lbkit.http2 import frames
from lbkit.http2.frames import frame
from lbkit.http2.hpack import Field
from tests.support.protos import kinds_pb2
from tests.support.wire import REQUEST, Frame, settings_frame, split_frames

Item = kinds_pb2.Item
Behaviour: TypeAlias = Callable[[Any, lbkit.ServicerContext], Awaitable[Any]]

QUICK = lbkit.BackoffPolicy(initial_s=0.02, maximum_s=0.05)
PATIENCE_S = 10.0  # for what must happen; only a failing test waits that long
GROWING_S = (0.05, 0.5, 5.0)  # for deadlines that must not pass before something has begun
PATH = b"/lbkit.tests.Kinds/UnaryUnary"


async def echo(request: Any, context: lbkit.ServicerContext) -> Any:
    """Send back what came."""
    return request


class Backend:
    """A running server of ``Kinds.UnaryUnary``; counts the calls that got to it."""

    def __init__(self, behaviour: Behaviour = echo, *, name: str = "", **options: Any) -> None:
        self.name = name
        self.calls = 0
        self.port = 0
        self.server = lbkit.Server(**options)
        self._behaviour = behaviour
        self.server.add(kinds_pb2, "Kinds", self)

    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        """Count, then do what the test says."""
        self.calls += 1
        return await self._behaviour(request, context)

    async def start(self, address: str = "127.0.0.1:0") -> Backend:
        """Listen; the port is in ``port``."""
        self.port = self.server.bind(address)
        await self.server.start()
        return self

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(behaviour: Behaviour = echo, **options: Any) -> AsyncGenerator[Backend, None]:
    """Run one backend."""
    backend = await Backend(behaviour, **options).start()
    try:
        yield backend
    finally:
        await backend.server.stop(None)


@asynccontextmanager
async def fleet(count: int, **options: Any) -> AsyncGenerator[list[Backend], None]:
    """Run several backends that answer with their names: ``backend 0`` and so on."""
    async with contextlib.AsyncExitStack() as stack:
        backends = []
        for number in range(count):
            name = f"backend {number}"
            backends.append(await stack.enter_async_context(serving(naming(name), name=name, **options)))
        yield backends


def naming(name: str) -> Behaviour:
    """Answer with a name."""

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(text=name, number=request.number)

    return behaviour


def target_of(*where: Backend | str | int) -> str:
    """The static target for backends, addresses, or ports of this machine."""
    addresses = [
        each.address if isinstance(each, Backend) else f"127.0.0.1:{each}" if isinstance(each, int) else each
        for each in where
    ]
    return "static:///" + ",".join(addresses)


def channel_to(
    *where: Backend | str | int, backoff: lbkit.BackoffPolicy = QUICK, **options: Any
) -> lbkit.Channel:
    """A channel to backends, addresses or ports, that reconnects quickly."""
    return lbkit.Channel(target_of(*where), backoff=backoff, **options)


def unary(channel: lbkit.Channel) -> Any:
    """The multicallable of ``Kinds.UnaryUnary``."""
    return channel.stub(kinds_pb2, "Kinds").UnaryUnary


def raw(channel: lbkit.Channel, path: str = PATH.decode()) -> Any:
    """A multicallable that takes and gives bytes."""
    method: Any = channel.unary_unary(path)
    return method


@asynccontextmanager
async def calling(
    behaviour: Behaviour = echo, *, channel: dict[str, Any] | None = None, **options: Any
) -> AsyncGenerator[Any, None]:
    """Run one backend, and give the multicallable of a channel to it."""
    async with serving(behaviour, **options) as backend, channel_to(backend, **(channel or {})) as connected:
        yield unary(connected)


@asynccontextmanager
async def kinds(
    servicer: object, *, channel: dict[str, Any] | None = None, **options: Any
) -> AsyncGenerator[Any, None]:
    """Serve ``Kinds`` with an object that has some of its methods; give a stub for it."""
    server = lbkit.Server(**options)
    server.add(kinds_pb2, "Kinds", servicer)
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        async with channel_to(port, **(channel or {})) as connected:
            yield connected.stub(kinds_pb2, "Kinds")
    finally:
        await server.stop(None)


async def all_connected(channel: lbkit.Channel, count: int) -> None:
    """Wait until so many backends are READY and the policy has taken note of the last one."""
    channel.get_state(try_to_connect=True)
    await until(
        lambda: sum(each.state is lbkit.ConnectivityState.READY for each in channel.subchannels()) == count
    )
    picker = channel.picker
    with contextlib.suppress(TimeoutError):  # it may have been told already
        async with asyncio.timeout(0.02):
            while channel.picker is picker:  # noqa: ASYNC110 -- a new picker sets no event
                await asyncio.sleep(0)


async def all_serving(channel: lbkit.Channel, count: int) -> None:
    """Make calls until so many backends answer in turn."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await shares(unary(channel), count)) < count:
            pass


async def failure(call: Any) -> lbkit.RpcError:
    """Await a call that must fail, and return its error."""
    try:
        answer = await call
    except lbkit.RpcError as error:
        return error
    raise AssertionError(f"the call did not fail, it answered {answer!r}")


async def until(condition: Callable[[], object]) -> None:
    """Wait for what sets no event of its own. Fails the test if it does not come."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 -- see above
            await asyncio.sleep(0.001)


async def shares(call: Any, count: int) -> Counter[str]:
    """Make calls one after the other; count the names in the answers."""
    return Counter([(await call(Item(number=number), timeout=PATIENCE_S)).text for number in range(count)])


class RawPeer:
    """A peer's side of one HTTP/2 connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.received: list[Frame] = []

    def headers(self, stream_id: int, fields: Iterable[Field], *, end: bool = False) -> bytes:
        """Write a HEADERS frame."""
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        return frame(frames.HEADERS, flags, stream_id, self.encoder.encode(list(fields)))

    async def next_frame(self) -> Frame:
        """Read a frame; SETTINGS and PING are acknowledged.

        Raises:
            IncompleteReadError: the other side closed the connection.
        """
        head = await self.reader.readexactly(9)
        high, low = struct.unpack(">HB", head[:3])
        (found,) = split_frames(head + await self.reader.readexactly(high << 8 | low))
        if found.kind in {frames.SETTINGS, frames.PING} and not found.flags & frames.ACK:
            self.writer.write(
                frame(found.kind, frames.ACK, 0, found.payload if found.kind == frames.PING else b"")
            )
        self.received.append(found)
        return found

    def decode(self, block: bytes) -> dict[bytes, bytes]:
        """Decompress a header block."""
        return {bytes(name): bytes(value) for name, value in self.decoder.decode(block, raw=True)}

    async def close(self) -> None:
        """Close, whatever the other side does."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


Answer: TypeAlias = Callable[[RawPeer, int], bytes]


class RawServer:
    """An HTTP/2 server that answers each complete request with bytes of the test's making.

    ``None`` as the answer closes the connection.
    """

    def __init__(
        self, answer: Callable[[RawPeer, int], bytes | None], settings: bytes = settings_frame()
    ) -> None:
        self.answer = answer
        self.settings = settings
        self.peers: list[RawPeer] = []
        self.heads: list[dict[bytes, bytes]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        peer = RawPeer(reader, writer)
        self.peers.append(peer)
        try:
            await reader.readexactly(len(frames.PREFACE))
            writer.write(self.settings)
            while True:
                found = await peer.next_frame()
                if found.kind == frames.HEADERS:
                    self.heads.append(peer.decode(found.payload))
                if found.kind in {frames.DATA, frames.HEADERS} and found.flags & frames.END_STREAM:
                    said = self.answer(peer, found.stream_id)
                    if said is None:
                        return
                    writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            await peer.close()


@asynccontextmanager
async def raw_server(
    answer: Callable[[RawPeer, int], bytes | None], settings: bytes = settings_frame()
) -> AsyncGenerator[RawServer, None]:
    """Run a ``RawServer``."""
    server = RawServer(answer, settings)
    async with listening(server.serve) as port:
        server.port = port
        yield server


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[int, None]:
    """Accept connections; give the port. Waits at the end until each has been served."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # start_server takes a cancelled task for an error
            await serve(reader, writer)

    listener = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


@asynccontextmanager
async def silence(saying: bytes = b"") -> AsyncGenerator[int, None]:
    """Accept connections and never say anything, or one thing; give the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        writer.write(saying)
        try:
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
        finally:
            await peer.close()

    async with listening(serve) as port:
        yield port


@asynccontextmanager
async def raw_client(port: int) -> AsyncGenerator[RawPeer, None]:
    """Connect, open an HTTP/2 connection, and give the client's side of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = RawPeer(reader, writer)
    writer.write(frames.PREFACE + settings_frame())
    try:
        yield peer
    finally:
        await peer.close()


def request_fields(*changes: Field, without: bytes = b"") -> list[Field]:
    """The header fields of a unary request, with some changed, added, or left out."""
    fields = {**dict(REQUEST), b":path": PATH}
    extra = [change for change in changes if change[0] not in fields]
    fields.update({name: value for name, value in changes if name in fields})
    return [(name, value) for name, value in fields.items() if name != without] + extra
