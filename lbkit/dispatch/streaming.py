"""Streaming calls on the server: what is added to a unary one for a stream of requests, of responses, or both."""

from __future__ import annotations

from typing import Any, Self

from lbkit.ambient import serving
from lbkit.dispatch.call import ServerCall, unparsed
from lbkit.eof import EOF
from lbkit.errors import UsageError
from lbkit.http2.hpack import Field
from lbkit.service import Handler
from lbkit.transport.reader import MessageReader
from lbkit.transport.writer import MessageWriter
from lbkit.wire.faults import WireFault
from lbkit.wire.requests import RequestHead


class StreamUnaryCall(ServerCall):
    """A call with a stream of requests; the handler runs from the headers on."""

    _reader: MessageReader

    def begin(self, head: RequestHead, handler: Handler, end: bool) -> None:
        """Run the handler, unless the deadline has passed."""
        self._reader = MessageReader(self._connection, self._stream, self._dispatcher.max_request_bytes)
        if head.encoding is not None:
            self._reader.announce(head.encoding)
        super().begin(head, handler, end)
        if not self._over:
            self._start(self._run(_Requests(self)))

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Take the end of the requests."""
        self._end_requests()

    def data(self, data: bytes, end: bool) -> None:
        """Take a piece of the requests. What is wrong with them, the handler gets to know when it reads."""
        if self._reader.ended:
            return
        try:
            self._reader.feed(data)
        except WireFault as fault:
            self._reader.fail(fault)
            return
        if end:
            self._end_requests()

    def data_buffer(self, length: int) -> memoryview | None:
        """Have a part of a large request received in place."""
        return self._reader.room(length)

    def filled(self, length: int, end: bool) -> None:
        """Take note of a part received in place."""
        self._reader.filled(length)
        if end:
            self._end_requests()

    async def read(self) -> Any:
        """Wait for the next request."""
        payload = await self._reader.read()
        if payload is not None:
            return self.parse(payload)
        if self._over:
            raise UsageError("the call is over: no request can be read")
        return EOF

    def parse(self, payload: bytes) -> Any:
        """Return a request that was read.

        Raises:
            WireFault: INTERNAL, it cannot be parsed.
        """
        try:
            return self._handler.deserialize(payload)
        except Exception as error:  # whatever a deserialiser raises
            raise WireFault(*unparsed(error)) from error

    @property
    def reader(self) -> MessageReader:
        """Where the requests are."""
        return self._reader

    def _end_requests(self) -> None:
        try:
            self._reader.end()
        except WireFault as fault:
            self._reader.fail(fault)

    def _close(self) -> None:
        super()._close()
        self._reader.close(discard=True)


class _Requests:
    """What the handler of a stream of requests gets to iterate over."""

    __slots__ = ("_call",)

    def __init__(self, call: StreamUnaryCall) -> None:
        self._call = call

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        reader = call.reader
        if reader.queue and reader.plain:
            payload = reader.queue.popleft()
            reader.taken(len(payload))
            return call.parse(payload)
        request = await call.read()
        if request is EOF:
            raise StopAsyncIteration
        return request


class UnaryStreamCall(ServerCall):
    """A call with a stream of responses."""

    _writer: MessageWriter | None = None  # made for the first response

    async def write(self, message: Any) -> None:
        """Send a response; the first one behind the response headers."""
        if self._over:
            raise UsageError("the call is over: nothing more can be written")
        payload = self._serialized(message)
        if self._packer is not None:
            payload = await self._packer.pack(payload)
        writer = self._writer or self._begin_writing()
        if not writer.write(payload):
            await writer.drain()

    def writable(self) -> None:
        """Let the handler go on."""
        if self._writer is not None:
            self._writer.writable()

    def _begin_writing(self) -> MessageWriter:
        if not self._head_sent:
            self._send_head(())
        writer = self._writer = MessageWriter(self._connection, self._stream)
        return writer

    async def _run(self, request: object) -> None:
        """Run the handler, and end the call behind its last response. The body of the handler's task."""
        self._started = True
        serving.set(self)
        behaviour = self._handler.behaviour
        assert behaviour is not None, "refused before"
        try:
            try:
                if self._handler.generator:
                    await self._pass_on(behaviour(request, self))
                else:
                    await behaviour(request, self)
            except BaseException as error:
                await self._flush()
                if not self._end_by(error):
                    raise
            else:
                await self._flush()
                self._end_well()
        finally:
            self._ended()

    async def _pass_on(self, responses: Any) -> None:
        """Write what a generator gives."""
        try:
            async for response in responses:
                if self._over:
                    return
                payload = self._serialized(response)
                if self._packer is not None:
                    payload = await self._packer.pack(payload)
                writer = self._writer or self._begin_writing()
                if not writer.write(payload):
                    await writer.drain()
        finally:
            await responses.aclose()  # now, and not when the collector finds it

    async def _flush(self) -> None:
        """Wait until all responses are on their way: the status must not overtake them."""
        if self._writer is not None and not self._over:
            await self._writer.flush()

    def _close(self) -> None:
        super()._close()
        if self._writer is not None:
            self._writer.close()


class StreamStreamCall(StreamUnaryCall, UnaryStreamCall):
    """A call with a stream in both directions."""

    def serve_by(self, handler: Handler) -> None:
        """Have another handler's (de)serialisers used: interceptors have chosen it."""
        self._handler = handler
