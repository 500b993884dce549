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
from lbkit.balancer import Balancer, Controller, Subchannel
from lbkit.callinfo import CallInfo
from lbkit.metadata import Metadata
from lbkit.picking import QUEUE, Outcome, Pick, Picked, Picker
from lbkit.resolution import Resolution, Verdict
from lbkit.testing import check_balancer
from lbkit.testing.policy_rules import RULES, picks_needed, shares_of, unfair
from lbkit.testing.policy_world import Call
from tests.support.broken_policies import (
    BROKEN,
    AnswersNone,
    Good,
    IgnoresTheResolver,
    KeepsTheFirstPicker,
    LikesTheFirst,
    Single,
    SingleStartsOver,
    StartsOver,
    Turns,
    failure,
)


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
