"""Streams over lbkit's transport. Call objects for streams are not built yet: what they will do stands here.

That is, at the server an async generator of protobuf messages before ``Engine.send_data``, and at the client an
async iterator of them behind ``StreamSink.data``, with framing, flow control at both ends and a status. Deadlines,
metadata and balancing are left out: they cost once per stream, not per message.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from lbkit.address import Address
from lbkit.http2.frames import ErrorCode, error_name
from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.stream import CLOSED, NULL_SINK, Stream
from lbkit.transport import server as transport
from lbkit.transport.client import ClientConnection, open_connection
from lbkit.transport.connector import SocketConnector
from lbkit.transport.server import ServerConnection
from lbkit.transport.setup import ConnectionSetup
from lbkit.wire.messages import PREFIX_BYTES, frame_message, send_message
from lbkit.wire.requests import RequestHead, request_prefix
from lbkit.wire.status import OK, status_of_trailers
from tests.bench.flow_load import SERVICE, STREAM, measure_streams, messages
from tests.bench.load import DEADLINE_S, Job, Sample
from tests.bench.peers.command import main
from tests.bench.processes import BrokenError
from tests.support.protos.bench_pb2 import Payload

_PATH = f"/{SERVICE}/{STREAM}"
_HEAD = Prefix(((b":status", b"200"), (b"content-type", b"application/grpc")))
_TRAILERS = Prefix(((b"grpc-status", b"0"),))
_TURN = 64  # messages after which a generator that never waits lets others have the loop
_unpack = struct.Struct(">BL").unpack_from


class Deframer:
    """Cuts the bytes of a stream into messages, wherever the frames that they come in begin and end."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes, into: deque[bytes]) -> None:
        """Take the next bytes; append the payloads that they complete.

        Raises:
            BrokenError: a message is compressed.
        """
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        while size - at >= PREFIX_BYTES:
            flag, length = _unpack(data, at)
            if flag:
                raise BrokenError("a message is compressed, but no grpc-encoding was agreed on")
            end = at + PREFIX_BYTES + length
            if end > size:
                break
            into.append(data[at + PREFIX_BYTES : end])
            at = end
        self._rest = data[at:]


class Sending:
    """The server's side of one stream: the sink of its request, and the task that answers it."""

    def __init__(self, connection: ServerConnection, stream: Stream, tasks: set[asyncio.Task[None]]) -> None:
        self._connection = connection
        self._stream = stream
        self._tasks = tasks
        self._deframer = Deframer()
        self._requests: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Take the end of the request."""
        self.data(b"", True)

    def data(self, data: bytes, end: bool) -> None:
        """Take a piece of the request; begin to answer when it is complete."""
        self._deframer.feed(data, self._requests)
        self._connection.engine.consumed(self._stream, len(data))
        if end:
            self._task = self._connection.loop.create_task(self._run())
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)

    def data_buffer(self, length: int) -> memoryview | None:
        """Want none: requests are small."""
        return None

    def filled(self, length: int, end: bool) -> None:
        """Never happens, for ``data_buffer`` gives nothing."""

    def reset(self, code: int, reason: str) -> None:
        """Stop: the client has had enough."""
        self._stream.sink = NULL_SINK
        if self._task is not None:
            self._task.cancel()

    def lost(self, reason: str) -> None:
        """Stop: there is no client any more."""
        self.reset(0, reason)

    def writable(self) -> None:
        """Let the generator go on."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def _run(self) -> None:
        """Send what the generator gives, no faster than it can be sent."""
        connection, stream = self._connection, self._stream
        engine = connection.engine
        try:
            request = Payload.FromString(self._requests.popleft())
            engine.send_headers(stream, _HEAD, (), False)
            left = _TURN
            async with aclosing(messages(request, None)) as replies:
                async for message in replies:
                    if engine.send_data(stream, frame_message(message.SerializeToString()), False):
                        connection.kick()
                    else:
                        self._writable = connection.loop.create_future()
                        connection.kick()  # it may write so much that ``writable`` is called at once
                        await self._writable
                    left -= 1
                    if not left:
                        left = _TURN
                        await asyncio.sleep(0)
            engine.send_headers(stream, _TRAILERS, (), True)
            connection.kick()
        finally:
            if stream.state != CLOSED:
                engine.reset(stream, ErrorCode.INTERNAL_ERROR)
                connection.kick()


