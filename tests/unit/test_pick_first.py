from __future__ import annotations

from typing import Any

import pytest

from lbkit.address import Address, Endpoint
from lbkit.balancer import registry
from lbkit.connectivity import ConnectivityState
from lbkit.picking import QUEUE, Fail, Picked
from lbkit.testing.clock import VirtualClock
from lbkit_balancers.pick_first import RULES, Phase, PickFirst
from tests.support.fakes import (
    CONNECTING,
    IDLE,
    READY,
    SHUTDOWN,
    TRANSIENT_FAILURE,
    FakeController,
    resolution,
)


class Setup:
    """A policy with its controller."""

    def __init__(self, *names: str, waiting: int = 0, seed: int = 0, config: Any = None) -> None:
        self.controller = FakeController(seed=seed, waiting=waiting)
        self.policy = PickFirst(self.controller, config or {})
        if names:
            self.update(*names)

    def update(self, *names: str | Endpoint) -> None:
        self.policy.update(resolution(*names))
        self.controller.turn(self.policy)

    def pass_time(self, seconds: float) -> None:
        """Let timers fire, and a turn of the loop follow."""
        clock = self.controller.clock
        assert isinstance(clock, VirtualClock)
        clock.advance(seconds)
        self.controller.turn(self.policy)

    @property
    def timers(self) -> int:
        clock = self.controller.clock
        assert isinstance(clock, VirtualClock)
        return clock.pending

    def set(self, name: str, *states: ConnectivityState) -> None:
        """Let one subchannel go through states, all in one turn."""
        for state in states:
            self.controller.live[name].become(state)
        self.controller.turn(self.policy)

    def fail_all(self) -> None:
        """Let a whole pass fail."""
        while (trying := self.dialling()) and self.policy._phase is Phase.TRYING:
            for name in trying:
                self.set(name, CONNECTING, TRANSIENT_FAILURE)

    def dialling(self) -> list[str]:
        """The subchannels that were asked to connect and have not said how that went."""
        return [
            name
            for name, each in self.controller.live.items()
            if each.connect_wanted or each.state is CONNECTING
        ]

    @property
    def live(self) -> list[str]:
        return list(self.controller.live)

    @property
    def state(self) -> ConnectivityState:
        return self.controller.state


def test_is_installed_under_its_name() -> None:
    assert registry.get("pick_first") is PickFirst


def test_tries_the_first_only() -> None:
    setup = Setup("a", "b", "c")
    assert setup.dialling() == ["a"]
    assert setup.state is CONNECTING
    assert setup.controller.pick() is QUEUE


def test_tries_the_next_when_one_fails() -> None:
    setup = Setup("a", "b", "c")
    setup.set("a", TRANSIENT_FAILURE)
    assert setup.dialling() == ["b"]
    setup.set("b", TRANSIENT_FAILURE)
    assert setup.dialling() == ["c"]
    assert setup.state is CONNECTING


def test_first_ready_wins_and_the_others_are_shut_down() -> None:
    setup = Setup("a", "b", "c")
    failed = setup.controller.live["a"]
    setup.set("a", TRANSIENT_FAILURE)
    setup.set("b", CONNECTING, READY)
    assert setup.state is READY
    assert failed.state is SHUTDOWN
    assert setup.live == ["b"]
    assert setup.controller.pick() is setup.controller.live["b"].picked


def test_earlier_one_that_comes_up_after_all_wins_too() -> None:
    setup = Setup("a", "b")
    setup.set("a", TRANSIENT_FAILURE)
    setup.set("a", IDLE, READY)
    assert setup.live == ["a"]
    assert setup.state is READY


def test_back_off_that_ends_during_the_pass_waits_for_its_end() -> None:
    setup = Setup("a", "b")
    setup.set("a", TRANSIENT_FAILURE)
    setup.set("a", IDLE)
    assert setup.dialling() == ["b"]
    setup.set("b", TRANSIENT_FAILURE)
    assert setup.dialling() == ["a"]


