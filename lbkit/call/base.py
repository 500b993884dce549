"""What all four kinds of call have in common on the client: picked, sent, ended; a state of its own but no task.

The object is the stream's sink, the deadline's client and what the picker is asked about, all in one, because
making and wiring four objects for each call would cost more than everything else it does.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from lbkit.call.foreign_answer import ForeignAnswer
from lbkit.call.record import CANCELLED, CallRecord
from lbkit.errors import MetadataError
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field, list_size
from lbkit.http2.stream import CLOSED, NULL_SINK, Stream
from lbkit.metadata import MetadataLike
from lbkit.picking import QUEUE, Drop, Fail, Outcome, Picked
from lbkit.resolution import CallConfig, MethodConfig
from lbkit.status import Status, StatusCode
from lbkit.transport.client import ClientConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.metadata import decode_metadata, encode_metadata
from lbkit.wire.requests import is_grpc
from lbkit.wire.responses import head_fault
from lbkit.wire.status import OK, status_of_http, status_of_reset, status_of_trailers
from lbkit.wire.timeout import encode_timeout

if TYPE_CHECKING:
    from lbkit.call.multicallable import MultiCallable
    from lbkit.deadline import Bucket
    from lbkit.subchannel import Subchannel

_log = logging.getLogger("lbkit.call")

# What a picker or a resolver must not tell an application, as if the server had said it (gRFC A54).
_NOT_OURS_TO_SAY = frozenset(
    (
        StatusCode.OK,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.DATA_LOSS,
    )
)
_LATE_S = 0.001  # a call that waited longer than this tells the server what is left of its timeout


# What an application says with a call: time-out, metadata, wait-for-ready, the limits for a request and for a
# response message, compression, credentials. A plain tuple: one is made for every call.
CallOptions: TypeAlias = tuple[float | None, MetadataLike, bool | None, int | None, int | None, Any, Any]


class Call(CallRecord):
    """One running call. It starts when it is made."""

    __slots__ = ()

    bucket: Bucket | None  # set by Deadlines

    def __init__(self, method: MultiCallable, options: CallOptions, size: int) -> None:
        """Start a call. Made by multicallables, not by applications.

        Args:
            method: which method.
            options: what the application said.
            size: of the request, in bytes; 0 for a stream of them.

        Raises:
            MetadataError: the metadata must not go on the wire.
        """
        CallRecord.__init__(self)
        timeout, metadata, wait_for_ready, request_limit, response_limit, _compression, _credentials = options
        channel = method.channel
        self._method = method
        self._channel = channel
        self._metadata = metadata
        self._fields = encode_metadata(metadata) if metadata else []
        self._sent = self._began = channel.clock.time()
        refusal = None
        try:
            self._config = channel.select(self)
        except Exception as error:  # a stranger's call selector: its mistake ends this call, nothing else
            _log.exception("the call selector of %s raised", channel.target)
            self._config = CallConfig(MethodConfig())
            text = f"the call selector raised {type(error).__name__}: {error}"
            refusal = Status(StatusCode.INTERNAL, text)
        config = self._config.method_config
        self._wait_for_ready = config.wait_for_ready if wait_for_ready is None else wait_for_ready
        self._request_limit = config.max_request_bytes if request_limit is None else request_limit
        self._response_limit = config.max_response_bytes if response_limit is None else response_limit
        if config.timeout_s is not None and (timeout is None or config.timeout_s < timeout):
            timeout = config.timeout_s
        if timeout == inf:
            timeout = None
        self._deadline = None if timeout is None else self._began + timeout
        if self._request_limit is not None and size > self._request_limit:
            refusal = refusal or self.too_large(size)
        if timeout is not None and timeout <= 0:
            text = f"the timeout was {timeout} s to begin with"
            refusal = refusal or Status(StatusCode.DEADLINE_EXCEEDED, text)
        if refusal is not None:
            self._finish(refusal)
            return
        if timeout is not None:
            self._fields.insert(0, (b"grpc-timeout", encode_timeout(timeout)))
            channel.deadlines.add(self, self._began + timeout)
        self.attempt()

    # For the kinds of call

    @abstractmethod
    def _send(self, connection: ClientConnection, stream: Stream) -> None:
        """Send the request, or what there is of it, behind the headers."""

    @abstractmethod
    def data(self, data: bytes, end: bool) -> None:
        """Take a piece of the response."""

    @abstractmethod
    def data_buffer(self, length: int) -> memoryview | None:
        """Have a part of a large response received in place."""

    @abstractmethod
    def filled(self, length: int, end: bool) -> None:
        """Take note of a part received in place."""

    @abstractmethod
    def _response_status(self) -> Status:
        """Look at what came of the response; the server says that it is all, and OK."""

    def _repeatable(self) -> bool:
        """Whether the whole request can be sent once more."""
        return True

    def _discard(self) -> None:
        """Throw away what the application has not read: it is not interested, or too late."""

    def _over(self) -> None:
        """Let go of everything, and wake who waits: the call has its status."""

    # For the application

    def cancel(self) -> bool:
        """End the call with CANCELLED, here and on the server. False if it is over already."""
        if self._status is not None:
            return False
        self._abandon(ErrorCode.CANCEL)
        self._discard()
        self._finish(CANCELLED)
        self._leave_queues()
        return True

    # Attempts

    def attempt(self) -> None:
        """Ask the channel's picker where to go, and go. Called again when the answer was to wait."""
        if self._status is not None:
            return
        try:
            answer = self._channel.picker.pick(self)
        except Exception as error:  # a stranger's policy: its mistake ends this call, nothing else
            _log.exception("the picker of %s raised", self._channel.target)
            self._finish(
                Status(StatusCode.INTERNAL, f"the balancing policy raised {type(error).__name__}: {error}")
            )
            return
        if type(answer) is Picked:
            subchannel: Subchannel = answer.subchannel  # type: ignore[assignment]  # the channel made it
            connection = subchannel.connection
            self._picked = answer
            self._subchannel = subchannel
            subchannel.in_flight += 1
            if connection is None:  # gone since the picker was made: the next one knows
                self._release(None)
                self._channel.queue(self)
            elif connection.has_room():
                self.room(connection)
            else:
                self._connection = connection
                connection.wait_for_room(self)
        elif answer is QUEUE or (isinstance(answer, Fail) and self._wait_for_ready):
            self._channel.queue(self)
        elif isinstance(answer, Fail | Drop):
            self._finish(_restrict(answer.status))
        else:
            self._finish(Status(StatusCode.INTERNAL, f"the balancing policy answered {answer!r} to a pick"))

    def room(self, connection: ClientConnection) -> None:
        """Send the request."""
        if self._status is not None:
            return
        engine = connection.engine
        fields = self._fields
        if self._deadline is not None:
            now = self._sent = self._channel.clock.time()
            if now - self._began > _LATE_S:
                fields = [(b"grpc-timeout", encode_timeout(max(0.0, self._deadline - now))), *fields[1:]]
        if self._picked is not None and self._picked.metadata:
            try:
                fields = fields + encode_metadata(self._picked.metadata)
            except MetadataError as error:
                self._finish(Status(StatusCode.INTERNAL, f"the balancing policy's {error}"))
                return
        if len(fields) > 1:  # more than a timeout
            size = self._method.prefix.size + list_size(fields)
            if size > engine.max_header_list:
                text = f"the metadata make {size} bytes of headers, {self.backend} takes {engine.max_header_list}"
                self._finish(Status(StatusCode.INTERNAL, text))
                return
        self._connection = connection
        stream = self._stream = engine.open(self)
        engine.send_headers(stream, self._method.prefix, fields, False)
        self._send(connection, stream)
        connection.kick()

    def no_room(self) -> None:
        """Pick again: the connection went away before this call got on it."""
        if self._status is None:
            self._release(None)
            self._channel.queue(self)

    # The stream's sink

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Take the response headers, or the trailers that end the call."""
        connection = self._connection
        assert connection is not None, "a sink without a connection"
        if not end:
            self._head = fields
            # The decoder gives the same tuple for the same bytes: a look instead of a check, nearly always.
            if fields is not connection.known_head:
                content_type = dict(fields).get(b"content-type", b"")
                if fields[0][1] != b"200" or not is_grpc(content_type):
                    assert self._stream is not None, "an answer without a request"
                    what = f"content-type {content_type.decode('latin-1')!r} instead of a gRPC answer"
                    status = status_of_http(fields[0][1], what)
                    self._stream.sink = ForeignAnswer(self, connection, self._stream, status)
                    return
                if (fault := head_fault(fields)) is not None:
                    self.break_off(fault)
                    return
                connection.known_head = fields
            if self._head_future is not None:
                wake(self._head_future)
            return
        if fields is connection.known_trailers:
            status = OK
        else:
            status = self._read_trailers(fields)
            if status is OK and len(fields) == 1:
                connection.known_trailers = fields
        if status.code is StatusCode.OK and (found := self._response_status()) is not OK:
            status = found
        if self._stream is not None and self._stream.state != CLOSED:
            self._abandon(ErrorCode.NO_ERROR)  # an early answer: the server needs no more of the request
        self._finish(status)

    def reset(self, code: int, reason: str) -> None:
        """End the call; or try another backend, once, if the server did nothing for it (gRFC A6, transparent)."""
        if (
            code == ErrorCode.REFUSED_STREAM
            and self._head is None
            and not self._earlier
            and self._repeatable()
        ):
            self._earlier = [self._this_attempt()]
            if self._connection is not None:
                self._connection.refused()
            self._release(None)
            self._stream = None
            self.attempt()
        elif code == ErrorCode.CANCEL and self.time_remaining() == 0:
            self._finish(self._too_late())
        else:
            self._finish(status_of_reset(code, reason))

    def lost(self, reason: str) -> None:
        """End the call: what the server did for it is unknown."""
        if self._channel.closing:
            self._finish(Status(StatusCode.CANCELLED, "the channel was closed"))
        else:
            self._finish(Status(StatusCode.UNAVAILABLE, f"the connection broke: {reason}"))

    def writable(self) -> None:
        """Ignore: a unary request needs no pacing."""

    # The deadline's client, and the channel's

    def expired(self) -> None:
        """End the call with DEADLINE_EXCEEDED."""
        if self._status is None:
            self._abandon(ErrorCode.CANCEL)
            self._discard()
            self._finish(self._too_late())
            self._leave_queues()

    def fail(self, status: Status) -> None:
        """End a call that still waits for a picker."""
        self._finish(status)

    # Inside

    def break_off(self, status: Status) -> None:
        """End the call for what was found out here, and tell the server that nobody waits for the rest."""
        self._abandon(ErrorCode.CANCEL)
        self._finish(status)
        self._leave_queues()

    def spoil(self, status: Status) -> None:
        """Have a call fail of which the server said that all went well: what it sent is of no use."""
        self._finish(status)
        self._status = status
        self._took = self._channel.clock.time() - self._began

    def too_large(self, size: int) -> Status:
        """Return the status for a request above the limit."""
        text = f"request of {size} bytes is larger than the limit of {self._request_limit}"
        return Status(StatusCode.RESOURCE_EXHAUSTED, text)

    def _end_without_trailers(self) -> None:
        if self._status is None:
            self._abandon(ErrorCode.NO_ERROR)
            self._finish(Status(StatusCode.INTERNAL, "the server ended the stream without trailers"))

    def _read_trailers(self, fields: tuple[Field, ...]) -> Status:
        try:
            self._trailing = decode_metadata(fields)
        except WireFault as fault:
            return Status(fault.code, fault.details)
        status = status_of_trailers(fields)
        if status is None:
            first = (self._head or fields)[0]
            http = first[1] if first[0] == b":status" else b"200"
            return status_of_http(http, "the server closed the stream without a grpc-status")
        return status

    def parse(self, payload: bytes) -> tuple[Status, Any]:
        """Parse a response message; the status says what came of it."""
        try:
            return OK, self._method.deserialize(payload)
        except Exception as error:  # whatever a deserialiser raises
            text = f"the response cannot be parsed: {type(error).__name__}: {error}"
            return Status(StatusCode.INTERNAL, text), None

    def _abandon(self, code: ErrorCode) -> None:
        """Tell the server that nobody waits for the rest."""
        if self._connection is not None and self._stream is not None:
            self._connection.reset_stream(self._stream, code)

    def _leave_queues(self) -> None:
        """Be forgotten where calls wait: for a picker, or for room on a connection."""
        self._channel.unqueue(self)
        if self._connection is not None and self._stream is None:
            self._connection.stop_waiting(self)

    def _release(self, status: Status | None) -> None:
        """Give the pick back, exactly once."""
        picked, self._picked = self._picked, None
        if picked is not None:
            picked.subchannel.in_flight -= 1
            if picked.on_done is not None:
                try:
                    picked.on_done(Outcome(status, self._trailing))
                except Exception:  # a stranger's policy: its mistake must not lose the call
                    _log.exception("on_done of a pick on %s raised", self._channel.target)

    def _finish(self, status: Status) -> None:
        if self._status is not None:
            return
        self._status = status
        if status is not OK:
            self._took = self._channel.clock.time() - self._began
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None
        if self._stream is not None:
            self._stream.sink = NULL_SINK
        if self._picked is not None:
            self._release(status)
        if self._config.on_commit is not None:
            try:
                self._config.on_commit()
            except Exception:  # as for on_done: it must not lose the call, nor the connection it came on
                _log.exception("on_commit of a call selector on %s raised", self._channel.target)
        self._over()
        if self._future is not None:
            wake(self._future)
        if self._head_future is not None:
            wake(self._head_future)
        if self._callbacks is not None:
            for callback in self._callbacks:
                self._channel.loop.call_soon(callback, self)


def wake(future: asyncio.Future[None]) -> None:
    """Complete a future, unless who waits for it has given up."""
    if not future.done():
        future.set_result(None)


def _restrict(status: Status) -> Status:
    """Keep codes that only a server may give out of the mouths of pickers and resolvers."""
    if status.code in _NOT_OURS_TO_SAY:
        return Status(StatusCode.INTERNAL, f"the balancing policy said {status.code.name}: {status.details}")
    return status
