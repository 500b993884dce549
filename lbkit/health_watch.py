"""Watches over one connection whether its backend says that it serves (gRFC A17).

The call is grpc.health.v1.Health/Watch, spoken here without protobuf and without a channel: it belongs to the
connection, not to an application, so no policy picks for it and nothing counts it.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable

from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.clock import Clock, TimerHandle
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.stream import NULL_SINK, Stream
from lbkit.status import Status, StatusCode
from lbkit.transport.client import ClientConnection
from lbkit.wire.deframer import Deframer
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import send_message
from lbkit.wire.requests import is_grpc
from lbkit.wire.status import status_of_http, status_of_reset, status_of_trailers

_log = logging.getLogger("lbkit.health")

_PATH = "/grpc.health.v1.Health/Watch"
_MOST_BYTES = 1024  # of an answer, which has two

# States.
ASKING = 0  # the call is made, or waits for room on the connection; nothing is known yet
HEALTHY = 1
UNHEALTHY = 2
PAUSING = 3  # the call has ended, for whatever reason; it is made again after a back-off
UNCHECKED = 4  # the backend has no health service: taken for healthy, and not asked again
STOPPED = 5
STATE_NAMES = ("asking", "healthy", "unhealthy", "pausing", "unchecked", "stopped")

# Inputs.
SERVES = 0  # SERVING
SERVES_NOT = 1  # any other status
UNKNOWN_METHOD = 2  # UNIMPLEMENTED
BROKE = 3  # the call has ended with any other code, OK included
RETRY = 4  # the back-off is over
STOP = 5  # the connection takes no calls any more
INPUT_NAMES = ("serves", "serves not", "unknown method", "broke", "retry", "stop")

# TRANSITIONS[state * 6 + input] is the next state; None means that the input cannot come there.
TRANSITIONS: tuple[int | None, ...] = (
    # SERVES  SERVES_NOT UNKNOWN_METHOD BROKE    RETRY    STOP
    HEALTHY, UNHEALTHY, UNCHECKED,      PAUSING, None,    STOPPED,  # ASKING
    HEALTHY, UNHEALTHY, UNCHECKED,      PAUSING, None,    STOPPED,  # HEALTHY
    HEALTHY, UNHEALTHY, UNCHECKED,      PAUSING, None,    STOPPED,  # UNHEALTHY
    None,    None,      None,           None,    ASKING,  STOPPED,  # PAUSING
    None,    None,      None,           None,    None,    STOPPED,  # UNCHECKED
    STOPPED, STOPPED,   STOPPED,        STOPPED, STOPPED, STOPPED,  # STOPPED: late news changes nothing
)  # fmt: skip

# HealthCheckResponse.ServingStatus, for texts.
_SERVING = 1
_STATUS_NAMES = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class HealthChecks:
    """What a channel's connections are asked about. Made by the channel of its service config.

    Args:
        service: the name to ask about; ``""`` is the server as a whole.
        prefix: the request headers.
        clock: for the back-off.
        random: for its jitter.
        backoff: how long to wait after each call that ended without an answer.

    Attributes:
        complained: a backend without a health service was logged; others are not.
    """

    def __init__(
        self,
        service: str,
        prefix: Prefix,
        *,
        clock: Clock,
        random: random.Random,
        backoff: BackoffPolicy | None = None,
    ) -> None:
        self.service = service
        self.prefix = prefix
        self.request = encode_request(service)
        self.clock = clock
        self.random = random
        self.backoff = backoff or BackoffPolicy()
        self.complained = False


class HealthWatch:
    """The stream's sink, and the state of one connection's health.

    Args:
        checks: what to ask.
        connection: whom; it is OPEN.
        report: called with whether the backend serves and, if not, why not: whenever an answer comes, or fails to.
    """

    def __init__(
        self, checks: HealthChecks, connection: ClientConnection, report: Callable[[bool, str], None]
    ) -> None:
        self.connection = connection
        self.state = ASKING
        self._checks = checks
        self._report = report
        self._backoff = Backoff(checks.backoff, checks.random)
        self._timer: TimerHandle | None = None
        self._stream: Stream | None = None
        self._on = connection  # where the stream is: with several to one backend, on any of them
        self._began = 0.0
        self._answers: deque[bytes] = deque()
        self._deframer = Deframer(_MOST_BYTES, self._answers)

    def start(self) -> None:
        """Ask, as soon as there is room on the connection."""
        self._began = self._checks.clock.time()
        self._deframer = Deframer(_MOST_BYTES, self._answers)
        if self.connection.has_room():
            self.room(self.connection)
        else:
            self.connection.wait_for_room(self)

    def stop(self) -> None:
        """End the call; nothing is reported any more."""
        self._move(STOP)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.connection.stop_waiting(self)
        self._leave(ErrorCode.CANCEL)

    # Waiter

    def room(self, connection: ClientConnection) -> None:
        """Make the call."""
        self._on = connection
        engine = connection.engine
        stream = self._stream = engine.open(self)
        connection.count_background(1)
        engine.send_headers(stream, self._checks.prefix, (), False)
        send_message(engine, stream, self._checks.request, True)
        connection.kick()

    def no_room(self) -> None:
        """Do nothing: the subchannel stops watching a connection that takes no more calls."""

    # The stream's sink

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Look whether gRPC answers; take the end of the call."""
        http, content_type = fields[0][1], dict(fields).get(b"content-type", b"")
        status = status_of_trailers(fields) if end else None
        if status is None and (end or http != b"200" or not is_grpc(content_type)):
            status = status_of_http(http if http.isdigit() else b"200", "no gRPC answer to the health check")
        if status is not None:
            self._leave(ErrorCode.CANCEL)
            self._ended(status)

    def data(self, data: bytes, end: bool) -> None:
        """Take an answer, or several; the last one counts."""
        if self._stream is not None:
            self._on.engine.consumed(self._stream, len(data))
        try:
            self._deframer.feed(data)
            statuses = [decode_response(answer) for answer in self._answers]
        except WireFault as fault:
            self._leave(ErrorCode.CANCEL)
            self._ended(Status(fault.code, fault.details))
            return
        self._answers.clear()
        if statuses:
            self._backoff.reset()
            if statuses[-1] == _SERVING:
                self._move(SERVES)
            else:
                name = _STATUS_NAMES.get(statuses[-1], str(statuses[-1]))
                self._move(SERVES_NOT, f"connected, but its health check says {name}{self._of_what()}")
        if end:
            self._leave(ErrorCode.CANCEL)
            self._ended(Status(StatusCode.INTERNAL, "the server ended the stream without trailers"))

    def data_buffer(self, length: int) -> memoryview | None:
        """Want none: answers are small."""
        return None

    def filled(self, length: int, end: bool) -> None:
        """Never happens, for there is no buffer."""

    def reset(self, code: int, reason: str) -> None:
        """Take the end of the call."""
        self._leave(None)
        self._ended(status_of_reset(code, reason))

    def lost(self, reason: str) -> None:
        """Do nothing: the subchannel hears of a lost connection itself."""

    def writable(self) -> None:
        """Ignore: the request is small."""

    # Inside

    def _ended(self, status: Status) -> None:
        """Ask again later, counted from when this call began; or never, where there is no such service."""
        if status.code is StatusCode.UNIMPLEMENTED:
            if not self._checks.complained:
                self._checks.complained = True
                peer = self.connection.peer
                _log.error("%s has no health service, and is taken for healthy: %s", peer, status.details)
            self._move(UNKNOWN_METHOD)
            return
        clock = self._checks.clock
        again = max(self._began + self._backoff.next_delay(), clock.time())
        self._timer = clock.call_at(again, self._retry)
        text = (
            f"connected, but its health check{self._of_what()} failed: {status.code.name}: {status.details}"
        )
        self._move(BROKE, text)

    def _retry(self) -> None:
        self._timer = None
        self._move(RETRY)
        self.start()

    def _leave(self, code: ErrorCode | None) -> None:
        """Have no stream any more; reset it with ``code`` if it may still be open."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.sink = NULL_SINK
            self._on.count_background(-1)
            if code is not None:
                self._on.reset_stream(stream, code)

    def _of_what(self) -> str:
        return f" of {self._checks.service!r}" if self._checks.service else ""

    def _move(self, event: int, reason: str = "") -> None:
        """Make one step in the table; report what it means for the subchannel."""
        state = TRANSITIONS[self.state * len(INPUT_NAMES) + event]
        assert state is not None, f"{INPUT_NAMES[event]!r} in {STATE_NAMES[self.state]!r}"
        self.state = state
        if state in {HEALTHY, UNCHECKED}:
            self._report(True, "")
        elif state in {UNHEALTHY, PAUSING}:
            self._report(False, reason)


def make_checks(
    service: str | None, request_prefix: Callable[..., Prefix], *, clock: Clock, random: random.Random
) -> HealthChecks | None:
    """Return what a channel's connections are asked about; None for no checks.

    Args:
        service: by the service config.
        request_prefix: makes the headers of the channel's requests, of a path.
        clock: for the back-off.
        random: for its jitter.
    """
    if service is None:
        return None
    prefix = request_prefix(path=_PATH, accept=b"identity")  # answers of two bytes are not worth compressing
    return HealthChecks(service, prefix, clock=clock, random=random)


def encode_request(service: str) -> bytes:
    """Return a grpc.health.v1.HealthCheckRequest: field 1, a string, left out if empty."""
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def decode_response(data: bytes) -> int:
    """Return the status of a grpc.health.v1.HealthCheckResponse: field 1, an enum. Other fields are passed over.

    Raises:
        WireFault: INTERNAL, it is no such message.
    """
    status = at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            status = value if key >> 3 == 1 else status
        elif kind == 2:
            size, at = _read_varint(data, at)
            at += size
        else:
            at += {1: 8, 5: 4}.get(kind, len(data) + 1)
    if at > len(data):
        raise _unreadable()
    return status


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 70:  # ten bytes at most
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise _unreadable()


def _unreadable() -> WireFault:
    return WireFault(StatusCode.INTERNAL, "the answer to the health check cannot be parsed")
