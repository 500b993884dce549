"""Runs a policy for a channel: delivers news in order and never nested, and publishes its pickers."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from lbkit.address import Endpoint
from lbkit.balancer import BalancerFactory, Controller, check_config
from lbkit.clock import Clock, TimerHandle
from lbkit.connectivity import ConnectivityState
from lbkit.picking import Picker
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.subchannel import Dialler, Subchannel

T = TypeVar("T")

_log = logging.getLogger("lbkit.balancer")

_NEWS_PER_TURN = 500  # delivered before other work on the event loop gets a turn
# A policy with thousands of backends needs milliseconds for a picker. While they come up one after the other it
# rests after each one, so that publishing takes a fifth of the time at most.
_LONG_SETTLE_S = 0.002
_REST = 5


class Scheduler(Protocol):
    """Runs a callback in the next turn of the event loop."""

    def __call__(self, callback: Callable[[], None], /) -> object:
        """Schedule ``callback``."""
        ...


class PolicyHost(Controller):
    """The channel as its policy sees it, and the queue of news for that policy.

    Args:
        factory: makes the policy.
        config: the policy's configuration.
        dialler: connects the subchannels.
        schedule: ``loop.call_soon``.
        publish: what to do with a new state and picker.
        reresolve: what to do when the policy asks for fresh addresses.

    Raises:
        ValueError: the policy cannot be configured so.
    """

    def __init__(
        self,
        factory: BalancerFactory,
        config: dict[str, object],
        *,
        dialler: Dialler,
        schedule: Scheduler,
        publish: Callable[[ConnectivityState, Picker], None],
        reresolve: Callable[[], None],
    ) -> None:
        self.clock: Clock = dialler.clock
        self.random: random.Random = dialler.random
        self._dialler = dialler
        self._schedule = schedule
        self._publish = publish
        self._reresolve = reresolve
        self.subchannels: dict[Subchannel, None] = {}  # those that are not shut down, oldest first
        self._news: deque[Callable[[], object]] = deque()
        self._due = False
        self._delivering = False
        self._again = False  # the policy asked for one more settle()
        self._rest_until = 0.0
        self._timer: TimerHandle | None = None
        self._closed = False
        check_config(factory, config)
        self._checks_health: bool = getattr(factory, "checks_health", True)
        self.policy = factory(self, config)

    # news for the policy

    def update(self, resolution: Resolution) -> Verdict:
        """Deliver a resolver's answer, after all older news, and return the policy's verdict."""
        if self._closed:
            return Verdict(accepted=False, reason="the channel was closed")
        if self._delivering:  # a policy's own call led here; it gets the answer when it has returned
            self._enqueue(lambda: self.policy.update(resolution))
            return ACCEPTED
        self._deliver(len(self._news))
        verdict = self._tell(lambda: self.policy.update(resolution))
        self._wake_later()
        return verdict or Verdict(accepted=False, reason="the balancing policy failed; see the log")

    def reconfigure(self, config: Mapping[str, Any]) -> bool:
        """Deliver another configuration, after all older news; return whether the policy has taken it."""
        if self._closed or self._delivering:
            return False
        self._deliver(len(self._news))
        return bool(self._tell(lambda: self.policy.reconfigure(config)))

    def resolver_failed(self, error: Exception) -> None:
        """Deliver that there is no answer."""
        self._enqueue(lambda: self.policy.resolver_failed(error))

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        """Deliver a subchannel's new state; SHUTDOWN is the policy's own doing, and no news to it."""
        if state is ConnectivityState.SHUTDOWN:
            self.subchannels.pop(subchannel, None)
        else:
            self._enqueue(lambda: self._pass_on(subchannel, state))

    def wake(self) -> None:
        """Have the policy leave IDLE."""
        self._enqueue(self.policy.wake)

    def close(self) -> None:
        """Shut the policy down; nothing is delivered afterwards."""
        if self._closed:
            return
        self._closed = True
        self._news.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._tell(self.policy.close)

    # what the policy asks of the channel

    def new_subchannel(self, endpoint: Endpoint) -> Subchannel:
        """Make an IDLE subchannel."""
        subchannel = Subchannel(endpoint, self._dialler, self, checks_health=self._checks_health)
        self.subchannels[subchannel] = None
        return subchannel

    def publish(self, state: ConnectivityState, picker: Picker) -> None:
        """Pass a new picker to the channel."""
        if not self._closed:
            self._publish(state, picker)

    def reresolve(self) -> None:
        """Pass the wish for fresh addresses to the resolver."""
        self._reresolve()

    def settle_again(self) -> None:
        """Come back to the policy in the next turn."""
        self._again = True
        self._wake_later()

    def _pass_on(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        if subchannel in self.subchannels:  # else older news made the policy shut it down
            self.policy.subchannel_changed(subchannel, state)

    def _enqueue(self, news: Callable[[], object]) -> None:
        if not self._closed:
            self._news.append(news)
            self._wake_later()

    def _wake_later(self) -> None:
        if self._due or self._closed or self._delivering:  # who delivers, looks afterwards what is left
            return
        self._due = True
        if self._rest_until > self.clock.time():
            self._timer = self.clock.call_at(self._rest_until, self._turn)
        else:
            self._schedule(self._turn)

    def _turn(self) -> None:
        """Deliver what has come, then let the policy publish once; go on in another turn if there is more."""
        self._due = False
        if self._closed:
            return
        self._again = False
        self._deliver(_NEWS_PER_TURN)
        began = self.clock.time()
        self._tell(self.policy.settle)
        took = self.clock.time() - began
        self._rest_until = 0.0 if self._again or took < _LONG_SETTLE_S else began + took * _REST
        if self._news or self._again:
            self._wake_later()

    def _deliver(self, most: int) -> None:
        while self._news and most > 0:
            most -= 1
            self._tell(self._news.popleft())

    def _tell(self, news: Callable[[], T]) -> T | None:
        """Call the policy. It may be a stranger's: what it raises is logged, and the next news still comes."""
        self._delivering = True
        try:
            return news()
        except Exception:  # whatever a stranger's policy raises
            _log.exception("the balancing policy %r raised", type(self.policy).__name__)
            return None
        finally:
            self._delivering = False
