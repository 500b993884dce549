"""Messages that are compressed: which flags they may have, and how they are packed and unpacked (compression.md)."""

from __future__ import annotations

from typing import Self

from lbkit.encoding.compressors import IDENTITY, Encoding, known
from lbkit.errors import OversizedDataError
from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault

COMPRESSED = 1  # the flag of a compressed message; 0 of one that is not; there are no others

# What takes longer than this many bytes do is not for the event loop: a few hundred microseconds.
INLINE_BYTES = 64 * 1024

# A compressed payload above this is likely to become more than that: trying would be a waste.
_SMALL_BYTES = INLINE_BYTES // 4

_IDENTITY = IDENTITY.encode()


class Compressed(bytes):
    """A payload as its compressor left it; ``frame_message`` and ``send_message`` give it the flag."""

    encoding: Encoding
    plain_bytes: int  # its size before, where that was done here

    @classmethod
    def of(cls, data: bytes, encoding: Encoding) -> Self:
        """Mark data that was compressed."""
        made = cls(data)
        made.encoding = encoding
        return made


def plain_size(payload: bytes) -> int:
    """Return the size of a payload that goes out, in bytes before it was compressed."""
    return payload.plain_bytes if isinstance(payload, Compressed) else len(payload)


def encoding_for(flag: int, name: bytes | None) -> Encoding:
    """Return what a message with a flag other than 0 is compressed with.

    Args:
        flag: the message's.
        name: the encoding that the peer announced; None if it announced none.

    Raises:
        WireFault: INTERNAL, there is no such flag, no encoding was announced, or one that is not known here.
    """
    if flag != COMPRESSED:
        raise WireFault(StatusCode.INTERNAL, f"message flag {flag}, which means nothing")
    if name is None:
        raise WireFault(StatusCode.INTERNAL, f"message flag {flag}, but no grpc-encoding was agreed on")
    text = name.decode("latin-1")
    encoding = known(text)
    if encoding is None:
        what = f"a message is compressed with {text!r}, which is not known here"
        raise WireFault(StatusCode.INTERNAL, what)
    return encoding


def pack(payload: bytes, encoding: Encoding) -> bytes:
    """Compress a payload; return it as it is if it is empty, or would not get smaller.

    Raises:
        WireFault: INTERNAL, the compressor raised; says what.
    """
    if not payload:
        return payload
    try:
        packed = Compressed.of(encoding.compressor.compress(payload), encoding)
        packed.plain_bytes = len(payload)
    except Exception as error:  # whatever a stranger's compressor raises
        text = f"compressor {encoding.name!r} raised {type(error).__name__}: {error}"
        raise WireFault(StatusCode.INTERNAL, text) from error
    return packed if len(packed) < len(payload) else payload


def unpack(payload: Compressed, limit: int) -> bytes:
    """Decompress a payload.

    Raises:
        WireFault: RESOURCE_EXHAUSTED above the limit, INTERNAL if this is not what its compressor made.
    """
    name = payload.encoding.name
    try:
        plain = payload.encoding.compressor.decompress(payload, limit)
        size = len(plain)
    except OversizedDataError as error:
        text = f"a message compressed with {name!r}: {error}"
        raise WireFault(StatusCode.RESOURCE_EXHAUSTED, text) from None
    except Exception as error:  # whatever a stranger's compressor raises
        text = f"a message compressed with {name!r} cannot be decompressed: {type(error).__name__}: {error}"
        raise WireFault(StatusCode.INTERNAL, text) from None
    if size > limit:
        text = f"a message compressed with {name!r}: of {size} bytes, above the limit of {limit}"
        raise WireFault(StatusCode.RESOURCE_EXHAUSTED, text)
    return plain


def unpack_small(payload: Compressed, limit: int) -> bytes | None:
    """Decompress a payload if that is quick; else return None. Raises what ``unpack`` does."""
    if len(payload) > _SMALL_BYTES:
        return None
    try:
        return unpack(payload, min(limit, INLINE_BYTES))
    except WireFault as fault:
        if fault.code is StatusCode.RESOURCE_EXHAUSTED and limit > INLINE_BYTES:
            return None
        raise


def encoding_in(fields: tuple[tuple[bytes, bytes], ...] | None) -> bytes | None:
    """Return the ``grpc-encoding`` of a header list; None if there is none, or if that is ``identity``."""
    for name, value in fields or ():
        if name == b"grpc-encoding":
            return None if value == _IDENTITY else value
    return None


def accepts(fields: tuple[tuple[bytes, bytes], ...], encoding: Encoding) -> bool:
    """Whether a peer lists an encoding in its ``grpc-accept-encoding``: it is sent no other."""
    wanted = encoding.field[1]
    return any(
        name == b"grpc-accept-encoding" and wanted in [each.strip() for each in value.split(b",")]
        for name, value in fields
    )
