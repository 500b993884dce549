"""pick_first: one connection, to the first address of the list that can be reached (gRFC A61, A62, A113)."""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from lbkit.address import Address, Endpoint
from lbkit.balancer import Balancer, Controller, Subchannel, explain_failures
from lbkit.callinfo import CallInfo
from lbkit.clock import TimerHandle
from lbkit.connectivity import ConnectivityState
from lbkit.families import ATTEMPT_DELAY_S, interleaved
from lbkit.options import Option, flag, seconds
from lbkit.picking import QUEUE, FailPicker, Picked, Picker, Queue, QueuePicker
from lbkit.resolution import ACCEPTED, Resolution, Verdict

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE

_LEAST_DELAY_S, _MOST_DELAY_S = 0.1, 2.0  # the bounds of connectionAttemptDelay, as in gRFC A61


class Phase(enum.Enum):
    """What the policy is doing."""

    EMPTY = "there is nothing to connect to"
    IDLE = "not connected; the next call or wake() starts a pass"
    TRYING = "a pass: one address after the other, in order"
    RETRYING = "a whole pass failed; every address is tried again after its own back-off"
    READY = "connected, to the one selected"


class PickFirst(Balancer):
    """Uses one address: the first that can be reached, with a subchannel for each that it tries.

    The addresses of all endpoints make one list, each address once, IPv6 and IPv4 in turn, beginning with the
    family of the first. A pass starts an attempt at the next address when the one before has failed, or has taken
    a quarter of a second; the first that is READY wins, and the others are dropped. Once all attempts of a pass
    have failed, the policy reports TRANSIENT_FAILURE until something is READY, and tries each address again after
    its own back-off. It asks for re-resolution then, and again after as many failures as there are addresses.

    It keeps its connection through updates for as long as the address is listed, and not draining. When that is lost, the policy
    is IDLE until a call or ``wake`` asks for a connection, which starts at the top of the list again.

    Config:
        shuffleAddressList: true puts the endpoints of each new list in random order, so that many clients of one
            list do not all use the same backend. Those of greater weight tend to come first, so that the clients
            spread by weight.
        connectionAttemptDelay: how long an attempt may take before the next one starts, as ``"0.25s"`` or a number
            of seconds; 0.1 to 2.
    """

    name = "pick_first"
    checks_health: ClassVar[bool] = False  # gRFC A17: it has no other backend to go to
    options: ClassVar[Mapping[str, Option]] = {
        "shuffleAddressList": Option(default=False, read=flag),
        "connectionAttemptDelay": Option(ATTEMPT_DELAY_S, seconds),
    }

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self._shuffle: bool = self.option("shuffleAddressList")
        self._delay_s = min(max(self.option("connectionAttemptDelay"), _LEAST_DELAY_S), _MOST_DELAY_S)
        self._phase = Phase.EMPTY
        self._failing = False  # report TRANSIENT_FAILURE, whatever is tried meanwhile
        self._selected: Subchannel | None = None
        self._endpoints: tuple[Endpoint, ...] = ()  # the last update
        self._order: dict[Address, Endpoint] = {}  # what to try, in order: endpoints of one address each
        self._subchannels: dict[Address, Subchannel] = {}  # made when their turn comes
        self._untried: deque[Address] = deque()  # what is left of the pass
        self._trying: set[Subchannel] = set()  # those whose attempts the pass waits for
        self._latest: Subchannel | None = None  # the one among them that was started last
        self._timer: TimerHandle | None = None  # until the next one may start
        self._failures = 0  # since re-resolution was last asked for
        self._resolver_error: Exception | None = None
        self._published: tuple[Phase, bool, Subchannel | None] | None = self._view()

    def update(self, resolution: Resolution) -> Verdict:
        """Drop what is gone, and start over unless the connection in use stays."""
        if resolution.endpoints == self._endpoints and self._phase is not Phase.EMPTY:
            return ACCEPTED
        self._endpoints = resolution.endpoints
        self._order = listed = self._arrange(resolution.endpoints)
        self._resolver_error = None
        for address, subchannel in list(self._subchannels.items()):
            if address not in listed:
                del self._subchannels[address]
                subchannel.shutdown()
            elif subchannel.endpoint != listed[address]:
                subchannel.revise(listed[address])
        if not listed:
            self._stop_pass()
            self._phase, self._failing, self._selected = Phase.EMPTY, True, None
            return Verdict(accepted=False, reason="the answer has no endpoints")
        if self._phase is Phase.EMPTY:
            self._failing = False  # that was for want of endpoints, not because one failed
        kept = self._selected is not None and self._selected.endpoint.addresses[0] in listed
        if not kept and self._phase is not Phase.IDLE:
            self._start_pass()
        return ACCEPTED

    def _arrange(self, endpoints: Sequence[Endpoint]) -> dict[Address, Endpoint]:
        if any(endpoint.draining for endpoint in endpoints):
            endpoints = [endpoint for endpoint in endpoints if not endpoint.draining] or endpoints
        if self._shuffle:
            endpoints = shuffled(endpoints, self.controller.random)
        found: dict[Address, Endpoint] = {}
        for endpoint in endpoints:
            for address in endpoint.addresses:
                found.setdefault(address, endpoint)
        return {address: _only(address, found[address]) for address in interleaved(found)}

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        """Do what ``RULES`` says, if it says anything."""
        if self._subchannels.get(subchannel.endpoint.addresses[0]) is not subchannel:
            return
        if subchannel is self._selected:
            self._published = None  # calls that just missed its connection wait for the next picker
        if state is not subchannel.state and state in (IDLE, CONNECTING):
            return  # out of date: the news that follows says more. A failure or a success has happened all the same.
        rule = RULES.get((self._phase, state))
        if rule is not None:
            rule(self, subchannel)

    def resolver_failed(self, error: Exception) -> None:
        """Fail calls with the resolver's error until there is an answer."""
        self._resolver_error = error
        if self._phase is Phase.EMPTY:
            self._failing = True

    def settle(self) -> None:
        """Publish what holds now, if that is not what was published last."""
        view = self._view()
        selected = self._selected
        if view == self._published or (selected is not None and selected.state is not READY):
            return  # nothing new, or just lost, and the news of that is on its way
        self._published = view
        if selected is not None:
            self.controller.publish(READY, _OnePicker(selected.picked))
        elif self._phase is Phase.IDLE:
            self.controller.publish(IDLE, _WakingPicker(self.wake))
        elif self._failing:
            self.controller.publish(TRANSIENT_FAILURE, FailPicker(self.explain))
        else:
            self.controller.publish(CONNECTING, QueuePicker())

    def wake(self) -> None:
        """Start a pass if the policy is IDLE. May be called at any time, from inside ``publish`` too."""
        if self._phase is Phase.IDLE:
            self._start_pass()

    def close(self) -> None:
        """Shut down every subchannel."""
        self._stop_pass()
        for subchannel in self._subchannels.values():
            subchannel.shutdown()
        self._subchannels = {}
        self._order = {}
        self._phase, self._failing, self._selected = Phase.EMPTY, False, None

    def explain(self) -> str:
        """Say why no call can be served now: each backend, its error, its next try."""
        made = [self._subchannels[address] for address in self._order if address in self._subchannels]
        if not made:
            return str(self._resolver_error or "the resolver's answer has no endpoints")
        return explain_failures(self.name, made)

    def _view(self) -> tuple[Phase, bool, Subchannel | None]:
        return self._phase, self._failing, self._selected

    def _start_pass(self) -> None:
        self._stop_pass()
        self._phase = Phase.TRYING
        self._selected = None
        self._untried.extend(self._order)
        self._try_next()

    def _stop_pass(self) -> None:
        self._stop_timer()
        self._untried.clear()
        self._trying.clear()
        self._latest = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _try_next(self) -> None:
        """Start the next attempt of the pass. It is over when all of them were started and have failed."""
        self._stop_timer()
        while self._untried:
            address = self._untried.popleft()
            subchannel = self._subchannels.get(address)
            if subchannel is None:
                subchannel = self._subchannels[address] = self.controller.new_subchannel(self._order[address])
            if subchannel.state is not TRANSIENT_FAILURE:  # such a one has failed, and waits for its next try
                self._trying.add(subchannel)
                self._latest = subchannel
                subchannel.connect()
                if self._untried:
                    clock = self.controller.clock
                    self._timer = clock.call_at(clock.time() + self._delay_s, self._try_next)
                return
        if not self._trying:
            self._end_pass()

    def _end_pass(self) -> None:
        self._stop_pass()
        self._phase = Phase.RETRYING
        self._failing = True
        self._failures = 0
        self.controller.reresolve()
        for subchannel in self._subchannels.values():
            subchannel.connect()  # those whose back-off ended during the pass

    def _select(self, subchannel: Subchannel) -> None:
        if subchannel.state is not READY:  # come and gone in one turn of the loop
            if subchannel in self._trying:
                self._lost(subchannel)
            return
        self._stop_pass()
        self._phase, self._failing = Phase.READY, False
        self._selected = subchannel
        for other in self._subchannels.values():
            if other is not subchannel:
                other.shutdown()
        self._subchannels = {subchannel.endpoint.addresses[0]: subchannel}

    def _failed_in_pass(self, subchannel: Subchannel) -> None:
        self._trying.discard(subchannel)
        if subchannel is self._latest:
            self._try_next()
        elif not self._trying:
            self._end_pass()

    def _failed_again(self, subchannel: Subchannel) -> None:
        self._failures += 1
        if self._failures >= len(self._subchannels):
            self._failures = 0
            self.controller.reresolve()

    def _reconnect(self, subchannel: Subchannel) -> None:
        subchannel.connect()

    def _lost(self, subchannel: Subchannel) -> None:
        if subchannel.state is READY:  # and back already
            return
        # IDLE may be what was published last, but those who waited then must ask again.
        self._published = None
        self._stop_pass()
        self._phase, self._failing, self._selected = Phase.IDLE, False, None
        self.controller.reresolve()