def test_failed_pass_fails_calls_with_the_reasons() -> None:
    setup = Setup("a", "b")
    setup.fail_all()
    assert setup.state is TRANSIENT_FAILURE
    assert setup.controller.reresolutions == 1
    pick = setup.controller.pick()
    assert isinstance(pick, Fail)
    assert pick.status.details.startswith(
        "all 2 backends are down (pick_first)\n  a:1  connection refused\n  b:1"
    )


def test_after_a_failed_pass_each_retries_on_its_own() -> None:
    setup = Setup("a", "b")
    setup.fail_all()
    setup.set("b", IDLE)
    assert setup.dialling() == ["b"]
    setup.set("a", IDLE)
    assert sorted(setup.dialling()) == ["a", "b"]


def test_failure_sticks_until_ready() -> None:
    setup = Setup("a", "b")
    setup.fail_all()
    for _ in range(3):
        setup.set("a", IDLE, CONNECTING, TRANSIENT_FAILURE)
        assert setup.state is TRANSIENT_FAILURE
    setup.set("b", IDLE, CONNECTING, READY)
    assert setup.state is READY
    assert setup.live == ["b"]


def test_asks_for_addresses_after_as_many_failures_as_backends() -> None:
    setup = Setup("a", "b")
    setup.fail_all()
    asked = []
    for name in "abaa":
        setup.set(name, IDLE, CONNECTING, TRANSIENT_FAILURE)
        asked.append(setup.controller.reresolutions)
    assert asked == [1, 2, 2, 3]


def test_lost_connection_makes_it_idle_until_a_call_comes() -> None:
    setup = Setup("a", "b")
    setup.set("a", READY)
    setup.set("a", IDLE)
    assert setup.state is IDLE
    assert setup.controller.reresolutions == 1
    assert setup.dialling() == []
    assert setup.controller.pick() is QUEUE
    assert setup.dialling() == ["a"]
    assert setup.controller.pick() is QUEUE
    setup.set("a", CONNECTING)
    assert setup.state is CONNECTING
    setup.set("a", READY)
    assert setup.state is READY
    assert setup.controller.live["a"].dials == 2


def test_wake_leaves_idle_as_a_call_does() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    setup.set("a", IDLE)
    setup.policy.wake()
    setup.policy.wake()
    setup.controller.turn(setup.policy)
    assert setup.dialling() == ["a"]
    assert setup.state is CONNECTING


def test_calls_that_wait_reconnect_at_once() -> None:
    setup = Setup("a", waiting=3)
    setup.set("a", READY)
    setup.set("a", IDLE)
    assert [publication.state for publication in setup.controller.publications] == [CONNECTING, READY, IDLE]
    assert setup.dialling() == ["a"]
    setup.set("a", CONNECTING)
    assert setup.state is CONNECTING


def test_calls_that_wait_ask_again_when_the_new_connection_is_lost_at_once() -> None:
    setup = Setup("a", waiting=1)
    setup.set("a", READY)
    setup.set("a", IDLE)
    setup.set("a", CONNECTING, READY, IDLE)
    assert [publication.state for publication in setup.controller.publications] == [
        CONNECTING,
        READY,
        IDLE,
        IDLE,
    ]
    assert setup.dialling() == ["a"]


def test_reconnecting_starts_at_the_top_of_the_list() -> None:
    setup = Setup("a", "b")
    setup.set("a", TRANSIENT_FAILURE)
    setup.set("b", READY)
    setup.set("b", IDLE)
    setup.policy.wake()
    assert setup.dialling() == ["a"]


@pytest.mark.parametrize("state", [CONNECTING, TRANSIENT_FAILURE])
def test_any_way_out_of_ready_is_a_loss(state: ConnectivityState) -> None:
    setup = Setup("a")
    setup.set("a", READY)
    setup.set("a", state)
    assert setup.state is IDLE


def test_idle_policy_takes_what_becomes_ready_by_itself() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    setup.set("a", CONNECTING)
    setup.set("a", READY)
    assert setup.state is READY


def test_connection_that_came_and_went_in_one_turn_is_a_loss() -> None:
    setup = Setup("a", "b")
    setup.set("a", CONNECTING, READY, IDLE)
    assert setup.state is IDLE
    assert setup.dialling() == []
    setup.policy.wake()
    assert setup.dialling() == ["a"]


