"""The blocking channel: a channel on the loop of ``lbkit.sync``, and multicallables that wait."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType, TracebackType
from typing import Any, Self, cast

from lbkit.balancer import Subchannel
from lbkit.call import multicallable as asyncio_calls
from lbkit.channel import Channel as AsyncChannel
from lbkit.connectivity import ConnectivityState
from lbkit.errors import ChannelClosedError
from lbkit.foreign import rpc_error_class
from lbkit.limits import Counters
from lbkit.status import StatusCode
from lbkit.stub import Stub, make_stub
from lbkit.sync.foreign import BlockingChannel, register
from lbkit.sync.handles import BlockingCall
from lbkit.sync.interceptors import Interception
from lbkit.sync.loop_thread import LoopThread, acquire, check_thread, immediate
from lbkit.sync.multicallable import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from lbkit.sync.running import LATE_S

_log = logging.getLogger("lbkit.sync")


class Channel(BlockingChannel):
    """``lbkit.Channel`` for blocking programs: the same names, and calls that return when they are answered.

    Any number of threads may use it. Close it, or use ``with``; one that nobody holds any more is closed, too. It
    belongs to the process that made it: in a forked child make a new one.

    Args:
        target: whom to talk to, as ``scheme:///name``.
        interceptors: surround each call, the first one outermost; plain functions, as ``lbkit.sync.interceptors`` has it.
        options: those of ``lbkit.Channel``, and errors as there.

    Raises:
        TypeError: an interceptor is none, or asynchronous.
    """

    thread: LoopThread | None = None  # the loop, from the first use on

    def __init__(self, target: str, *, interceptors: Iterable[object] = (), **options: Any) -> None:
        register(Channel=Channel, Call=BlockingCall, Future=BlockingCall)
        self._interception = Interception(interceptors)
        self._core = AsyncChannel(target, **options)
        self._guard = threading.Lock()
        self._closed = False
        self._watches: dict[Callable[[Any], object], asyncio.Task[None]] = {}  # on the loop

    @property
    def target(self) -> str:
        """Whom it talks to."""
        return self._core.target

    @property
    def counters(self) -> Counters:
        """What servers did that ``limits`` are about, counted over all connections."""
        return self._core.counters

    # Calls

    def unary_unary(  # type: ignore[override]  # with calls of our own
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> UnaryUnaryMultiCallable[Any, Any]:
        """Return what makes calls of a unary method. Called by generated stubs.

        Args:
            method: ``/package.Service/Method``.
            request_serializer: makes bytes of a request, in the calling thread; None if requests are bytes.
            response_deserializer: makes a response of bytes, in the calling thread; None to get the bytes.
            codec: does both instead, as for ``lbkit.Channel.unary_unary``; errors as there.
        """

        def make(path: str) -> UnaryUnaryMultiCallable[Any, Any]:
            core = asyncio_calls.UnaryUnaryMultiCallable[Any, Any](
                self._core, path, request_serializer, response_deserializer, codec
            )
            return UnaryUnaryMultiCallable(self, core)

        found: UnaryUnaryMultiCallable[Any, Any] = self._interception.around("unary_unary", method, make)
        return found

    def unary_stream(  # type: ignore[override]  # with calls of our own
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> UnaryStreamMultiCallable[Any, Any]:
        """Return what makes calls of a server-streaming method; arguments as for ``unary_unary``."""

        def make(path: str) -> UnaryStreamMultiCallable[Any, Any]:
            core = asyncio_calls.UnaryStreamMultiCallable[Any, Any](
                self._core, path, request_serializer, response_deserializer, codec
            )
            return UnaryStreamMultiCallable(self, core)

        found: UnaryStreamMultiCallable[Any, Any] = self._interception.around("unary_stream", method, make)
        return found

    def stream_unary(  # type: ignore[override]  # with calls of our own
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> StreamUnaryMultiCallable[Any, Any]:
        """Return what makes calls of a client-streaming method; arguments as for ``unary_unary``."""

        def make(path: str) -> StreamUnaryMultiCallable[Any, Any]:
            core = asyncio_calls.StreamUnaryMultiCallable[Any, Any](
                self._core, path, request_serializer, response_deserializer, codec
            )
            return StreamUnaryMultiCallable(self, core)

        found: StreamUnaryMultiCallable[Any, Any] = self._interception.around("stream_unary", method, make)
        return found

    def stream_stream(  # type: ignore[override]  # with calls of our own
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> StreamStreamMultiCallable[Any, Any]:
        """Return what makes calls of a bidirectional streaming method; arguments as for ``unary_unary``."""

        def make(path: str) -> StreamStreamMultiCallable[Any, Any]:
            core = asyncio_calls.StreamStreamMultiCallable[Any, Any](
                self._core, path, request_serializer, response_deserializer, codec
            )
            return StreamStreamMultiCallable(self, core)

        found: StreamStreamMultiCallable[Any, Any] = self._interception.around("stream_stream", method, make)
        return found

    def stub(self, pb2: ModuleType, service: str | None = None, *, codec: str | None = None) -> Stub:
        """Return a stub made from the descriptors of a ``_pb2`` module; as ``lbkit.Channel.stub``, errors too."""
        return make_stub(cast(Any, self), pb2, service, codec)  # it has the same four methods

    # Life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self, grace: float | None = None) -> None:
        """Close the channel, and return when that is done; a second time does nothing.

        Args:
            grace: seconds that running calls get to finish; None or 0 ends them with CANCELLED at once.

        Raises:
            UsageError: called on the loop's own thread.
        """
        check_thread()
        with self._guard:
            if self._closed:
                return
            self._closed = True
        thread = self.thread
        if thread is None:
            immediate(self._core.close())
        elif not thread.forked:  # a child has nothing to close
            try:
                thread.run(self._close(grace))
            finally:
                thread.release()

    def __del__(self) -> None:
        thread = self.thread
        if thread is not None and not self._closed and not thread.forked and not thread.ended:
            thread.post(partial(_close_forgotten, self._core, thread))

    def get_state(self, try_to_connect: bool = False) -> ConnectivityState:
        """Return the channel's state; with ``try_to_connect`` an idle channel starts connecting."""
        if try_to_connect:
            check_thread()
            return (self.thread or self.enter()).run(self._get_state())
        return self._core.get_state()

    def subchannels(self) -> tuple[Subchannel, ...]:
        """Return the policy's subchannels, oldest first, to look at: endpoint, state, calls in flight."""
        return self._core.subchannels()

    def ready(self, timeout: float) -> None:
        """Connect, and return when the channel is READY.

        Raises:
            RpcError: UNAVAILABLE, it was not READY within ``timeout`` seconds; says why.
        """
        check_thread()
        try:
            (self.thread or self.enter()).run(self._core.ready(timeout), timeout + LATE_S)
        except TimeoutError:
            text = f"not READY within {timeout} s: something blocks the event loop of lbkit.sync"
            raise rpc_error_class()(StatusCode.UNAVAILABLE, text) from None

    def subscribe(self, callback: Callable[[Any], object], try_to_connect: bool = False) -> None:
        """Call ``callback(state)`` with the state that the channel is in, and with each one that it gets into.

        On the loop's thread: it must not block. Where grpcio is loaded it gets members of grpcio's enum, so that
        ``grpc.channel_ready_future`` works.
        """
        thread = self.thread or self.enter()
        thread.post(partial(self._subscribe, callback, try_to_connect, thread))

    def unsubscribe(self, callback: Callable[[Any], object]) -> None:
        """Call it no more."""
        if self.thread is not None:
            self.thread.post(partial(self._unsubscribe, callback))

    def __repr__(self) -> str:
        return repr(self._core).replace("lbkit.Channel", "lbkit.sync.Channel", 1)

    # For multicallables

    def enter(self) -> LoopThread:
        """Bind the channel to the loop of this process, at its first use.

        Raises:
            ChannelClosedError: it is closed.
        """
        with self._guard:
            if self._closed:
                raise ChannelClosedError(f"{self!r} is closed; make a new channel")
            if self.thread is None:
                self.thread = acquire()
            return self.thread

    # On the loop

    async def _close(self, grace: float | None) -> None:
        for callback in list(self._watches):
            self._unsubscribe(callback)
        await self._core.close(grace)

    async def _get_state(self) -> ConnectivityState:
        return self._core.get_state(try_to_connect=True)

    def _subscribe(self, callback: Callable[[Any], object], try_to_connect: bool, thread: LoopThread) -> None:
        if not thread.ended and callback not in self._watches:
            self._watches[callback] = thread.loop.create_task(_watch(self._core, callback, try_to_connect))

    def _unsubscribe(self, callback: Callable[[Any], object]) -> None:
        task = self._watches.pop(callback, None)
        if task is not None:
            task.cancel()


async def _watch(core: AsyncChannel, callback: Callable[[Any], object], try_to_connect: bool) -> None:
    """Tell a subscriber of every state."""
    state = core.get_state()
    while True:
        try:
            callback(_theirs(state))
        except Exception:  # a subscriber's mistake
            _log.exception("a subscriber to the state of %s raised", core.target)
        if try_to_connect:
            try_to_connect = False
            core.get_state(try_to_connect=True)
        if state is ConnectivityState.SHUTDOWN:
            return
        await core.wait_for_state_change(state)
        state = core.get_state()


def _theirs(state: ConnectivityState) -> Any:
    """Return grpcio's member for a state, where grpcio is loaded: it compares them by identity."""
    theirs = getattr(sys.modules.get("grpc"), "ChannelConnectivity", None)
    return state if theirs is None else getattr(theirs, state.name, state)


def _close_forgotten(core: AsyncChannel, thread: LoopThread) -> None:
    """Close a channel that nobody holds any more. On the loop."""

    async def close() -> None:
        try:
            await core.close()
        finally:
            thread.release()

    if not thread.ended:
        task = thread.loop.create_task(close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
