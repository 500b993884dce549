"""The world of a policy under test, and what must hold in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from lbkit.address import Address, Endpoint
from lbkit.balancer import Balancer, BalancerFactory, Controller, EndpointBalancer, check_config
from lbkit.balancer import Subchannel as SubchannelContract
from lbkit.callinfo import CallInfo
from lbkit.connectivity import ConnectivityState
from lbkit.metadata import Metadata
from lbkit.picking import QUEUE, Drop, Fail, Outcome, Picked, Picker, QueuePicker
from lbkit.resolution import Resolution, Verdict
from lbkit.status import Status, StatusCode
from lbkit.subchannel import Subchannel
from lbkit.testing.clock import VirtualClock
from lbkit.testing.conformance import ConformanceError, History, complain
from lbkit.testing.lists import Lists
from lbkit.testing.policy_rules import RULES, picks_needed, shares_of, unfair
from lbkit.testing.scripted import CONNECTING, IDLE, READY, TRANSIENT_FAILURE, ScriptedDialler, ScriptedHost

T = TypeVar("T")

_FAILED = Verdict(accepted=False, reason="raised")

Weigh = Callable[[Sequence[Endpoint]], Sequence[float]]


class Call(NamedTuple):
    """A call as pickers see it."""

    method: str
    metadata: Metadata
    attributes: Mapping[str, object]


class Options(NamedTuple):
    """What ``check_balancer`` was asked to check."""

    label: str
    config: Mapping[str, Any]
    seed: int
    updates: int
    endpoints: int
    connects_to_all: bool | None
    keeps_connections: bool
    weigh: Weigh | None
    tolerance: float
    make_call: Callable[[random.Random], CallInfo]


class _Watched(Balancer):
    """Stands between the host and the policy, and looks at what the policy does when it is told something."""

    def __init__(
        self, controller: Controller, config: Mapping[str, Any], run: PolicyWorld, policy: Balancer
    ) -> None:
        super().__init__(controller, config)
        self._run = run
        self._policy = policy

    def update(self, resolution: Resolution) -> Verdict:
        run = self._run
        before = {subchannel: subchannel.state for subchannel in run.host.subchannels}
        verdict = run.tell("update", lambda: self._policy.update(resolution), _FAILED)
        run.updated(resolution, before, verdict)
        return verdict

    def subchannel_changed(self, subchannel: SubchannelContract, state: ConnectivityState) -> None:
        self._run.tell("subchannel_changed", lambda: self._policy.subchannel_changed(subchannel, state), None)

    def resolver_failed(self, error: Exception) -> None:
        self._run.tell("resolver_failed", lambda: self._policy.resolver_failed(error), None)

    def settle(self) -> None:
        self._run.settling = True
        self._run.tell("settle", self._policy.settle, None)
        self._run.settling = False

    def wake(self) -> None:
        self._run.tell("wake", self._policy.wake, None)

    def close(self) -> None:
        self._run.tell("close", self._policy.close, None)


class PolicyWorld:
    """A policy in its channel: what it is told, what it does, and the first rule that it breaks.

    Args:
        factory: makes the policy.
        options: what to check.
    """

    host: ScriptedHost
    policy: Balancer

    def __init__(self, factory: BalancerFactory, options: Options) -> None:
        self.options = options
        self.history = History()
        self.random = random.Random(options.seed)
        self.clock = VirtualClock()
        self.dialler = ScriptedDialler(self.clock, random.Random(options.seed + 1))
        self.lists = Lists(self.random, options.endpoints)
        self.number = 0  # of the update, from 1
        self.settling = False
        self.error: ConformanceError | None = None
        self._failing = 0.0  # part of the attempts that fail at present
        self._state = CONNECTING  # as published last; a channel that has asked its resolver begins so
        self._picker: Picker = QueuePicker()
        self._publications = 0
        self._reresolutions = 0
        self._latest: Resolution | None = None
        self._recovered = True  # since TRANSIENT_FAILURE was published: a READY backend, or another list
        self._waiting: list[CallInfo] = []
        self._running: list[Picked] = []

        check_config(factory, options.config)

        def make(controller: Controller, config: Mapping[str, Any]) -> Balancer:
            self.policy = factory(controller, config)
            return _Watched(controller, config, self, self.policy)

        self.host = ScriptedHost(
            make,
            dict(options.config),
            dialler=self.dialler,
            publish=self._published,
            reresolve=self._reresolve,
        )
        all_ = options.connects_to_all
        self.connects_to_all = isinstance(self.policy, EndpointBalancer) if all_ is None else all_

    # Calls

    def _attempt(self, call: CallInfo) -> None:
        """Do what a channel does with a call: send it, let it wait, or end it."""
        answer = self._ask(call)
        if isinstance(answer, Picked):
            subchannel = answer.subchannel
            if subchannel.state is not READY:  # just lost: nothing is sent, and the next picker is asked
                if not self.host.due:
                    self._picked_wrongly(subchannel)
                self._tell_done(answer, Outcome(None))
                self._waiting.append(call)
                return
            subchannel.in_flight += 1
            self._running.append(answer)
        elif answer is QUEUE:
            self._waiting.append(call)

    def _ask(self, call: CallInfo) -> object:
        try:
            answer: object = self._picker.pick(call)
        except Exception as error:  # a stranger's code
            self.broken("answer", f"pick() raised {error!r}")
            return None
        if not isinstance(answer, (Picked, Fail, Drop)) and answer is not QUEUE:
            self.broken("answer", f"pick() returned {answer!r}")
        return answer

    def _finish(self, picked: Picked, status: Status) -> None:
        picked.subchannel.in_flight -= 1
        self._tell_done(picked, Outcome(status))

    def _tell_done(self, picked: Picked, outcome: Outcome) -> None:
        if picked.on_done is not None:
            try:
                picked.on_done(outcome)
            except Exception as error:  # a stranger's code
                self.broken(
                    "on-done", f"on_done({outcome}) for {picked.subchannel.endpoint} raised {error!r}"
                )

    # What the policy does

    def tell(self, what: str, news: Callable[[], T], otherwise: T) -> T:
        """Call the policy; note what it raises."""
        try:
            return news()
        except Exception as error:  # a stranger's code
            self.broken("raises", f"{what}() raised {error!r}")
            return otherwise

    def updated(
        self, resolution: Resolution, before: Mapping[Subchannel, ConnectivityState], verdict: object
    ) -> None:
        """Look at what an update has done to the subchannels that were there."""
        listed = {endpoint.identity: endpoint for endpoint in resolution.endpoints}
        latest, self._latest = self._latest, resolution
        if not isinstance(verdict, Verdict):
            self.broken("verdict", f"update() returned {verdict!r}")
        elif verdict.accepted != bool(listed) or not (verdict.accepted or verdict.reason):
            self.broken("verdict", f"{verdict} for {len(listed)} endpoints")
        unchanged = latest is not None and listed.keys() == {each.identity for each in latest.endpoints}
        addresses = _addresses(resolution.endpoints)
        for subchannel, state in before.items():
            kept = state is READY and (self.options.keeps_connections or unchanged)
            if (
                (kept or self.connects_to_all)
                and addresses.issuperset(subchannel.endpoint.addresses)
                and subchannel not in self.host.subchannels
            ):
                self.broken("keep", f"{subchannel.endpoint} is still listed, and was shut down")

    def _published(self, state: ConnectivityState, picker: Picker) -> None:
        self.history.add("published {} with {}", state.name, type(picker).__name__)
        if not self.settling:
            self.broken("once", f"{state.name} was published outside settle()")
        if (
            self._state is TRANSIENT_FAILURE
            and state not in (TRANSIENT_FAILURE, READY)
            and not self._recovered
        ):
            self.broken("sticky", f"{state.name} follows TRANSIENT_FAILURE, and nothing was READY since")
        self._state, self._picker = state, picker
        self._publications += 1
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._attempt(call)

    def _reresolve(self) -> None:
        self._reresolutions += 1

    def _run_due(self) -> None:
        due, self.host.due[:] = list(self.host.due), []
        for callback in due:
            before = self._publications
            callback()
            if self._publications - before > 1:
                self.broken("once", f"{self._publications - before} publications in one turn")

    # What must hold once everything has been told

    def _look(self) -> None:
        host, state = self.host, self._state
        listed, addresses = self.lists.listed, _addresses(self.lists.current)
        live = [subchannel.endpoint.identity for subchannel in host.subchannels]
        for subchannel, identity in host.identities.items():
            if subchannel.endpoint.identity != identity:
                self.broken("identity", f"{subchannel.endpoint} was made for other addresses")
            elif not addresses.issuperset(subchannel.endpoint.addresses):
                self.broken("leak", f"{subchannel.endpoint} is not listed, and {subchannel.state.name}")
        if len(set(live)) < len(live):
            self.broken("leak", f"two subchannels of one endpoint among {names_of(list(host.subchannels))}")
        ready = host.in_state(READY)
        if state is TRANSIENT_FAILURE:
            self._recovered = bool(ready)
        if (state is READY) != bool(ready) and (state is READY or self.connects_to_all):
            self.broken("state", f"{state.name} is published, and {len(ready)} of {len(live)} are READY")
        if self.connects_to_all:
            self._look_at_all(len(live), len(listed))
        elif listed and state is not IDLE and self._nothing_goes_on():
            self.broken("stuck", f"{state.name} is published, and no subchannel is doing anything")
        for _ in range(min(len(ready), 3) + 1):
            self._look_at_pick()

    def _look_at_all(self, live: int, listed: int) -> None:
        if live < listed:
            self.broken("connect", f"{live} subchannels for {listed} endpoints")
        lazy = [each for each in self.host.in_state(IDLE) if each not in self.dialler.waiting]
        if lazy:
            self.broken("connect", f"{names_of(lazy)} IDLE, and nobody called connect()")
        states = set(self.host.sticky.values())
        expected = TRANSIENT_FAILURE if states <= {TRANSIENT_FAILURE} else CONNECTING
        if READY not in states and self._state is not expected:
            self.broken("aggregate", f"{self._state.name} is published, where {expected.name} would be right")

    def _nothing_goes_on(self) -> bool:
        return all(each.state is IDLE and each not in self.dialler.waiting for each in self.host.subchannels)

    def _look_at_pick(self) -> None:
        answer = self._ask(self.options.make_call(self.random))
        if isinstance(answer, Picked):
            subchannel: Any = answer.subchannel
            if subchannel not in self.host.subchannels or subchannel.state is not READY:
                self._picked_wrongly(subchannel)
            self._tell_done(answer, Outcome(Status(StatusCode.OK)))
        elif answer is QUEUE and self._state is TRANSIENT_FAILURE:
            self.broken("answer", "QUEUE while TRANSIENT_FAILURE is published: calls would wait in vain")

    def _picked_wrongly(self, subchannel: SubchannelContract) -> None:
        self.broken("pick-ready", f"{subchannel.endpoint} was picked, and is {subchannel.state.name}")

    def _costs(self) -> tuple[int, int, int, int, int]:
        live = self.host.subchannels
        return self._publications, self.host.made, len(live), len(self.dialler.waiting), self._reresolutions

    def _no_costs(self, before: tuple[int, ...], what: str) -> None:
        names = ("publications", "subchannels made", "subchannels live", "dials", "re-resolutions")
        for name, old, new in zip(names, before, self._costs(), strict=True):
            if old != new:
                self.broken("news", f"{what} changed the {name}: {old} before, {new} now")
        self._look()
        self._raise()

    def _fair_now(self) -> bool:
        """Measure the shares if there is something to share; say whether it could be done."""
        weigh, tolerance = self.options.weigh, self.options.tolerance
        if weigh is None:
            return True
        order = {identity: place for place, identity in enumerate(self.lists.listed)}
        ready = sorted(self.host.in_state(READY), key=lambda each: order.get(each.endpoint.identity, 0))
        if self._state is not READY or len(ready) < 2:
            return False
        shares = shares_of(weigh([subchannel.endpoint for subchannel in ready]))
        counts: dict[object, int] = dict.fromkeys(ready, 0)
        for _ in range(picks_needed(shares, tolerance)):
            answer: Any = self._ask(self.options.make_call(self.random))
            if not isinstance(answer, Picked) or answer.subchannel not in counts:
                self.broken("fair", f"{answer!r} while {names_of(ready)} are READY")
                break
            counts[answer.subchannel] += 1
            self._tell_done(answer, Outcome(Status(StatusCode.OK)))
        else:
            if found := unfair(list(counts.values()), shares, tolerance):
                place, expected = found
                self.broken(
                    "fair",
                    f"{ready[place].endpoint} got {counts[ready[place]]} of {sum(counts.values())} calls, not "
                    f"{expected:.0f} (tolerance {tolerance:g})",
                )
        self._raise()
        return True

    # Failing

    def broken(self, rule: str, details: str) -> None:
        """Note a broken rule; the first one counts. Raised later: who calls the policy catches everything."""
        if self.error is None:
            options = self.options
            subchannels = [f"{each.endpoint} {each.state.name}" for each in list(self.host.subchannels)[:10]]
            self.error = complain(
                f"balancer {options.label}",
                RULES,
                rule,
                details,
                [
                    f"run it again: seed={options.seed}, updates={max(self.number, 1)}",
                    f"published: {self._state.name}; listed: {len(self.lists.listed)}; subchannels: "
                    + (", ".join(subchannels) or "none"),
                ],
                self.history,
            )

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


def _addresses(endpoints: Iterable[Endpoint]) -> set[Address]:
    """All addresses: a policy may split an endpoint that has several."""
    return {address for endpoint in endpoints for address in endpoint.addresses}


def names_of(subchannels: Sequence[SubchannelContract]) -> str:
    """Return the endpoints as text."""
    return ", ".join(str(subchannel.endpoint) for subchannel in subchannels)
