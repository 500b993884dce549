"""Length-prefixed messages: one flag byte, four bytes of length, the payload (PROTOCOL-HTTP2)."""

from __future__ import annotations

import struct

from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault

PREFIX_BYTES = 5
_pack = struct.Struct(">BL").pack
_unpack = struct.Struct(">BL").unpack_from


def frame_message(payload: bytes) -> bytes:
    """Return the payload behind its prefix, not compressed."""
    return _pack(0, len(payload)) + payload


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
    """Collects the single message of one direction of a unary call.

    Args:
        limit: the largest payload accepted, in bytes; judged by the prefix, before anything is collected.
    """

    __slots__ = ("_head", "_limit", "_parts", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head = b""  # the prefix, as far as it has come
        self._parts: list[bytes | bytearray] = []
        self._size = 0  # bytes in parts

    def feed(self, data: bytes) -> bool:
        """Take the next bytes of the stream. True when they completed the prefix: ``missing`` is known.

        Raises:
            WireFault: RESOURCE_EXHAUSTED for a message above the limit; INTERNAL for a compressed one or for
                bytes behind the message; the text says which.
        """
        begins = len(self._head) < PREFIX_BYTES
        if begins:
            missing = PREFIX_BYTES - len(self._head)
            self._head += data[:missing]
            data = data[missing:]
            if len(self._head) < PREFIX_BYTES:
                return False
            flag, size = _unpack(self._head)
            if flag:
                raise WireFault(
                    StatusCode.INTERNAL, f"message flag {flag}, but no grpc-encoding was agreed on"
                )
            if size > self._limit:
                raise WireFault(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"message of {size} bytes is larger than the limit of {self._limit}",
                )
        self._size += len(data)
        self._parts.append(data)
        if self._size > self._expected:
            raise WireFault(StatusCode.INTERNAL, "more than one message in a unary call")
        return begins

    @property
    def missing(self) -> int:
        """How many bytes the message still lacks, once its prefix is complete."""
        return self._expected - self._size

    def room(self, length: int) -> memoryview:
        """Return where the next ``length`` of the missing bytes go; ``filled`` says that they are there."""
        part = bytearray(length)  # not the whole message: until it comes, its length is only a claim
        self._parts.append(part)
        return memoryview(part)

    def filled(self, length: int) -> None:
        """Take note that what ``room`` gave is full."""
        self._size += length

    def finish(self) -> bytes:
        """Return the payload once the peer has ended its side.

        Raises:
            WireFault: INTERNAL if there was no message or only a part of one.
        """
        if not self._head:
            raise WireFault(StatusCode.INTERNAL, "no message in a unary call")
        if len(self._head) < PREFIX_BYTES or self._size < self._expected:
            raise WireFault(StatusCode.INTERNAL, "the stream ended in the middle of a message")
        return b"".join(self._parts)

    @property
    def _expected(self) -> int:
        size: int = _unpack(self._head)[1]
        return size
