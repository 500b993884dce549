"""The messages that go out on one stream, no faster than the peer takes them."""

from __future__ import annotations

import asyncio

from lbkit.http2.stream import Stream
from lbkit.transport.connection import Connection
from lbkit.wire.messages import LARGE_BYTES, PREFIX_BYTES, frame_message, send_message

# Small messages written in one turn of the event loop share DATA frames: a frame for each costs the peer as much
# as the message itself.
_BATCH_BYTES = 8 * 1024
# A producer that never waits lets others have the event loop after so many bytes, or messages.
_TURN_BYTES = 256 * 1024
_TURN_MESSAGES = 256


class MessageWriter:
    """One direction of a streaming call: written by the application, paced by the peer's windows.

    Args:
        connection: the stream's.
        stream: which one.
    """

    __slots__ = (
        "_batch",
        "_batch_bytes",
        "_connection",
        "_flowing",
        "_stream",
        "_turn_bytes",
        "_turn_due",
        "_turn_messages",
        "_waiters",
    )

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._flowing = True  # the engine has queued all that it was given
        self._batch: list[bytes] = []  # small messages, in frames of their own, not given to the engine yet
        self._batch_bytes = 0
        self._turn_due = False  # something was written in this turn, and its end is scheduled
        self._turn_bytes = 0
        self._turn_messages = 0
        self._waiters: list[asyncio.Future[None]] = []

    def write(self, payload: bytes) -> bool:
        """Send a message, or keep it until it can be sent. False: ``drain`` before the next one."""
        self._turn_messages += 1
        size = len(payload)
        self._turn_bytes += size
        if size >= LARGE_BYTES:
            self._send_batch()
            self._flowing = send_message(self._connection.engine, self._stream, payload, False)
            self._connection.kick()
            self._end_turn_later()
        elif self._turn_due:
            self._batch.append(frame_message(payload))
            self._batch_bytes += size + PREFIX_BYTES
            if self._batch_bytes < _BATCH_BYTES:
                return self._flowing and self._turn_messages < _TURN_MESSAGES
            self._send_batch()
        else:
            # The first of a turn goes at once: it may be the only one, and somebody waits for it.
            self._flowing = self._connection.engine.send_data(self._stream, frame_message(payload), False)
            self._connection.kick()
            self._end_turn_later()
        return self._flowing and self._turn_bytes < _TURN_BYTES and self._turn_messages < _TURN_MESSAGES

    async def drain(self) -> None:
        """Wait until there is room for more, or the stream is over. Lets others have the event loop, too."""
        if self._flowing:
            await asyncio.sleep(0)  # the end of the turn was scheduled before, and comes first
        while not self._flowing:
            waiter = self._connection.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:  # cancelled
                    self._waiters.remove(waiter)

    async def flush(self) -> None:
        """Wait until everything is on its way: trailers must not overtake it."""
        self._send_batch()
        if not self._flowing:
            await self.drain()

    def end(self) -> None:
        """Send what is left, and END_STREAM."""
        batch, self._batch = self._batch, []
        self._flowing = self._connection.engine.send_data(self._stream, b"".join(batch), True)
        self._connection.kick()

    def close(self) -> None:
        """Forget what was not sent: the stream is over."""
        self._batch = []
        self.writable()

    def writable(self) -> None:
        """Take note that the engine has room again."""
        self._flowing = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _end_turn_later(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._connection.loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_due = False
        self._turn_bytes = self._turn_messages = 0
        self._send_batch()

    def _send_batch(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._batch_bytes = 0
            # Before the kick: that may write so much that ``writable`` is called.
            self._flowing = self._connection.engine.send_data(self._stream, b"".join(batch), False)
            self._connection.kick()
