"""The messages that come in on one stream, and who waits for them."""

from __future__ import annotations

import asyncio
from collections import deque

from lbkit.http2.stream import Stream
from lbkit.transport.connection import Connection
from lbkit.wire.deframer import Deframer
from lbkit.wire.messages import PREFIX_BYTES
from lbkit.wire.packing import Compressed

# Read messages are reported to the engine together, when this much is theirs or none is left.
_REPORT_BYTES = 16 * 1024


class MessageReader:
    """One direction of a streaming call: fed by the stream's sink, read by the application.

    Back-pressure is the stream's window: it is given back as messages are read, and beyond that only for the rest
    of a message that somebody waits for.

    Args:
        connection: the stream's.
        stream: which one.
        limit: the largest message accepted, in bytes, compressed or not.

    Attributes:
        queue: payloads that are complete and not read, oldest first.
        plain: none of them can be compressed: they may be taken from ``queue`` without ``read``.
        ended: nothing more comes.
    """

    __slots__ = (
        "_announced",
        "_connection",
        "_deframer",
        "_discarded",
        "_fault",
        "_limit",
        "_read_bytes",
        "_stream",
        "_waiters",
        "ended",
        "plain",
        "queue",
    )

    def __init__(self, connection: Connection, stream: Stream, limit: int) -> None:
        self.queue: deque[bytes] = deque()
        self.plain = True
        self.ended = False
        self._connection = connection
        self._stream = stream
        self._limit = limit
        self._deframer = Deframer(limit, self.queue)
        self._discarded = False
        self._announced = False  # the engine knows how long the message is that somebody waits for
        self._fault: Exception | None = None  # why nothing more comes
        self._read_bytes = 0  # not reported yet
        self._waiters: list[asyncio.Future[None]] = []

    # For the sink

    def announce(self, encoding: bytes) -> None:
        """Take note of how the peer compresses messages; before the first of them."""
        self.plain = False
        self._deframer.announced = encoding

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            WireFault: a message that must not be; see ``Deframer.feed``.
        """
        try:
            self._deframer.feed(data)
        finally:
            if self._waiters:
                self._arrived()

    def room(self, length: int) -> memoryview | None:
        """Return where the next bytes of a large message go."""
        return self._deframer.room(length)

    def filled(self, length: int) -> None:
        """Take note that what ``room`` gave is full."""
        self._deframer.filled(length)
        if self._waiters:
            self._arrived()

    def end(self) -> None:
        """Take note that nothing more comes.

        Raises:
            WireFault: INTERNAL, in the middle of a message.
        """
        self.close()
        self._deframer.finish()

    def close(self, *, discard: bool = False) -> None:
        """Take note that the stream is over. What came before can be read, unless it is to be discarded."""
        self.ended = True
        if discard:
            self._discarded = True
            self.queue.clear()
        self._wake()

    def fail(self, fault: Exception) -> None:
        """Have readers get this exception, behind what came before."""
        self._fault = fault
        self.close()

    # For the application

    async def read(self) -> bytes | None:
        """Return the next payload, decompressed, as soon as there is one; None if nothing more comes.

        Raises:
            WireFault: what ``fail`` was given, or ``wire.packing.unpack`` raises.
        """
        queue = self.queue
        while not queue:
            if self._fault is not None:
                raise self._fault
            if self.ended:
                return None
            self.expect()
            waiter = self._connection.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:  # cancelled
                    self._waiters.remove(waiter)
        payload = queue.popleft()
        if type(payload) is Compressed:
            return await self._unpacked(payload)
        self.taken(len(payload))
        return payload

    async def _unpacked(self, payload: Compressed) -> bytes | None:
        connection = self._connection
        plain: bytes | None = None
        try:
            plain = await connection.setup.offload.unpack(connection.loop, payload, self._limit)
        except asyncio.CancelledError:
            if not self._discarded:  # who gave up waiting may come again
                self.queue.appendleft(payload)
                self._wake()
            raise
        finally:
            if not self.queue or self.queue[0] is not payload:
                self.taken(len(payload))
        return None if self._discarded else plain

    def taken(self, size: int) -> None:
        """Give the window of a message back that was taken from ``queue``."""
        self._announced = False
        read = self._read_bytes = self._read_bytes + size + PREFIX_BYTES
        if read >= _REPORT_BYTES or not self.queue:
            self._read_bytes = 0
            engine = self._connection.engine
            engine.consumed(self._stream, read)
            if engine.queued_control:
                self._connection.kick()

    def _arrived(self) -> None:
        if self.queue:
            self._wake()
        else:
            self.expect()

    def expect(self) -> None:
        """Open the window for the rest of the message that is waited for."""
        missing = self._deframer.missing
        if missing and not self._announced:
            self._announced = True
            self._connection.engine.expect(self._stream, missing)
            self._connection.kick()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
