"""A streaming call on the client: what moves its messages. Applications hold one of the objects of ``handles``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Self

from lbkit.call.attempts import Attempts
from lbkit.call.base import Call, CallOptions
from lbkit.call.packing import pack_request, unpack_response
from lbkit.call.record import wake
from lbkit.encoding.compressors import Encoding
from lbkit.http2.stream import Stream
from lbkit.status import Status, StatusCode
from lbkit.transport.client import ClientConnection
from lbkit.transport.packer import MessagePacker
from lbkit.transport.reader import MessageReader
from lbkit.transport.writer import MessageWriter
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import send_message
from lbkit.wire.packing import Compressed, plain_size
from lbkit.wire.status import OK

if TYPE_CHECKING:
    from lbkit.call.multicallable import MultiCallable

# A server that refuses a call unseen gets it somewhere else, if what was written so far is kept: up to this many
# bytes, and until the server begins to answer (gRFC A6; the figure is grpc-go's).
_BACKLOG_BYTES = 256 * 1024


class StreamingCall(Call):
    """One running call with a stream of messages in one direction or both.

    Args:
        method: which method.
        options: what the application said.
        request: the only request; None if there is a stream of them.
        one_response: the server must answer with one message.

    Raises:
        MetadataError: the metadata must not go on the wire.
    """

    def __init__(
        self, method: MultiCallable, options: CallOptions, request: bytes | None, *, one_response: bool
    ) -> None:
        self.reader: MessageReader | None = None  # there while the call is on a connection, and afterwards
        self._writer: MessageWriter | None = None
        self._one_response = one_response
        self._response: Any = None
        self._request = request
        self._backlog: list[bytes] | None = []  # what was written; None when it cannot be repeated any more
        self._backlog_bytes = 0
        self._half_closed = request is not None
        self._opened: list[asyncio.Future[None]] = []  # those who wait for a connection
        self._feeder: asyncio.Task[None] | None = None
        self._packer: MessagePacker | None = None  # if requests are compressed
        self._ending = False  # no more requests come, but some are still being compressed
        super().__init__(method, options, len(request or b""))

    # For the handles

    async def wait_for_connection(self) -> None:
        """Wait until the request's headers are on their way to a backend, or raise what the call ended with."""
        if self._status is None and self.reader is None:
            await self._connected()
        self.raise_for_status()

    async def read(self) -> bytes | None:
        """Return the next response, not parsed; None at the end. Who gives up waiting cancels the call.

        Raises:
            RpcError: the response cannot be decompressed; the call ends with that.
        """
        try:
            while True:
                reader = self.reader
                if reader is not None:
                    payload = await reader.read()
                    if payload is not None or reader is self.reader:
                        return payload  # else the call has moved to another connection meanwhile
                elif self._status is not None:
                    return None
                else:
                    await self._connected()
        except asyncio.CancelledError:
            self.cancel()
            raise
        except WireFault as fault:
            self._useless(Status(fault.code, fault.details))
            return None

    async def write(self, payload: bytes, *, compress: bool = True) -> None:
        """Send a request message, as soon as there is room for it. Returns without, if the call is over."""
        if self._request_limit is not None and len(payload) > self._request_limit:
            self.break_off(self.too_large(len(payload)))
            return
        if self._packer is not None and self._status is None:
            payload = await self._packed(self._packer, payload, compress=compress)
        if self._status is not None:
            return
        if self._backlog is not None:
            self._backlog.append(payload)
            self._backlog_bytes += len(payload)
        elsewhere = self._retries is not None and self._retries.wrote(payload)
        writer = self._writer
        try:
            if writer is None and not elsewhere:
                await self._connected()
            else:
                self._shorten_backlog()
                if writer is not None and not writer.write(payload):
                    await writer.drain()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._ending:
            self.done_writing()

    def done_writing(self) -> None:
        """End the stream of requests."""
        if self._packer is not None:
            self._ending = self._packer.busy > 0
            if self._ending:
                return
        if not self._half_closed:
            self._half_closed = True
            if self._writer is not None and self._status is None:
                self._writer.end()
            if self._retries is not None:
                self._retries.done_writing()

    @property
    def half_closed(self) -> bool:
        """Whether no more requests may be written."""
        return self._half_closed or self._ending

    async def response(self) -> Any:
        """Wait for the only response."""
        if self._status is None:
            try:
                await self.ending()
            except asyncio.CancelledError:
                self.cancel()
                raise
        self.raise_for_status()
        return self._response

    def take(self, payload: bytes) -> Any:
        """Parse a response that was read.

        Raises:
            RpcError: INTERNAL, it cannot be parsed; the call ends with that.
        """
        status, response = self.parse(payload)
        if status is not OK:
            self._useless(status)
        return response

    def _useless(self, status: Status) -> None:
        self._discard()
        self.break_off(status)
        self.spoil(status)
        self.raise_for_status()

    def feed(self, requests: Any) -> None:
        """Write what an iterator gives, in a task that ends with the call."""
        self._feeder = self._channel.loop.create_task(self._feed(requests))

    async def _feed(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        serialize = self._method.serialize
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self.write(serialize(request))
                    if self._status is not None:
                        break
            else:
                for request in requests:
                    await self.write(serialize(request))
                    if self._status is not None:
                        break
            self.done_writing()
        except asyncio.CancelledError:
            # The call is over; or something that the iterator waited for was cancelled.
            self.cancel()
            raise
        except Exception as error:  # whatever the application's iterator or serialiser raises
            text = f"the iterator of requests raised {type(error).__name__}: {error}"
            self.break_off(Status(StatusCode.UNKNOWN, text))
        finally:
            # Left in the middle: its ``finally`` must not wait for the collector.
            if inspect.isasyncgen(requests):
                await requests.aclose()

    # The stream's sink

    def data(self, data: bytes, end: bool) -> None:
        """Take a piece of the responses."""
        reader = self._reader
        try:
            reader.feed(data)
        except WireFault as fault:
            self.break_off(Status(fault.code, fault.details))
            return
        if self._one_response:
            self._look_at_single(reader)
        if end:
            self._end_without_trailers()

    def data_buffer(self, length: int) -> memoryview | None:
        """Have a part of a large response received in place."""
        return self._reader.room(length)

    def filled(self, length: int, end: bool) -> None:
        """Take note of a part received in place."""
        self._reader.filled(length)
        if end:
            self._end_without_trailers()

    def writable(self) -> None:
        """Let writers go on."""
        if self._writer is not None:
            self._writer.writable()

    # Inside

    @property
    def _reader(self) -> MessageReader:
        assert self.reader is not None, "a stream without a reader"
        return self.reader

    def _look_at_single(self, reader: MessageReader) -> None:
        if len(reader.queue) > 1:
            self.break_off(Status(StatusCode.INTERNAL, "more than one message in a unary response"))
        else:
            reader.expect()

    def _largest_request(self) -> int:
        return max(map(plain_size, [self._request or b"", *(self._backlog or ())]))

    def packed(self, request: bytes) -> None:
        """Set off with the only request, which is compressed now."""
        self._request = request
        self._set_off()

    def _compress(self, encoding: Encoding) -> None:
        if self._request is not None:
            pack_request(self, self._request, encoding)
            return
        self._packer = MessagePacker(self._channel.loop, self.offload, encoding)
        self._set_off()

    async def _packed(self, packer: MessagePacker, payload: bytes, *, compress: bool) -> bytes:
        try:
            return await packer.pack(payload, compress=compress)
        except asyncio.CancelledError:
            self.cancel()
            raise
        except WireFault as fault:
            self.break_off(Status(fault.code, fault.details))
            return payload

    def _announced(self, encoding: bytes) -> None:
        self._reader.announce(encoding)

    def _send(self, connection: ClientConnection, stream: Stream) -> None:
        self.reader = MessageReader(connection, stream, self._response_limit)
        if self._request is not None:
            send_message(connection.engine, stream, self._request, True)
        else:
            writer = self._writer = MessageWriter(connection, stream)
            for payload in self._backlog or ():
                writer.write(payload)
            if self._half_closed:
                writer.end()
            self._shorten_backlog()
        self._wake_opened()

    def _shorten_backlog(self) -> None:
        if self._backlog is None:
            return
        if self._head is not None:
            self._backlog = None
        elif self._backlog_bytes > _BACKLOG_BYTES:
            self._backlog = None
            if self._retries is not None:
                self._retries.overflowed()

    def _repeatable(self) -> bool:
        if self._backlog is None:
            return False
        # Who writes or reads waits for the next connection.
        reader, self.reader = self.reader, None
        writer, self._writer = self._writer, None
        if reader is not None:
            reader.close()
        if writer is not None:
            writer.close()
        return True

    def _response_status(self) -> Status | asyncio.Future[bytes]:
        try:
            self._reader.end()
        except WireFault as fault:
            return Status(fault.code, fault.details)
        if not self._one_response:
            return OK
        if not self._reader.queue:
            return Status(StatusCode.INTERNAL, "no message in a unary response")
        payload = self._reader.queue.popleft()
        if type(payload) is Compressed:
            try:
                plain = unpack_response(self, payload, self._response_limit)
            except WireFault as fault:
                return Status(fault.code, fault.details)
            if not isinstance(plain, bytes):
                return plain
            payload = plain
        status, self._response = self.parse(payload)
        return status

    def _discard(self) -> None:
        if self.reader is not None:
            self.reader.close(discard=True)

    def _over(self) -> None:
        if self.reader is not None:
            self.reader.close()
        if self._writer is not None:
            self._writer.close()
        if self._feeder is not None and self._feeder is not asyncio.current_task():
            self._feeder.cancel()
        self._wake_opened()

    async def _connected(self) -> None:
        """Wait until the call is on a connection, or over."""
        waiter = self._channel.loop.create_future()
        self._opened.append(waiter)
        await waiter

    def _wake_opened(self) -> None:
        waiters = self._opened.copy()
        self._opened.clear()  # the same list as that of its twins: whichever attempt gets on a connection
        for waiter in waiters:
            wake(waiter)

    # As, and with, a twin

    def twin(self) -> Self:
        """Return what makes another attempt, with what was written so far."""
        twin = super().twin()
        twin.reader = twin._writer = twin._feeder = None
        twin._backlog = list(self._backlog or ())
        return twin

    def adopt(self, twin: Attempts) -> None:
        """Go on with the attempt of a twin."""
        assert isinstance(twin, StreamingCall), "a twin is of its call's kind"
        super().adopt(twin)
        self.reader, self._writer = twin.reader, twin._writer
        twin.reader = twin._writer = None
        self._wake_opened()

    def mirror(self, payload: bytes) -> None:
        """Send a request that was written to the call that this one is a twin of. Bounded by that one's backlog."""
        if self._backlog is not None:
            self._backlog.append(payload)
        if self._writer is not None:
            self._writer.write(payload)

    def mirror_end(self) -> None:
        """End its requests."""
        self._half_closed = True
        if self._writer is not None:
            self._writer.end()
