"""A unary call on the client."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from lbkit.call.base import Call, CallOptions
from lbkit.call.packing import pack_request, unpack_response
from lbkit.encoding.compressors import Encoding
from lbkit.http2.stream import Stream
from lbkit.status import Status, StatusCode
from lbkit.transport.client import ClientConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import OneMessage, send_message, whole_message
from lbkit.wire.packing import Compressed, encoding_in, plain_size
from lbkit.wire.status import OK

if TYPE_CHECKING:
    from lbkit.call.multicallable import MultiCallable


class UnaryUnaryCall(Call):
    """One running call; what a unary multicallable returns. ``await`` it for the response.

    It starts when it is made. It may be awaited several times, by several tasks; cancelling a task that awaits it
    cancels the call. The accessors are those of ``grpc.aio.UnaryUnaryCall``.
    """

    __slots__ = ("_message", "_parts", "_request", "_response")

    def __init__(self, method: MultiCallable, request: bytes, options: CallOptions) -> None:
        """Start a call. Made by multicallables, not by applications.

        Raises:
            MetadataError: the metadata must not go on the wire.
        """
        self._message: bytes | None = None  # the response, if it came in one piece
        self._parts: OneMessage | None = None  # and if it did not
        self._response: Any = None
        self._request = request
        Call.__init__(self, method, options, len(request))

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the response.

        Raises:
            RpcError: the call ended with a status other than OK.
            CancelledError: the call was cancelled with ``cancel()``, or the awaiting task was.
        """
        if self._status is None:
            try:
                yield from self.ending()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._status is not OK:
            self.raise_for_status()
        return self._response

    # The stream's sink

    def data(self, data: bytes, end: bool) -> None:
        """Take a piece of the response message."""
        if self._parts is None and self._message is None:
            message = whole_message(data)
            if message is not None and len(message) <= self._response_limit:
                self._message = message
                data = b""
            else:
                self._parts = OneMessage(self._response_limit, announced=encoding_in(self._head))
        if data:
            self._collect(data)
        if end:
            self._end_without_trailers()

    def data_buffer(self, length: int) -> memoryview | None:
        """Have a part of a large response received in place."""
        return None if self._parts is None else self._parts.room(length)

    def filled(self, length: int, end: bool) -> None:
        """Take note of a part received in place."""
        if self._parts is not None:
            self._parts.filled(length)
        self._consumed(length)
        if end:
            self._end_without_trailers()

    # Inside

    def packed(self, request: bytes) -> None:
        """Set off with the request, which is compressed now."""
        self._request = request
        self._set_off()

    def _compress(self, encoding: Encoding) -> None:
        pack_request(self, self._request, encoding)

    def _largest_request(self) -> int:
        return plain_size(self._request)

    def _send(self, connection: ClientConnection, stream: Stream) -> None:
        send_message(connection.engine, stream, self._request, True)

    def _collect(self, data: bytes) -> None:
        """Put a response together that comes in pieces."""
        if self._parts is None:
            self.break_off(Status(StatusCode.INTERNAL, "more than one message in a unary response"))
            return
        try:
            begins = self._parts.feed(data)
        except WireFault as fault:
            self.break_off(Status(fault.code, fault.details))
        else:
            if begins and self._connection is not None and self._stream is not None:
                self._connection.engine.expect(self._stream, self._parts.missing)
            self._consumed(len(data))

    def _consumed(self, length: int) -> None:
        """Give the server window for more."""
        if self._connection is not None and self._stream is not None:
            self._connection.engine.consumed(self._stream, length)

    def _response_status(self) -> Status | asyncio.Future[bytes]:
        message = self._message
        try:
            if message is None:
                # Without a single byte of a message, finish() says so.
                message = (self._parts or OneMessage(0)).finish()
                if type(message) is Compressed:
                    plain = unpack_response(self, message, self._response_limit)
                    if not isinstance(plain, bytes):
                        return plain
                    message = plain
        except WireFault as fault:
            return Status(fault.code, fault.details)
        status, self._response = self.parse(message)
        return status
