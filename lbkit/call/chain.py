"""One call's way through a channel's interceptors: a task that goes from the first of them to the call itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lbkit.call.answers import Answer, IteratedAnswer
from lbkit.call.handles import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from lbkit.call.unary import UnaryUnaryCall
from lbkit.errors import RpcError, UsageError
from lbkit.foreign import rpc_error_class
from lbkit.interceptor import ClientCallDetails, Step
from lbkit.status import Status, StatusCode

if TYPE_CHECKING:
    from lbkit.call.intercepted import InterceptedMultiCallable

CLOSED = Status(StatusCode.CANCELLED, "the channel was closed")

_CALLS = frozenset(
    (UnaryUnaryCall, UnaryStreamCall, StreamUnaryCall, StreamStreamCall, Answer, IteratedAnswer)
)


class Chain:
    """What an intercepted call is made of, apart from what the application holds.

    Args:
        method: whose call it is.
        details: what the application said.
        request: the request, or what gives requests.
        extra: what else the application said: compression and limits, which interceptors do not see.

    Attributes:
        call: what the interceptors returned, made a call of if it was none; None if they raised, or have not returned.
        calls: those that were made at the end of the chain and may still run; the last one is the latest.
        deadline: when the application's timeout is over, on the channel's clock.
        task: goes through the interceptors.
    """

    __slots__ = ("_closing", "_error", "_extra", "_method", "call", "calls", "deadline", "task")

    def __init__(
        self,
        method: InterceptedMultiCallable,
        details: ClientCallDetails,
        request: Any,
        extra: dict[str, Any],
    ) -> None:
        self._method = method
        self._extra = extra
        self._closing = False
        self._error: BaseException | None = None
        self.call: Any = None
        self.calls: list[Any] = []
        channel = method.channel
        self.deadline = None if details.timeout is None else channel.clock.time() + details.timeout
        self.task = channel.loop.create_task(self._run(details, request))

    @property
    def settled(self) -> bool:
        """Whether the interceptors have returned or raised."""
        return self.task.done()

    @property
    def error(self) -> BaseException | None:
        """What an interceptor raised; None if there is a call, or while they run."""
        if not self.task.done() or self.call is not None:
            return None
        if self._error is None:
            return asyncio.CancelledError()  # before they began
        if not self.task.cancelled():
            self.task.exception()  # somebody has asked: asyncio need not complain
        return self._error

    def time(self) -> float:
        """Return the channel's time."""
        return self._method.channel.clock.time()

    def when_settled(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` when the interceptors have returned or raised; at once if they have."""
        if self.settled:
            callback()
        else:
            self.task.add_done_callback(lambda _: callback())

    def cancel(self) -> bool:
        """Cancel the interceptors, or the call that they returned. False if it is over."""
        if not self.task.done():
            return self.task.cancel()
        return self.call is not None and bool(self.call.cancel())

    def close(self) -> None:
        """End with CANCELLED: the channel is closed."""
        self._closing = True
        self.task.cancel()

    def start(self, details: Any, request: Any) -> Any:
        """Make a call: the end of the chain."""
        if self._method.channel.closing:  # the call began before that, and ends as others that were under way
            raise rpc_error_class()(*CLOSED)
        if type(details) is not ClientCallDetails:
            details = _details_of(details)
        path, timeout, metadata, credentials, wait_for_ready = details
        call = self._method.plain(path)(
            request,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            **self._extra,
        )
        if self.calls:  # an interceptor tries again; what is over need not be kept
            self.calls = [each for each in self.calls if not each.done()]
        self.calls.append(call)
        return call

    def as_call(self, answer: Any, step: Step) -> Any:
        """Make a call of what an interceptor returned.

        Raises:
            UsageError: it is neither a call nor, of a stream of responses, an asynchronous iterator.
        """
        latest = self.calls[-1] if self.calls else None
        if not self._method.streams_response:
            return answer if hasattr(type(answer), "__await__") else Answer(answer, latest)
        if hasattr(answer, "read") and hasattr(answer, "code"):
            return answer
        if hasattr(answer, "__aiter__"):
            return IteratedAnswer(answer, latest)
        name = getattr(step, "__qualname__", repr(step))
        raise UsageError(
            f"{name} returned {answer!r}; return the call, or an asynchronous iterator of responses"
        )

    async def _run(self, details: ClientCallDetails, request: Any) -> None:
        """Go through the interceptors. The body of the task."""
        running = self._method.running
        running.add(self)
        try:
            self.call = await _go_on(self, self._method.steps, 0, details, request)
        except BaseException as error:
            self._error = error
            for call in self.calls:  # an interceptor that failed waits for none of them any more
                call.cancel()
            if self._closing and isinstance(error, asyncio.CancelledError):
                self._error = rpc_error_class()(*CLOSED)
            if not isinstance(self._error, RpcError):
                raise  # asyncio says so, if nobody waits for it
        finally:
            running.discard(self)


async def _go_on(chain: Chain, steps: tuple[Step, ...], index: int, details: Any, request: Any) -> Any:
    """Go on with the interceptor at ``index``, or make the call behind the last one."""
    if index == len(steps):
        return chain.start(details, request)
    step = steps[index]
    answer = await step(partial(_go_on, chain, steps, index + 1), details, request)
    return answer if type(answer) in _CALLS else chain.as_call(answer, step)


def _details_of(given: Any) -> ClientCallDetails:
    """Read what an interceptor passed on: of grpc.aio's class, or one of its own."""
    return ClientCallDetails(
        given.method,
        given.timeout,
        given.metadata,
        getattr(given, "credentials", None),
        getattr(given, "wait_for_ready", None),
    )