def test_failure_whose_back_off_is_over_already_is_a_failure() -> None:
    setup = Setup("a", "b")
    setup.set("a", CONNECTING, TRANSIENT_FAILURE, IDLE)
    assert setup.dialling() == ["b"]


def test_connection_lost_and_back_in_one_turn_gets_a_picker_again() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    before = len(setup.controller.publications)
    setup.set("a", IDLE, CONNECTING, READY)
    assert len(setup.controller.publications) == before + 1  # for the calls that found no connection
    setup.set("a", TRANSIENT_FAILURE, READY)
    assert len(setup.controller.publications) == before + 2
    assert setup.state is READY


def test_loss_that_is_not_told_yet_is_not_published() -> None:
    setup = Setup("a")
    setup.controller.live["a"].become(READY)
    setup.policy.subchannel_changed(*setup.controller.news.popleft())
    setup.controller.live["a"].become(IDLE)
    setup.policy.settle()
    assert setup.state is CONNECTING
    setup.controller.turn(setup.policy)
    assert setup.state is IDLE


def test_news_of_a_subchannel_that_is_gone_is_ignored() -> None:
    setup = Setup("a")
    gone = setup.controller.live["a"]
    setup.update("b")
    setup.policy.subchannel_changed(gone, READY)
    setup.update("a", "b")
    setup.policy.subchannel_changed(gone, READY)
    setup.controller.turn(setup.policy)
    assert setup.state is CONNECTING


# Attempts side by side (gRFC A61)


def test_next_attempt_starts_beside_one_that_takes_long() -> None:
    setup = Setup("a", "b", "c")
    setup.set("a", CONNECTING)
    setup.pass_time(0.249)
    assert setup.dialling() == ["a"]
    setup.pass_time(0.002)
    assert setup.dialling() == ["a", "b"]
    setup.pass_time(0.250)
    assert setup.dialling() == ["a", "b", "c"]
    assert setup.timers == 0
    assert setup.state is CONNECTING
    assert len(setup.controller.publications) == 1


def test_failure_starts_the_next_at_once_and_the_delay_anew() -> None:
    setup = Setup("a", "b", "c")
    setup.pass_time(0.2)
    setup.set("a", CONNECTING, TRANSIENT_FAILURE)
    assert setup.dialling() == ["b"]
    setup.pass_time(0.2)
    assert setup.dialling() == ["b"]
    setup.pass_time(0.05)
    assert setup.dialling() == ["b", "c"]


def test_failure_of_an_earlier_attempt_starts_nothing() -> None:
    setup = Setup("a", "b", "c")
    setup.pass_time(0.25)
    setup.set("a", CONNECTING, TRANSIENT_FAILURE)
    assert setup.dialling() == ["b"]
    setup.pass_time(0.25)
    assert setup.dialling() == ["b", "c"]


@pytest.mark.parametrize("winner", ["a", "b"])
def test_first_ready_wins_whoever_started_first(winner: str) -> None:
    setup = Setup("a", "b", "c")
    setup.pass_time(0.25)
    setup.set("a", CONNECTING)
    setup.set("b", CONNECTING)
    setup.set(winner, READY)
    assert setup.live == [winner]
    assert setup.state is READY
    assert setup.timers == 0


@pytest.mark.parametrize("order", ["abc", "cba", "bac"])
def test_pass_is_over_when_the_last_attempt_has_failed(order: str) -> None:
    setup = Setup("a", "b", "c")
    setup.pass_time(0.25)
    setup.pass_time(0.25)
    for name in order:
        assert setup.state is CONNECTING
        assert setup.controller.reresolutions == 0
        setup.set(name, CONNECTING, TRANSIENT_FAILURE)
    assert setup.state is TRANSIENT_FAILURE
    assert setup.controller.reresolutions == 1


def test_nothing_more_is_started_when_all_have_been() -> None:
    setup = Setup("a", "b")
    setup.fail_all()
    assert setup.timers == 0
    setup.pass_time(100)
    assert setup.dialling() == []


