"""The client's end of one connection: streams for calls, and the calls that wait for one."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from lbkit.address import Address
from lbkit.errors import ConnectError
from lbkit.http2.frames import ErrorCode, error_name
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.transport.connection import Connection, describe_os_error
from lbkit.transport.connector import Connector
from lbkit.transport.setup import ConnectionSetup
from lbkit.transport.state import DRAIN, HANDSHAKE, OPEN
from lbkit.transport.tls_errors import TlsError

_TOO_MANY_PINGS = b"too_many_pings"  # gRFC A8: what a server says that thinks so

# After a refusal, streams are kept to what the server did admit, and to one more after each such time: some servers
# count a stream for a moment longer than their clients, and refuse who is sent next at once, again and again.
_REFUSED_S = 1.0
_ANY_NUMBER = 2**31

_log = logging.getLogger("lbkit.transport")


class Waiter(Protocol):
    """A call that waits for room on a connection."""

    def room(self, connection: ClientConnection) -> None:
        """Start now on ``connection``; do nothing if the call is over."""
        ...

    def no_room(self) -> None:
        """Look for another connection: this one takes no more streams."""
        ...


class ClientOwner(Protocol):
    """Who made the connection, and wants to know when it is no longer good for new calls."""

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        """Take note, once, that ``connection`` takes no new streams; those it has may still finish."""
        ...


class ClientConnection(Connection):
    """A connection that calls are sent on while its ``state`` is OPEN."""

    __slots__ = (
        "_admitted",
        "_fellows",
        "_gave_up_at",
        "_owner",
        "_relaxing",
        "_waiting",
        "background",
        "known_head",
        "known_trailers",
        "ready",
    )

    peer_is = "server"

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: ClientOwner, setup: ConnectionSetup) -> None:
        super().__init__(loop, setup, client=True)
        self._owner: ClientOwner | None = owner
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()  # calls, first come first served
        self.ready: asyncio.Future[None] = loop.create_future()
        # The last response headers and trailers that were found good; equal bytes decode to the same tuple.
        self.known_head: tuple[Field, ...] | None = None
        self.known_trailers: tuple[Field, ...] | None = None
        self._fellows: Sequence[
            ClientConnection
        ] = ()  # who serves the same calls that wait, itself among them
        self._admitted = _ANY_NUMBER  # streams at once, since a refusal
        self._relaxing: asyncio.TimerHandle | None = None
        self._gave_up_at = 0.0  # when a call was reset last that the server may have ignored
        self.background = 0  # streams that are no calls

    def awaited(self) -> str:
        """Say what is missing for the connection to be OPEN."""
        secured = self._transport is None or self._transport.get_extra_info("tls_established", True)
        return f"connected, but got no {'HTTP/2 SETTINGS' if secured else 'TLS handshake'}"

    def has_room(self) -> bool:
        """Whether the peer lets us open one more stream (RFC 9113 5.1.2)."""
        number = len(self.engine.streams)
        return number < self.engine.max_streams and number < self._admitted

    def refused(self) -> None:
        """Take note that the server refused a stream. If it was for want of room, leave it more for a while."""
        number = len(self.engine.streams)
        if self._waiting or number + 1 >= self.engine.max_streams:
            self._admitted = max(1, min(self._admitted, number))
            if self._relaxing is None:
                self._relaxing = self.loop.call_later(_REFUSED_S, self._admit_more)

    def _admit_more(self) -> None:
        """Try one stream more than the server admitted, until that is no bound any more."""
        self._relaxing = None
        self._admitted += 1
        if self._admitted >= min(self.engine.max_streams, len(self.engine.streams) + len(self._waiting)):
            self._admitted = _ANY_NUMBER
        else:
            self._relaxing = self.loop.call_later(_REFUSED_S, self._admit_more)
        self.serve_waiting()

    def count_background(self, change: int) -> None:
        """Take note of a stream that is no call: the connection is idle and its only call alone in spite of it."""
        self.background += change
        self._alone += change

    def wait_for_room(self, waiter: Waiter) -> None:
        """Queue a call until another one is over."""
        self._waiting[waiter] = None

    def anybody_waits(self) -> bool:
        """Whether a call is queued."""
        return bool(self._waiting)

    def share(self, fellows: Sequence[ClientConnection]) -> None:
        """Let the calls that wait be served by whichever of ``fellows`` has room; its owner adds this one to them."""
        if fellows:
            self._waiting = fellows[0]._waiting
        self._fellows = fellows

    def stop_waiting(self, waiter: Waiter) -> None:
        """Forget a call that is over before there was room for it."""
        self._waiting.pop(waiter, None)

    def buffer_updated(self, nbytes: int) -> None:
        """Process what came; calls that ended made room for others."""
        super().buffer_updated(nbytes)
        if self._waiting:
            self.serve_waiting()

    def serve_waiting(self) -> None:
        """Start calls that wait for room, as far as there is any."""
        while self._waiting and self.state == OPEN and self.has_room():
            self._waiting.popitem(last=False)[0].room(self)

    def reset_stream(self, stream: Stream, code: ErrorCode) -> None:
        """Reset a stream that nobody waits for any more; the next call gets its room."""
        if self._keepalive is not None and code != ErrorCode.NO_ERROR:  # which is for an early answer
            self._gave_up_at = self.loop.time()
        self.engine.reset(stream, code)
        self.kick()
        if self._waiting:
            self.serve_waiting()

    def on_state(self) -> None:
        """Tell the dialler when the handshake is over, and the owner when no more calls should come."""
        if not self.ready.done() and self.state != HANDSHAKE:
            self.ready.set_result(None)
        if self.state > OPEN and self._relaxing is not None:
            self._relaxing.cancel()
            self._relaxing = None
        if self.state > OPEN and self._owner is not None:
            owner, self._owner = self._owner, None
            owner.connection_unusable(self, self.end_reason)
            if self._fellows:  # those that are left
                return
            waiting, self._waiting = self._waiting, OrderedDict()
            for waiter in waiting:
                waiter.no_room()

    def request(self, stream: Stream, fields: object, end: bool) -> None:
        """Never happens: servers cannot open streams (RFC 9113 8.4)."""

    def oversized(self, stream: Stream, reason: str) -> None:
        """Never happens, for the same reason."""

    def exhausted(self) -> None:
        """Leave for a new connection, once the call that took this stream id has been sent."""
        if self.state == OPEN:
            self.loop.call_soon(self._leave)

    def _leave(self) -> None:
        self.end_reason = self.end_reason or "the stream ids are used up"
        self.drain()

    def goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Let the streams that are left finish, and take no new ones (RFC 9113 6.8)."""
        text = f"the peer said GOAWAY {error_name(code)} {debug.decode('utf-8', 'replace')}".rstrip()
        self.end_reason = text if code != ErrorCode.NO_ERROR else "the peer is shutting down"
        policy = self.setup.keepalive
        if policy is not None and self._keepalive is not None and debug.startswith(_TOO_MANY_PINGS):
            policy.slow_down(self._keepalive.time_s)
            _log.error("%s: too many keepalive PINGs; from now on one in %g s", self.peer, policy.time_s)
        self.move(DRAIN)

    def connection_lost(self, exc: Exception | None) -> None:
        """End every stream that is left; guess why a server closes before it has said a word."""
        if self.state == HANDSHAKE and not isinstance(exc, TlsError):
            why = self.end_reason or (
                "the peer closed the connection" if exc is None else describe_os_error(exc)
            )
            self.end_reason = f"{why} before HTTP/2 began; {self._guess()}"
        super().connection_lost(exc)

    def _guess(self) -> str:
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        if tls is None:
            return "if it expects TLS, use tls="
        return "if it asks for a client certificate, pass cert= and key= to lbkit.tls"

    def _owed(self) -> bool:
        """Whether the server has anything to say."""
        keepalive, policy = self._keepalive, self.setup.keepalive
        if keepalive is None or policy is None or policy.without_calls:
            return True
        # A call that was given up was not answered: callers with short deadlines are to find out as well.
        return bool(self.engine.streams) or self._gave_up_at > keepalive.heard_at


