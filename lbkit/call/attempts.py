"""The attempts of a call: each is picked a backend, sent on a connection, and ends in its own way.

The object is the stream's sink and what the picker is asked about in one, because making and wiring objects for each
call would cost more than everything else it does.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Self

from lbkit.call.foreign_answer import ForeignAnswer
from lbkit.call.record import CallRecord, wake
from lbkit.errors import MetadataError
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field, list_size
from lbkit.http2.stream import CLOSED, NULL_SINK, Stream
from lbkit.metadata import EMPTY
from lbkit.picking import QUEUE, Drop, Fail, Outcome, Picked
from lbkit.status import Status, StatusCode
from lbkit.transport.client import ClientConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.metadata import decode_metadata, encode_metadata
from lbkit.wire.packing import encoding_in
from lbkit.wire.requests import is_grpc
from lbkit.wire.responses import head_fault
from lbkit.wire.status import OK, status_of_http, status_of_reset, status_of_trailers
from lbkit.wire.timeout import encode_timeout

if TYPE_CHECKING:
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
_REFUSED = Status(StatusCode.UNAVAILABLE, "refused before a handler saw it")
_LATE_S = 0.001  # a call that waited longer than this tells the server what is left of its timeout


class Attempts(CallRecord):
    """What a call has of its attempts; ``Call`` adds what the application says and hears.

    Several may be made one after the other (``retrying``), or side by side by twins of the call (``hedging``).
    """

    __slots__ = ()

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
    def _response_status(self) -> Status | asyncio.Future[bytes]:
        """Look at what came of the response; the server says that it is all, and OK.

        Returns:
            The status that this makes; or a response that takes time to decompress.
        """

    def _announced(self, encoding: bytes) -> None:
        """Take note that the server compresses its messages."""

    def _repeatable(self) -> bool:
        """Whether the whole request can be sent once more."""
        return True

    @abstractmethod
    def _wait_for_response(self, status: Status, response: asyncio.Future[bytes]) -> None:
        """End the call with ``status`` when the response is decompressed."""

    @abstractmethod
    def _finish(self, status: Status) -> None:
        """End the call, unless it is over or goes on with another attempt."""

    # One attempt

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
            subchannel.calls_started += 1
            if connection is None:  # gone since the picker was made: the next one knows
                self._release(None)
                self._channel.queue(self)
            elif connection.has_room():
                self.room(connection)
            elif (other := subchannel.crowded()) is not None:
                self.room(other)
            else:
                self._connection = connection
                connection.wait_for_room(self)
                subchannel.short_of_room()
        elif answer is QUEUE or (isinstance(answer, Fail) and self._wait_for_ready):
            self._channel.queue(self)
        elif isinstance(answer, Fail):
            self._attempt_failed(restrict(answer.status, "the balancing policy"))
        elif isinstance(answer, Drop):
            self._finish(restrict(answer.status, "the balancing policy"))
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
        if self._retries is not None and (previous := self._retries.previous(self)):
            fields = [*fields, (b"grpc-previous-rpc-attempts", b"%d" % previous)]
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

    def attempt_again(self) -> None:
        """Make the next attempt, after ``rewind``."""
        self._sent = self._channel.clock.time()
        self.attempt()

    def fail(self, status: Status) -> None:
        """End a call that still waits for a picker."""
        self._finish(status)

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
                if (encoding := encoding_in(fields)) is not None:
                    self._announced(encoding)
                else:
                    connection.known_head = fields
            if self._retries is not None:
                self._retries.committed(self)
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
            if not isinstance(found, Status):
                self._wait_for_response(status, found)
                return
            status = found
        if self._stream is not None and self._stream.state != CLOSED:
            self._abandon(ErrorCode.NO_ERROR)  # an early answer: the server needs no more of the request
        if status is OK or self._retries is None:
            self._finish(status)
        else:
            self._attempt_failed(status)

    def reset(self, code: int, reason: str) -> None:
        """End the call; or try another backend, once, if the server did nothing for it (gRFC A6, transparent)."""
        status = status_of_reset(code, reason)
        connection = self._connection
        if code == ErrorCode.REFUSED_STREAM and not self._earlier and self.rewind(None, "transparent retry"):
            if connection is not None:
                connection.refused()
            self.attempt_again()
        elif code == ErrorCode.CANCEL and self.time_remaining() == 0:
            self._finish(self._too_late())
        else:
            self._attempt_failed(status)

    def lost(self, reason: str) -> None:
        """End the call: what the server did for it is unknown."""
        if self._channel.closing:
            self._finish(Status(StatusCode.CANCELLED, "the channel was closed"))
        else:
            self._attempt_failed(Status(StatusCode.UNAVAILABLE, f"the connection broke: {reason}"))

    def answered_otherwise(self, status: Status) -> None:
        """Take what an HTTP server said that is no gRPC server: a proxy with no backend, as a rule."""
        self._abandon(ErrorCode.CANCEL)
        head, self._head = self._head, None  # gRPC's headers did not come: another attempt may be made
        if self._retries is None or not self._retries.failed(self, status):
            self._head = head
            self._finish(status)

    def writable(self) -> None:
        """Ignore: a unary request needs no pacing."""

    # For ``retrying`` and ``hedging``

    def rewind(self, status: Status | None, then: str) -> bool:
        """Make the call what it was before the present attempt, if the request can be sent once more.

        Args:
            status: what the attempt ended with; None if no server has looked at it.
            then: the kind of the next one.
        """
        if self._head is not None or not self._repeatable():
            return False
        if self._subchannel is not None:
            self._earlier = [*(self._earlier or ()), self._this_attempt(status or _REFUSED)]
        if self._stream is not None:
            self._stream.sink = NULL_SINK
        self._release(status)
        self._stream = self._connection = self._subchannel = None
        self._trailing = EMPTY
        self._kind = then
        return True

    def leave(self) -> None:
        """Give the present attempt up, wherever it is; ``rewind`` follows."""
        self._abandon(ErrorCode.CANCEL)
        self._leave_queues()

    def twin(self) -> Self:
        """Return what makes another attempt for this call, beside it."""
        twin = copy.copy(self)
        CallRecord.__init__(twin)
        twin._retries = self._retries
        twin._kind = "hedge"
        twin._sent = self._channel.clock.time()
        if self._config.on_commit is not None:
            twin._config = self._config._replace(on_commit=None)  # one commit for each call
        return twin

    def adopt(self, twin: Attempts) -> None:
        """Go on with the attempt of a twin, as if it were this call's own."""
        self._head, self._trailing = twin._head, twin._trailing
        self._stream, self._connection = twin._stream, twin._connection
        self._picked, twin._picked = twin._picked, None
        self._subchannel, self._sent, self._kind = twin._subchannel, twin._sent, twin._kind
        self.remember(twin)
        if self._stream is not None:
            self._stream.sink = self
        if self._head is not None and self._head_future is not None:
            wake(self._head_future)

    def remember(self, twin: Attempts) -> None:
        """Keep the attempts that a twin has behind it for ``attempts``."""
        if twin._earlier:
            self._earlier = [*(self._earlier or ()), *twin._earlier]

    def mirror(self, payload: bytes) -> None:
        """Take a request that was written to the call that this one is a twin of."""

    def mirror_end(self) -> None:
        """Take the end of its requests."""

    # Inside

    def _attempt_failed(self, status: Status) -> None:
        """End the call with what an attempt came to, unless it goes on with another one (gRFC A6)."""
        if self._retries is None or self._head is not None or not self._retries.failed(self, status):
            self._finish(status)

    def break_off(self, status: Status) -> None:
        """End the call for what was found out here, and tell the server that nobody waits for the rest."""
        self._abandon(ErrorCode.CANCEL)
        self._finish(status)
        self._leave_queues()

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
            subchannel: Subchannel = picked.subchannel  # type: ignore[assignment]  # as in attempt()
            subchannel.in_flight -= 1
            if status is None:  # nothing was sent
                subchannel.calls_started -= 1
            elif status.code is not StatusCode.OK:
                subchannel.calls_failed += 1
            if picked.on_done is not None:
                try:
                    picked.on_done(Outcome(status, self._trailing))
                except Exception:  # a stranger's policy: its mistake must not lose the call
                    _log.exception("on_done of a pick on %s raised", self._channel.target)


def restrict(status: Status, who: str) -> Status:
    """Keep codes that only a server may give out of the mouths of pickers, resolvers and credentials."""
    if status.code in _NOT_OURS_TO_SAY:
        return Status(StatusCode.INTERNAL, f"{who} said {status.code.name}: {status.details}")
    return status
