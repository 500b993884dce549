"""The client's end of one connection: streams for calls, and the calls that wait for one."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Protocol

from lbkit.address import Address
from lbkit.errors import ConnectError
from lbkit.http2.frames import ErrorCode, error_name
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.transport.connection import Connection, describe_os_error
from lbkit.transport.connector import Connector
from lbkit.transport.keepalive import ASKED, LOST, Keepalive
from lbkit.transport.setup import ConnectionSetup
from lbkit.transport.state import DRAIN, HANDSHAKE, OPEN

_KEEPALIVE = "keepalive_timeout"  # among the names of limits
_KEEPALIVE_PING = b"\x02lbalive"  # no other's, so that traces show what it is
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

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: ClientOwner, setup: ConnectionSetup) -> None:
        super().__init__(loop, setup, client=True)
        self._owner: ClientOwner | None = owner
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()  # calls, first come first served
        self.ready: asyncio.Future[None] = loop.create_future()
        # The last response headers and trailers that were found good; equal bytes decode to the same tuple.
        self.known_head: tuple[Field, ...] | None = None
        self.known_trailers: tuple[Field, ...] | None = None
        self._keepalive = None if setup.keepalive is None else Keepalive(setup.keepalive, loop.time())
        self._admitted = _ANY_NUMBER  # streams at once, since a refusal
        self._relaxing: asyncio.TimerHandle | None = None
        self._gave_up_at = 0.0  # when a call was reset last that the server may have ignored

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

    def wait_for_room(self, waiter: Waiter) -> None:
        """Queue a call until another one is over."""
        self._waiting[waiter] = None

    def stop_waiting(self, waiter: Waiter) -> None:
        """Forget a call that is over before there was room for it."""
        self._waiting.pop(waiter, None)

    def buffer_updated(self, nbytes: int) -> None:
        """Process what came; calls that ended made room for others."""
        if self._keepalive is not None:
            self._keepalive.heard_at = self.loop.time()
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
            _log.warning("%s: too many keepalive PINGs; from now on one in %g s", self.peer, policy.time_s)
        self.move(DRAIN)

    def pong(self, payload: bytes) -> None:
        """Watch for the next silence; that an answer came is known from its bytes."""
        self._watch()

    def _due(self) -> tuple[float, str]:
        due = super()._due()
        if self._keepalive is None or self.state == HANDSHAKE:
            return due
        return min(due, (self._keepalive.due, _KEEPALIVE))

    def _overdue(self, limit: str) -> None:
        """Ask a server that is silent whether it is there, or take it for lost (gRFC A8)."""
        keepalive, policy = self._keepalive, self.setup.keepalive
        if limit != _KEEPALIVE or keepalive is None or policy is None:
            super()._overdue(limit)
            return
        # A call that was given up was not answered: callers with short deadlines are to find out as well.
        owed = policy.without_calls or bool(self.engine.streams) or self._gave_up_at > keepalive.heard_at
        state = keepalive.look(self.loop.time(), owed=owed)
        if state == LOST:
            self.setup.counters.exceeded[_KEEPALIVE] += 1
            self.abort(f"the server did not answer a keepalive PING within {policy.timeout_s:g} s")
            return
        if state == ASKED:
            self.setup.counters.seen["keepalive_pings"] += 1
            self.engine.ping(_KEEPALIVE_PING)
            self.kick()
        self._watch()


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
        await _discard(made, "not usable")
        if not limit.expired():  # a TimeoutError may also be the system's: ETIMEDOUT
            raise ConnectError(describe_os_error(error)) from error
        what = "connected, but got no HTTP/2 SETTINGS" if made else "got no connection"
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
