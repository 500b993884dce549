"""A call on the server: from request headers through the handler's task to the status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from lbkit.deadline import Deadlines
from lbkit.errors import AbortError, MetadataError
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field, Prefix, list_size
from lbkit.http2.stream import CLOSED, NULL_SINK, Stream
from lbkit.http_answer import HttpAnswer
from lbkit.metadata import EMPTY, Metadata, MetadataLike, pairs
from lbkit.service import Handler, HandlerTable, ServicerContext
from lbkit.status import Status, StatusCode
from lbkit.suggest import did_you_mean
from lbkit.transport.server import ServerConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import OneMessage, send_message, whole_message
from lbkit.wire.metadata import encode_metadata
from lbkit.wire.requests import RequestHead, RequestRefused
from lbkit.wire.status import OK, status_fields

if TYPE_CHECKING:
    from lbkit.deadline import Bucket

_log = logging.getLogger("lbkit.server")

_HEAD = Prefix(((b":status", b"200"), (b"content-type", b"application/grpc")))
_TRAILERS_OK = Prefix(((b"grpc-status", b"0"),))


class Dispatcher:
    """Starts the handler of each request; shared by all connections of a server.

    Args:
        loop: the server's event loop.
        handlers: who serves what.
        max_request_bytes: larger requests end with RESOURCE_EXHAUSTED.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handlers: HandlerTable, max_request_bytes: int
    ) -> None:
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.tasks: set[asyncio.Task[None]] = set()  # handlers that run, kept alive here
        self.max_request_bytes = max_request_bytes
        self._handlers = handlers

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        """Serve a new stream, or refuse it with a status of its own."""
        call = ServerCall(self, connection, stream)
        stream.sink = call
        try:
            head = RequestHead(fields)
            handler = self._handlers.find(head.path, head.metadata)
            if handler is None or handler.behaviour is None:
                call.refuse(Status(StatusCode.UNIMPLEMENTED, self._explain(head.path, handler)))
                return
        except RequestRefused as refused:
            if refused.from_grpc:
                call.refuse(Status(refused.code, refused.details), refused.http_status)
            else:
                answer = stream.sink = HttpAnswer(connection, stream, refused)
                if end:
                    answer.data(b"", True)
            return
        except WireFault as fault:
            call.refuse(Status(fault.code, fault.details))
            return
        except Exception as error:  # a generic handler's mistake ends this call, nothing else
            _log.exception("a generic handler raised")
            text = f"a generic handler raised {type(error).__name__}; see the server's log"
            call.refuse(Status(StatusCode.UNKNOWN, text))
            return
        call.begin(head, handler)
        if end:
            call.data(b"", True)

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Refuse a new stream whose headers are too large."""
        call = ServerCall(self, connection, stream)
        stream.sink = call
        call.refuse(Status(StatusCode.RESOURCE_EXHAUSTED, f"the request's metadata: {reason}"))

    def _explain(self, path: bytes, handler: Handler | None) -> str:
        name = path.decode("latin-1")
        if handler is not None:
            return f"{name}: {handler.refusal}"
        return f"no method {name!r} here.{did_you_mean(name, self._handlers.paths())}"


class ServerCall(ServicerContext):
    """One unary call: the stream's sink and the handler's context in one object."""

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_cancelled",
        "_code",
        "_connection",
        "_deadline",
        "_details",
        "_dispatcher",
        "_handler",
        "_head",
        "_head_sent",
        "_held",
        "_over",
        "_parts",
        "_started",
        "_stream",
        "_task",
        "_trailing",
        "_writable",
        "bucket",
    )

    bucket: Bucket | None  # set by Deadlines
    _head: RequestHead
    _handler: Handler

    def __init__(self, dispatcher: Dispatcher, connection: ServerConnection, stream: Stream) -> None:
        self._dispatcher = dispatcher
        self._connection = connection
        self._stream = stream
        self._code = StatusCode.OK
        self._details = ""
        self._trailing: Metadata = EMPTY
        self._head_sent = False
        self._over = False
        self._cancelled = False
        self._started = False  # the handler's task has had its first turn
        self._held = False  # the stream is gone, but the handler still runs
        self._deadline: float | None = None
        self.bucket = None
        self._parts: OneMessage | None = None  # the request, if it does not come in one piece
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[ServicerContext], object]] | None = None

    def begin(self, head: RequestHead, handler: Handler) -> None:
        """Get ready for the request message; the client's deadline runs from here."""
        self._head = head
        self._handler = handler
        timeout = head.timeout_s
        if timeout is not None:
            if timeout <= 0:
                self.refuse(
                    Status(StatusCode.DEADLINE_EXCEEDED, "the deadline had passed before the call came")
                )
                return
            self._deadline = self._dispatcher.loop.time() + timeout
            self._dispatcher.deadlines.add(self, self._deadline)

    def refuse(self, status: Status, http_status: int = 200) -> None:
        """End the call without running the handler."""
        prefix = _HEAD
        if http_status != 200:
            prefix = Prefix(((b":status", b"%d" % http_status), (b"content-type", b"application/grpc")))
        self._end_stream(status, prefix)

    # The stream's sink

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Take the end of the request; gRPC clients send no trailers, but may."""
        self.data(b"", True)

    def data(self, data: bytes, end: bool) -> None:
        """Take a piece of the request; start the handler when it is complete."""
        if self._over or self._task is not None:
            return
        message = None
        try:
            if end and self._parts is None:
                message = whole_message(data)
                if message is not None and len(message) > self._dispatcher.max_request_bytes:
                    message = None
            if message is None:
                message = self._collect(data, end)
                if message is None:
                    return
            request = self._handler.deserialize(message)
        except WireFault as fault:
            self._end_stream(Status(fault.code, fault.details), _HEAD)
            return
        except Exception as error:  # whatever a deserialiser raises
            text = f"the request cannot be parsed: {type(error).__name__}: {error}"
            self._end_stream(Status(StatusCode.INTERNAL, text), _HEAD)
            return
        task = self._task = self._dispatcher.loop.create_task(self._run(request))
        self._dispatcher.tasks.add(task)

    def data_buffer(self, length: int) -> memoryview | None:
        """Have a part of a large request received in place."""
        return None if self._over or self._parts is None else self._parts.room(length)

    def filled(self, length: int, end: bool) -> None:
        """Take note of a part received in place."""
        if self._over or self._parts is None:
            return
        self._parts.filled(length)
        if end:
            self.data(b"", True)
        else:
            self._connection.engine.consumed(self._stream, length)

    def reset(self, code: int, reason: str) -> None:
        """Cancel the handler: the client gave up."""
        self._cancel()

    def lost(self, reason: str) -> None:
        """Cancel the handler: nobody can be told any more."""
        self._cancel()

    def writable(self) -> None:
        """Let the handler's task go on to the status."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def expired(self) -> None:
        """Cancel the handler: the client's deadline has passed, and the client knows."""
        if not self._over:
            self._connection.engine.reset(self._stream, ErrorCode.CANCEL)
            self._connection.kick()
            self._cancel()

    # For the handler: ServicerContext

    def invocation_metadata(self) -> Metadata:
        """Return what the client sent with the call."""
        return self._head.metadata()

    def peer(self) -> str:
        """Return where the client is."""
        return self._connection.peer

    def time_remaining(self) -> float | None:
        """Return the seconds left until the client's deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - self._dispatcher.loop.time())

    async def abort(self, code: object, details: str = "", trailing_metadata: MetadataLike = ()) -> NoReturn:
        """End the call with a status other than OK."""
        status = StatusCode.of(code)
        if status is StatusCode.OK:
            raise ValueError(
                "abort() needs a code other than OK; to end a call with OK return from the handler"
            )
        self._code = status
        self._details = details
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        raise AbortError(f"{status.name}: {details}")

    async def send_initial_metadata(self, initial_metadata: MetadataLike) -> None:
        """Send metadata ahead of the response."""
        if self._head_sent:
            raise RuntimeError("initial metadata was sent before")
        fields = encode_metadata(initial_metadata)
        limit = self._connection.engine.max_header_list
        if (size := _HEAD.size + list_size(fields)) > limit:
            raise MetadataError(f"initial metadata of {size} bytes, the client takes {limit}")
        if not self._over:
            self._send_head(fields)
            self._connection.kick()

    def set_trailing_metadata(self, trailing_metadata: MetadataLike) -> None:
        """Set what goes with the status."""
        # Refuse what must not be sent here, where the mistake is, and not when the status is sent.
        trailing = Metadata(pairs(trailing_metadata))  # an iterator can be read once only
        encode_metadata(trailing)
        self._trailing = trailing

    def set_code(self, code: object) -> None:
        """Set the status code the call will end with."""
        self._code = StatusCode.of(code)

    def set_details(self, details: str) -> None:
        """Set the text of the status."""
        self._details = details

    def code(self) -> StatusCode:
        """Return the code set so far."""
        return self._code

    def details(self) -> str:
        """Return the text set so far."""
        return self._details

    def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata set so far."""
        return self._trailing

    def cancelled(self) -> bool:
        """Whether the call ended before the handler did."""
        return self._cancelled

    def done(self) -> bool:
        """Whether the call is over."""
        return self._over

    def add_done_callback(self, callback: Callable[[ServicerContext], object]) -> None:
        """Call ``callback(context)`` when the call is over."""
        if self._over:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    # Inside

    def _collect(self, data: bytes, end: bool) -> bytes | None:
        """Put a request together that comes in pieces; return it when it is complete."""
        if self._parts is None:
            self._parts = OneMessage(self._dispatcher.max_request_bytes)
        begins = self._parts.feed(data)
        if end:
            return self._parts.finish()
        engine = self._connection.engine
        if begins:
            engine.expect(self._stream, self._parts.missing)
        engine.consumed(self._stream, len(data))
        return None

    async def _run(self, request: object) -> None:
        """Run the handler and send what comes of it. The body of the handler's task."""
        self._started = True
        try:
            behaviour = self._handler.behaviour
            assert behaviour is not None, "refused before"
            response = await behaviour(request, self)
            if self._over:
                return
            if self._code is not StatusCode.OK:
                self._end_stream(Status(self._code, self._details), _HEAD)
                return
            payload = self._handler.serialize(response)
            del request, response  # while the payload waits for the client to read, it is enough by itself
            if not self._head_sent:
                self._send_head(())
            connection = self._connection
            if not send_message(connection.engine, self._stream, payload, False):
                self._writable = self._dispatcher.loop.create_future()
                connection.kick()
                await self._writable
            self._end_stream(OK if not self._details else Status(StatusCode.OK, self._details), _HEAD)
        except AbortError:
            self._end_stream(Status(self._code, self._details), _HEAD)
        except asyncio.CancelledError:
            # Ours when the call is over; otherwise the handler cancelled itself, which is its answer.
            self._end_stream(Status(StatusCode.CANCELLED, "the handler was cancelled"), _HEAD)
        except Exception as error:  # whatever a handler raises, or the serialiser of what it returned
            self._end_stream(self._status_of(error), _HEAD)
        finally:
            self._dispatcher.tasks.discard(self._task)
            if self._held:
                self._connection.engine.held -= 1

    def _status_of(self, error: Exception) -> Status:
        """Return the status for an exception. The client learns its type only: texts may hold secrets."""
        if self._code is not StatusCode.OK:  # set_code(...) and then raise: grpcio's way to say it
            return Status(self._code, self._details)
        _log.exception("handler of %s raised", self._handler.path)
        return Status(StatusCode.UNKNOWN, f"the handler raised {type(error).__name__}; see the server's log")

    def _send_head(self, fields: list[Field] | tuple[()]) -> None:
        self._head_sent = True
        self._connection.engine.send_headers(self._stream, _HEAD, fields, False)

    def _end_stream(self, status: Status, head: Prefix) -> None:
        """Send the status, with the response headers if those have not gone, and forget the call."""
        if self._over:
            return
        engine = self._connection.engine
        trailing = encode_metadata(self._trailing) if self._trailing else []
        prefix: Prefix | None = None if self._head_sent else head
        fields = trailing
        if self._head_sent and status is OK:
            prefix = _TRAILERS_OK
        else:
            fields = status_fields(status) + trailing
        limit = engine.max_header_list
        if fields and (size := list_size(fields) + (prefix.size if prefix else 0)) > limit:
            text = f"{status.code.name}, but {size} bytes of headers go with it, and the client takes {limit}"
            prefix = None if self._head_sent else head
            fields = status_fields(Status(StatusCode.INTERNAL, text))
        engine.send_headers(self._stream, prefix, fields, True)
        if self._stream.state != CLOSED:
            engine.reset(self._stream, ErrorCode.NO_ERROR)  # the client need not send the rest of its request
        self._connection.kick()
        self._close()

    def _cancel(self) -> None:
        if not self._over:
            self._cancelled = True
            self._close()
            if self._task is None:
                return
            self._task.cancel()
            if self._started:
                # Until the handler has ended, its stream counts: else a client could start one after the other,
                # all running at once, by resetting each (CVE-2023-44487).
                self._held = True
                self._connection.engine.held += 1
            else:
                self._dispatcher.tasks.discard(self._task)  # it never runs

    def _close(self) -> None:
        self._over = True
        self._stream.sink = NULL_SINK
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None
        if self._callbacks is not None:
            for callback in self._callbacks:
                self._dispatcher.loop.call_soon(callback, self)
