"""Status on the wire: trailers, percent-encoding, and what stands in when there is no grpc-status."""

from __future__ import annotations

import re

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

_unsafe = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_escape = re.compile(rb"%([0-9A-Fa-f]{2})")


def encode_details(details: str) -> bytes:
    """Percent-encode a text for grpc-message: UTF-8, all but printable ASCII, and ``%`` itself."""
    return _unsafe.sub(lambda match: b"%%%02X" % match[0][0], details.encode("utf-8", "replace"))


def decode_details(value: bytes) -> str:
    """Decode grpc-message; never fails: what is no escape stays as it is."""
    raw = _escape.sub(lambda match: bytes((int(match[1], 16),)), value)
    return raw.decode("utf-8", "replace")


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
