"""The server's end of one connection, and the sockets that connections come in on."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from lbkit.address import Address
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.idleness import Idleness
from lbkit.transport.connection import Connection
from lbkit.transport.connector import check_abstract
from lbkit.transport.identity import Identity, identity_of
from lbkit.transport.setup import ConnectionSetup
from lbkit.transport.state import CLOSED, HANDSHAKE

if TYPE_CHECKING:
    import ssl

_GOAWAY_PING = b"\x01\x06\x01\x08\x00\x03\x03\x09"  # as grpc-go's, so that traces look familiar
_GOAWAY_WAIT_S = 5.0  # for the answer to that PING
_UP_PING = b"\x01\x06\x01\x08\x00\x03\x03\x0a"
_UP_S = 0.25  # for the client's program to notice that it is connected
_COMING_UP_S = 3.0  # for a client that is connecting while we stop
# Among the names of limits.
_BACKLOG = 1024  # connections that the kernel keeps until they are accepted
_MAX_AGE, _MAX_AGE_GRACE = "max_connection_age", "max_connection_age_grace"
_MAX_IDLE = "max_connection_idle"


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

    __slots__ = (
        "_debug",
        "_drain_due",
        "_draining",
        "_ends",
        "_identity",
        "_idleness",
        "_owner",
        "_requests",
        "_timer",
        "_tls",
    )

    peer_is = "client"

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: ServerOwner, setup: ConnectionSetup) -> None:
        super().__init__(loop, setup, client=False)
        self._owner = owner
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._drain_due = False  # as soon as the client knows that the connection is up
        self._debug = b""
        self._ends: tuple[float, str] | None = None  # when its age brings it to an end, and which
        self._idleness = None if setup.max_idle_s is None else Idleness(setup.max_idle_s, loop.time())
        self._requests = 0
        self._tls: ssl.SSLObject | None = None
        self._identity: Identity | None = None

    @property
    def identity(self) -> Identity:
        """Who the client is; found out when it is first asked for."""
        if self._identity is None:
            self._identity = identity_of(self._tls)
        return self._identity

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and tell the owner."""
        self._tls = transport.get_extra_info("ssl_object")
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
        self._requests += 1
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
        if self._draining or self._drain_due or self.state == CLOSED:
            return
        self._debug = debug
        if self._requests or self.loop.time() - self._opened_at > _COMING_UP_S:
            self._drain()
            return
        # To a client that hears GOAWAY together with our SETTINGS, or before its program knows that it is connected,
        # this is a backend that is down, and calls fail: we first let the connection come up.
        self._drain_due = True
        self._timer = self.loop.call_later(_COMING_UP_S, self._drain)  # it may never answer
        if self.state != HANDSHAKE:
            self.engine.ping(_UP_PING)
            self.kick()

    def settings(self) -> None:
        """Take note of the client's SETTINGS; find out whether it has ours, if the connection is to drain."""
        super().settings()
        if self._drain_due:
            self.engine.ping(_UP_PING)
            self.kick()

    def _drain(self) -> None:
        self._stop_timer()
        self._drain_due = False
        if self.state == HANDSHAKE:
            self.abort("the server is shutting down")  # no call can be on its way
            return
        self._draining = True
        self.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR, self._debug)
        self.engine.ping(_GOAWAY_PING)
        self._timer = self.loop.call_later(_GOAWAY_WAIT_S, self._say_last)
        self.kick()

    def pong(self, payload: bytes) -> None:
        """Go on with the graceful drain."""
        if self._draining and payload == _GOAWAY_PING:
            self._say_last()
        elif self._drain_due and payload == _UP_PING:
            self._stop_timer()
            self._timer = self.loop.call_later(_UP_S, self._drain)
        else:
            super().pong(payload)

    def _due(self) -> tuple[float, str]:
        due = super()._due()
        if self._ends is not None:
            due = min(due, self._ends)
        if self._idleness is not None:
            due = min(due, (self._idleness.due, _MAX_IDLE))
        return due

    def _overdue(self, limit: str) -> None:
        """Drain a connection that has come of age, or has no calls; end it when the grace is over (gRFC A9)."""
        max_age = self.setup.max_age
        if limit == _MAX_IDLE:
            self._look_for_calls()
        elif max_age is None or limit not in {_MAX_AGE, _MAX_AGE_GRACE}:
            super()._overdue(limit)
        elif limit == _MAX_AGE:
            self._ends = (self.loop.time() + max_age.grace_s, _MAX_AGE_GRACE)
            self.drain_gracefully(b"max_age")
            self._watch()
        else:
            self.abort("the server's max_connection_age_grace was over")

    def _look_for_calls(self) -> None:
        idleness = self._idleness
        assert idleness is not None, "due without a time"
        if self._draining:
            self._idleness = None
        elif idleness.look(self.loop.time(), self._requests, busy=bool(self.engine.streams)):
            self._idleness = None
            self.drain_gracefully(b"max_idle")
        self._watch()

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


def listen(address: Address, *, reuse_port: bool = False) -> socket.socket:
    """Return a socket bound to ``address``, not yet listening. Port 0 takes a free one.

    Args:
        address: where.
        reuse_port: others may have the same TCP port, or take it, if they say so too (SO_REUSEPORT).

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
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
    sock: socket.socket, factory: Callable[[], asyncio.BufferedProtocol], *, shared: bool = False
) -> asyncio.Server:
    """Accept connections on a bound socket.

    Args:
        sock: the socket.
        factory: makes the end of one connection.
        shared: leave connections to other processes that accept from it.
    """
    loop = asyncio.get_running_loop()
    # asyncio accepts up to so many connections in a turn of its loop: all that wait, by whoever looks first.
    backlog = 1 if shared else _BACKLOG
    listener: asyncio.Server
    if sock.family != socket.AF_UNIX:
        listener = await loop.create_server(factory, sock=sock, backlog=backlog)
    elif sys.version_info >= (3, 13):
        # The file goes when the last one has stopped, in Python 3.11 and 3.12 as well: see remove_file().
        listener = await loop.create_unix_server(factory, sock=sock, backlog=backlog, cleanup_socket=False)
    else:
        listener = await loop.create_unix_server(factory, sock=sock, backlog=backlog)
    if shared:
        sock.listen(_BACKLOG)
    return listener


def port_of(sock: socket.socket) -> int:
    """Return the port of a bound socket; 0 for a Unix socket."""
    name = sock.getsockname()
    return int(name[1]) if isinstance(name, tuple) else 0


def file_of(sock: socket.socket) -> tuple[str, int] | None:
    """Return the path and the inode of a Unix socket's file; None if it has none."""
    path = sock.getsockname()
    if sock.family != socket.AF_UNIX or not isinstance(path, str) or not path:
        return None
    return path, os.stat(path).st_ino  # noqa: PTH116  # pathlib is not imported for this


def remove_file(file: tuple[str, int]) -> None:
    """Remove the file of a Unix socket that was closed, unless it is another server's by now."""
    path, inode = file
    with suppress(OSError):  # somebody else was faster, or it is not ours to remove any more
        if os.stat(path).st_ino == inode:  # noqa: PTH116  # see above
            os.unlink(path)  # noqa: PTH108  # see above
