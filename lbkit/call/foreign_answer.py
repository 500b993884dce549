"""What a client gets from a server that does not speak gRPC: an HTTP answer, of which people want to see the text."""

from __future__ import annotations

from typing import Protocol

from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.status import Status, StatusCode
from lbkit.transport.client import ClientConnection
from lbkit.wire.status import status_of_trailers

_SHOWN_BYTES = 1024


class Caller(Protocol):
    """The call that got the answer."""

    def answered_otherwise(self, status: Status) -> None:
        """Take this status for an attempt that failed, and reset the stream."""
        ...


class ForeignAnswer:
    """Takes a stream over from its call, and ends the call when the first kibibyte of the body is here."""

    __slots__ = ("_body", "_caller", "_connection", "_status", "_stream")

    def __init__(self, caller: Caller, connection: ClientConnection, stream: Stream, status: Status) -> None:
        self._caller = caller
        self._connection = connection
        self._stream = stream
        self._status = status
        self._body = b""

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Take trailers; a gRPC status in them counts more than the HTTP status, unless it says OK to this answer."""
        status = status_of_trailers(fields)
        if status is not None and status.code is not StatusCode.OK:
            self._status = status
        self._end()

    def data(self, data: bytes, end: bool) -> None:
        """Take a piece of the body."""
        self._body += data
        if end or len(self._body) >= _SHOWN_BYTES:
            self._end()
        else:
            self._connection.engine.consumed(self._stream, len(data))

    def data_buffer(self, length: int) -> memoryview | None:
        """Want none."""
        return None

    def filled(self, length: int, end: bool) -> None:
        """Never happens, for ``data_buffer`` gives nothing."""

    def reset(self, code: int, reason: str) -> None:
        """Make do with what is here."""
        self._end()

    def lost(self, reason: str) -> None:
        """Make do with what is here."""
        self._end()

    def writable(self) -> None:
        """Ignore: nobody reads the rest of the request."""

    def _end(self) -> None:
        code, details = self._status
        if self._body:
            details += ": " + self._body[:_SHOWN_BYTES].decode("utf-8", "replace")
        self._caller.answered_otherwise(Status(code, details))
