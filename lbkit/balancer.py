"""The balancer contract: how a policy turns endpoints and their states into pickers.

The smallest policy is a function over the READY subchannels::

    @lbkit.balancer("least_busy")
    def pick(ready, call):
        return min(ready, key=lambda subchannel: subchannel.in_flight)

A policy that keeps state derives from ``EndpointBalancer`` and builds a picker; one that decides itself which
endpoints to connect to derives from ``Balancer``.
"""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar, cast

from lbkit.address import Endpoint
from lbkit.callinfo import CallInfo
from lbkit.clock import Clock
from lbkit.connectivity import ConnectivityState, StateCounts
from lbkit.options import ANYTHING, Option, check_options, read_option
from lbkit.picking import FailPicker, Pick, Picked, Picker, QueuePicker
from lbkit.plugins import Registry, origin_of
from lbkit.resolution import ACCEPTED, Resolution, Verdict

_MADE_PER_TURN = 2000  # subchannels made before other work on the event loop gets a turn
_LISTED = 10  # backends named in an error text; the rest is counted

IDLE = ConnectivityState.IDLE
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE


class Subchannel(ABC):
    """One endpoint and its connection, as policies see it. Made by ``Controller.new_subchannel``.

    It starts IDLE and does nothing by itself: after ``connect()`` it is CONNECTING as soon as it is its turn to
    dial, then READY, or TRANSIENT_FAILURE for as long as its back-off lasts. After that, and at once when a READY
    one loses its connection or its server says GOAWAY, it is IDLE again, and the policy decides. Where health is
    checked (gRFC A17), one whose backend says that it does not serve is in TRANSIENT_FAILURE, too, and goes from
    there to READY by itself.

    Attributes:
        endpoint: what it connects to.
        state: where it is now; may be ahead of the news in ``Balancer.subchannel_changed``.
        in_flight: calls sent and not yet over.
        picked: a ready-made ``Picked(self)``, so that a plain pick allocates nothing; there once it is READY.
    """

    __slots__ = ("endpoint", "in_flight", "picked", "state")

    endpoint: Endpoint
    state: ConnectivityState
    in_flight: int
    picked: Picked

    @abstractmethod
    def connect(self) -> None:
        """Start connecting if IDLE; otherwise do nothing. Returns at once: at most 100 dials run at a time."""

    @abstractmethod
    def shutdown(self) -> None:
        """Stop using it: no new calls, the ones in flight finish. The policy hears no more of it."""

    @abstractmethod
    def revise(self, endpoint: Endpoint) -> None:
        """Take new attributes (weight, zone ...) of the same addresses; the connection stays."""

    @abstractmethod
    def describe_failure(self) -> str:
        """Say in one line why it is not READY: the error, how often, when the next try is."""


class Controller(ABC):
    """The channel as a policy sees it. All of it is called on the channel's event loop."""

    clock: Clock
    random: random.Random

    @abstractmethod
    def new_subchannel(self, endpoint: Endpoint) -> Subchannel:
        """Make an IDLE subchannel; nothing happens until ``connect()``. The policy owns it: shut it down."""

    @abstractmethod
    def publish(self, state: ConnectivityState, picker: Picker) -> None:
        """Replace the channel's state and picker; the new picker is asked about every call that waits.

        A policy that loses the subchannel of a published picker must publish again: calls that found it gone wait
        for the next picker.
        """

    @abstractmethod
    def reresolve(self) -> None:
        """Hint that the addresses may be stale: a connection broke, or a round of attempts failed."""

    @abstractmethod
    def settle_again(self) -> None:
        """Call ``settle`` once more in the next turn of the event loop: there is work left for it."""


class Balancer(ABC):
    """One running policy of one channel. The base of balancer plug-ins.

    Synchronous, on the channel's event loop, never re-entered: news is delivered one after the other, in
    order. After each batch of news the channel calls ``settle`` once, and there a policy publishes its picker;
    so a thousand backends that become READY in one turn of the loop make one picker, not a thousand.

    Args:
        controller: the channel.
        config: the policy's own configuration (from the service config, or ``balancer_config=``).

    Attributes:
        name: what error texts call the policy.
        options: the keys that ``config`` may have, in camelCase as in service configs; a channel refuses any other,
            and values that cannot be read. ``ANYTHING``, the default, leaves the checking to the policy.
        checks_health: whether a subchannel counts as READY only while its backend says that it serves, where the
            service config asks for health checks. False for policies that do not choose among backends.
    """

    name: str = ""
    options: ClassVar[Mapping[str, Option]] = ANYTHING
    checks_health: ClassVar[bool] = True

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        self.controller = controller
        self.config = config

    def option(self, key: str) -> Any:
        """Return the configured value of one of ``options``, or its default.

        Raises:
            ValueError: the configured value is not what the option takes.
        """
        return read_option(self.name or type(self).__name__, self.options, key, self.config)

    @abstractmethod
    def update(self, resolution: Resolution) -> Verdict:
        """Take a whole new list of endpoints. Return a rejection, with the reason, if it cannot be used."""

    def reconfigure(self, config: Mapping[str, Any]) -> bool:
        """Take another configuration of the same policy; the update that came with it follows.

        Return False, as this does, to have the channel make a new policy with it instead, which replaces this one
        when it is connected.
        """
        return False

    @abstractmethod
    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        """Take note that one of this policy's subchannels is now in ``state``. Not called for SHUTDOWN."""

    @abstractmethod
    def resolver_failed(self, error: Exception) -> None:
        """Take note that the resolver failed. Only called while it has not given any answer at all."""

    @abstractmethod
    def settle(self) -> None:
        """Publish a picker if the news since the last call changed anything."""

    @abstractmethod
    def wake(self) -> None:
        """Leave IDLE: connect to something, because a call or the application asks for it."""

    @abstractmethod
    def close(self) -> None:
        """Shut down every subchannel; nothing is delivered afterwards."""


