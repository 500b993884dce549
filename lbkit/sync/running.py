"""A call of the blocking API while it runs: handed from the caller's thread to the loop, and the end of it back."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from lbkit.call.record import CANCELLED
from lbkit.call.unary import UnaryUnaryCall
from lbkit.errors import ChannelClosedError, RpcError
from lbkit.foreign import rpc_error_class
from lbkit.handover import Empty, End, ToThread
from lbkit.metadata import EMPTY, Metadata
from lbkit.status import StatusCode
from lbkit.sync.loop_thread import LoopThread, immediate
from lbkit.sync.requests import Requests

# A caller waits this much longer for the end of its call than the deadline, which the loop looks after. Then the loop
# is busy with something that blocks it, and the caller gives up by itself.
LATE_S = 0.1

_log = logging.getLogger("lbkit.sync")


class Running:
    """One call, and its caller's wait for it. The calling thread makes it and posts ``start`` to the loop.

    Args:
        thread: the loop.
        method: the asynchronous multicallable, from bytes to bytes.
        argument: the request as bytes, or what gives requests.
        options: keyword arguments of the call.

    Attributes:
        core: the asynchronous call, once it is there.
        error: what the call ended with, if not with what ``core`` says.
        done: it is over.
    """

    __slots__ = (
        "argument", "callbacks", "cancelled", "context", "core", "deadline", "done", "error", "lock", "method",
        "options", "thread",
    )  # fmt: skip

    def __init__(self, thread: LoopThread, method: Any, argument: Any, options: dict[str, Any]) -> None:
        self.thread = thread
        self.method = method
        self.argument = argument
        self.options = options
        self.context = copy_context()
        self.core: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.cancelled = False  # by the application
        self.callbacks: list[Callable[[], object]] | None = None
        self.deadline: float | None = None
        lock = self.lock = threading.Lock()  # free when the call is over: the cheapest wait there is
        lock.acquire()

    # On the loop

    def start(self) -> None:
        """Start the call."""
        if self.thread.ended:
            self.error = ChannelClosedError("the channel is closed; make a new one")
        if self.error is not None:  # or the caller has given up already
            self.end(None)
            return
        try:
            core = self.core = self.context.run(self.method, self.argument, **self.options)
        except BaseException as error:
            self.error = error
            self.end(None)
        else:
            self.started()
            if type(core) is UnaryUnaryCall and not core.done():
                core.wake_at_end(_Bell(self))  # at once: a callback comes one turn of the loop later
            else:
                core.add_done_callback(self.end)

    def started(self) -> None:
        """Do what there is to do besides, for a call that has started."""

    def end(self, _: Any) -> None:
        """Take note that the call is over, and wake who waits for that."""
        self.done = True
        self.lock.release()
        callbacks, self.callbacks = self.callbacks, None
        for callback in callbacks or ():
            self._tell(callback)

    def stop(self) -> None:
        """Cancel the call."""
        if self.core is not None:
            self.core.cancel()

    async def initial_metadata(self) -> Metadata:
        """Wait for what the server sends before its answer; empty if it did not."""
        found: Metadata = EMPTY if self.core is None else await self.core.initial_metadata()
        return found

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            self.context.run(callback)
        except Exception:  # one callback's mistake must not keep the others from being told
            _log.exception(
                "a done-callback of a call of %s raised", getattr(self.method, "path", "a stranger")
            )

    def _listen(self, callback: Callable[[], object]) -> None:
        if self.done:
            self._tell(callback)
        elif self.callbacks is None:
            self.callbacks = [callback]
        else:
            self.callbacks.append(callback)

    # In callers' threads

    def when_done(self, callback: Callable[[], object]) -> None:
        """Have ``callback()`` called on the loop at the end, or here and now if the call is over."""
        if self.done:
            callback()
        else:
            self.thread.post(lambda: self._listen(callback))

    def keep_deadline(self) -> None:
        """Remember when the call must be over, for those who wait for it later."""
        timeout = self.options["timeout"]
        if timeout is not None:
            self.deadline = self.thread.loop.time() + timeout

    def patience(self) -> float:
        """Return how long to wait for the loop, in seconds; -1 for ever, as locks have it."""
        if self.deadline is None:
            return -1
        return _bounded(self.deadline - self.thread.loop.time())

    def wait(self, seconds: float = -1) -> bool:
        """Wait for the end; whether it came. Who is interrupted cancels the call."""
        if self.done:
            return True
        try:
            if not self.lock.acquire(True, seconds):
                return False
        except BaseException:  # KeyboardInterrupt
            self.thread.post(self.stop)
            raise
        self.lock.release()  # for the next one who waits
        return True

    def wait_for_end(self) -> None:
        """Wait for the end, and in vain for no longer than the deadline allows."""
        if not self.wait(self.patience()):
            self.give_up()

    def give_up(self) -> None:
        """End the call here, with DEADLINE_EXCEEDED: the loop does not."""
        self.error = rpc_error_class()(
            StatusCode.DEADLINE_EXCEEDED,
            f"the timeout of {self.options['timeout']} s is over, and the event loop of lbkit.sync did not say so:"
            " something blocks it, or the machine is too busy",
        )
        self.done = True
        self.thread.post(self.stop)

    def cancel(self) -> bool:
        """Cancel the call; False if it is over."""
        if self.done:
            return False
        self.cancelled = True
        self.thread.post(self.stop)
        return True

    def payload(self) -> Any:
        """Return the response of a call that is over, as bytes.

        Raises:
            RpcError: it ended with a status other than OK; CANCELLED also if it was cancelled here.
        """
        if self.error is not None:
            raise self.error
        try:
            return immediate(self.core.__await__())
        except asyncio.CancelledError:
            raise cancelled() from None

    def parse(self, deserialize: Callable[[bytes], Any], payload: bytes) -> Any:
        """Parse a response.

        Raises:
            RpcError: INTERNAL, it cannot be parsed; the call ends with that.
        """
        try:
            return deserialize(payload)
        except Exception as error:  # whatever a deserialiser raises
            text = f"the response cannot be parsed: {type(error).__name__}: {error}"
            self.error = rpc_error_class()(StatusCode.INTERNAL, text)
            if not self.done:
                self.thread.post(self.stop)
            raise self.error from error


class Feeding(Running):
    """A call with a stream of requests, which a thread of its own takes from the application's iterator."""

    __slots__ = ("requests",)

    def __init__(self, thread: LoopThread, method: Any, requests: Requests, options: dict[str, Any]) -> None:
        super().__init__(thread, method, requests, options)
        self.requests = requests

    def started(self) -> None:
        """Take requests."""
        self.requests.begin(self.context)

    def end(self, _: Any) -> None:
        """Take no more requests."""
        self.requests.stop()
        super().end(_)