@pytest.mark.parametrize(
    "end", ["loss", "empty list", "close", "new list"], ids=lambda name: name.replace(" ", "-")
)
def test_timer_of_a_pass_ends_with_it(end: str) -> None:
    setup = Setup("a", "b", "c")
    assert setup.timers == 1
    if end == "loss":
        setup.set("a", CONNECTING, READY, IDLE)
    elif end == "empty list":
        setup.update()
    elif end == "close":
        setup.policy.close()
    else:
        setup.update("d")
    assert setup.timers == 0


def test_addresses_of_an_endpoint_are_tried_one_by_one() -> None:
    setup = Setup()
    setup.update(Endpoint(["a:1", "b:1"], weight=3, zone="z", hash_key="k", metadata={"m": "1"}))
    setup.set("a", TRANSIENT_FAILURE)
    assert setup.dialling() == ["b"]
    (alone,) = [each.endpoint for name, each in setup.controller.live.items() if name == "b"]
    assert alone == Endpoint("b:1", weight=3, zone="z", hash_key="k", metadata={"m": "1"})


def test_connection_stays_while_its_address_is_listed_whatever_endpoint_it_is_of() -> None:
    setup = Setup()
    setup.update(Endpoint(["a:1", "b:1"]))
    setup.set("a", READY)
    used = setup.controller.live["a"]
    setup.update(Endpoint("c:1"), Endpoint(["d:1", "a:1"], zone="z"))
    assert setup.controller.live["a"] is used
    assert used.endpoint == Endpoint("a:1", zone="z")
    assert setup.state is READY


# New lists


def test_new_list_keeps_the_connection_in_use() -> None:
    setup = Setup("a", "b")
    setup.set("a", READY)
    published = len(setup.controller.publications)
    setup.update("c", "b", "a")
    assert setup.live == ["a"]
    assert len(setup.controller.publications) == published
    setup.set("a", IDLE)
    setup.policy.wake()
    assert "c" in setup.dialling()


def test_new_attributes_revise_the_connection_in_use() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    heavier = Endpoint([Address("a", 1)], weight=2)
    setup.update(heavier)
    assert setup.controller.live["a"].endpoint is heavier


def test_new_list_without_the_one_in_use_starts_over() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    used = setup.controller.live["a"]
    setup.update("b")
    assert used.state is SHUTDOWN
    assert setup.dialling() == ["b"]
    assert setup.state is CONNECTING


def test_connection_in_use_that_drains_gives_way_to_another_if_there_is_one() -> None:
    setup = Setup("a", "b")
    setup.set("a", CONNECTING, READY)
    setup.update(leaving := Endpoint("a:1", draining=True))
    assert setup.live == ["a"]
    setup.update(leaving, "b")
    assert setup.live == ["b"]


def test_new_list_during_a_pass_starts_at_its_top() -> None:
    setup = Setup("a", "b")
    setup.set("a", TRANSIENT_FAILURE)
    setup.set("b", CONNECTING)
    setup.update("a", "c", "b")
    assert setup.dialling() == ["b", "c"]  # b is on its way, a has just failed
    setup.set("c", TRANSIENT_FAILURE)
    setup.set("b", TRANSIENT_FAILURE)
    assert setup.state is TRANSIENT_FAILURE


def test_new_list_after_a_failed_pass_starts_one_and_stays_failed() -> None:
    setup = Setup("a", "b")
    setup.fail_all()
    setup.update("b", "c")
    assert setup.dialling() == ["c"]
    assert setup.state is TRANSIENT_FAILURE
    setup.set("c", READY)
    assert setup.state is READY


def test_new_list_of_failed_ones_only_goes_on_retrying() -> None:
    setup = Setup("a", "b")
    setup.fail_all()
    setup.update("b")
    assert setup.policy._phase is Phase.RETRYING
    setup.set("b", IDLE)
    assert setup.dialling() == ["b"]


def test_new_list_while_idle_waits_for_a_call() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    setup.set("a", IDLE)
    setup.update("b")
    assert setup.state is IDLE
    assert setup.live == []
    setup.policy.wake()
    assert setup.dialling() == ["b"]


def test_endpoint_listed_twice_is_one() -> None:
    setup = Setup("a", "a", "b")
    setup.set("a", TRANSIENT_FAILURE)
    assert setup.dialling() == ["b"]


