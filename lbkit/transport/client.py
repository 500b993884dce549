"""The client's end of one connection: streams for calls, and the calls that wait for one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
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

    def has_room(self) -> bool:
        """Whether the peer lets us open one more stream (RFC 9113 5.1.2)."""
        return len(self.engine.streams) < self.engine.max_streams

    def wait_for_room(self, waiter: Waiter) -> None:
        """Queue a call until another one is over."""
        self._waiting[waiter] = None

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
        self.engine.reset(stream, code)
        self.kick()
        if self._waiting:
            self.serve_waiting()

    def on_state(self) -> None:
        """Tell the dialler when the handshake is over, and the owner when no more calls should come."""
        if not self.ready.done() and self.state != HANDSHAKE:
            self.ready.set_result(None)
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
        self.move(DRAIN)

    def pong(self, payload: bytes) -> None:
        """Ignore: nothing sends PINGs yet."""


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

    try:
        async with asyncio.timeout(timeout_s):
            await connector.connect(address, make)
            await made[0].ready
    except TimeoutError:
        await _discard(made, "timed out")
        what = "connected, but got no HTTP/2 SETTINGS" if made else "got no connection"
        raise ConnectError(f"{what} within {timeout_s:.1f} s") from None
    except asyncio.CancelledError:
        await _discard(made, "cancelled")
        raise
    except Exception as error:  # an OSError; what asyncio says to odd host names; whatever a connector raises
        await _discard(made, "not usable")
        raise ConnectError(describe_os_error(error)) from error
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
