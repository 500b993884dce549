"""Intercepted calls as applications see them, and what makes them. They offer all that other calls do.

As with streams, what the application holds is apart from what runs: it is cancelled when nobody holds it any more.
"""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, Self

from lbkit.call.chain import Chain
from lbkit.call.multicallable import MultiCallable
from lbkit.call.writes import Writes
from lbkit.errors import Attempt, RpcError, UsageError
from lbkit.foreign import rpc_error_class
from lbkit.interceptor import ClientCallDetails, Step, check_client, step_of
from lbkit.metadata import EMPTY, Metadata, MetadataLike, MutableMetadata, pairs
from lbkit.status import Status, StatusCode

_METHODS_MAX = 256  # other methods than its own that interceptors send a multicallable's calls to


class _Intercepted:
    """What all kinds have in common."""

    __slots__ = ("__weakref__", "_chain")

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    async def _found(self) -> Any:
        """Wait for what the interceptors return; None if they raise. Who gives up waiting leaves them alone."""
        chain = self._chain
        if not chain.settled:
            await asyncio.wait([chain.task])
        return chain.call

    def _waited(self) -> Generator[Any, None, Any]:
        """Wait for what the interceptors return. Who gives up waiting cancels them.

        Raises:
            BaseException: what they raised.
        """
        chain = self._chain
        if not chain.task.done():
            yield from chain.task.__await__()
        if chain.call is None:
            assert chain.error is not None, "neither a call nor an error"
            raise chain.error
        return chain.call

    async def initial_metadata(self) -> Metadata:
        """Wait for what the server sends before its answer; empty if the call ended without."""
        call = await self._found()
        error = self._chain.error
        if error is None:
            found: Metadata = await call.initial_metadata()
            return found
        return error.initial_metadata() if isinstance(error, RpcError) else EMPTY

    async def trailing_metadata(self) -> Metadata:
        """Wait for the end of the call; return what came with the status."""
        call = await self._found()
        error = self._chain.error
        if error is None:
            found: Metadata = await call.trailing_metadata()
            return found
        return error.trailing_metadata() if isinstance(error, RpcError) else EMPTY

    async def code(self) -> StatusCode:
        """Wait for the end of the call; return its status code.

        Raises:
            Exception: what an interceptor raised, if that is no RpcError.
        """
        call = await self._found()
        error = self._chain.error
        if error is None:
            found: StatusCode = await call.code()
            return found
        return _status_of(error)[0]

    async def details(self) -> str:
        """Wait for the end of the call; return the text of its status; errors as ``code``."""
        call = await self._found()
        error = self._chain.error
        if error is None:
            found: str = await call.details()
            return found
        return _status_of(error)[1]

    @property
    def status(self) -> Status | None:
        """What the call ended with; None before. For callbacks, which cannot wait for ``code()``.

        Raises:
            Exception: as ``code``.
        """
        chain = self._chain
        if not chain.settled:
            return None
        found: Status | None = None
        if chain.call is not None:
            found = chain.call.status
        elif chain.error is not None:
            found = Status(*_status_of(chain.error))
        return found

    async def wait_for_connection(self) -> None:
        """Wait until the interceptors have returned, and the call is on its way.

        Raises:
            RpcError: the call ended with a status other than OK.
            Exception: what an interceptor raised.
        """
        call = await self._found()
        if self._chain.error is not None:
            raise self._chain.error
        await call.wait_for_connection()

    def cancel(self) -> bool:
        """End the call with CANCELLED, interceptors included. False if it is over already."""
        return self._chain.cancel()

    def cancelled(self) -> bool:
        """Whether the call was cancelled here."""
        chain = self._chain
        if not chain.settled:
            return chain.task.cancelling() > 0
        return (
            isinstance(chain.error, asyncio.CancelledError) if chain.call is None else chain.call.cancelled()
        )

    def done(self) -> bool:
        """Whether the call is over."""
        chain = self._chain
        return chain.settled and (chain.call is None or chain.call.done())

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline, at least 0; None without a deadline."""
        chain = self._chain
        if chain.call is not None and (left := chain.call.time_remaining()) is not None:
            return float(left)
        return None if chain.deadline is None else max(0.0, chain.deadline - chain.time())

    def add_done_callback(self, callback: Callable[[Self], object]) -> None:
        """Call ``callback(call)`` at the end of the call; at once if it is over."""
        chain = self._chain

        def settled() -> None:
            if chain.call is None:
                callback(self)
            else:
                chain.call.add_done_callback(lambda _: callback(self))

        chain.when_settled(settled)

    @property
    def backend(self) -> str | None:
        """The endpoint that the latest call was last sent to, as text; None before the first pick."""
        calls = self._chain.calls
        return calls[-1].backend if calls else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts of the latest call."""
        calls = self._chain.calls
        return calls[-1].attempts if calls else ()


