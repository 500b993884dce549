"""Status on the wire: trailers, percent-encoding, and what stands in when there is no grpc-status."""

from __future__ import annotations

from lbkit.http2.frames import ErrorCode, error_name
from lbkit.status import BY_NUMBER, Status, StatusCode
from lbkit.wire.metadata import Field

OK = Status(StatusCode.OK)

# doc/http-grpc-status-mapping.md; everything else is UNKNOWN.
_HTTP = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    431: StatusCode.INTERNAL,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}

# PROTOCOL-HTTP2, "Errors"; everything else is INTERNAL.
_RESET = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}

# What stands for each byte of a grpc-message: itself, if it is printable ASCII other than "%".
_ENCODED = [
    bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in range(256)
]
_HEX_DIGITS = b"0123456789abcdefABCDEF"


def encode_details(details: str) -> bytes:
    """Percent-encode a text for grpc-message: UTF-8, all but printable ASCII, and ``%`` itself."""
    return b"".join([_ENCODED[byte] for byte in details.encode("utf-8", "replace")])


def decode_details(value: bytes) -> str:
    """Decode grpc-message; never fails: what is no escape stays as it is."""
    first, *parts = value.split(b"%")
    for part in parts:
        digits = part[:2]
        if len(digits) == 2 and not digits.translate(None, _HEX_DIGITS):
            first += bytes((int(digits, 16),)) + part[2:]
        else:
            first += b"%" + part
    return first.decode("utf-8", "replace")


def status_fields(status: Status) -> list[Field]:
    """Return the trailer fields of a status."""
    fields = [(b"grpc-status", b"%d" % status.code.number)]
    if status.details:
        fields.append((b"grpc-message", encode_details(status.details)))
    return fields


def status_of_trailers(fields: tuple[Field, ...]) -> Status | None:
    """Return the status that trailers carry, or None if they have no grpc-status."""
    number = details = None
    for name, value in fields:
        if name == b"grpc-status":
            number = value
        elif name == b"grpc-message":
            details = decode_details(value)
    if number is None:
        return None
    if number == b"0":
        return OK if not details else Status(StatusCode.OK, details)
    if not number.isdigit() or len(number) > 10:
        return Status(StatusCode.UNKNOWN, f"malformed grpc-status {number!r}")
    if int(number) >= len(BY_NUMBER):
        return Status(StatusCode.UNKNOWN, f"unknown grpc-status {int(number)}: {details or ''}")
    return Status(BY_NUMBER[int(number)], details or "")


def status_of_http(http_status: bytes, what: str) -> Status:
    """Return the status that stands in for an answer without grpc-status."""
    code = _HTTP.get(int(http_status), StatusCode.UNKNOWN)
    return Status(code, f"HTTP status {int(http_status)} and {what}")


def status_of_reset(error_code: int, reason: str) -> Status:
    """Return the status of a call whose stream was reset."""
    code = _RESET.get(error_code, StatusCode.INTERNAL)  # type: ignore[call-overload]  # an int finds its IntEnum
    return Status(code, reason or f"the stream was reset with {error_name(error_code)}")
