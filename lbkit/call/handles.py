"""Streaming calls as applications see them; the names and the behaviour are those of ``grpc.aio``.

They are apart from what moves the messages, so that a call is cancelled when the application forgets it: the
connection holds on to the one, and nobody but the application to the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Generic, NoReturn, Self, TypeVar

from lbkit.call.streaming import StreamingCall
from lbkit.eof import EOF, EndOfStream
from lbkit.errors import Attempt, UsageError
from lbkit.metadata import Metadata
from lbkit.status import Status, StatusCode

Request = TypeVar("Request")
Response = TypeVar("Response")

_READ, _ITERATE, _WRITE, _FED = "read()", "async for", "write()", "an iterator of requests"


class _Handle:
    """What the three kinds have in common."""

    __slots__ = ("__weakref__", "_call", "_reads", "_serialize", "_writes")

    def __init__(
        self, call: StreamingCall, serialize: Callable[[Any], bytes], requests: object = None
    ) -> None:
        self._call = call
        self._serialize = serialize
        self._reads = ""  # in which of the two ways, once it is known
        self._writes = _WRITE
        if requests is not None:
            self._writes = _FED
            call.feed(requests)

    def __del__(self) -> None:
        call = self._call
        if not call.done():
            with suppress(RuntimeError):  # the loop is closed
                # Not at once: the collector may run in any thread.
                call.loop.call_soon_threadsafe(call.cancel)

    async def initial_metadata(self) -> Metadata:
        """Wait for what the server sends before its first message; empty if the call ended without."""
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Metadata:
        """Wait for the end of the call; return what came with the status."""
        return await self._call.trailing_metadata()

    async def code(self) -> StatusCode:
        """Wait for the end of the call; return its status code. Does not raise for a failed call."""
        return await self._call.code()

    async def details(self) -> str:
        """Wait for the end of the call; return the text of its status."""
        return await self._call.details()

    @property
    def status(self) -> Status | None:
        """What the call ended with; None before. For callbacks, which cannot wait for ``code()``."""
        return self._call.status

    async def wait_for_connection(self) -> None:
        """Wait until the call is on its way to a backend.

        Raises:
            RpcError: the call ended with a status other than OK.
        """
        await self._call.wait_for_connection()

    def cancel(self) -> bool:
        """End the call with CANCELLED, here and on the server. False if it is over already."""
        return self._call.cancel()

    def cancelled(self) -> bool:
        """Whether the call was cancelled here."""
        return self._call.cancelled()

    def done(self) -> bool:
        """Whether the server has sent its status, or the call was ended here. Responses may be left to read."""
        return self._call.done()

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline, at least 0; None without a deadline."""
        return self._call.time_remaining()

    def add_done_callback(self, callback: Callable[[Self], object]) -> None:
        """Call ``callback(call)`` at the end of the call; at once if it is over."""
        self._call.add_done_callback(lambda _: callback(self))

    @property
    def backend(self) -> str | None:
        """The endpoint that the call was last sent to, as text; None before the first pick."""
        return self._call.backend

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt that was sent to a backend so far, oldest first: where, when, why, and how it ended."""
        return self._call.attempts


class _Readable(_Handle, Generic[Response]):
    """Adds reading a stream of responses."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        self._read_by(_ITERATE)
        return self

    async def __anext__(self) -> Response:
        call = self._call
        reader = call.reader
        if reader is not None and reader.queue and reader.plain:
            payload = reader.queue.popleft()
            reader.taken(len(payload))
        else:
            found = await call.read()
            if found is None:
                call.raise_for_status()
                raise StopAsyncIteration
            payload = found
        response: Response = call.take(payload)
        return response

    async def read(self) -> Response | EndOfStream:
        """Wait for the next response; ``lbkit.EOF`` when the server has sent all.

        Raises:
            RpcError: the call ended with a status other than OK.
            CancelledError: the call was cancelled; or the waiting task was, which cancels the call.
            UsageError: the call is read with ``async for`` already.
        """
        self._read_by(_READ)
        payload = await self._call.read()
        if payload is None:
            self._call.raise_for_status()
            return EOF
        response: Response = self._call.take(payload)
        return response

    def _read_by(self, way: str) -> None:
        if not self._reads:
            self._reads = way
        elif self._reads != way:
            raise UsageError(f"this call is read with {self._reads}; do not mix that with {way}")


class _Writable(_Handle, Generic[Request]):
    """Adds writing a stream of requests."""

    __slots__ = ()

    async def write(self, request: Request, *, compress: bool = True) -> None:
        """Send a request; returns when there is room for the next one.

        Args:
            request: the request message.
            compress: False to send this one as it is, on a call that compresses.

        Raises:
            RpcError: the call has ended with a status other than OK.
            InvalidStateError: it has ended well, or ``done_writing`` was called.
            UsageError: the call was given an iterator of requests.
        """
        call = self._writing()
        if call.done() or call.half_closed:
            self._refuse_writing()
        await call.write(self._serialize(request), compress=compress)
        call.raise_for_status()

    async def done_writing(self) -> None:
        """End the stream of requests; does nothing the second time, and after the end of the call.

        Raises:
            UsageError: the call was given an iterator of requests.
        """
        self._writing().done_writing()

    def _writing(self) -> StreamingCall:
        if self._writes is _FED:
            raise UsageError("this call was given an iterator of requests; make it without one to write()")
        return self._call

    def _refuse_writing(self) -> NoReturn:
        self._call.raise_for_status()
        over = "the call is over" if self._call.done() else "done_writing() was called"
        raise asyncio.InvalidStateError(f"{over}: nothing more can be written")


class UnaryStreamCall(_Readable[Response]):
    """One request, a stream of responses: ``async for response in call``, or ``read()`` until ``EOF``.

    It starts when it is made, and is cancelled when nobody holds it any more.
    """

    __slots__ = ()


class StreamUnaryCall(_Writable[Request], Generic[Request, Response]):
    """A stream of requests, one response: give an iterator, or ``write()`` and ``done_writing()``; then ``await``.

    It starts when it is made, and is cancelled when nobody holds it any more.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Response]:
        """Wait for the response.

        Raises:
            RpcError: the call ended with a status other than OK.
            CancelledError: the call was cancelled; or the waiting task was, which cancels the call.
        """
        # In a frame of its own, which holds the handle for as long as somebody waits.
        response: Response = yield from self._call.response().__await__()
        return response


class StreamStreamCall(_Readable[Response], _Writable[Request], Generic[Request, Response]):
    """A stream in both directions; they are independent of each other.

    It starts when it is made, and is cancelled when nobody holds it any more.
    """

    __slots__ = ()