class _OneResponse(_Intercepted):
    """Adds waiting for the only response."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the response.

        Raises:
            RpcError: the call ended with a status other than OK.
            CancelledError: the call was cancelled; or the waiting task was, which cancels the call.
            Exception: what an interceptor raised.
        """
        call = yield from self._waited()
        return (yield from call.__await__())


class _Droppable(_Intercepted):
    """Adds being cancelled when nobody holds it, whoever else holds the call that the interceptors returned."""

    __slots__ = ()

    def __del__(self) -> None:
        chain = self._chain
        if not self.done():
            with suppress(RuntimeError):  # the loop is closed
                # Not at once: the collector may run in any thread.
                chain.task.get_loop().call_soon_threadsafe(chain.cancel)


class _Readable(_Droppable):
    """Adds reading a stream of responses."""

    __slots__ = ("_responses",)

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain)
        self._responses: Any = None  # what is iterated over, once it is known

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._responses is None:
            self._responses = aiter(await _Waiting(self))
        return await anext(self._responses)

    async def read(self) -> Any:
        """Wait for the next response; ``lbkit.EOF`` when there are no more. Errors as those of plain calls."""
        return await (await _Waiting(self)).read()


class _Writable(_Droppable):
    """Adds writing a stream of requests: ``write`` feeds the iterator that the interceptors were given."""

    __slots__ = ("_writes",)

    def __init__(self, chain: Chain, writes: Writes | None) -> None:
        super().__init__(chain)
        self._writes = writes
        if writes is not None:
            chain.when_settled(lambda: _close_at_end(chain, writes))

    async def write(self, request: Any) -> None:
        """Send a request; returns when there is room for the next one. Errors as those of plain calls."""
        writes = self._writing()
        try:
            taken = not self.done() and await writes.put(request)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if not taken:
            if self._chain.error is not None:
                raise self._chain.error
            await self._raise_for_status()
            over = "the call is over" if self.done() else "done_writing() was called"
            raise asyncio.InvalidStateError(f"{over}: nothing more can be written")

    async def done_writing(self) -> None:
        """End the stream of requests; does nothing the second time, and after the end of the call."""
        self._writing().end()

    def _writing(self) -> Writes:
        if self._writes is None:
            raise UsageError("this call was given an iterator of requests; make it without one to write()")
        return self._writes

    async def _raise_for_status(self) -> None:
        call = self._chain.call
        if call is None or not call.done():
            return
        if call.cancelled():
            raise asyncio.CancelledError
        code = await call.code()
        if code != StatusCode.OK:
            raise rpc_error_class()(
                code,
                await call.details(),
                initial_metadata=await call.initial_metadata(),
                trailing_metadata=await call.trailing_metadata(),
            )


class _Waiting:
    """Awaits what the interceptors return."""

    __slots__ = ("_intercepted",)

    def __init__(self, intercepted: _Intercepted) -> None:
        self._intercepted = intercepted

    def __await__(self) -> Generator[Any, None, Any]:
        return self._intercepted._waited()  # of the same module


class InterceptedUnaryUnaryCall(_OneResponse):
    """A unary call: ``await`` it."""

    __slots__ = ()


class InterceptedUnaryStreamCall(_Readable):
    """One request, a stream of responses: ``async for response in call``, or ``read()`` until ``EOF``."""

    __slots__ = ()


