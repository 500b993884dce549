"""``check_balancer`` catches a policy that breaks a rule, every rule; and says so in words that help."""

from __future__ import annotations

import functools
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, Controller, EndpointBalancer, Subchannel
from lbkit.callinfo import CallInfo
from lbkit.connectivity import ConnectivityState
from lbkit.metadata import Metadata
from lbkit.picking import QUEUE, FailPicker, Outcome, Pick, Picked, Picker, QueuePicker
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.testing import ConformanceError, check_balancer
from lbkit.testing.policy_rules import RULES, picks_needed, shares_of, unfair
from lbkit.testing.policy_world import Call

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


@pytest.mark.parametrize(("rule", "policy"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_broken_policy_is_caught_by_its_rule(rule: str, policy: type[Balancer]) -> None:
    seed = 0 if policy is IgnoresTheResolver else 1  # with an even one the resolver fails at first
    error = failure(policy, seed=seed, updates=1000, shares="equal" if rule == "fair" else None, tolerance=0)
    assert error.rule == rule, error


def test_every_rule_is_broken_by_somebody() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", [Good, Single], ids=lambda policy: policy.__name__)
def test_policies_that_keep_the_rules_pass(policy: type[Balancer], seed: int) -> None:
    check_balancer(policy, seed=seed, updates=400, shares="equal" if policy is Good else None, tolerance=0)


def test_report_names_the_rule_the_seed_and_the_last_events() -> None:
    error = failure(StartsOver, seed=3, updates=400)
    lines = str(error).splitlines()
    assert lines[0] == (
        "balancer StartsOver breaks the rule 'keep': an endpoint that stays listed keeps its subchannel"
    )
    assert lines[1] == f"  seen: {error.details}"
    assert re.fullmatch(r"b\d+:1(\+b\d+:2)? is still listed, and was shut down", error.details)
    assert re.fullmatch(r"  run it again: seed=3, updates=\d+", lines[2])
    assert lines[3].startswith("  published: ")
    events = lines[lines.index("  the last events:") + 1 :]
    assert 1 <= len(events) <= 20
    assert events[-1].startswith("    update: ")


def test_report_is_the_one_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text()
    assert "\n".join(str(failure(StartsOver, seed=3)).splitlines()[:3]) in page


def test_failure_happens_again_with_the_reported_seed_and_updates() -> None:
    first = failure(StartsOver, seed=5, updates=10_000)
    found = re.search(r"seed=(\d+), updates=(\d+)", str(first))
    assert found is not None
    again = failure(StartsOver, seed=int(found[1]), updates=int(found[2]))
    assert str(again) == str(first)


def test_failures_come_while_the_lists_are_short() -> None:
    found = re.search(r"listed: (\d+);", str(failure(KeepsTheFirstPicker, updates=10_000)))
    assert found is not None
    assert int(found[1]) <= 6


SCRIPT = """
import logging
from tests.unit.test_check_balancer import *
logging.disable()
print(failure(StartsOver, seed=1))
print(failure(LikesTheFirst, seed=1, shares="equal"))
"""


def test_run_is_the_same_in_every_process() -> None:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(str(root / folder) for folder in (".", "resolvers", "balancers"))
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_failure_can_be_pickled() -> None:
    error = failure(AnswersNone)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.rule, copy.details, str(copy)) == (error.rule, error.details, str(error))


class Counting(Good):
    """Counts its calls by ``on_done``, as least_request does."""

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self.over: dict[int, int] = {}

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return _Counter(ready, self.over)


class _Counter(Turns):
    def __init__(self, ready: Sequence[Subchannel], over: dict[int, int]) -> None:
        super().__init__(ready)
        self.over = over

    def pick(self, call: CallInfo) -> Pick:
        answer = super().pick(call)
        assert isinstance(answer, Picked)
        number = len(self.over)
        self.over[number] = 0

        def done(outcome: Outcome) -> None:
            self.over[number] += 1

        return Picked(answer.subchannel, done)


def test_on_done_runs_exactly_once_per_pick() -> None:
    seen: list[Counting] = []

    def look(policy: Balancer) -> None:
        assert isinstance(policy, Counting)
        seen.append(policy)

    check_balancer(Counting, updates=300, after=look)
    (policy,) = seen
    assert len(policy.over) > 300
    assert set(policy.over.values()) == {1}  # those that were running at close() too


def test_calls_count_as_in_flight_on_their_subchannel() -> None:
    most: list[int] = [0]

    def least_busy(ready: Sequence[Subchannel], call: CallInfo) -> Subchannel:
        most[0] = max(most[0], *(each.in_flight for each in ready))
        assert all(each.in_flight >= 0 for each in ready)
        return min(ready, key=lambda each: each.in_flight)

    check_balancer(least_busy, updates=300)
    assert most[0] > 1


def first_ready(ready: Sequence[Subchannel], call: CallInfo) -> Subchannel:
    return ready[0]


def test_policy_is_given_by_name_class_function_or_factory() -> None:
    check_balancer("round_robin", updates=20)
    check_balancer(Good, updates=20)
    check_balancer(first_ready, updates=20)
    check_balancer(functools.partial(Good), updates=20)
    with pytest.raises(TypeError, match="is no policy"):
        check_balancer(cast("Any", 5))


def test_config_reaches_the_policy() -> None:
    class Configured(Good):
        def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
            super().__init__(controller, config)
            assert config == {"size": 3}

    check_balancer(Configured, config={"size": 3}, updates=5)


def test_calls_are_made_as_asked() -> None:
    users: set[object] = set()

    class ByUser(Turns):
        def pick(self, call: CallInfo) -> Pick:
            users.add(call.metadata.get("tenant"))
            return super().pick(call)

    class Tenants(Good):
        def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
            return ByUser(ready)

    def call(chance: random.Random) -> CallInfo:
        return Call("/a/b", Metadata((("tenant", f"t{chance.randrange(3)}"),)), {})

    check_balancer(Tenants, call=call, updates=100)
    assert users == {"t0", "t1", "t2"}


def test_policy_that_moves_on_purpose_may_say_so() -> None:
    assert failure(SingleStartsOver, updates=400).rule == "keep"

    class Moves(Single):
        """Always on the first of the list."""

        def update(self, resolution: Resolution) -> Verdict:
            if self.one is not None and self.one.endpoint.identity != resolution.endpoints[:1]:
                same = {each.identity for each in resolution.endpoints} == {
                    each.identity for each in self.listed
                }
                if not same:
                    self.close()
            return super().update(resolution)

    assert failure(Moves, updates=400).rule == "keep"
    check_balancer(Moves, updates=400, keeps_connections=False)


def test_shares_may_be_a_function() -> None:
    def twice_the_first(endpoints: Sequence[Endpoint]) -> list[float]:
        return [2.0] + [1.0] * (len(endpoints) - 1)

    check_balancer(LikesTheFirst, updates=400, shares=twice_the_first, tolerance=0)
    assert failure(Good, updates=400, shares="weight").rule == "fair"


def test_random_policy_is_fair_within_the_tolerance() -> None:
    class Chance(Picker):
        def __init__(self, ready: Sequence[Subchannel], chance: random.Random) -> None:
            self.ready, self.chance = ready, chance

        def pick(self, call: CallInfo) -> Pick:
            return self.chance.choice(self.ready).picked

    class Random(Good):
        def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
            return Chance(ready, self.controller.random)

    for seed in range(5):
        check_balancer(Random, updates=310, seed=seed, endpoints=10, shares="equal", tolerance=0.15)
    assert failure(Random, updates=310, endpoints=10, shares="equal", tolerance=0.0).rule == "fair"


def test_fairness_allows_one_pick_and_the_tolerance() -> None:
    assert unfair([10, 11], shares_of([1, 1]), 0.0) is None
    assert unfair([10, 13], shares_of([1, 1]), 0.0) == (0, 11.5)
    assert unfair([20, 80], shares_of([1, 4]), 0.0) is None
    assert unfair([90, 110], shares_of([1, 1]), 0.1) is None
    assert unfair([85, 115], shares_of([1, 1]), 0.1) == (0, 100)
    assert picks_needed([0.5, 0.5], 0.1) >= 2 * 50**2
    assert picks_needed([0.001], 0.01) == 200_000


def test_queue_answer_of_a_ready_picker_is_allowed() -> None:
    class Hesitates(Turns):
        def pick(self, call: CallInfo) -> Pick:
            answer = super().pick(call)
            return answer if self.count % 2 else QUEUE

    class Hesitating(Good):
        def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
            return Hesitates(ready)

    check_balancer(Hesitating, updates=200)
    assert failure(Hesitating, updates=400, shares="equal").rule == "fair"
