"""Length-prefixed messages: one flag byte, four bytes of length, the payload (PROTOCOL-HTTP2)."""

from __future__ import annotations

import struct

from lbkit.encoding.compressors import Encoding
from lbkit.http2.interface import Engine
from lbkit.http2.stream import Stream
from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault
from lbkit.wire.packing import Compressed, encoding_for

PREFIX_BYTES = 5
LARGE_BYTES = 32 * 1024  # from here on it costs less to send the prefix on its own than to copy the payload

# Buffers of large messages are used again: fresh memory has to be mapped page by page, which costs as much as all the
# copying (measured: 550 page faults for each message of 1 MiB, and 2600 instead of 1100 us of CPU).
_KEPT = 4
_KEPT_BYTES = 2 * 1024 * 1024
_kept: list[bytearray] = []
_pack = struct.Struct(">BL").pack
_unpack = struct.Struct(">BL").unpack_from


def frame_message(payload: bytes) -> bytes:
    """Return the payload behind its prefix, which tells whether it is compressed."""
    return _pack(type(payload) is Compressed, len(payload)) + payload  # the flag is 0 or 1


def send_message(engine: Engine, stream: Stream, payload: bytes, end: bool) -> bool:
    """Queue one message as ``Engine.send_data`` does."""
    size = len(payload)
    if size < LARGE_BYTES:
        return engine.send_data(stream, frame_message(payload), end)
    engine.send_data(stream, _pack(type(payload) is Compressed, size), False)
    return engine.send_data(stream, payload, end)


def whole_message(data: bytes) -> bytes | None:
    """Return the payload if ``data`` is exactly one uncompressed message, else None.

    The short way for what nearly every unary call is; everything else goes through ``OneMessage``.
    """
    if len(data) >= PREFIX_BYTES:
        flag, size = _unpack(data)
        if flag == 0 and size == len(data) - PREFIX_BYTES:
            return data[PREFIX_BYTES:]
    return None


class OneMessage:
    """Collects one message: the only one of a direction of a call, or one of a stream that comes in pieces.

    Args:
        limit: the largest payload accepted, in bytes; judged by the prefix, before anything is collected.
        violation: the code for no message, or more than one. The specification has UNIMPLEMENTED; on the client
            that would be taken for the server's word, so there it is INTERNAL, as in grpc-go.
        announced: the encoding that the peer compresses with; None if it must not.
    """

    __slots__ = (
        "_announced",
        "_buffer",
        "_encoding",
        "_head",
        "_limit",
        "_parts",
        "_size",
        "_violation",
        "expected",
    )

    def __init__(
        self,
        limit: int,
        violation: StatusCode = StatusCode.INTERNAL,
        announced: bytes | None = None,
    ) -> None:
        self.expected = 0  # bytes of payload, once the prefix is complete
        self._limit = limit
        self._violation = violation
        self._announced = announced
        self._encoding: Encoding | None = None  # of a compressed message
        self._head = b""  # the prefix, as far as it has come
        self._size = 0  # bytes of payload that have come
        self._parts: list[bytes] = []
        self._buffer: bytearray | None = None  # instead of parts, for a large message

    def feed(self, data: bytes) -> bool:
        """Take the next bytes of the stream. True when they completed the prefix: ``missing`` is known.

        Raises:
            WireFault: RESOURCE_EXHAUSTED for a message above the limit, INTERNAL for a flag that it must not have,
                the violation's code for bytes behind the message; the text says which.
        """
        begins = len(self._head) < PREFIX_BYTES
        if begins:
            missing = PREFIX_BYTES - len(self._head)
            self._head += data[:missing]
            data = data[missing:]
            if len(self._head) < PREFIX_BYTES:
                return False
            self._begin()
        if len(data) > self.missing:
            raise WireFault(self._violation, "more than one message where there must be one")
        if self._buffer is None:
            self._parts.append(data)
        else:
            self.room(len(data))[:] = data
        self._size += len(data)
        return begins

    @property
    def missing(self) -> int:
        """How many bytes the message still lacks, once its prefix is complete."""
        return self.expected - self._size

    @property
    def large(self) -> bool:
        """Whether there is a buffer to receive the message into."""
        return self._buffer is not None

    def room(self, length: int) -> memoryview:
        """Return where the next ``length`` bytes of a large message go; ``filled`` says that they are there."""
        buffer = self._buffer
        assert buffer is not None, "no large message"
        end = self._size + length
        if end > len(buffer):
            # Only as data comes, for until then the length of the message is a claim.
            buffer += bytes(max(end - len(buffer), min(self.expected, 2 * len(buffer)) - len(buffer)))
        return memoryview(buffer)[self._size : end]

    def filled(self, length: int) -> None:
        """Take note that what ``room`` gave is full."""
        self._size += length

    def finish(self) -> bytes:
        """Return the payload once the peer has ended its side; as a ``Compressed``, if it is.

        Raises:
            WireFault: the violation's code if there was no message, INTERNAL if there was only a part of one.
        """
        if not self._head:
            raise WireFault(self._violation, "no message where there must be one")
        if len(self._head) < PREFIX_BYTES or self.missing:
            raise WireFault(StatusCode.INTERNAL, "the stream ended in the middle of a message")
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            payload = b"".join(self._parts)
        else:
            payload = bytes(memoryview(buffer)[: self._size])
            if len(buffer) <= _KEPT_BYTES and len(_kept) < _KEPT:
                _kept.append(buffer)
        return payload if self._encoding is None else Compressed.of(payload, self._encoding)

    def _begin(self) -> None:
        """Judge the prefix."""
        flag, self.expected = _unpack(self._head)
        if flag:
            self._encoding = encoding_for(flag, self._announced)
        if self.expected > self._limit:
            raise WireFault(
                StatusCode.RESOURCE_EXHAUSTED,
                f"message of {self.expected} bytes is larger than the limit of {self._limit}",
            )
        if self.expected >= LARGE_BYTES:
            try:
                self._buffer = _kept.pop()
            except IndexError:  # not asked before: loops of other threads take from it too
                self._buffer = bytearray(LARGE_BYTES)
