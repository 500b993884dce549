"""Which header blocks are malformed (RFC 9113 8.1.1 to 8.3): a fault of the stream, never of the connection.

Each check returns None, or the reason in words.
"""

from __future__ import annotations

from collections.abc import Iterable

from lbkit.http2.hpack import Field

# A field name is a token in lower case (RFC 9110 5.1, RFC 9113 8.2.1).
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"


def _bad_value(value: bytes) -> bool:
    """Whether a value holds NUL, CR or LF (RFC 9113 8.2.1). Bytes of 0x80 and above pass."""
    return b"\n" in value or b"\r" in value or b"\x00" in value  # faster than a regular expression


# Connection-specific fields have no meaning in HTTP/2 (RFC 9113 8.2.2).
_FORBIDDEN = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED = frozenset((b":method", b":scheme", b":path"))

_KNOWN_NAMES_MAX = 1024
_good_names: set[bytes] = set()  # names that passed; shared, bounded


def _check_name(name: bytes) -> str | None:
    if not name or name.translate(None, _TOKEN):
        return f"field name {name!r} is not a lower-case token"
    if name in _FORBIDDEN:
        return f"connection-specific field {name.decode()!r}"
    if name != b"te" and len(name) <= 64 and len(_good_names) < _KNOWN_NAMES_MAX:
        _good_names.add(name)
    return None


def _check_regular(name: bytes, value: bytes) -> str | None:
    if name not in _good_names and (reason := _check_name(name)):
        return reason
    if _bad_value(value):
        return f"value of {name.decode()!r} holds NUL, CR or LF"
    if name == b"te" and value != b"trailers":
        return "te is not 'trailers'"
    return None


def check_request(fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Check what opens a stream on a server (RFC 9113 8.3.1)."""
    pseudo: set[bytes] = set()
    regular = False
    for name, value in fields:
        if name[:1] != b":":
            regular = True
            if name in _good_names and not _bad_value(value):
                continue
            if reason := _check_regular(name, value):
                return reason
        elif regular:
            return f"pseudo-header {name!r} after a regular field"
        elif name in pseudo:
            return f"pseudo-header {name!r} twice"
        elif name not in _REQUEST_PSEUDO:
            return f"unknown pseudo-header {name!r}"
        elif _bad_value(value):
            return f"value of {name!r} holds NUL, CR or LF"
        else:
            pseudo.add(name)
    if not pseudo >= _REQUIRED:
        return f"pseudo-header {min(_REQUIRED - pseudo)!r} missing"
    return None


def check_response(fields: tuple[Field, ...]) -> str | None:
    """Check what opens a response on a client, informational ones included (RFC 9113 8.3.2)."""
    if not fields or fields[0][0] != b":status":
        return "no :status first"
    status = fields[0][1]
    if len(status) != 3 or not status.isdigit():
        return f":status is {status!r}"
    return check_trailers(fields[1:])


def check_trailers(fields: Iterable[Field]) -> str | None:
    """Check a trailer section, or the fields that follow a response's :status (RFC 9113 8.1)."""
    for name, value in fields:
        if name in _good_names and not _bad_value(value):
            continue
        if name[:1] == b":":
            return f"pseudo-header {name!r} where none belongs"
        if reason := _check_regular(name, value):
            return reason
    return None
