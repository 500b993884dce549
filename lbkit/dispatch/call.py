"""A unary call on the server, and what all kinds of call have in common there: from the request to the status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NoReturn

from lbkit.ambient import serving
from lbkit.dispatch.children import Parent
from lbkit.dispatch.encoded import packer_of
from lbkit.encoding.compressors import chosen
from lbkit.errors import AbortError, MetadataError, UsageError
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field, Prefix, list_size
from lbkit.http2.stream import CLOSED, NULL_SINK, Stream
from lbkit.metadata import EMPTY, Metadata, MetadataLike, pairs
from lbkit.service import Handler, ServicerContext
from lbkit.status import Status, StatusCode
from lbkit.transport.packer import MessagePacker
from lbkit.transport.server import ServerConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import OneMessage, send_message, whole_message
from lbkit.wire.metadata import encode_metadata
from lbkit.wire.packing import Compressed, unpack_small
from lbkit.wire.requests import RequestHead
from lbkit.wire.status import OK, status_fields

if TYPE_CHECKING:
    from lbkit.deadline import Bucket
    from lbkit.dispatch.dispatcher import Dispatcher
    from lbkit.dispatch.workers import Job

_log = logging.getLogger("lbkit.server")

_TRAILERS_OK = Prefix(((b"grpc-status", b"0"),))


class ServerCall(Parent, ServicerContext):
    """One call: the stream's sink and the handler's context in one object. As it is, of a unary method."""

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_cancelled",
        "_code",
        "_connection",
        "_context",
        "_deadline",
        "_details",
        "_dispatcher",
        "_handler",
        "_head",
        "_head_sent",
        "_held",
        "_over",
        "_packer",
        "_parts",
        "_prefix",
        "_started",
        "_stream",
        "_task",
        "_thread",
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
        self._prefix = dispatcher.answers.head
        self._packer: MessagePacker | None = None  # if responses are compressed
        self._parts: OneMessage | None = None  # the request, if it does not come in one piece
        self._task: asyncio.Task[None] | Job | None = None
        self._thread: Future[Any] | None = None  # where a plain function works for it
        self._writable: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[ServicerContext], object]] | None = None
        self._context: Context | None = None  # of the handler's task
        self._children = None

    def begin(self, head: RequestHead, handler: Handler, end: bool) -> None:
        """Get ready for the request; the client's deadline runs from here.

        Args:
            head: the request's headers.
            handler: who serves it.
            end: the headers are all of the request.
        """
        self._head = head
        self._handler = handler
        answers = self._dispatcher.answers
        if head.encoding is not None or answers.encoding is not None:
            self._packer = answers.packer(self, head)
        if head.subtype:
            self._prefix = answers.head_for(head.subtype)
        timeout = head.timeout_s
        if timeout is not None:
            if timeout <= 0:
                self.refuse(
                    Status(StatusCode.DEADLINE_EXCEEDED, "the deadline had passed before the call came")
                )
                return
            self._deadline = self._dispatcher.loop.time() + timeout
            self._dispatcher.deadlines.add(self, self._deadline)
        if end:
            self.data(b"", True)

    def refuse(self, status: Status, http_status: int = 200, fields: tuple[Field, ...] = ()) -> None:
        """End the call without running the handler; ``fields`` go with the response headers."""
        prefix = self._prefix
        if http_status != 200 or fields:
            head = (b":status", b"%d" % http_status), (b"content-type", b"application/grpc")
            prefix = Prefix((*head, *fields))
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
                if type(message) is Compressed:
                    message = unpack_small(packed := message, self._dispatcher.max_request_bytes)
                    if message is None:
                        self._start(self._unpack_and_run(packed))
                        return
            request = self._handler.deserialize(message)
        except WireFault as fault:
            self._end_stream(Status(fault.code, fault.details), self._prefix)
            return
        except Exception as error:  # whatever a deserialiser raises
            self._end_stream(unparsed(error), self._prefix)
            return
        self._start(self._run(request))

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

    @property
    def method(self) -> str:
        """The method called."""
        return self._head.path.decode("latin-1")

    @property
    def kind(self) -> str:
        """What is streamed."""
        return self._handler.kind

    def peer(self) -> str:
        """Return where the client is."""
        return self._connection.peer

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """Return what is known of the connection and of the client."""
        return self._connection.identity.properties

    def peer_identities(self) -> list[bytes] | None:
        """Return the client's identities."""
        properties, key = self._connection.identity
        return None if key is None else properties[key]

    def peer_identity_key(self) -> str | None:
        """Return where in ``auth_context`` the identities are."""
        return self._connection.identity.key

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

    async def abort_with_status(self, status: Any) -> NoReturn:
        """End the call with the parts of a status."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    async def read(self) -> Any:
        """Refuse: the request is an argument."""
        raise UsageError(f"{self._handler.path} has one request, which is the method's first argument")

    async def write(self, message: Any) -> None:
        """Refuse: the response is returned."""
        raise UsageError(f"{self._handler.path} has one response; return it")

    async def send_initial_metadata(self, initial_metadata: MetadataLike) -> None:
        """Send metadata ahead of the response."""
        if self._head_sent:
            raise RuntimeError("initial metadata was sent before")
        fields = encode_metadata(initial_metadata)
        limit = self._connection.engine.max_header_list
        if (size := self._prefix.size + list_size(fields)) > limit:
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

    def set_compression(self, compression: Any) -> None:
        """Choose how responses are compressed."""
        encoding = None if compression is None else chosen(compression)
        if self._head_sent:
            raise RuntimeError("the response headers were sent before; they say how responses are compressed")
        skip = self._packer is not None and self._packer.skip_next
        self._packer = packer_of(self, self._head, encoding)
        if skip:
            self.disable_next_message_compression()

    def disable_next_message_compression(self) -> None:
        """Send the next response as it is."""
        if self._packer is None:  # it may get one
            self._packer = MessagePacker(self._dispatcher.loop, self._connection.setup.offload, None)
        self._packer.skip_next = True

    # For plain functions: Workplace

    @property
    def connection(self) -> ServerConnection:
        """The connection that the call came on."""
        return self._connection

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the server."""
        return self._dispatcher.loop

    @property
    def threads(self) -> Executor:
        """Where plain functions run."""
        return self._dispatcher.threads

    def working(self, future: Future[Any]) -> None:
        """Take note of the thread that works for this call."""
        self._thread = future
        self._dispatcher.working += 1

    # Inside

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the handler run: this is the body of its task."""
        workers = self._dispatcher.workers
        if workers is not None:
            job = self._task = workers.run(work)
            self._context = job.context
            return
        context = self._context = copy_context()
        task = self._task = self._dispatcher.loop.create_task(work, context=context)
        self._dispatcher.tasks.add(task)

    def _collect(self, data: bytes, end: bool) -> bytes | None:
        """Put a request together that comes in pieces; return it when it is complete."""
        if self._parts is None:
            self._parts = OneMessage(
                self._dispatcher.max_request_bytes, StatusCode.UNIMPLEMENTED, self._head.encoding
            )
        begins = self._parts.feed(data)
        if end:
            return self._parts.finish()
        engine = self._connection.engine
        if begins:
            engine.expect(self._stream, self._parts.missing)
        engine.consumed(self._stream, len(data))
        return None

    async def _unpack_and_run(self, packed: Compressed) -> None:
        """Decompress a large request in a thread; then do what ``_run`` does."""
        self._started = True
        try:
            message = await self._connection.setup.offload.unpack(
                self._dispatcher.loop, packed, self._dispatcher.max_request_bytes
            )
            request = self._handler.deserialize(message)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | WireFault):
                self._end_by(error)
            else:  # whatever a deserialiser raises
                self._end_stream(unparsed(error), self._prefix)
            self._ended()
        else:
            del message, packed
            await self._run(request)

    async def _run(self, request: object) -> None:
        """Run the handler and send what comes of it. The body of the handler's task."""
        self._started = True
        serving.set(self)
        try:
            behaviour = self._handler.behaviour
            assert behaviour is not None, "refused before"
            response = await behaviour(request, self)
            if self._over:
                return
            if self._code is not StatusCode.OK:
                self._end_stream(Status(self._code, self._details), self._prefix)
                return
            payload = self._serialized(response)
            del request, response  # while the payload waits for the client to read, it is enough by itself
            if self._packer is not None:
                payload = await self._packer.pack(payload)
            if not self._head_sent:
                self._send_head(())
            connection = self._connection
            if not send_message(connection.engine, self._stream, payload, False):
                self._writable = self._dispatcher.loop.create_future()
                connection.kick()
                await self._writable
            self._end_well()
        except BaseException as error:
            if not self._end_by(error):
                raise
        finally:
            self._ended()

    def _serialized(self, response: object) -> bytes:
        """Return a response as bytes.

        Raises:
            WireFault: INTERNAL, it cannot be serialised; RESOURCE_EXHAUSTED, it is above the limit.
        """
        try:
            payload = self._handler.serialize(response)
            size = len(payload)
        except Exception as error:  # whatever a serialiser raises
            _log.exception("a response of %s cannot be serialised", self._handler.path)
            text = f"the response, a {type(response).__name__}, cannot be serialised: {type(error).__name__}"
            raise WireFault(StatusCode.INTERNAL, text) from None
        limit = self._dispatcher.max_response_bytes
        if limit is not None and size > limit:
            text = f"response of {size} bytes is larger than the limit of {limit}"
            raise WireFault(StatusCode.RESOURCE_EXHAUSTED, text)
        return payload

    def _end_well(self) -> None:
        """Send the status that the handler has set: OK by default."""
        if self._code is StatusCode.OK and not self._details:
            self._end_stream(OK, self._prefix)
        else:
            self._end_stream(Status(self._code, self._details), self._prefix)

    def _end_by(self, error: BaseException) -> bool:
        """Send the status that stands for an exception. False if it is none of the handler's."""
        if isinstance(error, AbortError):
            status = Status(self._code, self._details)
        elif isinstance(error, WireFault):
            status = Status(error.code, error.details)
        elif isinstance(error, asyncio.CancelledError):
            # Ours when the call is over; otherwise the handler cancelled itself, which is its answer.
            status = Status(StatusCode.CANCELLED, "the handler was cancelled")
        elif isinstance(error, Exception):
            if self._over:  # it only found out in its own way
                return True
            status = self._status_of(error)
        else:
            return False
        self._end_stream(status, self._prefix)
        return True

    def _ended(self) -> None:
        """Take note that the task is over: of a cancelled call, the stream no longer counts."""
        self._dispatcher.tasks.discard(self._task)
        if self._thread is not None and not self._thread.done():
            self._thread.add_done_callback(self._thread_done)
            return
        if self._thread is not None:
            self._dispatcher.working -= 1
        if self._held:
            self._connection.engine.held -= 1
        if self._dispatcher.counted is not None:
            self._dispatcher.counted.discard(self)
        self._task = self._context = None  # whose variables name this call: it would be left to the collector

    def _thread_done(self, _: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._dispatcher.loop.call_soon_threadsafe(self._ended)

    def _status_of(self, error: Exception) -> Status:
        """Return the status for an exception. The client learns its type only: texts may hold secrets."""
        if self._code is not StatusCode.OK:  # set_code(...) and then raise: grpcio's way to say it
            return Status(self._code, self._details)
        if self.time_remaining() == 0:  # what it called had the same deadline, and may have noticed first
            text = f"the deadline passed, and the handler raised {type(error).__name__}"
            return Status(StatusCode.DEADLINE_EXCEEDED, text)
        _log.exception("handler of %s raised", self._handler.path)
        return Status(StatusCode.UNKNOWN, f"the handler raised {type(error).__name__}; see the server's log")

    def _send_head(self, fields: list[Field] | tuple[()]) -> None:
        self._head_sent = True
        if self._packer is not None and self._packer.encoding is not None:
            fields = [self._packer.encoding.field, *fields]
        self._connection.engine.send_headers(self._stream, self._prefix, fields, False)

    def _end_stream(self, status: Status, head: Prefix) -> None:
        """Send the status, with the response headers if those have not gone, and forget the call."""
        if self._over:
            return
        if status.code is StatusCode.OK:
            self._dispatcher.calls_succeeded += 1
        else:
            self._dispatcher.calls_failed += 1
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
        self._code = status.code  # what the call ended with, for callbacks that ask
        self._details = status.details
        engine.send_headers(self._stream, prefix, fields, True)
        if self._stream.state != CLOSED:
            engine.reset(self._stream, ErrorCode.NO_ERROR)  # the client need not send the rest of its request
        self._connection.kick()
        self._close()

    def _cancel(self) -> None:
        if not self._over:
            self._cancelled = True
            self._dispatcher.calls_failed += 1
            late = self.time_remaining() == 0
            self._code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
            self._close()
            self._stop_handler()
            if self._children:
                self._end_children(self._code)

    def _stop_handler(self) -> None:
        """Cancel the task of a call that is over."""
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
        if self._dispatcher.counted is not None and not self._started:
            self._dispatcher.counted.discard(self)  # otherwise when the handler has ended
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None
        if self._callbacks is not None:
            for callback in self._callbacks:
                self._dispatcher.loop.call_soon(callback, self, context=self._context)


def unparsed(error: BaseException) -> Status:
    """Return the status for a request that its deserialiser refuses."""
    return Status(StatusCode.INTERNAL, f"the request cannot be parsed: {type(error).__name__}: {error}")