# What a policy in some phase does when one of its subchannels comes to some state; for the rest, nothing.
RULES: Mapping[tuple[Phase, ConnectivityState], Callable[[PickFirst, Subchannel], None]] = {
    (Phase.IDLE, READY): PickFirst._select,
    (Phase.TRYING, READY): PickFirst._select,
    (Phase.TRYING, TRANSIENT_FAILURE): PickFirst._failed_in_pass,
    (Phase.RETRYING, READY): PickFirst._select,
    (Phase.RETRYING, TRANSIENT_FAILURE): PickFirst._failed_again,
    (Phase.RETRYING, IDLE): PickFirst._reconnect,
    (Phase.READY, IDLE): PickFirst._lost,
    (Phase.READY, CONNECTING): PickFirst._lost,
    (Phase.READY, TRANSIENT_FAILURE): PickFirst._lost,
}


def shuffled(endpoints: Sequence[Endpoint], random: random.Random) -> list[Endpoint]:
    """Return the endpoints in random order; each is first with the chance that is its share of the weights.

    Sorting by u^(1/weight), greatest first, is what gRFC A113 says; the exponential variate is minus the logarithm
    of that, and does not run out of digits.
    """
    return sorted(endpoints, key=lambda endpoint: random.expovariate(endpoint.weight))


def _only(address: Address, endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with this one of its addresses."""
    if len(endpoint.addresses) == 1:
        return endpoint
    return Endpoint(
        address,
        weight=endpoint.weight,
        zone=endpoint.zone,
        hash_key=endpoint.hash_key,
        metadata=endpoint.metadata,
    )


class _OnePicker(Picker):
    __slots__ = ("_picked",)

    def __init__(self, picked: Picked) -> None:
        self._picked = picked

    def pick(self, call: CallInfo) -> Picked:
        return self._picked


class _WakingPicker(Picker):
    __slots__ = ("_wake",)

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def pick(self, call: CallInfo) -> Queue:
        self._wake()
        return QUEUE
