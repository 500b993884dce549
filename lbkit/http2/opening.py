"""How a connection begins, and what becomes of somebody who does not speak HTTP/2 (RFC 9113 3.4)."""

from __future__ import annotations

from lbkit.http2.faults import NotHttp2
from lbkit.http2.frames import ACK, DEFAULT_FRAME_SIZE, PREFACE, SETTINGS, unpack_header

_SHOWN = 60  # bytes of a stranger's first words that go into a message

# How TLS begins (RFC 8446 5.1), and what its servers answer to who does not speak it.
_TLS_ALERT, _TLS_HANDSHAKE = b"\x15", b"\x16\x03"

# GOAWAY may be left out; to who speaks HTTP/1.1 we say what is wrong in its own language.
_HTTP1_METHODS = (
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
)
_HTTP1_TEXT = b"This port speaks gRPC over HTTP/2 with prior knowledge; HTTP/1.1 is not served.\n"
HTTP1_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_HTTP1_TEXT), _HTTP1_TEXT)
)


def check_preface(data: bytes) -> bool:
    """Look at the first bytes that a client sent; return whether its preface is complete.

    Raises:
        NotHttp2: it is something else.
    """
    if data[: len(PREFACE)] == PREFACE[: len(data)]:
        return len(data) >= len(PREFACE)
    if any(method.startswith(data) for method in _HTTP1_METHODS):
        return False  # a request of HTTP/1, most likely; the next bytes will tell
    raise NotHttp2(_strange(data), http1=data.startswith(_HTTP1_METHODS))


def check_first_frame(data: bytes) -> bool:
    """Look at the bytes that must be a SETTINGS frame; return whether its header is complete.

    Raises:
        NotHttp2: it is something else.
    """
    if len(data) < 9:
        # The first two bytes of a length up to 16 384.
        if data[:1] > b"\x00" or data[1:2] > b"\x40":
            raise NotHttp2(_strange(data))
        return False
    high, low, kind, flags, stream_id = unpack_header(data)
    if kind != SETTINGS or flags & ACK or stream_id or high << 8 | low > DEFAULT_FRAME_SIZE:
        raise NotHttp2(_strange(data))
    return True


def _strange(data: bytes) -> str:
    text = f"the peer does not speak HTTP/2; it began with {data[:_SHOWN]!r}"
    if data[:1] == _TLS_ALERT:
        return f"{text}, a TLS alert: it expects TLS, use tls="
    if data[:2] == _TLS_HANDSHAKE:
        return f"{text}, a TLS handshake: this port has no tls="
    return text