class InterceptedStreamUnaryCall(_Writable, _OneResponse):
    """A stream of requests, one response: give an iterator, or ``write()`` and ``done_writing()``; then ``await``."""

    __slots__ = ()


class InterceptedStreamStreamCall(_Writable):
    """A stream in both directions."""

    __slots__ = ("_responses",)

    def __init__(self, chain: Chain, writes: Writes | None) -> None:
        super().__init__(chain, writes)
        self._responses: Any = None

    __aiter__ = _Readable.__aiter__
    __anext__ = _Readable.__anext__
    read = _Readable.read


class InterceptedMultiCallable:
    """Makes the calls of one method through interceptors; called as the multicallable that it stands for.

    Args:
        plain: makes the calls at the end of the chain.
        steps: the interceptors' methods for this kind of call, the first one outermost.
        kind: such as ``unary_stream``.
        running: where chains are kept that run.
    """

    def __init__(self, plain: MultiCallable, steps: tuple[Step, ...], kind: str, running: set[Chain]) -> None:
        self.channel = plain.channel
        self.steps = steps
        self.running = running
        self.streams_request, self.streams_response = (part == "stream" for part in kind.split("_"))
        self._plain: dict[bytes | str, Any] = {plain.path.encode(): plain, plain.path: plain}
        self._method = plain.path.encode()

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        **extra: Any,
    ) -> Any:
        """Start a call; arguments and errors are those of the plain multicallable.

        What is wrong with the metadata is raised when the call is waited for, as interceptors may change them.
        """
        if get_running_loop() is not self.channel.bound_loop:
            self.channel.enter()
        given = MutableMetadata(*pairs(metadata)) if metadata else MutableMetadata()
        details = ClientCallDetails(self._method, timeout, given, credentials, wait_for_ready)
        if not self.streams_request:
            chain = Chain(self, details, request, extra)
            return (
                InterceptedUnaryStreamCall(chain)
                if self.streams_response
                else InterceptedUnaryUnaryCall(chain)
            )
        writes = Writes() if request is None else None
        chain = Chain(self, details, writes if request is None else request, extra)
        if self.streams_response:
            return InterceptedStreamStreamCall(chain, writes)
        return InterceptedStreamUnaryCall(chain, writes)

    def plain(self, path: bytes | str) -> Any:
        """Return what makes calls of a method, this one or another that an interceptor chose."""
        plain = self._plain.get(path)
        if plain is None:
            own: Any = self._plain[self._method]
            name = path if isinstance(path, str) else path.decode()
            plain = type(own)(own.channel, name, own.serialize, own.deserialize)
            if len(self._plain) < _METHODS_MAX:
                self._plain[path] = plain
        return plain


class Interception:
    """The interceptors of a channel.

    Args:
        interceptors: as for ``lbkit.Channel``.

    Raises:
        TypeError: one of them is no interceptor; says what it would need.
    """

    def __init__(self, interceptors: Iterable[object]) -> None:
        self._interceptors = tuple(interceptors)
        for interceptor in self._interceptors:
            check_client(interceptor)
        self._running: set[Chain] = set()

    def around(self, kind: str, plain: Any) -> Any:
        """Return a multicallable with the interceptors for its kind around it, or as it is if there are none."""
        found = (step_of(interceptor, kind) for interceptor in self._interceptors)
        steps = tuple(step for step in found if step is not None)
        return InterceptedMultiCallable(plain, steps, kind, self._running) if steps else plain

    async def close(self) -> None:
        """End the chains that still run, and wait for their end. Called by the channel, after its calls."""
        running = list(self._running)
        for chain in running:
            chain.close()
        if running:
            await asyncio.wait([chain.task for chain in running])


def _close_at_end(chain: Chain, writes: Writes) -> None:
    """Take no more requests once the call is over."""
    if chain.call is None:
        writes.close()
    else:
        chain.call.add_done_callback(lambda _: writes.close())


def _status_of(error: BaseException) -> tuple[StatusCode, str]:
    if isinstance(error, RpcError):
        return error.code(), error.details()
    if isinstance(error, asyncio.CancelledError):
        return StatusCode.CANCELLED, "cancelled by the application"
    raise error