class EndpointBalancer(Balancer):
    """Connects to every endpoint and picks among those that are READY.

    All that a common policy has to add is ``make_picker``.

    It keeps the subchannel of an endpoint that stays through an update, connects idle ones at once, asks for
    re-resolution when one is lost or fails, and reports TRANSIENT_FAILURE of a backend until that is READY
    again, though it is reconnecting meanwhile. An update that equals the one before does nothing at all. Of an
    endpoint that is listed twice the first counts. One that is draining is picked only if no other is READY.
    """

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self.subchannels: dict[Hashable, Subchannel] = {}  # by endpoint identity
        self._states: dict[Subchannel, ConnectivityState] = {}  # sticky; of those that have left IDLE
        self._counts = StateCounts()
        self._endpoints: tuple[Endpoint, ...] | None = None  # the last update
        # The identities in its order, if the new ones must be put in between.
        self._order: Iterable[Hashable] = ()
        self._unmade: list[Endpoint] = []  # endpoints that have no subchannel yet
        self._resolver_error: Exception | None = None
        self._changed = False
        self._published: ConnectivityState | None = None

    @abstractmethod
    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        """Make the picker over the READY subchannels, in the order of the update; there is at least one.

        Called when one has become READY or stopped being it, and after an update that differs from the one before.
        """

    def update(self, resolution: Resolution) -> Verdict:
        """Keep what stays, shut down what is gone, and have ``settle`` connect to what is new."""
        if resolution.endpoints != self._endpoints or self._resolver_error is not None:
            self._endpoints = resolution.endpoints
            self._resolver_error = None
            self._changed = True
            self._take(resolution.endpoints)
        if not resolution.endpoints:
            return Verdict(accepted=False, reason="the answer has no endpoints")
        return ACCEPTED

    def _take(self, endpoints: Sequence[Endpoint]) -> None:
        listed = {endpoint.identity: endpoint for endpoint in endpoints}
        if len(listed) < len(endpoints):
            listed.update((endpoint.identity, endpoint) for endpoint in reversed(endpoints))
        before = self.subchannels
        self.subchannels = {identity: before.pop(identity) for identity in listed if identity in before}
        for gone in before.values():
            self._counts.remove(self._states.pop(gone, IDLE))
            gone.shutdown()
        for identity, subchannel in self.subchannels.items():
            endpoint = listed[identity]
            if subchannel.endpoint != endpoint:
                subchannel.revise(endpoint)
        self._unmade = [endpoint for identity, endpoint in listed.items() if identity not in self.subchannels]
        self._unmade.reverse()  # taken from the end, in the order of the answer
        self._order = tuple(listed) if self._unmade and self.subchannels else ()

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        """Follow one subchannel, with sticky failure."""
        if self.subchannels.get(subchannel.endpoint.identity) is not subchannel:
            return  # no longer ours
        before = self._states.get(subchannel, IDLE)
        if state is TRANSIENT_FAILURE or (before is READY and state is not READY):
            self.controller.reresolve()
        if state is IDLE:
            subchannel.connect()
        if before is TRANSIENT_FAILURE and state is not READY:
            return
        self._states[subchannel] = state
        self._counts.remove(before)
        self._counts.add(state)
        if state is READY or before is READY or self._published is not READY:
            self._changed = True  # else the picker would be the same

    def resolver_failed(self, error: Exception) -> None:
        """Fail calls with the resolver's error until there is an answer."""
        self._resolver_error = error
        self._changed = True

    def settle(self) -> None:
        """Make subchannels that are missing, a few at a time, and publish the picker of the present states."""
        for _ in range(min(len(self._unmade), _MADE_PER_TURN)):
            subchannel = self.controller.new_subchannel(self._unmade.pop())
            self.subchannels[subchannel.endpoint.identity] = subchannel
            self._counts.add(IDLE)
            subchannel.connect()
        if self._unmade:
            self.controller.settle_again()
        elif self._order:
            self.subchannels = {identity: self.subchannels[identity] for identity in self._order}
            self._order = ()
        if self._changed:
            self._changed = bool(self._unmade)
            self._publish()

    def _publish(self) -> None:
        state = self._counts.aggregate()
        ready: list[Subchannel] = []
        if state is READY:
            ready = [subchannel for subchannel in self.subchannels.values() if subchannel.state is READY]
        if ready:
            if any(subchannel.endpoint.draining for subchannel in ready):
                ready = [subchannel for subchannel in ready if not subchannel.endpoint.draining] or ready
            self.controller.publish(READY, self.make_picker(ready))
            self._published = READY
            return
        if state is not TRANSIENT_FAILURE or self._unmade:
            state = ConnectivityState.CONNECTING
        # Those that wait were told, and the explanation is made when asked for.
        if state is not self._published:
            picker = FailPicker(self.explain) if state is TRANSIENT_FAILURE else QueuePicker()
            self.controller.publish(state, picker)
            self._published = state

    def explain(self) -> str:
        """Say why no call can be served now: each backend, its error, its next try."""
        if not self.subchannels:
            return str(self._resolver_error or "the resolver's answer has no endpoints")
        return explain_failures(self.name or type(self).__name__, list(self.subchannels.values()))

    def wake(self) -> None:
        """Do nothing: every endpoint is being connected to anyhow."""

    def close(self) -> None:
        """Shut down every subchannel."""
        for subchannel in self.subchannels.values():
            subchannel.shutdown()
        self.subchannels = {}
        self._states = {}
        self._counts = StateCounts()
        self._endpoints = None
        self._order = ()
        self._unmade = []


