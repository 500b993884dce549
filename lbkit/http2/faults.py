"""What a peer can do wrong: a fault of one stream, or of the whole connection (RFC 9113 5.4)."""

from __future__ import annotations

from lbkit.http2.frames import ErrorCode, error_name


class ConnectionFault(Exception):
    """The connection cannot go on; the engine answers with GOAWAY and takes no more input."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(f"{error_name(code)}: {text}")
        self.code = code
        self.text = text


class NotHttp2(ConnectionFault):
    """What the peer sent first is not HTTP/2 at all.

    Attributes:
        http1: whether it is a request of HTTP/1.
    """

    def __init__(self, text: str, *, http1: bool = False) -> None:
        super().__init__(ErrorCode.PROTOCOL_ERROR, text)
        self.http1 = http1
