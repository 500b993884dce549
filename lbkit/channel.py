"""The channel: what an application makes calls on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random as random_module
import weakref
from asyncio import get_running_loop
from collections.abc import Callable, Mapping
from enum import Enum
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar, overload

from lbkit.backoff import BackoffPolicy
from lbkit.balancer import Subchannel, check_config
from lbkit.balancer import registry as balancers
from lbkit.balancing import PolicyHost
from lbkit.call import (
    Call,
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from lbkit.callinfo import CallInfo
from lbkit.clock import Clock
from lbkit.connectivity import ConnectivityState
from lbkit.deadline import Deadlines
from lbkit.errors import ChannelClosedError, ForeignLoopError, ForkedError
from lbkit.foreign import AioChannel, register, rpc_error_class
from lbkit.limits import Counters, Limits
from lbkit.metadata import EMPTY
from lbkit.picking import Picker, QueuePicker
from lbkit.resolution import CallConfig, CallSelector, MethodConfig, Resolution, Verdict
from lbkit.resolver import Resolver, make_resolver
from lbkit.resolving import ResolverHost
from lbkit.status import Status, StatusCode
from lbkit.stub import Stub, make_stub
from lbkit.subchannel import ConnectOptions, Dialler
from lbkit.transport.connector import Connector, SocketConnector
from lbkit.transport.keepalive import KeepalivePolicy
from lbkit.transport.setup import ConnectionSetup
from lbkit.wire.requests import request_prefix

Request = TypeVar("Request")
Response = TypeVar("Response")

DEFAULT_BALANCER = "round_robin"
_USER_AGENT = "lbkit-python/0.1.0"


class Channel(AioChannel):
    """A virtual connection to a service: names are resolved, backends connected and chosen, behind each call.

    ``Channel()`` does no I/O; the first call does. It then belongs to the event loop it was used on. Close it, or
    use ``async with``.

    Args:
        target: whom to talk to, as ``scheme:///name``; the scheme selects the resolver.
        balancer: name of the policy.
        balancer_config: the policy's own configuration.
        resolver: use this resolver object instead of the one that the target's scheme names.
        authority: the ``:authority`` of requests; by default the target's path, or what stands for it.
        user_agent: goes in front of lbkit's own in the user-agent header.
        max_request_bytes: larger requests end with RESOURCE_EXHAUSTED before anything is sent; None for no limit.
        max_response_bytes: larger responses end with RESOURCE_EXHAUSTED; by default ``limits.max_message``.
        connect_timeout: seconds for one connection attempt, HTTP/2 handshake included.
        backoff: how long to wait after failed connection attempts.
        keepalive: seconds without a byte from a server, while calls wait for one, after which it is sent a PING
            (gRFC A8); None for never. There is no floor, as it is the server that has to bear it: most take one PING
            in five minutes, unless they are configured otherwise, and close the connection of who sends more. One
            that says ``too_many_pings`` doubles the time for later connections.
        keepalive_timeout: seconds to answer it; then the connection is given up, and its calls end with UNAVAILABLE.
        keepalive_without_calls: watch over connections without calls, too.
        connector: opens byte streams; TCP and Unix sockets by default.
        limits: what servers may do to us.
        engine: ``"native"`` or ``"h2"``, whose HTTP/2 it is; by default what ``LBKIT_HTTP2_ENGINE`` says.
        random: the source of randomness for balancing and jitter.

    Raises:
        TargetError, AddressError: the target cannot be understood.
        UnknownPluginError: no resolver has the target's scheme, or no policy that name; says the nearest.
        ValueError: the policy has no such option, a time makes no sense, or there is no such engine.
        ImportError: the engine's package is not installed.
    """

    # Set when the channel is bound to its event loop, at its first use.
    loop: asyncio.AbstractEventLoop
    clock: Clock
    deadlines: Deadlines
    _dialler: Dialler
    _resolver_host: ResolverHost
    _policy: PolicyHost

    def __init__(
        self,
        target: str,
        *,
        balancer: str = DEFAULT_BALANCER,
        balancer_config: Mapping[str, Any] | None = None,
        resolver: Resolver | None = None,
        authority: str | None = None,
        user_agent: str = "",
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = None,
        connect_timeout: float = 20.0,
        backoff: BackoffPolicy | None = None,
        keepalive: float | None = None,
        keepalive_timeout: float = 20.0,
        keepalive_without_calls: bool = False,
        connector: Connector | None = None,
        limits: Limits | None = None,
        engine: str | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        register("Channel", Channel)
        self.target = target
        self.balancer = balancer
        self.closing = False
        self.bound_loop: asyncio.AbstractEventLoop | None = None  # the loop it may be used on now
        self._bound = False  # to a loop, for good
        self.picker: Picker = QueuePicker()
        self._resolver = resolver or make_resolver(target)
        self._make_policy = balancers.get(balancer)
        self._balancer_config = dict(balancer_config or {})
        check_config(self._make_policy, self._balancer_config)
        self._authority = authority or self._resolver.authority
        self._user_agent = f"{user_agent} {_USER_AGENT}".lstrip()
        policy = None
        if keepalive is not None:
            policy = KeepalivePolicy(keepalive, keepalive_timeout, without_calls=keepalive_without_calls)
        self._setup = ConnectionSetup(limits, engine, keepalive=policy)
        self._connect_options = ConnectOptions(
            setup=self._setup,
            connector=connector or SocketConnector(),
            timeout_s=connect_timeout,
            backoff=backoff or BackoffPolicy(),
        )
        self._random = random or random_module.Random()
        self._default_config = CallConfig(
            MethodConfig(
                max_request_bytes=max_request_bytes,
                max_response_bytes=self._setup.limits.max_message
                if max_response_bytes is None
                else max_response_bytes,
            )
        )
        self._selector: CallSelector | None = None
        self._state = ConnectivityState.IDLE
        self._state_watchers: list[asyncio.Future[None]] = []
        self._queued: dict[Call, None] = {}
        self._forked = False
        _channels.add(self)

    @property
    def counters(self) -> Counters:
        """What servers did that ``limits`` are about, counted over all connections."""
        return self._setup.counters

    # Calls

    @overload  # type: ignore[override]  # with call objects of our own, here and below
    def unary_unary(
        self, method: str, request_serializer: None = None, response_deserializer: None = None
    ) -> UnaryUnaryMultiCallable[bytes, bytes]: ...
    @overload
    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Request], bytes],
        response_deserializer: Callable[[bytes], Response],
        _registered_method: bool = False,
    ) -> UnaryUnaryMultiCallable[Request, Response]: ...
    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryUnaryMultiCallable[Any, Any]:
        """Return what makes calls of a unary method. Called by generated stubs.

        Args:
            method: ``/package.Service/Method``.
            request_serializer: makes bytes of a request; None if requests are bytes.
            response_deserializer: makes a response of bytes; None to get the bytes.
        """
        return UnaryUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def unary_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryStreamMultiCallable[Any, Any]:
        """Return what makes calls of a server-streaming method; arguments as for ``unary_unary``."""
        return UnaryStreamMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_unary(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> StreamUnaryMultiCallable[Any, Any]:
        """Return what makes calls of a client-streaming method; arguments as for ``unary_unary``."""
        return StreamUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> StreamStreamMultiCallable[Any, Any]:
        """Return what makes calls of a bidirectional streaming method; arguments as for ``unary_unary``."""
        return StreamStreamMultiCallable(self, method, request_serializer, response_deserializer)

    def stub(self, pb2: ModuleType, service: str | None = None) -> Stub:
        """Return a stub made from the descriptors of a ``_pb2`` module: no plug-in of protoc is needed.

        Its methods are untyped; generated ``_pb2_grpc`` stubs are typed and work as well.

        Args:
            pb2: a module that ``protoc --python_out`` wrote.
            service: the service's name; may be left out if the module has only one.

        Raises:
            LookupError: the module has no such service; names those it has.
        """
        return make_stub(self, pb2, service)

    # Life

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; a second time does nothing.

        Args:
            grace: seconds that running calls get to finish. None or 0 ends them with CANCELLED at once. Calls that
                wait for a backend end at once in any case.

        Raises:
            ForeignLoopError: called on another event loop than the channel's.
        """
        if self.closing:
            return
        if self._bound and get_running_loop() is not self.loop:
            self.enter()
        self.closing = True
        self.bound_loop = None
        if not self._bound:
            self._set_state(ConnectivityState.SHUTDOWN)
            return
        await self._resolver_host.close()
        self._policy.close()
        queued, self._queued = self._queued, {}
        for call in queued:
            call.fail(Status(StatusCode.CANCELLED, "the channel was closed"))
        if grace:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._dialler.drained()
        await self._dialler.close("the channel was closed")
        self.deadlines.close()
        self._set_state(ConnectivityState.SHUTDOWN)

    def get_state(  # type: ignore[override]  # an enum of our own, equal to theirs
        self, try_to_connect: bool = False
    ) -> ConnectivityState:
        """Return the channel's state; with ``try_to_connect`` an idle channel starts connecting.

        Raises:
            ForeignLoopError: connecting is asked for on another event loop than the channel's.
        """
        if try_to_connect and self._state is ConnectivityState.IDLE:
            self._connect()
        return self._state

    def subchannels(self) -> tuple[Subchannel, ...]:
        """Return the policy's subchannels, oldest first, to look at: endpoint, state, calls in flight."""
        return tuple(self._policy.subchannels) if self._bound else ()

    async def wait_for_state_change(self, last_observed_state: Enum) -> None:
        """Return when the state is another than ``last_observed_state``, which may be of grpcio's enum."""
        while self._state == last_observed_state:
            future: asyncio.Future[None] = get_running_loop().create_future()
            self._state_watchers.append(future)
            try:
                await future
            finally:
                if future in self._state_watchers:
                    self._state_watchers.remove(future)

    async def channel_ready(self) -> None:
        """Connect, and return when the channel is READY. Waits for ever if no backend ever is: see ``ready``."""
        self._connect()
        while self._state is not ConnectivityState.READY:
            if self.closing:
                self.enter()
            await self.wait_for_state_change(self._state)

    async def ready(self, timeout: float) -> None:
        """Connect, and return when the channel is READY.

        Raises:
            RpcError: UNAVAILABLE, it was not READY within ``timeout`` seconds; says why.
        """
        try:
            async with asyncio.timeout(timeout):
                await self.channel_ready()
        except TimeoutError:
            raise rpc_error_class()(StatusCode.UNAVAILABLE, self._explain(timeout)) from None

    def __repr__(self) -> str:
        return f"<lbkit.Channel {self.target} {self.balancer} {self._state.name}>"

    # For calls and multicallables

    def enter(self) -> None:
        """Bind the channel to the running event loop at its first use, or say why it cannot be used.

        Raises:
            ChannelClosedError, ForkedError, ForeignLoopError: it cannot.
        """
        if self._forked:
            raise ForkedError(
                f"{self!r} was made before this process ({os.getpid()}) was forked; make a new channel in the child"
            )
        if self.closing:
            raise ChannelClosedError(f"{self!r} is closed; make a new channel")
        loop = get_running_loop()
        if self._bound:
            if loop is not self.loop:
                raise ForeignLoopError(
                    f"{self!r} belongs to another event loop; make one channel for each loop"
                )
            return
        self._bind(loop)

    def select(self, call: CallInfo) -> CallConfig:
        """Return what configuration applies to a call."""
        selector = self._selector
        return self._default_config if selector is None else selector.select(call)

    def queue(self, call: Call) -> None:
        """Keep a call until there is a new picker; a channel that is IDLE begins to connect."""
        if self.closing:
            call.fail(Status(StatusCode.CANCELLED, "the channel was closed"))
            return
        self._queued[call] = None
        if self._state is ConnectivityState.IDLE:
            self._policy.wake()

    def unqueue(self, call: Call) -> None:
        """Forget a call that is over, if it waited."""
        if self._queued:
            self._queued.pop(call, None)

    def request_prefix(self, path: str) -> Any:
        """Return the request headers that all calls of a method share."""
        return request_prefix(
            path=path, authority=self._authority, scheme="http", user_agent=self._user_agent
        )

    # Inside

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = loop
        self.deadlines = Deadlines(loop)
        self._dialler = Dialler(loop, self._random, self._connect_options)
        self._resolver_host = ResolverHost(
            self._resolver, clock=loop, random=self._random, update=self._resolved, fail=self._unresolved
        )
        self._policy = PolicyHost(
            self._make_policy,
            self._balancer_config,
            dialler=self._dialler,
            schedule=loop.call_soon,
            publish=self._published,
            reresolve=self._resolver_host.want,
        )
        self._bound = True  # only now: a policy may refuse its configuration
        self.loop = self.bound_loop = loop
        self._set_state(ConnectivityState.CONNECTING)
        self._resolver_host.start()

    def _connect(self) -> None:
        if get_running_loop() is not self.bound_loop:
            self.enter()
        self._policy.wake()

    def _resolved(self, resolution: Resolution) -> Verdict:
        verdict = self._policy.update(resolution)
        if verdict.accepted:
            self._selector = resolution.selector
        return verdict

    def _unresolved(self, error: Exception) -> None:
        self._policy.resolver_failed(error)

    def _published(self, state: ConnectivityState, picker: Picker) -> None:
        """Use a new picker, and ask it about the calls that waited for one."""
        self.picker = picker
        self._set_state(state)
        queued, self._queued = self._queued, {}
        for call in queued:
            call.attempt()

    def _set_state(self, state: ConnectivityState) -> None:
        if state is not self._state:
            self._state = state
            watchers, self._state_watchers = self._state_watchers, []
            for future in watchers:
                if not future.done():
                    future.set_result(None)

    def _explain(self, timeout: float) -> str:
        answer = self.picker.pick(_Nobody())
        status = getattr(answer, "status", None)
        return f"not READY within {timeout} s: {status.details if status else self._state.text}"

    def _after_fork(self) -> None:
        self._forked = True
        self.bound_loop = None


class _Nobody:
    """Asks a picker without being a call."""

    method = ""
    metadata = EMPTY
    attributes: Mapping[str, object] = {}


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _refuse_in_child() -> None:
    """Make every channel of the parent refuse its use in a forked child: the sockets are the parent's."""
    for channel in list(_channels):
        channel._after_fork()  # the class's own hook


os.register_at_fork(after_in_child=_refuse_in_child)
