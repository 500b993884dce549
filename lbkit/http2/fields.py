"""Which header blocks are malformed (RFC 9113 8.1.1 to 8.3): a fault of the stream, never of the connection.

A content-length that the content does not keep to is found later, while the content comes (RFC 9113 8.1.1).
"""

from __future__ import annotations

from collections.abc import Iterable

from lbkit.http2.hpack import Field
from lbkit.http2.stream import NO_LENGTH

# A field name is a token in lower case (RFC 9110 5.1, RFC 9113 8.2.1).
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"


def _bad_value(value: bytes) -> bool:
    """Whether a value holds NUL, CR or LF (RFC 9113 8.2.1). Bytes of 0x80 and above pass."""
    # By number: asked for b"\n", CPython first fails to make a number of that, which takes six times as long.
    return 10 in value or 13 in value or 0 in value


# Connection-specific fields have no meaning in HTTP/2 (RFC 9113 8.2.2).
_FORBIDDEN = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED = frozenset((b":method", b":scheme", b":path"))
_JUDGED_BY_VALUE = frozenset((b"te", b"content-length"))
_WITHOUT_CONTENT = frozenset((b"204", b"304"))
_LENGTH_DIGITS = 18

_KNOWN_NAMES_MAX = 1024
_good_names: set[bytes] = set()  # names that passed; shared, bounded


class MalformedError(Exception):
    """A header block that must not be taken for a message; the text says why."""


def _check_name(name: bytes) -> None:
    if not name or name.translate(None, _TOKEN):
        raise MalformedError(f"field name {name!r} is not a lower-case token")
    if name in _FORBIDDEN:
        raise MalformedError(f"connection-specific field {name.decode()!r}")
    if name not in _JUDGED_BY_VALUE and len(name) <= 64 and len(_good_names) < _KNOWN_NAMES_MAX:
        _good_names.add(name)


def _check_regular(name: bytes, value: bytes, length: int) -> int:
    """Check a field that is not known to be good; return the content-length so far."""
    if name not in _good_names:
        _check_name(name)
    if _bad_value(value):
        raise MalformedError(f"value of {name.decode()!r} holds NUL, CR or LF")
    if name == b"te" and value != b"trailers":
        raise MalformedError("te is not 'trailers'")
    if name != b"content-length":
        return length
    if not value.isdigit() or len(value) > _LENGTH_DIGITS or length not in (NO_LENGTH, int(value)):
        raise MalformedError(f"content-length is {value[:40]!r}")
    return int(value)


def check_request(fields: Iterable[Field]) -> int:
    """Check what opens a stream on a server (RFC 9113 8.3.1); return its content-length, or ``NO_LENGTH``.

    Raises:
        MalformedError: it is malformed.
    """
    pseudo: set[bytes] = set()
    regular = False
    length = NO_LENGTH
    for name, value in fields:
        if name[:1] != b":":
            regular = True
            if name not in _good_names or _bad_value(value):
                length = _check_regular(name, value, length)
        elif regular:
            raise MalformedError(f"pseudo-header {name!r} after a regular field")
        elif name in pseudo:
            raise MalformedError(f"pseudo-header {name!r} twice")
        elif name not in _REQUEST_PSEUDO:
            raise MalformedError(f"unknown pseudo-header {name!r}")
        elif _bad_value(value):
            raise MalformedError(f"value of {name!r} holds NUL, CR or LF")
        elif not value and name == b":path":
            raise MalformedError("':path' is empty")
        else:
            pseudo.add(name)
    if not pseudo >= _REQUIRED:
        raise MalformedError(f"pseudo-header {min(_REQUIRED - pseudo)!r} missing")
    return length


def check_response(fields: tuple[Field, ...]) -> int:
    """Check what opens a response on a client, informational ones included; return as ``check_request``.

    Raises:
        MalformedError: it is malformed (RFC 9113 8.3.2).
    """
    if not fields or fields[0][0] != b":status":
        raise MalformedError("no :status first")
    status = fields[0][1]
    if len(status) != 3 or not status.isdigit() or status == b"101":  # no upgrades: RFC 9113 8.6
        raise MalformedError(f":status is {status!r}")
    length = check_trailers(fields[1:])
    # These have no content, whatever length the same answer would have with one (RFC 9110 6.4.1).
    return NO_LENGTH if status in _WITHOUT_CONTENT else length


def check_trailers(fields: Iterable[Field]) -> int:
    """Check a trailer section, or the fields that follow a response's :status; return as ``check_request``.

    Raises:
        MalformedError: it is malformed (RFC 9113 8.1).
    """
    length = NO_LENGTH
    for name, value in fields:
        if name in _good_names and not _bad_value(value):
            continue
        if name[:1] == b":":
            raise MalformedError(f"pseudo-header {name!r} where none belongs")
        if name == b"te":  # belongs in requests only: RFC 9113 8.2.2
            raise MalformedError("te where none belongs")
        length = _check_regular(name, value, length)
    return length
