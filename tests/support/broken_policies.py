"""Two policies that keep the rules of their contract, and for each rule at least one that breaks it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, Controller, EndpointBalancer, Subchannel
from lbkit.callinfo import CallInfo
from lbkit.connectivity import ConnectivityState
from lbkit.picking import FailPicker, Outcome, Pick, Picked, Picker, QueuePicker
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.testing import ConformanceError, check_balancer

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE


class Turns(Picker):
    """Round robin, in the simplest way."""

    def __init__(self, ready: Sequence[Subchannel]) -> None:
        self.ready = ready
        self.count = 0

    def pick(self, call: CallInfo) -> Pick:
        self.count += 1
        return self.ready[self.count % len(self.ready)].picked


class Good(EndpointBalancer):
    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return Turns(ready)


class Single(Balancer):
    """One connection, to the first endpoint of the list, made when somebody asks; keeps to all rules."""

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self.listed: tuple[Endpoint, ...] = ()
        self.one: Subchannel | None = None
        self.failing = False
        self.answered = False
        self.said: object = None

    def update(self, resolution: Resolution) -> Verdict:
        self.listed = resolution.endpoints
        self.answered = True
        identities = {endpoint.identity for endpoint in self.listed}
        if self.one is not None and self.one.endpoint.identity not in identities:
            self.one.shutdown()
            self.one, self.failing = None, False
        if self.listed and self.one is None:
            self.start()
        return ACCEPTED if self.listed else Verdict(accepted=False, reason="nobody there")

    def start(self) -> None:
        self.one = self.controller.new_subchannel(self.listed[0])
        self.one.connect()

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        if subchannel is not self.one:
            return
        if state is READY:
            self.failing = False
        elif state is TRANSIENT_FAILURE:
            self.failing = True
        if state is IDLE:
            subchannel.connect()
        if state in {READY, IDLE}:
            self.said = None

    def resolver_failed(self, error: Exception) -> None:
        self.answered = True

    def state(self) -> ConnectivityState:
        if self.one is not None and self.one.state is READY:
            return READY
        return TRANSIENT_FAILURE if self.failing or (self.answered and not self.listed) else CONNECTING

    def settle(self) -> None:
        state = self.state()
        said = state, self.one if state is READY else None
        if said != self.said:
            self.said = said
            self.controller.publish(state, self.picker(state))

    def picker(self, state: ConnectivityState) -> Picker:
        if state is READY:
            assert self.one is not None
            return Turns([self.one])
        return FailPicker(lambda: "down") if state is TRANSIENT_FAILURE else QueuePicker()

    def wake(self) -> None:
        """Nothing: it connects by itself."""

    def close(self) -> None:
        if self.one is not None:
            self.one.shutdown()
        self.one = None


# What is broken, by rule.


class RaisesAtDuplicates(Good):
    def update(self, resolution: Resolution) -> Verdict:
        if len({endpoint.identity for endpoint in resolution.endpoints}) < len(resolution.endpoints):
            raise KeyError("twice")
        return super().update(resolution)


class RaisesInSettle(Good):
    def settle(self) -> None:
        super().settle()
        assert len(self.subchannels) < 4


class SaysNothing(Good):
    def update(self, resolution: Resolution) -> Verdict:
        super().update(resolution)
        return cast("Verdict", None)


class AcceptsNothing(Good):
    def update(self, resolution: Resolution) -> Verdict:
        super().update(resolution)
        return ACCEPTED


class RejectsWithoutReason(Good):
    def update(self, resolution: Resolution) -> Verdict:
        return super().update(resolution)._replace(reason="")


class PicksNothing(Turns):
    def pick(self, call: CallInfo) -> Pick:
        return cast("Pick", None)


class AnswersNone(Good):
    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return PicksNothing(ready)


class PicksTooFar(Turns):
    def pick(self, call: CallInfo) -> Pick:
        self.count += 1
        return self.ready[self.count].picked


class PickRaises(Good):
    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return PicksTooFar(ready)


class QueuesForEver(Single):
    def picker(self, state: ConnectivityState) -> Picker:
        return super().picker(state) if state is READY else QueuePicker()


class IgnoresTheResolver(Good):
    """Lets calls wait although the resolver says that there is no answer to be had."""

    def resolver_failed(self, error: Exception) -> None:
        pass


class KeepsTheFirstPicker(Good):
    kept: Picker | None = None

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        self.kept = self.kept or Turns(ready)
        return self.kept


class PicksAnybody(Good):
    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return Turns([each for each in self.subchannels.values() if hasattr(each, "picked")])


class ReadsTheStatus(Turns):
    def pick(self, call: CallInfo) -> Pick:
        answer = super().pick(call)
        assert isinstance(answer, Picked)
        return Picked(answer.subchannel, self.read)

    def read(self, outcome: Outcome) -> None:
        assert outcome.status is not None


class OnDoneRaises(Good):
    """Forgets that nothing may have been sent."""

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return ReadsTheStatus(ready)


class KeepsWhatIsGone(Good):
    def update(self, resolution: Resolution) -> Verdict:
        if not resolution.endpoints or not self._endpoints:
            return super().update(resolution)
        gone = [each.endpoint for each in self.subchannels.values()]
        super().update(Resolution(tuple(dict.fromkeys([*resolution.endpoints, *gone]))))
        return ACCEPTED


class MakesTwo(Good):
    def settle(self) -> None:
        new = {endpoint.identity for endpoint in self._unmade}
        super().settle()
        for identity in new:
            self.controller.new_subchannel(self.subchannels[identity].endpoint).connect()


class RevisesTheAddress(Good):
    def update(self, resolution: Resolution) -> Verdict:
        verdict = super().update(resolution)
        if self.subchannels and self._unmade:
            next(iter(self.subchannels.values())).revise(self._unmade[0])
        return verdict


class StartsOver(Good):
    """Every update makes new connections."""

    def update(self, resolution: Resolution) -> Verdict:
        if resolution.endpoints != self._endpoints:
            self.close()
        return super().update(resolution)


class SingleStartsOver(Single):
    def update(self, resolution: Resolution) -> Verdict:
        if resolution.endpoints != self.listed:
            self.close()
        return super().update(resolution)


class PublishesAlways(Good):
    def update(self, resolution: Resolution) -> Verdict:
        verdict = super().update(resolution)
        self._changed = True
        return verdict


class RevisesAsksAndConnectsAgain(Good):
    def update(self, resolution: Resolution) -> Verdict:
        self.controller.reresolve()
        return super().update(resolution)


class WakesUpReady(Single):
    def wake(self) -> None:
        self.said = None


class PublishesAtOnce(Good):
    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        super().subchannel_changed(subchannel, state)
        self.settle()


class PublishesTwice(Good):
    def _publish(self) -> None:
        super()._publish()
        self._published = None
        super()._publish()


class NeverReady(Single):
    def settle(self) -> None:
        if self.state() is not READY:
            super().settle()


class AlwaysReady(Single):
    def settle(self) -> None:
        if self.said is None:
            self.said = READY
            self.controller.publish(READY, QueuePicker())


class WaitsForTwo(Good):
    def _publish(self) -> None:
        ready = [each for each in self.subchannels.values() if each.state is READY]
        if len(ready) != 1:
            super()._publish()
        elif self._published is not CONNECTING:
            self._published = CONNECTING
            self.controller.publish(CONNECTING, QueuePicker())


class SaysConnecting(Good):
    """Lets calls wait while every backend is down."""

    def _publish(self) -> None:
        if self.subchannels and self._counts.aggregate() is TRANSIENT_FAILURE:
            self._published = CONNECTING
            self.controller.publish(CONNECTING, QueuePicker())
        else:
            super()._publish()


class ConnectsOnce(Good):
    """Forgets to try again when a back-off is over."""

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        if state is not IDLE or self._states.get(subchannel) is not TRANSIENT_FAILURE:
            super().subchannel_changed(subchannel, state)


class ConnectsToThree(Good):
    def update(self, resolution: Resolution) -> Verdict:
        return super().update(Resolution(resolution.endpoints[:3]))


class NotSticky(Single):
    """Says CONNECTING at each new attempt, so that calls wait through it."""

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        if subchannel is self.one and state is CONNECTING:
            self.failing = False
        super().subchannel_changed(subchannel, state)


class GivesUp(Single):
    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        if state is IDLE and subchannel is self.one:
            self.said = None
        else:
            super().subchannel_changed(subchannel, state)


class NeverSettles(Good):
    def settle(self) -> None:
        super().settle()
        if len(self.subchannels) > 2:
            self.controller.settle_again()


class NeverWakes(Single):
    """IDLE after a loss, and nothing wakes it."""

    asleep = False

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        if state is IDLE and subchannel is self.one and not self.failing:
            self.asleep = True
        elif not self.asleep:
            super().subchannel_changed(subchannel, state)

    def start(self) -> None:
        if not self.asleep:
            super().start()

    def state(self) -> ConnectivityState:
        return IDLE if self.asleep and self.listed else super().state()


class LikesTheFirst(Good):
    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return Turns([*ready, ready[0]])


class ForgetsOneAtTheEnd(Good):
    def close(self) -> None:
        if self.subchannels:
            self.subchannels.popitem()
        super().close()


class LeavesATimer(Good):
    def close(self) -> None:
        super().close()
        self.controller.clock.call_at(self.controller.clock.time() + 60.0, lambda: None)


class ConnectsAfterTheEnd(Good):
    def close(self) -> None:
        endpoint = next(iter(self.subchannels.values())).endpoint
        super().close()
        self.controller.new_subchannel(endpoint)


class ConnectsWhenACallEnds(Good):
    """A call that outlives the channel makes a subchannel."""

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return _Reviving(ready, self.controller)


class _Reviving(Turns):
    def __init__(self, ready: Sequence[Subchannel], controller: Controller) -> None:
        super().__init__(ready)
        self.controller = controller

    def pick(self, call: CallInfo) -> Pick:
        answer = super().pick(call)
        assert isinstance(answer, Picked)
        return Picked(answer.subchannel, functools.partial(self.done, answer.subchannel))

    def done(self, subchannel: Subchannel, _outcome: Outcome) -> None:
        if subchannel.state is ConnectivityState.SHUTDOWN and self.controller._closed:  # type: ignore[attr-defined]
            self.controller.new_subchannel(subchannel.endpoint)


BROKEN: list[tuple[str, type[Balancer]]] = [
    ("raises", RaisesAtDuplicates),
    ("raises", RaisesInSettle),
    ("verdict", SaysNothing),
    ("verdict", AcceptsNothing),
    ("verdict", RejectsWithoutReason),
    ("answer", AnswersNone),
    ("answer", PickRaises),
    ("answer", QueuesForEver),
    ("answer", IgnoresTheResolver),
    ("pick-ready", KeepsTheFirstPicker),
    ("pick-ready", PicksAnybody),
    ("on-done", OnDoneRaises),
    ("leak", KeepsWhatIsGone),
    ("leak", MakesTwo),
    ("identity", RevisesTheAddress),
    ("keep", StartsOver),
    ("keep", SingleStartsOver),
    ("news", PublishesAlways),
    ("news", RevisesAsksAndConnectsAgain),
    ("news", WakesUpReady),
    ("once", PublishesAtOnce),
    ("once", PublishesTwice),
    ("state", AlwaysReady),
    ("state", WaitsForTwo),
    ("aggregate", SaysConnecting),
    ("connect", ConnectsOnce),
    ("connect", ConnectsToThree),
    ("sticky", NotSticky),
    ("stuck", GivesUp),
    ("settles", NeverSettles),
    ("recovers", NeverReady),
    ("recovers", NeverWakes),
    ("fair", LikesTheFirst),
    ("close", ForgetsOneAtTheEnd),
    ("close", LeavesATimer),
    ("close", ConnectsAfterTheEnd),
    ("close", ConnectsWhenACallEnds),
]


def failure(policy: Any, **options: Any) -> ConformanceError:
    with pytest.raises(ConformanceError) as caught:
        check_balancer(policy, **options)
    return caught.value
