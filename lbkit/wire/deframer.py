"""A stream of messages out of a stream of bytes, wherever the frames that those come in begin and end."""

from __future__ import annotations

import struct
from collections import deque

from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import PREFIX_BYTES, OneMessage

_unpack = struct.Struct(">BL").unpack_from


class Deframer:
    """Cuts the bytes of one direction of a streaming call into messages.

    Args:
        limit: the largest payload accepted, in bytes; judged by the prefix, before anything is collected.
        into: where payloads go, in order, as they become complete; those that are compressed as ``Compressed``.

    Attributes:
        announced: the encoding that the peer compresses with; None if it must not.
    """

    __slots__ = ("_into", "_limit", "_partial", "_rest", "announced")

    def __init__(self, limit: int, into: deque[bytes]) -> None:
        self.announced: bytes | None = None
        self._limit = limit
        self._into = into
        self._rest = b""  # the beginning of a prefix
        self._partial: OneMessage | None = None  # the message that has begun, behind its prefix

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            WireFault: RESOURCE_EXHAUSTED for a message above the limit, INTERNAL for a flag that it must not have.
                The messages before it have been delivered.
        """
        at = 0
        partial = self._partial
        if partial is not None:
            at = partial.missing
            partial.feed(data[:at])
            if partial.missing:
                return
            self._complete(partial)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        size, limit, into = len(data), self._limit, self._into
        while size - at >= PREFIX_BYTES:
            flag, length = _unpack(data, at)
            end = at + PREFIX_BYTES + length
            if end > size or flag or length > limit:
                partial = OneMessage(limit, announced=self.announced)
                partial.feed(data[at:end])  # judges the prefix
                if end > size:
                    self._partial = partial
                    return
                into.append(partial.finish())
            else:
                into.append(data[at + PREFIX_BYTES : end])
            at = end
        self._rest = data[at:]

    @property
    def missing(self) -> int:
        """How many bytes the message that has begun still lacks; 0 if none has."""
        return 0 if self._partial is None else self._partial.missing

    def room(self, length: int) -> memoryview | None:
        """Return where the next ``length`` bytes of a large message go; None if it is none."""
        partial = self._partial
        return None if partial is None or not partial.large else partial.room(length)

    def filled(self, length: int) -> None:
        """Take note that what ``room`` gave is full."""
        partial = self._partial
        assert partial is not None, "no message has begun"
        partial.filled(length)
        if not partial.missing:
            self._complete(partial)

    def finish(self) -> None:
        """Take note that the peer has ended its side.

        Raises:
            WireFault: INTERNAL, in the middle of a message.
        """
        if self._rest or self._partial is not None:
            raise WireFault(StatusCode.INTERNAL, "the stream ended in the middle of a message")

    def _complete(self, partial: OneMessage) -> None:
        self._partial = None
        self._into.append(partial.finish())
