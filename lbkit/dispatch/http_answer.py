"""What somebody gets who asks a gRPC server for a web page: an HTTP answer with the reason in words."""

from __future__ import annotations

from lbkit.http2.hpack import Field
from lbkit.http2.stream import NULL_SINK, Stream
from lbkit.status import Status
from lbkit.transport.server import ServerConnection
from lbkit.wire.requests import RequestRefused
from lbkit.wire.status import status_fields


class HttpAnswer:
    """The sink of a stream whose request is not gRPC's; says so when the request has ended, as HTTP servers do.

    A gRPC status goes with it, for who looks.
    """

    __slots__ = ("_connection", "_refused", "_stream")

    def __init__(self, connection: ServerConnection, stream: Stream, refused: RequestRefused) -> None:
        self._connection = connection
        self._stream = stream
        self._refused = refused

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Answer: trailers end a request."""
        self._answer()

    def data(self, data: bytes, end: bool) -> None:
        """Drop it; answer at the end."""
        if end:
            self._answer()
        else:
            self._connection.engine.consumed(self._stream, len(data))

    def data_buffer(self, length: int) -> memoryview | None:
        """Want none."""
        return None

    def filled(self, length: int, end: bool) -> None:
        """Never happens."""

    def reset(self, code: int, reason: str) -> None:
        """Forget it."""

    def lost(self, reason: str) -> None:
        """Forget it."""

    def writable(self) -> None:
        """Do nothing: the answer has been queued, and is all there is."""

    def _answer(self) -> None:
        refused, engine, stream = self._refused, self._connection.engine, self._stream
        stream.sink = NULL_SINK
        fields = [
            (b":status", b"%d" % refused.http_status),
            (b"content-type", b"text/plain; charset=utf-8"),
            *refused.fields,
            *status_fields(Status(refused.code, refused.details)),
        ]
        engine.send_headers(stream, None, fields, refused.to_head)
        if not refused.to_head:
            engine.send_data(stream, f"This is a gRPC server. Refused: {refused.details}.\n".encode(), True)
        self._connection.kick()
