"""A call as applications, pickers and selectors look at it; how it comes about is in ``base``."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lbkit.errors import Attempt, RpcError
from lbkit.foreign import rpc_error_class
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.metadata import EMPTY, Metadata, MetadataLike
from lbkit.picking import Picked
from lbkit.resolution import CallConfig
from lbkit.status import Status, StatusCode
from lbkit.transport.client import ClientConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.metadata import decode_metadata

if TYPE_CHECKING:
    from lbkit.ambient import Served
    from lbkit.call.multicallable import MultiCallable
    from lbkit.call.retrying import FurtherAttempts
    from lbkit.channel import Channel
    from lbkit.deadline import Bucket
    from lbkit.subchannel import Subchannel

CANCELLED = Status(StatusCode.CANCELLED, "cancelled by the application")


class CallRecord:
    """What is known of a call, and who waits for more of it."""

    __slots__ = (
        "__weakref__",
        "_began",
        "_callbacks",
        "_channel",
        "_config",
        "_connection",
        "_deadline",
        "_earlier",
        "_fields",
        "_future",
        "_head",
        "_head_future",
        "_kind",
        "_metadata",
        "_method",
        "_picked",
        "_request_limit",
        "_response_limit",
        "_retries",
        "_sent",
        "_served",
        "_status",
        "_stream",
        "_subchannel",
        "_took",
        "_trailing",
        "_wait_for_ready",
        "bucket",
    )

    _method: MultiCallable
    _channel: Channel
    _config: CallConfig
    _fields: list[Field]  # the metadata, encoded
    _metadata: MetadataLike
    _deadline: float | None
    _began: float
    _sent: float  # when the present attempt began
    _took: float
    _wait_for_ready: bool | None  # None: nobody has said
    _request_limit: int | None
    _response_limit: int
    _kind: str  # of the present attempt; only set where that is not the first

    def __init__(self) -> None:
        self.bucket: Bucket | None = None  # set by Deadlines
        self._status: Status | None = None
        # What it is made for, and whether the deadline is of that.
        self._served: tuple[Served, bool] | None = None
        self._stream: Stream | None = None
        self._connection: ClientConnection | None = None
        self._picked: Picked | None = None  # the pick that is to be told when it is done
        self._subchannel: Subchannel | None = None  # the last one picked
        self._future: asyncio.Future[None] | None = None  # made when somebody waits for the end
        self._head_future: asyncio.Future[None] | None = None
        self._head: tuple[Field, ...] | None = None
        self._trailing: Metadata = EMPTY
        self._callbacks: list[Callable[[Any], object]] | None = None
        self._earlier: list[Attempt] | None = None  # attempts before the present one, or beside it
        self._retries: FurtherAttempts | None = None  # who decides on others

    # What pickers and selectors read (CallInfo)

    @property
    def method(self) -> str:
        """The full method name, ``/package.Service/Method``."""
        return self._method.path

    @property
    def metadata(self) -> Metadata:
        """What the application sends."""
        given = self._metadata
        # Not of what was given: that may be an iterator, used up, or a list, changed since.
        return given if isinstance(given, Metadata) else decode_metadata(self._fields)

    @property
    def attributes(self) -> Any:
        """What the call selector attached."""
        return self._config.attributes

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the call runs on."""
        return self._channel.loop

    # For the application

    async def initial_metadata(self) -> Metadata:
        """Wait for what the server sends before its answer; empty if the call ended without."""
        if self._head is None and self._status is None:
            if self._head_future is None:
                self._head_future = self._channel.loop.create_future()
            await asyncio.shield(self._head_future)
        return self._initial()

    async def trailing_metadata(self) -> Metadata:
        """Wait for the end of the call; return what came with the status."""
        await self._end()
        return self._trailing

    async def code(self) -> StatusCode:
        """Wait for the end of the call; return its status code. Does not raise for a failed call."""
        return (await self._end()).code

    async def details(self) -> str:
        """Wait for the end of the call; return the text of its status."""
        return (await self._end()).details

    @property
    def status(self) -> Status | None:
        """What the call ended with; None before. For callbacks, which cannot wait for ``code()``."""
        return self._status

    async def wait_for_connection(self) -> None:
        """Wait until the server has begun to answer, or raise as ``await`` would."""
        await self.initial_metadata()
        if self._status is not None:
            self.raise_for_status()

    def raise_for_status(self) -> None:
        """Raise what the call ended with, if that is not OK.

        Raises:
            RpcError: the call ended with a status other than OK.
            CancelledError: it was cancelled here.
        """
        if self._status is CANCELLED:
            raise asyncio.CancelledError
        if self._status is not None and self._status.code is not StatusCode.OK:
            raise self._error()

    @abstractmethod
    def cancel(self) -> bool:
        """End the call with CANCELLED, here and on the server. False if it is over already."""

    def cancelled(self) -> bool:
        """Whether the call was cancelled here; CANCELLED from the server is a status like any other."""
        return self._status is CANCELLED

    def done(self) -> bool:
        """Whether the call is over."""
        return self._status is not None

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline, at least 0; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - self._channel.clock.time())

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback(call)`` at the end of the call; at once if it is over."""
        if self._status is not None:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    @property
    def backend(self) -> str | None:
        """The endpoint that the call was last sent to, as text; None before the first pick."""
        if self._subchannel is None:
            return self._earlier[-1].backend if self._earlier else None
        return str(self._subchannel.endpoint)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt that was sent to a backend so far, oldest first: where, when, why, and how it ended."""
        attempts = list(self._earlier or ())
        if self._subchannel is not None:
            attempts.append(self._this_attempt(self._status))
        return tuple(sorted(attempts, key=lambda attempt: attempt.started_s))

    # Inside

    def ending(self) -> asyncio.Future[None]:
        """Return what is done when the call is; cancelled, together with it, by who gives up waiting for a response."""
        if self._future is None:
            self._future = self._channel.loop.create_future()
        return self._future

    def wake_at_end(self, waiter: Any) -> None:
        """Have ``waiter.set_result(None)`` called in the very turn in which the call ends. Called by the blocking API.

        For a call that nobody awaits: ``waiter``, which has to have ``done()``, takes the place of their future.
        """
        self._future = waiter

    async def _end(self) -> Status:
        """Wait for the end of the call. Only who awaits the call itself cancels it by giving up, as in grpc.aio."""
        if self._status is None:
            try:
                await asyncio.shield(self.ending())
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self.cancel()  # a task that awaited the call was cancelled, and the future with it
        assert self._status is not None, "woken before the end"
        return self._status

    def _initial(self) -> Metadata:
        try:
            return decode_metadata(self._head) if self._head else EMPTY
        except WireFault:  # the call failed for that, or the answer is not gRPC's
            return EMPTY

    def _this_attempt(self, status: Status | None) -> Attempt:
        backend = str(self._subchannel.endpoint) if self._subchannel else ""
        return Attempt(backend, self._sent - self._began, getattr(self, "_kind", "first"), status)

    def _too_late(self) -> Status:
        """Return DEADLINE_EXCEEDED, and say what the time was spent on."""
        now = self._channel.clock.time()
        took = f"after {now - self._began:.3f} s"
        if self._served is not None and self._served[1]:
            took = f"{took}, when the deadline of the call being served passed"
        if self._stream is None and self._earlier:
            last = self._earlier[-1]
            return Status(StatusCode.DEADLINE_EXCEEDED, f"{took}, waiting to try again; the last: {last!r}")
        if self._stream is None:
            return Status(StatusCode.DEADLINE_EXCEEDED, f"{took}, all of it waiting for a backend")
        answered = "headers received, no status" if self._head else "request sent, no answer"
        picking, waiting = self._sent - self._began, now - self._sent
        where = f"{picking:.3f} s picking, {waiting:.3f} s waiting for {self.backend} ({answered})"
        return Status(StatusCode.DEADLINE_EXCEEDED, f"{took}: {where}")

    def _error(self) -> RpcError:
        assert self._status is not None, "no error before the end"
        return rpc_error_class()(
            self._status.code,
            self._status.details,
            initial_metadata=self._initial(),
            trailing_metadata=self._trailing,
            attempts=self.attempts,
            elapsed_s=self._took,
        )


def wake(future: asyncio.Future[None]) -> None:
    """Complete a future, unless who waits for it has given up."""
    if not future.done():
        future.set_result(None)
