"""A server of all four kinds of method, and a client that gets one thing wrong and everything else right.

The numbers R1 to R29 in the tests are rows of one list of bad requests; each test says in words what its row is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from lbkit.transport.server import ServerConnection
from lbkit.wire.messages import frame_message
from tests.attacks.attacker import ACK, Attacker, block, headers
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Backend, Item, request_fields, until
from tests.support.wire import Frame, data_frame, settings_frame, split_frames, window_update

KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
REQUEST_STREAMS = ("StreamUnary", "StreamStream")
RESPONSE_STREAMS = ("UnaryStream", "StreamStream")
MIB = 1 << 20
WAIT = "wait"  # a request that is answered when the test is over
MOST = 1 << 30
# Announces windows that hold no answer back.
HELLO = (
    frames.PREFACE + settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, MOST)) + window_update(0, MOST) + ACK
)


def message(text: str, **more: Any) -> bytes:
    """One framed message."""
    return frame_message(Item(text=text, **more).SerializeToString())


def path(kind: str) -> bytes:
    """The path of the method of a kind."""
    return b"/lbkit.tests.Kinds/" + kind.encode()


class Echo:
    """Sends back what comes; a stream to one response as its texts in one.

    Attributes:
        started: calls of each kind that got to their handlers.
        got: the texts of the requests that handlers were given.
        errors: the types of what handlers saw go wrong.
        go_on: lets those answer that were asked to wait.
    """

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.got: list[str] = []
        self.errors: list[str] = []
        self.go_on = asyncio.Event()

    def note(self, request: Any) -> Any:
        self.got.append(request.text)
        return request

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        self.started["UnaryUnary"] += 1
        if request.text == WAIT:
            await self.go_on.wait()
            return request
        return self.note(request)

    async def UnaryStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.started["UnaryStream"] += 1
        yield self.note(request)

    async def StreamUnary(self, requests: AsyncIterator[Any], context: Any) -> Any:
        self.started["StreamUnary"] += 1
        try:
            texts = [self.note(request).text async for request in requests]
        except Exception as error:
            self.errors.append(type(error).__name__)
            raise
        return Item(text="+".join(texts))

    async def StreamStream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.started["StreamStream"] += 1
        try:
            async for request in requests:
                yield self.note(request)
        except Exception as error:
            self.errors.append(type(error).__name__)
            raise


class EchoInThreads(Echo):
    """The same in plain functions, all but the one that the bystander calls."""

    def UnaryStream(self, request: Any, context: Any) -> Iterator[Any]:  # type: ignore[override]
        self.started["UnaryStream"] += 1
        yield self.note(request)

    def StreamUnary(self, requests: Iterator[Any], context: Any) -> Any:  # type: ignore[override]
        self.started["StreamUnary"] += 1
        try:
            texts = [self.note(request).text for request in requests]
        except Exception as error:
            self.errors.append(type(error).__name__)
            raise
        return Item(text="+".join(texts))

    def StreamStream(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # type: ignore[override]
        self.started["StreamStream"] += 1
        try:
            for request in requests:
                yield self.note(request)
        except Exception as error:
            self.errors.append(type(error).__name__)
            raise


class Caller(Attacker):
    """The client's end, which keeps to the windows and remembers the responses."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.sent: Counter[int] = Counter()  # bytes of DATA by stream; those of all together are at 0
        self.content: dict[int, bytes] = {}
        self._next_id = 1

    async def send(self, data: bytes) -> bool:
        """Send whole frames."""
        for each in split_frames(data):
            if each.kind == frames.DATA:
                self.sent.update({0: len(each.payload), each.stream_id: len(each.payload)})
        return await super().send(data)

    async def call(
        self, kind: str, body: bytes | None = None, *changes: Field, end: bool = True, without: bytes = b""
    ) -> int:
        """Make a call; return its stream.

        Args:
            kind: of method.
            body: goes in one frame of DATA; None sends the headers only.
            changes: of the request's header fields.
            end: whether that is the whole request.
            without: a header field to leave out.
        """
        fields = request_fields((b":path", path(kind)), *changes, without=without)
        return await self.call_with(fields, body, end=end)

    async def call_with(self, fields: list[Field], body: bytes | None, *, end: bool = True) -> int:
        """Make a call with exactly these header fields."""
        stream_id = self._next_id
        self._next_id += 2
        said = headers(stream_id, block(fields), end=end and body is None)
        if body is not None:
            said += data_frame(stream_id, body, end=end)
        await self.send(said)
        return stream_id

    async def stream(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Send any number of bytes, as the windows open."""
        while data:
            await self.until(lambda: self.room(stream_id) > 0)
            piece = data[: min(frames.DEFAULT_FRAME_SIZE, self.room(stream_id))]
            data = data[len(piece) :]
            await self.send(data_frame(stream_id, piece, end=end and not data))

    def room(self, stream_id: int) -> int:
        """How much the server would take on a stream now (RFC 9113 6.9)."""
        initial = frames.DEFAULT_WINDOW
        given: Counter[int] = Counter()
        for each in self.frames:
            if each.kind == frames.WINDOW_UPDATE:
                given[each.stream_id] += int.from_bytes(each.payload, "big")
            elif each.kind == frames.SETTINGS:
                for at in range(0, len(each.payload), 6):
                    key, value = frames.unpack_setting(each.payload, at)
                    if key == frames.Setting.INITIAL_WINDOW_SIZE:
                        initial = value
        of_connection = frames.DEFAULT_WINDOW + given[0] - self.sent[0]
        return min(of_connection, initial + given[stream_id] - self.sent[stream_id])

    def texts(self, stream_id: int) -> list[str]:
        """The texts of the responses that came on a stream."""
        data, found = self.content.get(stream_id, b""), []
        while data:
            end = 5 + int.from_bytes(data[1:5], "big")
            assert len(data) >= end, "half a response"
            found.append(Item.FromString(data[5:end]).text)
            data = data[end:]
        return found

    async def assert_ends(self, stream_id: int, status: int, *words: str) -> dict[bytes, bytes]:
        """A stream ends with a status whose text has these words; return its header fields."""
        found = await self.answer(stream_id)
        assert found.get(b"grpc-status") == b"%d" % status, (found, self.resets)
        for word in words:
            assert word in found.get(b"grpc-message", b"").decode()
        assert self.goaways == []
        return found

    async def assert_no_more_wanted(self, stream_id: int) -> None:
        """The server tells who has not ended a request that nobody needs the rest (RFC 9113 8.1)."""
        await self.until(lambda: stream_id in self.resets)
        assert self.resets[stream_id] == ErrorCode.NO_ERROR

    def _take(self, found: Frame) -> None:
        super()._take(found)
        if found.kind == frames.DATA:
            self.content[found.stream_id] = self.content.get(found.stream_id, b"") + found.payload


class Stage:
    """A server, the caller's connection to it, and a call on it that must not notice anything.

    Attributes:
        servicer: what the server serves.
        caller: the client.
        backend: the server.
    """

    def __init__(self, servicer: Any, caller: Caller, backend: Backend) -> None:
        self.servicer = servicer
        self.caller = caller
        self.backend = backend

    @property
    def connection(self) -> ServerConnection:
        """The server's end of the caller's connection."""
        (connection,) = self.backend.server._connections
        return connection

    def install(self, kind: str, behaviour: Any) -> None:
        """Serve one more method of a kind: ``/test.Bad/`` and the kind's name."""
        streams_request, streams_response = kind in REQUEST_STREAMS, kind in RESPONSE_STREAMS
        handler = SimpleNamespace(
            request_streaming=streams_request,
            response_streaming=streams_response,
            request_deserializer=Item.FromString,
            response_serializer=Item.SerializeToString,
            **dict.fromkeys(("unary_unary", "unary_stream", "stream_unary", "stream_stream"), behaviour),
        )
        self.backend.server.add_registered_method_handlers("test.Bad", {kind: handler})

    async def call_bad(
        self, kind: str, body: bytes | None = message("x"), *changes: Field, end: bool = True
    ) -> int:
        """Call the method that was installed; return its stream."""
        return await self.caller.call(
            kind, body, (b":path", b"/test.Bad/" + kind.encode()), *changes, end=end
        )

    async def all_ended(self) -> None:
        """Wait until no handler is left, neither its task nor its stream."""
        dispatcher, engine = self.backend.server._dispatcher, self.connection.engine
        assert dispatcher is not None
        await until(
            lambda: not dispatcher.tasks and not dispatcher.working and not engine.streams and not engine.held
        )

    async def assert_whole(self, bystander: int) -> None:
        """The old call ends well, and so do a small one and one of a mebibyte; nothing is left over."""
        caller = self.caller
        self.servicer.go_on.set()
        await caller.assert_ends(bystander, 0)
        assert caller.texts(bystander) == [WAIT]
        small = await caller.call("UnaryUnary", message("small"))
        await caller.assert_ends(small, 0)
        assert caller.texts(small) == ["small"]
        large = await caller.call("UnaryUnary", end=False)
        await caller.stream(large, message("large", body=bytes(MIB)), end=True)
        await caller.assert_ends(large, 0)
        assert caller.texts(large) == ["large"]
        assert not caller.hung_up
        await self.all_ended()


@asynccontextmanager
async def staged(servicer: Any = None, **options: Any) -> AsyncGenerator[Stage, None]:
    """Run a server, connect a caller, and have a call on the same connection wait until the test is over.

    Args:
        servicer: an Echo by default.
        options: of the server.
    """
    servicer = servicer or Echo()
    backend = Backend(**options)
    backend.server.add(kinds_pb2, "Kinds", servicer)
    await backend.start()
    sock = socket.socket()
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", backend.port))
        caller = Caller(sock)
        await caller.send(HELLO)
        stage = Stage(servicer, caller, backend)
        bystander = await caller.call("UnaryUnary", message(WAIT))
        await until(lambda: servicer.started["UnaryUnary"] == 1)
        yield stage
        await stage.assert_whole(bystander)
    finally:
        servicer.go_on.set()
        with contextlib.suppress(OSError):
            sock.close()
        await backend.server.stop(None)
