"""A byte stream between two protocols of one event loop: no sockets, no threads, and virtual time will do."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, cast

# As a pair of TCP sockets has them: what the kernel takes before a transport buffers, and how much that buffers
# before its protocol is to pause, and to go on.
WIRE_BYTES = 64 * 1024
HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024
_READ_BYTES = 256 * 1024  # delivered in one turn of the loop

Name = tuple[str, int]


class MemoryTransport(asyncio.Transport):
    """One end of a byte stream. Made in pairs, by ``join``.

    What is written arrives in a later turn of the loop, as far as the other end reads; what does not fit pauses
    the protocol that writes. ``close`` delivers what was written and then ends the stream, and ``abort`` drops
    what the wire had not taken, as TCP does.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BufferedProtocol, name: Name
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._name = name
        self._context = copy_context()  # as sockets have theirs: not that of who happens to write
        self._other: MemoryTransport = self  # set by join()
        self._sent = bytearray()  # and not delivered yet
        self._due = False  # a callback that delivers is scheduled
        self._reading = True
        self._paused = False  # the protocol was asked to write no more
        self._closing = False
        self._lost = False  # the protocol has been told, or is about to be
        self._ended = False  # the other end has been told, or is about to be

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Know ``peername`` and ``sockname``; there is no socket."""
        return {"peername": self._other._name, "sockname": self._name}.get(name, default)

    # What the protocol asks for

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the stream over to another protocol, as a tunnel does when it is open."""
        self._protocol = cast("asyncio.BufferedProtocol", protocol)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send; what comes after ``close`` is dropped."""
        if self._closing or not data:
            return
        if self._other._lost:
            self._lose(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            return
        self._sent += data
        self._deliver_soon()
        if not self._paused and self.get_write_buffer_size() > HIGH_WATER:
            self._paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the wire has not taken."""
        return max(0, len(self._sent) - WIRE_BYTES)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark."""
        return LOW_WATER, HIGH_WATER

    def can_write_eof(self) -> bool:
        """Say no: gRPC has no half-closed connections."""
        return False

    def is_reading(self) -> bool:
        """Whether the protocol takes what comes."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Leave what comes on the wire."""
        self._reading = False

    def resume_reading(self) -> None:
        """Take what has come meanwhile, the end of the stream included."""
        if not self._reading:
            self._reading = True
            self._other._deliver_soon()

    def is_closing(self) -> bool:
        """Whether ``close`` or ``abort`` was called, or the stream is gone."""
        return self._closing

    def close(self) -> None:
        """Read no more, deliver what was written, and end the stream."""
        if not self._closing:
            self._closing = True
            if self._other._lost:
                self._sent.clear()
            self._deliver_soon()

    def abort(self) -> None:
        """End the stream; of what was written, the wire still carries what it had taken."""
        del self._sent[WIRE_BYTES:]
        self._lose(None)
        self._deliver_soon()

    # What tests ask for

    def cut(self) -> None:
        """Break the stream at both ends: nothing that is under way arrives."""
        for end in (self, self._other):
            end._sent.clear()
            end._lose(_reset())

    # Inside

    def _deliver_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._deliver, context=self._context)

    def _deliver(self) -> None:
        """Hand over what the other end takes in this turn; behind the last byte comes the end of the stream."""
        self._due = False
        other = self._other
        room = _READ_BYTES
        while self._sent and room > 0 and other.is_reading():
            room -= other._take(self._sent)
        if self._paused and self.get_write_buffer_size() <= LOW_WATER and not self._lost:
            self._paused = False
            self._protocol.resume_writing()
        if self._sent and not other._lost:
            if other.is_reading():
                self._deliver_soon()
        elif self._closing:
            self._end()

    def _take(self, data: bytearray) -> int:
        """Receive the beginning of ``data``, and remove it from there."""
        try:
            buffer = cast("memoryview[int]", self._protocol.get_buffer(-1))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            del data[:size]
            self._protocol.buffer_updated(size)
        except Exception as error:  # as asyncio: a protocol that fails loses its connection
            self._loop.call_exception_handler(
                {"message": "a protocol failed on what it received", "exception": error, "transport": self}
            )
            size = len(data)
            self._lose(error)
            self._deliver_soon()
        return size

    def _end(self) -> None:
        """Say goodbye, as all is delivered. Who has sent what nobody read hears of a reset."""
        self._lose(None)
        other = self._other
        if self._ended or other._lost:
            return
        if other._sent:
            self._ended = True
            other._sent.clear()
            other._lose(_reset())
        elif other.is_reading():  # else it comes back here when it reads again, or it is closing by itself
            self._ended = True
            self._loop.call_soon(other._hear_end, context=self._context)

    def _hear_end(self) -> None:
        if not self._closing:
            self._protocol.eof_received()  # whatever it says: no half-closed connections
            self.close()

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._protocol.connection_lost, error, context=self._context)


def join(
    loop: asyncio.AbstractEventLoop,
    client: Callable[[], asyncio.BufferedProtocol],
    server: Callable[[], asyncio.BufferedProtocol],
    *,
    client_name: Name,
    server_name: Name,
) -> MemoryTransport:
    """Connect two new protocols, and return the client's end.

    Raises:
        Exception: whatever ``server()`` raises when it takes no more connections; nothing was connected then.
    """
    theirs = server()
    far = MemoryTransport(loop, theirs, server_name)
    ours = client()
    near = MemoryTransport(loop, ours, client_name)
    near._other, far._other = far, near
    theirs.connection_made(far)
    ours.connection_made(near)
    return near


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
