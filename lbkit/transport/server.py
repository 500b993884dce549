"""The server's end of one connection, and the sockets that connections come in on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from lbkit.address import Address
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.transport.connection import Connection
from lbkit.transport.connector import check_abstract
from lbkit.transport.setup import ConnectionSetup
from lbkit.transport.state import CLOSED

_GOAWAY_PING = b"\x01\x06\x01\x08\x00\x03\x03\x09"  # as grpc-go's, so that traces look familiar
_GOAWAY_WAIT_S = 5.0  # for the answer to that PING
_MAX_AGE, _MAX_AGE_GRACE = "max_connection_age", "max_connection_age_grace"  # among the names of limits


class ServerOwner(Protocol):
    """Who serves the requests that come in."""

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        """Serve a new stream; set ``stream.sink``."""
        ...

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Answer a new stream whose headers are too large; set ``stream.sink``."""
        ...

    def connection_opened(self, connection: ServerConnection) -> None:
        """Take note of a new connection."""
        ...

    def connection_closed(self, connection: ServerConnection) -> None:
        """Take note that a connection is gone."""
        ...


class ServerConnection(Connection):
    """A connection that requests come in on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: ServerOwner, setup: ConnectionSetup) -> None:
        super().__init__(loop, setup, client=False)
        self._owner = owner
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._debug = b""
        self._ends: tuple[float, str] | None = None  # when its age brings it to an end, and which

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and tell the owner."""
        if self.setup.max_age is not None:
            self._ends = (self.loop.time() + self.setup.max_age.draw(), _MAX_AGE)
        super().connection_made(transport)
        self._owner.connection_opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End every stream that is left."""
        self._stop_timer()
        super().connection_lost(exc)
        self._owner.connection_closed(self)

    def request(self, stream: Stream, fields: tuple[Field, ...], end: bool) -> None:
        """Pass a new stream on."""
        self._owner.request(self, stream, fields, end)

    def oversized(self, stream: Stream, reason: str) -> None:
        """Pass on a new stream that must be refused."""
        self._owner.oversized(self, stream, reason)

    def exhausted(self) -> None:
        """Never happens: servers open no streams."""

    def goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Finish what is open: a client that says GOAWAY opens nothing more."""
        self.drain()

    def drain_gracefully(self, debug: bytes = b"graceful_stop") -> None:
        """Tell the client to go elsewhere without losing a call that is on its way.

        First GOAWAY with the highest id and a PING: the client stops opening streams, and its answer proves that
        all it had opened have arrived. Then GOAWAY with the last id, and close when the streams are over
        (RFC 9113 6.8).

        Args:
            debug: tells the client why, in its traces.
        """
        if self._draining or self.state == CLOSED:
            return
        self._draining = True
        self._debug = debug
        self.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR, debug)
        self.engine.ping(_GOAWAY_PING)
        self._timer = self.loop.call_later(_GOAWAY_WAIT_S, self._say_last)
        self.kick()

    def pong(self, payload: bytes) -> None:
        """Go on with the graceful drain."""
        if self._draining and payload == _GOAWAY_PING:
            self._say_last()

    def _due(self) -> tuple[float, str]:
        due = super()._due()
        return due if self._ends is None else min(due, self._ends)

    def _overdue(self, limit: str) -> None:
        """Drain a connection that has come of age; end it when the grace is over (gRFC A9)."""
        max_age = self.setup.max_age
        if max_age is None or limit not in {_MAX_AGE, _MAX_AGE_GRACE}:
            super()._overdue(limit)
        elif limit == _MAX_AGE:
            self._ends = (self.loop.time() + max_age.grace_s, _MAX_AGE_GRACE)
            self.drain_gracefully(b"max_age")
            self._watch()
        else:
            self.abort("the server's max_connection_age_grace was over")

    def _say_last(self) -> None:
        self._stop_timer()
        if self.state != CLOSED:
            self.engine.goaway(None, ErrorCode.NO_ERROR, self._debug)
            self.kick()
            self.drain()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def listen(address: Address) -> socket.socket:
    """Return a socket bound to ``address``, not yet listening. Port 0 takes a free one.

    Raises:
        OSError: the address cannot be had; says which and why.
    """
    try:
        if address.port is None:
            check_abstract(address)
            if not address.host.startswith("\0"):  # an abstract name goes with its socket
                _remove_stale(address.host)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            return _bound(sock, address.host)
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address.host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # all of IPv4 too, as grpc binds it
        return _bound(sock, where)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error


def _remove_stale(path: str) -> None:
    """Remove the Unix socket of a server that is gone, as grpc does; one that somebody listens on stays."""
    from pathlib import Path  # Unix sockets are few, and it would be a tenth of the time to import lbkit

    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:  # busy, or not ours to look at: binding will say
            return


def _bound(sock: socket.socket, where: object) -> socket.socket:
    try:
        sock.bind(where)  # type: ignore[arg-type]  # a path, or what getaddrinfo gave
    except OSError:
        sock.close()
        raise
    return sock


async def serve(
    sock: socket.socket, factory: Callable[[], asyncio.BufferedProtocol], *, backlog: int = 1024
) -> asyncio.Server:
    """Accept connections on a bound socket."""
    loop = asyncio.get_running_loop()
    if sock.family == socket.AF_UNIX:
        return await loop.create_unix_server(factory, sock=sock, backlog=backlog)
    return await loop.create_server(factory, sock=sock, backlog=backlog)