def explain_failures(policy: str, subchannels: Sequence[Subchannel]) -> str:
    """Return the text of the UNAVAILABLE status when all backends are down."""
    count = len(subchannels)
    lines = [
        f"all {count} backends are down ({policy})" if count > 1 else f"the only backend is down ({policy})"
    ]
    lines += [
        f"  {subchannel.endpoint}  {subchannel.describe_failure()}" for subchannel in subchannels[:_LISTED]
    ]
    if count > _LISTED:
        lines.append(f"  and {count - _LISTED} more")
    lines.append("  hint: wait_for_ready=True queues calls instead of failing them")
    return "\n".join(lines)


PickFunction: TypeAlias = Callable[[Sequence[Subchannel], CallInfo], "Subchannel | Pick"]


class FunctionBalancer(EndpointBalancer):
    """Runs a plain ``pick(ready, call)`` function as a policy. The function never sees a configuration."""

    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(
        self, controller: Controller, config: Mapping[str, Any], function: PickFunction, name: str
    ) -> None:
        super().__init__(controller, config)
        self._function = function
        self.name = name

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        """Close the function over the READY subchannels."""
        return _FunctionPicker(self._function, tuple(ready))


class _FunctionPicker(Picker):
    __slots__ = ("_function", "_ready")

    def __init__(self, function: PickFunction, ready: tuple[Subchannel, ...]) -> None:
        self._function = function
        self._ready = ready

    def pick(self, call: CallInfo) -> Pick:
        answer = self._function(self._ready, call)
        return answer.picked if isinstance(answer, Subchannel) else answer


BalancerFactory: TypeAlias = Callable[[Controller, Mapping[str, Any]], Balancer]


def _factory(plugin: object, name: str = "") -> BalancerFactory:
    if inspect.isclass(plugin):
        if not issubclass(plugin, Balancer):
            raise TypeError(f"{plugin!r} must derive from lbkit.Balancer")
        return plugin
    if not callable(plugin) or inspect.iscoroutinefunction(plugin):
        raise TypeError(f"{plugin!r} must be a Balancer subclass or a plain function pick(ready, call)")
    label = name or getattr(plugin, "__name__", type(plugin).__name__)
    return _FunctionFactory(cast(PickFunction, plugin), label)


class _FunctionFactory:
    options = FunctionBalancer.options

    def __init__(self, function: PickFunction, name: str) -> None:
        self.name = name
        self._function = function

    def __call__(self, controller: Controller, config: Mapping[str, Any]) -> Balancer:
        return FunctionBalancer(controller, config, self._function, self.name)


def check_config(factory: BalancerFactory, config: Mapping[str, Any]) -> None:
    """See that a policy can be configured so; a policy that declares no ``options`` sees to that itself.

    Raises:
        ValueError: a key that the policy does not have, with the nearest one that it has; or a wrong value.
    """
    options: Mapping[str, Option] = getattr(factory, "options", ANYTHING)
    if options is not ANYTHING:
        name = getattr(factory, "name", "") or getattr(factory, "__name__", "this policy")
        check_options(name, options, config)


registry: Registry[BalancerFactory] = Registry("balancer", "lbkit.balancers", _factory)

P = TypeVar("P", bound=Callable[..., Any])


def balancer(name: str) -> Callable[[P], P]:
    """Register a ``Balancer`` subclass, or a plain function ``pick(ready, call)``, as the policy ``name``.

    The function gets a non-empty tuple of READY subchannels and what is known of the call, and returns one of
    them (or a ``Picked``, ``QUEUE``, ``Fail`` or ``Drop``). It runs for every call, so it must be quick.

    Raises:
        TypeError: what is decorated is neither.
    """

    def register(plugin: P) -> P:
        registry.register(name, _factory(plugin, name), origin=origin_of(plugin))
        return plugin

    return register
