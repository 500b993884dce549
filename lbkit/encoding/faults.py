"""What compressors say of data that they cannot decompress."""

from __future__ import annotations

from lbkit.errors import CorruptDataError, OversizedDataError


def oversized(limit: int) -> OversizedDataError:
    """Return the error for more data than allowed."""
    return OversizedDataError(f"decompressed, it is larger than the limit of {limit} bytes")


def cut_short() -> CorruptDataError:
    """Return the error for data without its end."""
    return CorruptDataError("the compressed data ends too early")


def behind_the_end(count: int) -> CorruptDataError:
    """Return the error for data that goes on."""
    return CorruptDataError(f"{count} bytes behind the end of the compressed data")