class Owner:
    """Answers every request with a stream of messages."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        """Serve a new stream."""
        if end or RequestHead(fields).path != _PATH.encode():
            connection.engine.reset(stream, ErrorCode.REFUSED_STREAM)
        else:
            stream.sink = Sending(connection, stream, self._tasks)

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Never happens: our client's headers are small."""
        connection.engine.reset(stream, ErrorCode.REFUSED_STREAM)

    def connection_opened(self, connection: ServerConnection) -> None:
        """Do nothing: the connection lives as long as its socket."""

    def connection_closed(self, connection: ServerConnection) -> None:
        """Do nothing."""


class Receiving:
    """The client's side of one stream: its sink, and the async iterator of its messages."""

    stream: Stream

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._engine = connection.engine
        self._deframer = Deframer()
        self._messages: deque[bytes] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._over: str | None = None  # how the stream ended; empty if it ended well

    def __aiter__(self) -> Receiving:
        return self

    async def __anext__(self) -> Payload:
        """Return the next message, and let the server send as much again.

        Raises:
            BrokenError: the stream ended otherwise than with OK.
        """
        if not self._messages:
            await self._arrives()
        message = self._messages.popleft()
        self._engine.consumed(self.stream, len(message) + PREFIX_BYTES)
        if self._engine.queued_bytes:
            self._connection.kick()
        return Payload.FromString(message)

    async def _arrives(self) -> None:
        """Wait until there is a message."""
        while not self._messages:
            if self._over is not None:
                if self._over:
                    raise BrokenError(self._over)
                raise StopAsyncIteration
            self._arrival = self._connection.loop.create_future()
            await self._arrival

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Take the status; there is nothing to be known from the response headers."""
        if end:
            status = status_of_trailers(fields)
            self._end("" if status is OK else f"the stream ended with {status}")

    def data(self, data: bytes, end: bool) -> None:
        """Take messages, and pieces of them."""
        self._deframer.feed(data, self._messages)
        if end:
            self._end("the stream ended without a status")
        elif self._messages:
            self._wake()

    def data_buffer(self, length: int) -> memoryview | None:
        """Want none: messages are small."""
        return None

    def filled(self, length: int, end: bool) -> None:
        """Never happens, for ``data_buffer`` gives nothing."""

    def reset(self, code: int, reason: str) -> None:
        """End the iteration."""
        self._end(f"the stream was reset: {error_name(code)} {reason}")

    def lost(self, reason: str) -> None:
        """End the iteration."""
        self._end(f"the connection broke: {reason}")

    def writable(self) -> None:
        """Ignore: the request is small."""

    def _end(self, how: str) -> None:
        self._over = how
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class Onlooker:
    """Owns the client's connection; its streams learn for themselves when it breaks."""

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        """Do nothing."""


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    loop, owner, setup = asyncio.get_running_loop(), Owner(), ConnectionSetup()
    sock = transport.listen(Address.parse("127.0.0.1:0"))
    listener = await transport.serve(sock, lambda: ServerConnection(loop, owner, setup))
    ready(sock.getsockname()[1])
    await listener.serve_forever()


async def measure(job: Job) -> Sample:
    """Do one job over one connection."""
    (port,) = job.ports
    address = Address.parse(f"127.0.0.1:{port}")
    connection = await open_connection(
        address, Onlooker(), connector=SocketConnector(), setup=ConnectionSetup(), timeout_s=DEADLINE_S
    )
    engine = connection.engine
    prefix = request_prefix(path=_PATH, authority=str(address), scheme="http", user_agent="lbkit-bench")

    @asynccontextmanager
    async def open_stream(request: Payload) -> AsyncIterator[AsyncIterator[Payload]]:
        receiving = Receiving(connection)
        stream = receiving.stream = engine.open(receiving)
        engine.send_headers(stream, prefix, (), False)
        send_message(engine, stream, request.SerializeToString(), True)
        connection.kick()
        try:
            yield receiving
        finally:
            stream.sink = NULL_SINK
            connection.reset_stream(stream, ErrorCode.CANCEL)

    try:
        return await measure_streams(open_stream, job)
    finally:
        connection.drain()
        await connection.closed


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