async def open_connection(
    address: Address, owner: ClientOwner, *, connector: Connector, setup: ConnectionSetup, timeout_s: float
) -> ClientConnection:
    """Connect, and wait for the peer's SETTINGS: only then is it known to be an HTTP/2 server.

    Raises:
        ConnectError: refused, unreachable, too slow, or not HTTP/2; the text says which.
    """
    loop = asyncio.get_running_loop()
    made: list[ClientConnection] = []  # only once there is a socket: on a bad day most attempts fail before

    def make() -> ClientConnection:
        made.append(ClientConnection(loop, owner, setup))
        return made[0]

    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            await connector.connect(address, make)
            await made[0].ready
    except asyncio.CancelledError:
        await _discard(made, "cancelled")
        raise
    except Exception as error:  # an OSError; what asyncio says to odd host names; whatever a connector raises
        what = made[0].awaited() if made else "got no connection"
        await _discard(made, "not usable")
        if not limit.expired():  # a TimeoutError may also be the system's: ETIMEDOUT
            raise ConnectError(describe_os_error(error)) from error
        raise ConnectError(f"{what} within {timeout_s:.1f} s") from None
    connection = made[0]
    if connection.state != OPEN:  # gone again, or going, before anybody could use it
        reason = connection.end_reason
        await _discard(made, "not usable")
        raise ConnectError(reason)
    return connection


async def _discard(made: list[ClientConnection], reason: str) -> None:
    """Close a connection that nobody will use, and wait until its socket is closed."""
    for connection in made:
        await connection.abort_and_wait(reason)
