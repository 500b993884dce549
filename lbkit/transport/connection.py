"""What client and server connections have in common: the engine on a socket, and when bytes are written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import weakref
from math import inf
from typing import Any, cast

from lbkit.deadline import Bucket
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import ErrorCode
from lbkit.http2.interface import Engine, EngineParts
from lbkit.inventory import next_number
from lbkit.transport import state as life
from lbkit.transport.keepalive import ASKED, LOST, Keepalive
from lbkit.transport.setup import ConnectionSetup
from lbkit.transport.state import CLOSED, DRAIN, DRAINING, END, HANDSHAKE, SETTINGS

# Frames collect until the end of the loop's turn, but go out at once past either of these. Strictly once a turn
# puts client and server in lockstep: one is idle while the other works (measured: -45 % calls a second).
_EARLY_BYTES = 4096
_EARLY_FRAMES = 20  # ten unary calls

_log = logging.getLogger("lbkit.transport")

_LINGER_S = 1.0  # for a peer to read our GOAWAY

_KEEPALIVE = "keepalive_timeout"  # among the names of limits
_KEEPALIVE_PING = b"\x02lbalive"  # no other's, so that traces show what it is
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it

_OVERDUE = {
    "handshake_timeout_s": "no HTTP/2 handshake",
    "settings_timeout_s": "SETTINGS were not acknowledged",
    "header_timeout_s": "a frame was not finished",
    "write_timeout_s": "the peer took no byte",
}

_SCRATCH_BYTES = 256 * 1024  # what asyncio itself would read at once

_scratches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


def scratch_of(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the receive buffer that all connections of a loop share: its reads never interleave."""
    scratch = _scratches.get(loop)
    if scratch is None:
        scratch = _scratches[loop] = memoryview(bytearray(_SCRATCH_BYTES))
    return scratch