class Streaming(Running):
    """A call with a stream of responses: a task reads ahead, as far as a slow reader lets it."""

    __slots__ = ("_pump", "requests", "responses")

    def __init__(
        self,
        thread: LoopThread,
        method: Any,
        argument: Any,
        options: dict[str, Any],
        requests: Requests | None = None,
    ) -> None:
        super().__init__(thread, method, argument, options)
        self.requests = requests
        self.responses: ToThread[bytes] = ToThread(thread.loop, thread.post)
        self._pump: asyncio.Task[None] | None = None

    def started(self) -> None:
        """Take requests, and responses."""
        if self.requests is not None:
            self.requests.begin(self.context)
        self._pump = self.context.run(self.thread.loop.create_task, self._read())

    def end(self, _: Any) -> None:
        """Take no more requests; responses may be left."""
        if self.requests is not None:
            self.requests.stop()
        if self.core is None:
            self.responses.end(self.error)
        super().end(_)

    async def _read(self) -> None:
        responses = self.responses
        try:
            async for payload in self.core:
                await responses.put(payload, len(payload))
        except asyncio.CancelledError:
            self.core.cancel()
            responses.end(cancelled())
        except Exception as error:
            responses.end(error)
        else:
            responses.end()

    def stop(self) -> None:
        """Cancel the call, and read no more."""
        super().stop()
        self.responses.go_on()

    # In callers' threads

    def next(self) -> bytes | None:
        """Return the next response; None at the end.

        Raises:
            RpcError: the call ended with a status other than OK.
        """
        if self.cancelled:
            raise cancelled()
        if self.error is not None:
            raise self.error
        patience = self.patience()
        try:
            found = self.responses.get(None if patience < 0 else patience)
        except Empty:
            self.give_up()
        except BaseException:  # KeyboardInterrupt
            self.thread.post(self.stop)
            raise
        else:
            if type(found) is not End:
                return found  # type: ignore[return-value]  # not the end
            if self.error is None and found.error is not None:
                raise found.error
        if self.error is not None:
            raise self.error
        return None


class _Bell:
    """What a core call takes for the future of who waits for it."""

    __slots__ = ("_running",)

    def __init__(self, running: Running) -> None:
        self._running = running

    def done(self) -> bool:
        """Whether it has rung: it is asked once."""
        return False

    def set_result(self, _: None) -> None:
        """Ring."""
        self._running.end(None)


def _bounded(seconds: float) -> float:
    """Return how long to wait for the loop to end a call that has so many seconds left."""
    wait = max(0.0, seconds) + LATE_S
    return wait if wait < threading.TIMEOUT_MAX else -1


def blocking_wait(timeout: float | None) -> float:
    """Return how long to wait for a call that begins now, as locks have it."""
    return -1 if timeout is None else _bounded(timeout)


def cancelled() -> RpcError:
    """Make the error of a call that was cancelled here."""
    return rpc_error_class()(StatusCode.CANCELLED, CANCELLED.details)
