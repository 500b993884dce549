"""Calls as blocking programs see them; the names and the behaviour are those of ``grpc.Call`` and ``grpc.Future``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from lbkit.errors import Attempt, ForkedError, RpcError
from lbkit.metadata import EMPTY, Metadata
from lbkit.status import StatusCode
from lbkit.sync.foreign import FutureCancelledError, FutureTimeoutError, future_error
from lbkit.sync.loop_thread import check_thread, immediate
from lbkit.sync.running import LATE_S, Running, Streaming

Response = TypeVar("Response")


class BlockingCall(Generic[Response]):
    """What all kinds of call have in common. Methods that wait for the end do so in the calling thread.

    Its methods may be called from any thread; those that wait, from any but the loop's.
    """

    __slots__ = ("_channel", "_deserialize", "_running", "_value")

    def __init__(self, running: Running, deserialize: Callable[[bytes], Any], channel: object) -> None:
        self._running = running
        self._deserialize = deserialize
        self._channel = channel  # which is closed when nobody holds it any more
        self._value: Any = None  # the response, in a tuple, once it is parsed

    # grpc.Call

    def code(self) -> StatusCode:
        """Wait for the end of the call; return its status code. Does not raise for a failed call."""
        error = self._end()
        return immediate(self._running.core.code()) if error is None else error.code()

    def details(self) -> str:
        """Wait for the end of the call; return the text of its status."""
        error = self._end()
        return immediate(self._running.core.details()) if error is None else error.details()

    def initial_metadata(self) -> Metadata:
        """Wait for what the server sends before its answer; empty if the call ended without."""
        running = self._running
        if running.done:
            return immediate(running.initial_metadata())
        check_thread()
        return running.thread.run(running.initial_metadata())

    def trailing_metadata(self) -> Metadata:
        """Wait for the end of the call; return what came with the status."""
        error = self._end()
        return immediate(self._running.core.trailing_metadata()) if error is None else EMPTY

    def is_active(self) -> bool:
        """Whether the call is not over yet."""
        return not self._running.done

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline, at least 0; None without a deadline."""
        running = self._running
        return None if running.deadline is None else max(0.0, running.deadline - running.thread.loop.time())

    def cancel(self) -> bool:
        """End the call with CANCELLED, here and on the server. False if it is over already."""
        running = self._running
        cancelling = running.cancel()
        with suppress(Exception):
            check_thread()
            running.wait(LATE_S)  # so that it is seen to be over, unless the loop is busy
        return cancelling

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Call ``callback()`` at the end of the call, on the loop's thread. False if it is over."""
        if self._running.done:
            return False
        self._running.when_done(callback)
        return True

    @property
    def backend(self) -> str | None:
        """The endpoint that the call was last sent to, as text; None before the first pick."""
        core = self._running.core
        return None if core is None else core.backend

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt that was sent to a backend so far, oldest first: where, when, why, and how it ended."""
        core = self._running.core
        return () if core is None else core.attempts

    # grpc.Future

    def add_done_callback(self, fn: Callable[[Self], object]) -> None:
        """Call ``fn(call)`` at the end of the call, on the loop's thread; at once, in this one, if it is over.

        It must not block: all calls of the process wait for it.
        """
        self._running.when_done(lambda: fn(self))

    def cancelled(self) -> bool:
        """Whether the call was cancelled here, before it was over."""
        running = self._running
        return running.done and running.error is None and bool(running.core.cancelled())

    def running(self) -> bool:
        """Whether the call is not over yet."""
        return not self._running.done

    def done(self) -> bool:
        """Whether the call is over. Responses of a stream may be left to read."""
        return self._running.done

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the call; return the error that it ended with, None if it ended well.

        Raises:
            FutureTimeoutError: it is not over after ``timeout`` seconds.
            FutureCancelledError: it was cancelled here.
        """
        self._settle(timeout)
        try:
            self._outcome()
        except Exception as error:
            return error
        return None

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Do what ``exception`` does, and return the traceback of that."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    # Inside

    def _end(self) -> RpcError | None:
        """Wait for the end; return the error that is not ``core``'s.

        Raises:
            Error: why the call could not be started.
        """
        running = self._running
        if not running.done:
            check_thread()
            running.wait_for_end()
        error = running.error
        if error is None or isinstance(error, RpcError):
            return error
        raise error

    def _settle(self, timeout: float | None) -> None:
        running = self._running
        if not running.done:
            check_thread()
            patience = running.patience()
            if timeout is not None and (patience < 0 or timeout < patience):
                if not running.wait(min(max(0.0, timeout), threading.TIMEOUT_MAX)):
                    raise future_error("FutureTimeoutError", FutureTimeoutError)(
                        f"the call is not over after {timeout} s"
                    )
            else:
                running.wait_for_end()
        if self.cancelled():
            raise future_error("FutureCancelledError", FutureCancelledError)("the call was cancelled")

    def _outcome(self) -> Any:
        """Raise what the call ended with, if not OK."""
        running = self._running
        if running.error is not None:
            raise running.error
        if immediate(running.core.code()) is not StatusCode.OK:
            running.payload()


class ResponseCall(BlockingCall[Response]):
    """A call with one response: what ``future()`` returns, and ``with_call()`` beside the response."""

    __slots__ = ()

    def result(self, timeout: float | None = None) -> Response:
        """Wait for the response.

        Args:
            timeout: seconds to wait; the call goes on afterwards. None waits for the end of the call.

        Raises:
            RpcError: the call ended with a status other than OK.
            FutureTimeoutError: it is not over after ``timeout`` seconds.
            FutureCancelledError: it was cancelled here.
        """
        self._settle(timeout)
        response: Response = self._outcome()
        return response

    def _outcome(self) -> Any:
        if self._value is None:
            running = self._running
            self._value = (running.parse(self._deserialize, running.payload()),)
        return self._value[0]


class ResponseIterator(BlockingCall[Response]):
    """A call with a stream of responses: iterate over it.

    It is read ahead of the application by a few hundred messages or 256 KiB at most. It is cancelled when nobody holds
    it any more.
    """

    __slots__ = ("__weakref__",)

    _running: Streaming

    def __del__(self) -> None:
        running = self._running
        if not running.done:
            with suppress(ForkedError):
                running.thread.post(running.stop)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Response:
        """Wait for the next response.

        Raises:
            RpcError: the call ended with a status other than OK; CANCELLED also if it was cancelled here.
        """
        running = self._running
        if not running.responses.waiting:
            check_thread()
        payload = running.next()
        if payload is None:
            raise StopIteration
        response: Response = running.parse(self._deserialize, payload)
        return response

    def _outcome(self) -> Any:
        super()._outcome()