class Connection(asyncio.BufferedProtocol):
    """One end of one connection: glue between an asyncio transport and an engine.

    Layers above queue frames with the engine's send calls and then call ``kick``.
    """

    # More than thirty attributes would otherwise cost each connection a table of 1.6 kB of its own.
    __slots__ = (
        "__weakref__",
        "_alone",
        "_flush_due",
        "_handshake_s",
        "_keepalive",
        "_linger",
        "_opened_at",
        "_paused_since",
        "_paused_with",
        "_reading",
        "_transport",
        "_unfinished_since",
        "_watched_until",
        "bucket",
        "closed",
        "end_reason",
        "engine",
        "get_buffer",
        "host",
        "loop",
        "number",
        "peer",
        "setup",
        "state",
    )

    peer_is = "peer"  # in texts

    def __init__(self, loop: asyncio.AbstractEventLoop, setup: ConnectionSetup, *, client: bool) -> None:
        self.loop = loop
        self.setup = setup
        self.engine: Engine = setup.engine(
            EngineParts(
                client=client,
                sink=self,  # type: ignore[arg-type]  # subclasses implement ``ConnectionSink``
                limits=setup.limits,
                counters=setup.counters,
                scratch=scratch_of(loop),
                now=setup.now_of(loop),
            )
        )
        self.state = HANDSHAKE
        self.number = next_number()
        self.peer = ""
        self.host = ""  # the peer's IP address; empty for a Unix socket
        self.closed: asyncio.Future[None] = loop.create_future()
        # An attribute and not a method that passes it on: it saves a call for every read.
        self.get_buffer = self.engine.get_buffer  # type: ignore[method-assign,assignment]
        self._transport: asyncio.Transport | None = None
        # With no other call on the connection there is nothing to collect: waiting would cost a turn of the loop.
        self._alone = 1 if client else 0
        self._flush_due = False
        self._paused_since: float | None = None  # when the kernel took no more
        self._paused_with = 0  # bytes that waited then
        self._reading = True
        # A client's attempts have a time-out of their own, which the TCP handshake is a part of.
        self._handshake_s = inf if client else setup.limits.handshake_timeout_s
        self._opened_at = 0.0
        self.bucket: Bucket | None = None  # set by Deadlines, while something has to happen in time
        self._watched_until = 0.0
        self._unfinished_since: float | None = None  # as the engine said after the last read
        self._linger: asyncio.TimerHandle | None = None
        self._keepalive = None if setup.keepalive is None else Keepalive(setup.keepalive, loop.time())
        self.end_reason = ""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: send what opens the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self.peer = peer_name(transport)
        name = transport.get_extra_info("peername")
        self.host = str(name[0]) if isinstance(name, tuple) else ""
        self._opened_at = self.loop.time()
        if self.setup.keepalive is not None:
            limit_silence(transport, self.setup.keepalive.timeout_s)
        self.engine.start()
        self._flush()
        self._watch()

    def buffer_updated(self, nbytes: int) -> None:
        """Process what came and send what that produced."""
        if self._keepalive is not None:
            self._keepalive.heard_at = self.loop.time()
        engine = self.engine
        engine.buffer_updated(nbytes)
        if engine.queued_bytes and not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)
        elif self.state == DRAINING:
            self._close_if_done()
        if engine.unfinished_since != self._unfinished_since:
            self._unfinished_since = engine.unfinished_since
            self._watch()
        if self._paused_since is not None and self._reading:
            self._stop_reading()

    def eof_received(self) -> None:
        """Let asyncio close the transport: gRPC has no half-closed connections."""
        self.end_reason = self.end_reason or "the peer closed the connection"

    def connection_lost(self, exc: Exception | None) -> None:
        """End every stream that is left."""
        self._transport = None
        self.setup.unwatch(self)
        if self._linger is not None:
            self._linger.cancel()
        if exc is not None:
            self.end_reason = self.end_reason or describe_os_error(exc)
        self._end(self.end_reason or "the connection was closed")
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Keep frames in the engine: the kernel takes no more for the moment."""
        self._paused_since = self.loop.time()
        self._paused_with = self._unwritten()
        self._watch()

    def resume_writing(self) -> None:
        """Write what has collected."""
        self._paused_since = None
        self._flush()
        if not self._reading and self._transport is not None and self._paused_since is None:
            self._reading = True
            self._transport.resume_reading()

    # for the layers above

    def socket_names(self) -> tuple[Any, Any]:
        """Return the addresses of this end and of the other, as the socket knows them; None when it is closed."""
        transport = self._transport
        if transport is None:
            return None, None
        return transport.get_extra_info("sockname"), transport.get_extra_info("peername")

    def kick(self) -> None:
        """Have what was queued written: now if it is much or of the only call, else at the end of the turn."""
        engine = self.engine
        if (
            engine.queued_bytes >= _EARLY_BYTES
            or engine.queued_frames >= _EARLY_FRAMES
            or len(engine.streams) <= self._alone
        ):
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def abort(self, reason: str) -> None:
        """End the connection and its streams at once."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    async def abort_and_wait(self, reason: str) -> None:
        """Like ``abort``, and return when the socket is closed."""
        self.abort(reason)
        if self._transport is not None:
            await self.closed

    # for subclasses

    def pong(self, payload: bytes) -> None:
        """Watch for the next silence; that an answer came is known from its bytes."""
        self._watch()

    def _owed(self) -> bool:
        """Whether the peer has anything to say; if not, its silence means nothing."""
        return True

    def on_state(self) -> None:
        """Take note that ``state`` changed."""

    def fault(self, fault: ConnectionFault) -> None:
        """Send the GOAWAY that the engine queued, and close; a peer that does not read it gets no second chance."""
        _log.debug("%s: %s", self.peer, fault)
        self._end(str(fault))
        self._flush()
        if self._transport is not None:
            self._transport.close()
            self._linger = self.loop.call_later(_LINGER_S, self._transport.abort)

    def settings(self) -> None:
        """Take note of the peer's SETTINGS."""
        self.move(SETTINGS)
        self._watch()

    def move(self, event: int) -> None:
        """Make one step in the table; tell the subclass if the state changed."""
        before = self.state
        self.state = life.TRANSITIONS[before * 3 + event]
        if self.state != before:
            self.on_state()

    def drain(self) -> None:
        """Take no new streams, and close when the last one is over."""
        self.move(DRAIN)
        self._close_if_done()

    def _end(self, reason: str) -> None:
        if self.state != CLOSED:
            self.end_reason = reason
            self.move(END)
            self.engine.lost(reason)

    def _flush(self) -> None:
        self._flush_due = False
        engine = self.engine
        transport = self._transport
        # A transport on which a write has failed is closing, and logs every further one.
        while engine.queued_bytes and self._paused_since is None and transport is not None:
            if transport.is_closing():
                break
            transport.write(engine.take())
        if self.state == DRAINING:
            self._close_if_done()

    def _stop_reading(self) -> None:
        """Read no more from a peer that does not read our answers (CVE-2019-9512, CVE-2019-9515)."""
        engine, limits = self.engine, self.setup.limits
        if self._transport is None:
            return
        if engine.queued_control > limits.control_frames:  # CVE-2019-9514
            self.setup.counters.exceeded["control_frames"] += 1
            text = f"{engine.queued_control} answers wait to be read (RFC 9113 10.5)"
            engine.fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, text))
            return
        # Twice the send buffer: two ends that both send as much as they may must not both stop reading.
        if (
            engine.queued_control >= limits.control_frames_pause
            or engine.queued_bytes >= 2 * limits.send_buffer
        ):
            self._reading = False
            self.setup.counters.exceeded["control_frames_pause"] += 1
            self._transport.pause_reading()

    # what has to happen in time

    def _watch(self) -> None:
        """See to it that ``expired`` is called when the next thing is due."""
        due, _ = self._due()
        if due == inf or self.state == CLOSED or (self.bucket is not None and self._watched_until <= due):
            return
        self.setup.unwatch(self)
        self._watched_until = due
        self.setup.watch(self, due, self.loop)

    def _due(self) -> tuple[float, str]:
        """Return when what waits for the peer is overdue, and the name of its limit."""
        limits, engine = self.setup.limits, self.engine
        waits: list[tuple[float, str]] = []
        if self.state == HANDSHAKE:
            waits.append((self._opened_at + self._handshake_s, "handshake_timeout_s"))
        elif not engine.settings_acked:
            waits.append((self._opened_at + limits.settings_timeout_s, "settings_timeout_s"))
        if engine.unfinished_since is not None:
            waits.append((engine.unfinished_since + limits.header_timeout_s, "header_timeout_s"))
        if self._paused_since is not None:
            waits.append((self._paused_since + limits.write_timeout_s, "write_timeout_s"))
        if self._keepalive is not None and self.state != HANDSHAKE:
            waits.append((self._keepalive.due, _KEEPALIVE))
        return min(waits, default=(inf, ""))

    def expired(self) -> None:
        """End the connection if something is overdue; else look again when the next thing is."""
        self.setup.unwatch(self)
        due, limit = self._due()
        if due <= self.loop.time():
            if limit == "write_timeout_s" and (left := self._unwritten()) < self._paused_with:
                self._paused_since, self._paused_with = self.loop.time(), left  # slow, but it reads
            else:
                self._overdue(limit)
                return
        self._watch()

    def _overdue(self, limit: str) -> None:
        if limit == _KEEPALIVE:
            self._look_after_peer()
            return
        self.setup.counters.exceeded[limit] += 1
        text = f"{_OVERDUE[limit]} in {getattr(self.setup.limits, limit):g} s"
        if limit == "settings_timeout_s":
            self.engine.fail(ConnectionFault(ErrorCode.SETTINGS_TIMEOUT, f"{text} (RFC 9113 6.5.3)"))
        elif limit == "header_timeout_s" and self.state != HANDSHAKE:
            self.engine.fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"{text} (RFC 9113 10.5)"))
        else:
            self.abort(text)

    def _look_after_peer(self) -> None:
        """Ask a peer that is silent whether it is there, or take it for lost (gRFC A8)."""
        keepalive, policy = self._keepalive, self.setup.keepalive
        assert keepalive is not None, "due without keepalive"
        assert policy is not None, "keepalive without a policy"
        state = keepalive.look(self.loop.time(), owed=self._owed())
        if state == LOST:
            self.setup.counters.exceeded[_KEEPALIVE] += 1
            self.abort(f"the {self.peer_is} did not answer a keepalive PING within {policy.timeout_s:g} s")
            return
        if state == ASKED:
            self.setup.counters.seen["keepalive_pings"] += 1
            self.engine.ping(_KEEPALIVE_PING)
            self.kick()
        self._watch()

    def _unwritten(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _close_if_done(self) -> None:
        if not self.engine.streams and not self.engine.queued_bytes and self._transport is not None:
            self._end("drained")
            self._transport.close()


def limit_silence(transport: asyncio.BaseTransport, timeout_s: float) -> None:
    """Have the kernel give a TCP connection up when what we sent is not acknowledged for so long (gRFC A18).

    Without it a peer that vanished while we were sending to it holds the connection for a quarter of an hour. Does
    nothing where the system has no such option, or there is no TCP.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or _USER_TIMEOUT is None or sock.family == getattr(socket, "AF_UNIX", None):
        return
    with contextlib.suppress(OSError):  # gone already, or a socket of another kind
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(min(max(1.0, timeout_s * 1000), 2**31 - 1)))


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Return the other end as grpcio writes it: ``ipv4:127.0.0.1:5``, ``ipv6:[::1]:5`` or ``unix:``."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        host, port = name[0], name[1]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
    return f"unix:{name or ''}"


def describe_os_error(error: BaseException) -> str:
    """Say in lower-case words what went wrong with a socket, without numbers and addresses."""
    number = getattr(error, "errno", None)
    # asyncio puts the address into strerror; negative numbers are getaddrinfo's, and not os.strerror's.
    text = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)
    text = text or type(error).__name__
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]  # TLS stays TLS
