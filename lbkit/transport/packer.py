"""Compresses the messages that go out on one stream, in the order in which they are written."""

from __future__ import annotations

import asyncio

from lbkit.encoding.compressors import Encoding
from lbkit.transport.offload import Offload
from lbkit.wire.packing import INLINE_BYTES, pack


class MessagePacker:
    """One direction of a call that compresses.

    Args:
        loop: the call's event loop.
        offload: where large messages go.
        encoding: what is announced; None: messages stay as they are.

    Attributes:
        encoding: what is announced.
        busy: how many messages are on their way through a thread, or wait behind such a one.
        skip_next: the next message stays as it is.
    """

    __slots__ = ("_lock", "_loop", "_offload", "busy", "encoding", "skip_next")

    def __init__(self, loop: asyncio.AbstractEventLoop, offload: Offload, encoding: Encoding | None) -> None:
        self.encoding = encoding
        self.busy = 0
        self.skip_next = False
        self._loop = loop
        self._offload = offload
        self._lock: asyncio.Lock | None = None  # made for the first large message

    async def pack(self, payload: bytes, *, compress: bool = True) -> bytes:
        """Return the payload as it goes out. Who writes it without waiting for anything in between keeps the order.

        Raises:
            WireFault: INTERNAL, the compressor raised.
        """
        encoding = None if self.skip_next or not compress else self.encoding
        self.skip_next = False
        if not self.busy:
            if encoding is None:
                return payload
            if len(payload) <= INLINE_BYTES:
                return pack(payload, encoding)
        if self._lock is None:
            self._lock = asyncio.Lock()
        self.busy += 1
        try:
            async with self._lock:
                if encoding is None:
                    return payload
                if len(payload) <= INLINE_BYTES:
                    return pack(payload, encoding)
                return await self._offload.submit(self._loop, pack, payload, encoding)
        finally:
            self.busy -= 1