def test_answer_without_endpoints_is_rejected_and_fails_calls() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    verdict = setup.policy.update(resolution())
    setup.controller.turn(setup.policy)
    assert not verdict.accepted
    assert setup.live == []
    pick = setup.controller.pick()
    assert isinstance(pick, Fail)
    assert pick.status.details == "the resolver's answer has no endpoints"
    setup.update("b")
    assert setup.state is CONNECTING


def test_resolver_error_is_what_calls_fail_with() -> None:
    setup = Setup()
    setup.policy.wake()
    setup.controller.turn(setup.policy)
    assert not setup.controller.publications
    setup.policy.resolver_failed(OSError("no such registry"))
    setup.controller.turn(setup.policy)
    pick = setup.controller.pick()
    assert isinstance(pick, Fail)
    assert pick.status.details == "no such registry"


def test_resolver_error_while_there_are_backends_changes_nothing() -> None:
    setup = Setup("a")
    setup.policy.resolver_failed(OSError("registry is down"))
    setup.controller.turn(setup.policy)
    assert setup.state is CONNECTING
    assert len(setup.controller.publications) == 1


# The end


@pytest.mark.parametrize("shuffle", [False, True])
def test_equal_update_starts_nothing_over(shuffle: bool) -> None:
    setup = Setup("a", "b", "c", config={"shuffleAddressList": shuffle})
    order = list(setup.policy._order)
    setup.pass_time(0.2)
    setup.update("a", "b", "c")
    assert list(setup.policy._order) == order
    setup.pass_time(0.06)
    assert len(setup.dialling()) == 2
    assert len(setup.controller.publications) == 1
    assert not any(subchannel.revisions for subchannel in setup.controller.subchannels)


def test_close_shuts_everything_down() -> None:
    setup = Setup("a", "b")
    setup.set("a", TRANSIENT_FAILURE)
    setup.set("a", IDLE)
    setup.policy.close()
    assert setup.live == []
    setup.policy.wake()
    assert setup.live == []


def test_picker_of_a_closed_policy_wakes_nothing() -> None:
    setup = Setup("a")
    setup.set("a", READY)
    setup.set("a", IDLE)
    setup.policy.close()
    assert setup.controller.pick() is QUEUE
    assert setup.live == []


# The table

REACHABLE = {
    Phase.IDLE: lambda setup: (setup.set("a", READY), setup.set("a", IDLE)),
    Phase.TRYING: lambda setup: None,
    Phase.RETRYING: lambda setup: setup.fail_all(),
    Phase.READY: lambda setup: setup.set("a", READY),
}
AFTER = {
    (Phase.IDLE, IDLE): Phase.IDLE,
    (Phase.IDLE, CONNECTING): Phase.IDLE,
    (Phase.IDLE, READY): Phase.READY,
    (Phase.IDLE, TRANSIENT_FAILURE): Phase.IDLE,
    (Phase.TRYING, IDLE): Phase.TRYING,
    (Phase.TRYING, CONNECTING): Phase.TRYING,
    (Phase.TRYING, READY): Phase.READY,
    (Phase.TRYING, TRANSIENT_FAILURE): Phase.RETRYING,
    (Phase.RETRYING, IDLE): Phase.RETRYING,
    (Phase.RETRYING, CONNECTING): Phase.RETRYING,
    (Phase.RETRYING, READY): Phase.READY,
    (Phase.RETRYING, TRANSIENT_FAILURE): Phase.RETRYING,
    (Phase.READY, IDLE): Phase.IDLE,
    (Phase.READY, CONNECTING): Phase.IDLE,
    (Phase.READY, READY): Phase.READY,
    (Phase.READY, TRANSIENT_FAILURE): Phase.IDLE,
}


@pytest.mark.parametrize(("phase", "state"), AFTER, ids=lambda part: part.name)
def test_phase_after_each_state_of_the_only_backend(phase: Phase, state: ConnectivityState) -> None:
    setup = Setup("a")
    REACHABLE[phase](setup)
    assert setup.policy._phase is phase
    setup.set("a", state)
    assert setup.policy._phase is AFTER[phase, state]
    if setup.state is READY:
        assert isinstance(setup.controller.pick(), Picked)


def test_every_rule_is_walked() -> None:
    assert set(RULES) <= set(AFTER)
