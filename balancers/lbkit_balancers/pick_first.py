"""pick_first: one connection, to the first endpoint of the list that can be reached."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, Controller, Subchannel, explain_failures
from lbkit.callinfo import CallInfo
from lbkit.connectivity import ConnectivityState
from lbkit.picking import QUEUE, FailPicker, Picked, Picker, Queue, QueuePicker
from lbkit.resolution import ACCEPTED, Resolution, Verdict

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE


class Phase(enum.Enum):
    """What the policy is doing."""

    EMPTY = "there is nothing to connect to"
    IDLE = "not connected; the next call or wake() starts a pass"
    TRYING = "a pass: one endpoint after the other, in order"
    RETRYING = "a whole pass failed; every endpoint reconnects after its own back-off"
    READY = "connected, to the one selected"


class PickFirst(Balancer):
    """Uses one endpoint: the first in the order given that can be reached.

    It keeps that connection through updates for as long as the endpoint is listed. When it is lost, the policy
    is IDLE until a call or ``wake`` asks for a connection, which starts at the top of the list again. Once a
    whole pass has failed it reports TRANSIENT_FAILURE until something is READY.

    Config: ``{"shuffleAddressList": true}`` puts each new list in random order, so that many clients of one list
    do not all use the same backend.
    """

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self._phase = Phase.EMPTY
        self._failing = False  # report TRANSIENT_FAILURE, whatever is tried meanwhile
        self._selected: Subchannel | None = None
        self._order: list[Endpoint] = []
        self._subchannels: dict[Hashable, Subchannel] = {}  # by endpoint identity; made when their turn comes
        self._untried: Iterator[Endpoint] = iter(())  # what is left of the pass
        self._current: Subchannel | None = None  # the one that the pass waits for
        self._failures = 0  # since re-resolution was last asked for
        self._resolver_error: Exception | None = None
        self._published: tuple[Phase, bool, Subchannel | None] | None = self._view()

    def update(self, resolution: Resolution) -> Verdict:
        """Drop what is gone, and start over unless the connection in use stays."""
        listed: dict[Hashable, Endpoint] = {}
        for endpoint in resolution.endpoints:
            listed.setdefault(endpoint.identity, endpoint)
        self._order = list(listed.values())
        if self.config.get("shuffleAddressList") is True:
            self.controller.random.shuffle(self._order)
        self._resolver_error = None
        for identity, subchannel in list(self._subchannels.items()):
            if identity not in listed:
                del self._subchannels[identity]
                subchannel.shutdown()
            elif subchannel.endpoint is not listed[identity]:
                subchannel.revise(listed[identity])
        if not listed:
            self._phase, self._failing, self._selected = Phase.EMPTY, True, None
            return Verdict(accepted=False, reason="the answer has no endpoints")
        if self._phase is Phase.EMPTY:
            self._failing = False  # that was for want of endpoints, not because one failed
        kept = self._selected is not None and self._selected.endpoint.identity in listed
        if not kept and self._phase is not Phase.IDLE:
            self._start_pass()
        return ACCEPTED

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        """Do what ``RULES`` says, if it says anything."""
        if self._subchannels.get(subchannel.endpoint.identity) is not subchannel:
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
        for subchannel in self._subchannels.values():
            subchannel.shutdown()
        self._subchannels = {}
        self._order = []
        self._phase, self._failing, self._selected, self._current = Phase.EMPTY, False, None, None

    def explain(self) -> str:
        """Say why no call can be served now: each backend, its error, its next try."""
        made = [
            self._subchannels[each.identity] for each in self._order if each.identity in self._subchannels
        ]
        if not made:
            return str(self._resolver_error or "the resolver's answer has no endpoints")
        return explain_failures("pick_first", made)

    def _view(self) -> tuple[Phase, bool, Subchannel | None]:
        return self._phase, self._failing, self._selected

    def _start_pass(self) -> None:
        self._phase = Phase.TRYING
        self._selected = None
        self._untried = iter(self._order)
        self._try_next()

    def _try_next(self) -> None:
        for endpoint in self._untried:
            subchannel = self._subchannels.get(endpoint.identity)
            if subchannel is None:
                subchannel = self._subchannels[endpoint.identity] = self.controller.new_subchannel(endpoint)
            if subchannel.state is not TRANSIENT_FAILURE:  # such a one has failed, and waits for its next try
                self._current = subchannel
                subchannel.connect()
                return
        self._phase = Phase.RETRYING
        self._failing = True
        self._current = None
        self._failures = 0
        self.controller.reresolve()
        for subchannel in self._subchannels.values():
            subchannel.connect()  # those whose back-off ended during the pass

    def _select(self, subchannel: Subchannel) -> None:
        if subchannel.state is not READY:  # come and gone in one turn of the loop
            if subchannel is self._current:
                self._lost(subchannel)
            return
        self._phase, self._failing = Phase.READY, False
        self._selected, self._current = subchannel, None
        for other in self._subchannels.values():
            if other is not subchannel:
                other.shutdown()
        self._subchannels = {subchannel.endpoint.identity: subchannel}

    def _failed_in_pass(self, subchannel: Subchannel) -> None:
        if subchannel is self._current:
            self._try_next()

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
        self._published = (
            None  # IDLE may be what was published last, but those who waited then must ask again
        )
        self._phase, self._failing = Phase.IDLE, False
        self._selected, self._current = None, None
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
