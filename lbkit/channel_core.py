"""What is behind a channel: its event loop, its resolver and policy, its state, and the calls that wait."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random as random_module
from asyncio import get_running_loop
from collections.abc import Callable, Mapping
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lbkit.balancer import Subchannel
from lbkit.call.attempts import Attempts
from lbkit.callinfo import CallInfo
from lbkit.clock import Clock
from lbkit.configuring import Configuration, Undecided
from lbkit.connectivity import ConnectivityState
from lbkit.deadline import Deadlines
from lbkit.errors import ChannelClosedError, ForeignLoopError, ForkedError, ServiceConfigError
from lbkit.foreign import AioChannel, rpc_error_class
from lbkit.health_watch import make_checks
from lbkit.idling import Idling
from lbkit.inventory import Trace, channels
from lbkit.metadata import EMPTY
from lbkit.picking import Picker, QueuePicker
from lbkit.resolution import UNCONFIGURED, CallConfig, CallSelector, Discovery, Resolution, Verdict
from lbkit.resolver import Resolver
from lbkit.resolving import ResolverHost
from lbkit.retry import RetryThrottle
from lbkit.service_config import ServiceConfig
from lbkit.status import Status, StatusCode
from lbkit.subchannel import ConnectOptions, Dialler
from lbkit.switching import PolicySwitch

if TYPE_CHECKING:
    from lbkit.call.intercepted import Interception
    from lbkit.http2.hpack import Prefix


class ChannelCore(AioChannel):
    """The life of a channel. ``Channel`` adds what it is made with, and the calls.

    Args:
        target: as the application wrote it, without secrets.
        resolver: gives its endpoints.
        configuration: which service config is in force, and which policy.
        connect_options: how its subchannels connect.
        random: the source of randomness for balancing and jitter.
        idle_timeout: seconds without a call after which everything is closed; None for never.
        max_connections: to one backend, where the service config says nothing.
        interception: what runs the interceptors, if there are any.
        request_prefix: makes the headers that all calls of a method share.
    """

    # Set when the channel is bound to its event loop, at its first use.
    loop: asyncio.AbstractEventLoop
    clock: Clock
    deadlines: Deadlines
    _dialler: Dialler
    _resolver_host: ResolverHost
    _policy: PolicySwitch

    def __init__(
        self,
        target: str,
        resolver: Resolver,
        configuration: Configuration,
        connect_options: ConnectOptions,
        *,
        random: random_module.Random,
        idle_timeout: float | None,
        max_connections: int,
        interception: Interception | None,
        request_prefix: Callable[..., Prefix],
    ) -> None:
        self.target = target
        self.balancer = configuration.policy.name  # of the policy that serves
        self.request_prefix = request_prefix
        self.random = random
        self.closing = False
        self.bound_loop: asyncio.AbstractEventLoop | None = None  # the loop it may be used on now
        self.picker: Picker = QueuePicker()
        self.offload = connect_options.setup.offload  # where large messages are compressed and decompressed
        self.last_call_at = 0.0  # set by each call
        self.retry_throttle: RetryThrottle | None = None  # of the service config
        self.retrying: dict[Attempts, None] = {}  # calls between two attempts
        self.authorizing: dict[Attempts, asyncio.Task[None]] = {}  # calls that wait for credentials
        self.calls_started = self.calls_succeeded = self.calls_failed = 0
        self._bound = False  # to a loop, for good
        self._forked = False
        self._resolver = resolver
        self._configuration = configuration
        self._connect_options = connect_options
        self._max_connections = max_connections
        self._interception = interception
        self._idling = Idling(idle_timeout, self)
        self._default_config = CallConfig(UNCONFIGURED)
        self._undecided: Undecided | None = Undecided()  # until the resolver has answered, or failed
        self._selector: CallSelector | None = self._undecided
        self._state = ConnectivityState.IDLE
        self._state_watchers: list[asyncio.Future[None]] = []
        self._queued: dict[Attempts, None] = {}
        self.number = channels.add(self)

    @property
    def service_config(self) -> ServiceConfig:
        """The service config in force: the resolver's, or else the application's, or else an empty one."""
        return self._configuration.active

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
        await self._idling.stop()
        await self._resolver_host.close()
        self._policy.close()
        queued, self._queued = self._queued, {}
        for call in [*queued, *self.retrying, *self.authorizing]:
            call.fail(Status(StatusCode.CANCELLED, "the channel was closed"))
        if grace:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._dialler.drained()
        await self._dialler.close("the channel was closed")
        self.offload.close()
        if self._interception is not None:
            await self._interception.close()
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

    def reset_backoff(self) -> None:
        """Try backends that are down, and a resolver that failed, now instead of after their back-off.

        For who knows that the network is back. Does nothing on a channel that was not used yet.

        Raises:
            ForeignLoopError: called on another event loop than the channel's.
        """
        if self._bound and not self.closing:
            if get_running_loop() is not self.loop:
                self.enter()
            self._resolver_host.reset_backoff()
            for subchannel in list(self._policy.subchannels):
                subchannel.reset_backoff()

    def discovery(self) -> Discovery:
        """Return what the resolver has said so far, how long ago, and what it has failed with since then."""
        return self._resolver_host.discovery() if self._bound else Discovery(None, 0.0, None)

    def subchannels(self) -> tuple[Subchannel, ...]:
        """Return the policy's subchannels, oldest first, to look at: endpoint, state, calls in flight."""
        return tuple(self._policy.subchannels) if self._bound else ()

    @property
    def trace(self) -> Trace | None:
        """What happened to it and its subchannels lately; None while it is not used."""
        return self._dialler.trace if self._bound else None

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
            self.get_state(try_to_connect=True)  # it may have gone idle meanwhile
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

    def queue(self, call: Attempts) -> None:
        """Keep a call until there is a new picker; a channel that is IDLE begins to connect."""
        if self.closing:
            call.fail(Status(StatusCode.CANCELLED, "the channel was closed"))
            return
        self._queued[call] = None
        if self._state is ConnectivityState.IDLE:
            self._wake()

    def unqueue(self, call: Attempts) -> None:
        """Forget a call that is over, if it waited."""
        if self._queued:
            self._queued.pop(call, None)

    # Inside

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = loop
        self.deadlines = Deadlines(loop)
        self._dialler = Dialler(loop, self.random, self._connect_options)
        self._build(loop)
        self._bound = True  # only now: a policy may refuse its configuration
        self.loop = self.bound_loop = loop
        self._apply_config(self._configuration.active)
        self._set_state(ConnectivityState.CONNECTING)
        self._resolver_host.start()
        self._idling.start(loop)

    def _build(self, loop: asyncio.AbstractEventLoop) -> None:
        self._resolver_host = ResolverHost(
            self._resolver, clock=loop, random=self.random, update=self._resolved, fail=self._unresolved
        )
        self._policy = PolicySwitch(
            self._configuration.policy,
            dialler=self._dialler,
            schedule=loop.call_soon,
            publish=self._published,
            reresolve=self._resolver_host.want,
        )

    def _connect(self) -> None:
        if get_running_loop() is not self.bound_loop:
            self.enter()
        self._wake()

    def _wake(self) -> None:
        if self._idling.want():  # everything is made anew
            self._set_state(ConnectivityState.CONNECTING)
        else:
            self._policy.wake()

    def _resolved(self, resolution: Resolution) -> Verdict:
        before = self._configuration.active
        problem = self._configuration.take(resolution.service_config)
        rejected = Verdict(accepted=False, reason=problem)
        if not self._configuration.usable:
            self._unresolved(ServiceConfigError((problem,)))
            return rejected
        if self._configuration.active is not before:
            self._apply_config(self._configuration.active)
        verdict = self._policy.update(resolution, self._configuration.policy)
        if verdict.accepted or self._undecided is not None:
            self._decide(resolution.selector)
        return rejected if problem else verdict

    def _unresolved(self, error: Exception) -> None:
        if self._undecided is not None:
            self._decide(None)
        self._policy.resolver_failed(error)

    def _apply_config(self, config: ServiceConfig) -> None:
        """Put a service config in force, except for what it says about methods and policies: that goes with an update."""
        self._dialler.health_checks = make_checks(
            config.health_check_service, self.request_prefix, clock=self.clock, random=self.random
        )
        self._dialler.max_connections = config.max_connections_per_subchannel or self._max_connections
        throttling = config.retry_throttling
        self.retry_throttle = None if throttling is None else RetryThrottle(throttling)

    def _decide(self, selector: CallSelector | None) -> None:
        """Configure calls anew: those that begin from now on, and those that began before anything was known."""
        self._selector = self._configuration.selector(selector)
        undecided, self._undecided = self._undecided, None
        if undecided is not None:
            undecided.decided()

    def _published(self, state: ConnectivityState, picker: Picker) -> None:
        """Use a new picker, and ask it about the calls that waited for one."""
        self.picker = picker
        self.balancer = self._policy.name
        self._set_state(state)
        queued, self._queued = self._queued, {}
        for call in queued:
            call.attempt()

    def _set_state(self, state: ConnectivityState) -> None:
        if state is not self._state:
            self._state = state
            if self._bound:
                self._dialler.trace.add(self.clock.time(), state.name)
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


def _refuse_in_child() -> None:
    """Make every channel of the parent refuse its use in a forked child: the sockets are the parent's."""
    for channel in list(channels):
        channel._after_fork()  # the class's own hook


os.register_at_fork(after_in_child=_refuse_in_child)
