"""What client and server connections have in common: the engine on a socket, and when bytes are written."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import cast

from lbkit.http2.engine import NativeEngine
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.interface import Engine, EngineConfig
from lbkit.transport import state as life
from lbkit.transport.state import CLOSED, DRAIN, DRAINING, END, HANDSHAKE, SETTINGS

# Frames collect until the end of the loop's turn, but go out at once past either of these. Strictly once a turn
# puts client and server in lockstep: one is idle while the other works (measured: -45 % calls a second).
_EARLY_BYTES = 4096
_EARLY_FRAMES = 20  # ten unary calls

_SCRATCH_BYTES = 256 * 1024  # what asyncio itself would read at once

_scratches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


def _scratch_of(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the receive buffer that all connections of a loop share: its reads never interleave."""
    scratch = _scratches.get(loop)
    if scratch is None:
        scratch = _scratches[loop] = memoryview(bytearray(_SCRATCH_BYTES))
    return scratch


class Connection(asyncio.BufferedProtocol):
    """One end of one connection: glue between an asyncio transport and an engine.

    Layers above queue frames with the engine's send calls and then call ``kick``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, client: bool, config: EngineConfig) -> None:
        self.loop = loop
        # Subclasses implement ``ConnectionSink``.
        self.engine: Engine = NativeEngine(client=client, sink=self, config=config, scratch=_scratch_of(loop))  # type: ignore[arg-type]
        self.state = HANDSHAKE
        self.peer = ""
        self.closed: asyncio.Future[None] = loop.create_future()
        # An attribute and not a method that passes it on: it saves a call for every read.
        self.get_buffer = self.engine.get_buffer  # type: ignore[method-assign,assignment]
        self._transport: asyncio.Transport | None = None
        # With no other call on the connection there is nothing to collect: waiting would cost a turn of the loop.
        self._alone = 1 if client else 0
        self._flush_due = False
        self._paused = False
        self.end_reason = ""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: send what opens the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self.peer = peer_name(transport)
        self.engine.start()
        self._flush()

    def buffer_updated(self, nbytes: int) -> None:
        """Process what came and send what that produced."""
        self.engine.buffer_updated(nbytes)
        if self.engine.queued_bytes and not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)
        elif self.state == DRAINING:
            self._close_if_done()

    def eof_received(self) -> None:
        """Let asyncio close the transport: gRPC has no half-closed connections."""
        self.end_reason = self.end_reason or "the peer closed the connection"

    def connection_lost(self, exc: Exception | None) -> None:
        """End every stream that is left."""
        self._transport = None
        if exc is not None:
            self.end_reason = self.end_reason or describe_os_error(exc)
        self._end(self.end_reason or "the connection was closed")
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Keep frames in the engine: the kernel takes no more for the moment."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write what has collected."""
        self._paused = False
        self._flush()

    # for the layers above

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

    def on_state(self) -> None:
        """Take note that ``state`` changed."""

    def fault(self, fault: ConnectionFault) -> None:
        """Send the GOAWAY that the engine queued, and close."""
        self._end(str(fault))
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def settings(self) -> None:
        """Take note of the peer's SETTINGS."""
        self.move(SETTINGS)

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
        if self._transport is not None and not self._paused and self.engine.queued_bytes:
            self._transport.write(self.engine.take())
        if self.state == DRAINING:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self.engine.streams and not self.engine.queued_bytes and self._transport is not None:
            self._end("drained")
            self._transport.close()


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
    return text[:1].lower() + text[1:]
