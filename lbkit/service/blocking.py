"""Servicer methods that are plain functions: they run in threads, and may block there."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeVar

from lbkit.eof import EOF
from lbkit.errors import AbortError, UsageError
from lbkit.handover import End, ToLoop, ToThread
from lbkit.metadata import Metadata, MetadataLike
from lbkit.service.context import ServicerContext
from lbkit.status import StatusCode

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

# How far the generator of a function may be ahead of what the client takes, in responses: their sizes are not known.
_RESPONSES_AHEAD = 16
# For how many bytes a request counts that waits for a function: its size is not known any more.
_REQUEST_BYTES = 2048


class Workplace(Protocol):
    """What a call has to have to be served by a thread, beside what every context has."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the call runs on."""
        ...

    @property
    def threads(self) -> Executor:
        """Where plain functions run."""
        ...

    def working(self, future: Future[Any]) -> None:
        """Take note that a thread works for the call, and may go on when the call is over."""
        ...


class BlockingContext:
    """A call as a plain function sees it; the names are those of grpcio's blocking ``ServicerContext``.

    It is used in the function's thread; what has to be done on the event loop is waited for.
    """

    __slots__ = ("_context", "_loop")

    def __init__(self, context: ServicerContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def invocation_metadata(self) -> Metadata:
        """Return what the client sent with the call."""
        return self._context.invocation_metadata()

    @property
    def method(self) -> str:
        """The full name of the method called."""
        return self._context.method

    @property
    def kind(self) -> str:
        """What is streamed, as ``unary_stream``."""
        return self._context.kind

    def peer(self) -> str:
        """Return where the client is."""
        return self._context.peer()

    def auth_context(self) -> Mapping[str, Any]:
        """Return what is known of the client's identity."""
        return self._context.auth_context()

    def peer_identities(self) -> Any:
        """Return the client's identities, or None."""
        return self._context.peer_identities()

    def peer_identity_key(self) -> str | None:
        """Return where in ``auth_context`` the identities are, or None."""
        return self._context.peer_identity_key()

    def time_remaining(self) -> float | None:
        """Return the seconds left until the client's deadline, at least 0; None without a deadline."""
        return self._context.time_remaining()

    def is_active(self) -> bool:
        """Whether anybody waits for the answer still. A function that takes long asks now and then."""
        return not self._context.done()

    def cancel(self) -> NoReturn:
        """End the call with CANCELLED."""
        self.abort(StatusCode.CANCELLED, "cancelled by the handler")

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Have ``callback()`` called on the event loop when the call is over. False if it is."""
        if self._context.done():
            return False
        self._on_loop(self._add_callback(callback))
        return True

    def abort(self, code: object, details: str = "") -> NoReturn:
        """End the call with a status other than OK, by raising AbortError. Do not catch that.

        Raises:
            ValueError: the code is OK.
        """
        self._on_loop(self._context.abort(code, details))
        raise AbortError(details)

    def abort_with_status(self, status: Any) -> NoReturn:
        """Do what ``abort`` does, with an object that has ``code``, ``details`` and ``trailing_metadata``."""
        self._on_loop(self._context.abort_with_status(status))
        raise AbortError(status.details)

    def send_initial_metadata(self, initial_metadata: MetadataLike) -> None:
        """Send metadata ahead of the response; errors as ``ServicerContext.send_initial_metadata``."""
        self._on_loop(self._context.send_initial_metadata(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: MetadataLike) -> None:
        """Set what goes with the status; errors as ``ServicerContext.set_trailing_metadata``."""
        self._context.set_trailing_metadata(trailing_metadata)

    def set_code(self, code: object) -> None:
        """Set the status code the call will end with."""
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        """Set the text of the status."""
        self._context.set_details(details)

    def set_compression(self, compression: Any) -> None:
        """Choose how responses are compressed; errors as ``ServicerContext.set_compression``."""
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """Send the next response as it is."""
        self._context.disable_next_message_compression()

    def code(self) -> StatusCode:
        """Return the code set so far; OK if none was."""
        return self._context.code()

    def details(self) -> str:
        """Return the text set so far."""
        return self._context.details()

    def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata set so far."""
        return self._context.trailing_metadata()

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        if self._context.done():
            # Nobody is there to be told. What is left to do needs no loop; and that may have gone with the server.
            try:
                work.send(None)
            except StopIteration as end:
                value: T = end.value
                return value
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        finally:
            work.close()  # if the loop has gone just now

    async def _add_callback(self, callback: Callable[[], object]) -> None:
        self._context.add_done_callback(lambda _: callback())


class _Requests(ToThread[Any]):
    """The requests of a stream, for a thread, which a task reads ahead of it."""

    def __init__(self, context: ServicerContext, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, loop.call_soon_threadsafe)
        self._context = context
        self._reading = loop.create_task(self._read())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        request = self.get()
        if type(request) is not End:
            return request
        if request.error is not None:
            raise request.error
        raise StopIteration

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not EOF:
                await self.put(request, _REQUEST_BYTES)
        except Exception as error:  # a request that cannot be read; or the call is over
            self.end(error)
        else:
            self.end()

    def close(self) -> None:
        """Read no more: the call is over, or the function has returned."""
        self._reading.cancel()
        self.stop(UsageError("the call is over: no request can be read"))


def in_thread(
    function: Callable[[Any, Any], Any], *, streams_request: bool, streams_response: bool
) -> Callable[[Any, Any], Awaitable[Any]]:
    """Make a behaviour for the event loop of a plain function, or of one that gives an iterator of responses."""

    def call(request: Any, context: ServicerContext, loop: asyncio.AbstractEventLoop) -> Any:
        try:
            answer = function(request, BlockingContext(context, loop))
        except StopIteration as error:  # no future takes one
            raise RuntimeError("the method raised StopIteration") from error
        if inspect.isawaitable(answer) or hasattr(answer, "__aiter__"):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError(
                f"{function!r} is a plain function that returned {type(answer).__name__}; make it 'async def'"
            )
        return answer

    def work(request: Any, context: ServicerContext, responses: ToLoop[Any]) -> None:
        try:
            answer = iter(call(request, context, responses.loop))
            try:
                for response in answer:
                    if not responses.put(response):
                        break
            finally:
                if hasattr(answer, "close"):
                    answer.close()
        finally:
            responses.end()

    async def behaviour(request: Any, context: Any) -> Any:
        place: Workplace = context
        loop = place.loop
        run = contextvars.copy_context().run
        responses: ToLoop[Any] | None = None
        requests = request = _Requests(context, loop) if streams_request else request
        try:
            if streams_response:
                responses = ToLoop(loop, loop.call_soon_threadsafe, _RESPONSES_AHEAD)
                future = place.threads.submit(run, work, request, context, responses)
            else:
                future = place.threads.submit(run, call, request, context, loop)
            place.working(future)
            if responses is not None:
                try:
                    async for response in responses:
                        await context.write(response)
                except asyncio.CancelledError:
                    future.cancel()  # it may not have begun
                    raise
            return await asyncio.wrap_future(future)
        finally:
            if responses is not None:
                responses.stop()
            if streams_request:
                requests.close()

    return behaviour
