from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from lbkit.address import Address, Endpoint
from lbkit.balancer import (
    Balancer,
    Controller,
    EndpointBalancer,
    FunctionBalancer,
    Subchannel,
    balancer,
    explain_failures,
    registry,
)
from lbkit.callinfo import CallInfo
from lbkit.picking import QUEUE, Drop, Fail, FailPicker, Pick, Picker, QueuePicker
from lbkit.resolution import ACCEPTED, Verdict
from lbkit.status import Status, StatusCode
from tests.support.fakes import (
    CONNECTING,
    IDLE,
    READY,
    SHUTDOWN,
    TRANSIENT_FAILURE,
    FakeCall,
    FakeController,
    FakeSubchannel,
    name_of,
    resolution,
)


class Ready(Picker):
    def __init__(self, ready: Sequence[Subchannel]) -> None:
        self.ready = list(ready)

    def pick(self, call: CallInfo) -> Pick:
        return self.ready[0].picked

    @property
    def names(self) -> list[str]:
        return [str(subchannel.endpoint.addresses[0].host) for subchannel in self.ready]


class First(EndpointBalancer):
    name = "first"

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return Ready(ready)


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
def policy(controller: FakeController) -> First:
    return First(controller, {})


def ready_names(controller: FakeController) -> list[str]:
    assert isinstance(controller.picker, Ready)
    return controller.picker.names


def take(controller: FakeController, policy: Balancer, *names: str | Endpoint) -> Verdict:
    """Deliver a new list, and let the policy settle."""
    verdict = policy.update(resolution(*names))
    controller.turn(policy)
    return verdict


def up(controller: FakeController, policy: Balancer, *names: str) -> None:
    for name in names:
        controller.live[name].become(READY)
    controller.turn(policy)


def test_connects_to_every_endpoint(controller: FakeController, policy: First) -> None:
    assert take(controller, policy, "a", "b") is ACCEPTED
    assert [subchannel.dials for subchannel in controller.subchannels] == [1, 1]
    assert controller.state is CONNECTING
    assert isinstance(controller.picker, QueuePicker)


def test_publishes_nothing_before_any_news(controller: FakeController, policy: First) -> None:
    controller.turn(policy)
    policy.wake()
    controller.turn(policy)
    assert not controller.publications


def test_picker_has_the_ready_ones_in_the_order_of_the_list(
    controller: FakeController, policy: First
) -> None:
    take(controller, policy, "a", "b", "c")
    up(controller, policy, "c")
    assert controller.state is READY
    assert ready_names(controller) == ["c"]
    up(controller, policy, "a")
    assert ready_names(controller) == ["a", "c"]


def test_draining_endpoint_keeps_its_connection_and_is_picked_only_if_no_other_is_ready(
    controller: FakeController, policy: First
) -> None:
    take(controller, policy, "a", "b")
    up(controller, policy, "a", "b")
    leaving = Endpoint("a:1", draining=True)
    take(controller, policy, leaving, "b")
    assert ready_names(controller) == ["b"]
    assert controller.live["a"].state is READY
    controller.live["b"].become(IDLE)
    controller.turn(policy)
    assert ready_names(controller) == ["a"]
    up(controller, policy, "b")
    assert ready_names(controller) == ["b"]
    take(controller, policy, "a", "b")
    assert ready_names(controller) == ["a", "b"]
    assert len(controller.subchannels) == 2


def test_one_picker_per_settle_however_much_news(controller: FakeController, policy: First) -> None:
    names = [f"b{number}" for number in range(300)]
    take(controller, policy, *names)
    published = len(controller.publications)
    for subchannel in controller.subchannels:
        subchannel.become(CONNECTING)
        subchannel.become(READY)
    controller.turn(policy)
    assert len(controller.publications) == published + 1
    assert ready_names(controller) == names


def test_long_list_is_taken_in_parts_so_that_others_get_a_turn(
    controller: FakeController, policy: First
) -> None:
    names = [f"b{number}" for number in range(5000)]
    take(controller, policy, *names)
    assert list(controller.live) == names[:2000]
    for subchannel in controller.subchannels:
        subchannel.become(TRANSIENT_FAILURE)
    assert controller.settle_wanted
    controller.turn(policy)
    assert list(controller.live) == names[:4000]
    assert controller.settle_wanted
    controller.turn(policy)
    assert list(controller.live) == names
    assert not controller.settle_wanted
    for subchannel in controller.subchannels[500:]:
        subchannel.become(TRANSIENT_FAILURE)
    assert {publication.state for publication in controller.publications} == {CONNECTING}
    controller.turn(policy)
    assert controller.state is TRANSIENT_FAILURE


def test_shorter_list_during_a_long_one_replaces_it(controller: FakeController, policy: First) -> None:
    take(controller, policy, *[f"b{number}" for number in range(5000)])
    take(controller, policy, "b1199", "b0")
    assert sorted(controller.live) == ["b0", "b1199"]
    assert not controller.settle_wanted
    take(controller, policy, *[f"b{number}" for number in range(5000)])
    policy.close()
    controller.turn(policy)
    assert not controller.live


def test_no_picker_without_news(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a")
    controller.turn(policy)
    assert len(controller.publications) == 1


def test_unchanged_endpoint_keeps_its_subchannel(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b")
    up(controller, policy, "a", "b")
    kept = controller.live["a"]
    take(controller, policy, "c", "a")
    assert controller.live["a"] is kept
    assert kept.dials == 1
    assert ready_names(controller) == ["a"]


def test_removed_endpoint_is_shut_down(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b")
    up(controller, policy, "a", "b")
    gone = controller.live["b"]
    take(controller, policy, "a")
    assert gone.state is SHUTDOWN
    controller.turn(policy)
    assert ready_names(controller) == ["a"]


def test_late_news_of_a_removed_one_is_ignored(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b")
    gone = controller.live["b"]
    take(controller, policy, "a")
    published = len(controller.publications)
    policy.subchannel_changed(gone, READY)
    controller.turn(policy)
    assert len(controller.publications) == published


def test_changed_weight_revises_and_keeps_the_connection(controller: FakeController, policy: First) -> None:
    address = [Address("a", 1)]
    take(controller, policy, Endpoint(address, weight=1))
    up(controller, policy, "a")
    published = len(controller.publications)
    heavier = Endpoint(address, weight=5)
    take(controller, policy, heavier)
    (subchannel,) = controller.subchannels
    assert subchannel.endpoint is heavier
    assert subchannel.dials == 1
    assert len(controller.publications) == published + 1  # a weighted policy needs a new picker


def test_equal_update_calls_and_publishes_nothing(controller: FakeController, policy: First) -> None:
    def answer() -> list[Endpoint]:
        return [Endpoint([Address(name, 1)], weight=2, zone="z", metadata={"m": name}) for name in "abc"]

    take(controller, policy, *answer())
    up(controller, policy, "a", "b")
    published = list(controller.publications)
    for _ in range(3):
        assert take(controller, policy, *answer()) is ACCEPTED
    assert controller.publications == published
    assert [(subchannel.dials, subchannel.revisions) for subchannel in controller.subchannels] == [
        (1, [])
    ] * 3
    assert controller.reresolutions == 0


def test_equal_update_is_not_the_same_as_one_with_other_attributes(
    controller: FakeController, policy: First
) -> None:
    take(controller, policy, "a", "b")
    up(controller, policy, "a", "b")
    published = len(controller.publications)
    take(controller, policy, "a", Endpoint("b:1", zone="z"))
    assert len(controller.publications) == published + 1
    assert [len(subchannel.revisions) for subchannel in controller.subchannels] == [0, 1]


def test_empty_answer_is_rejected_each_time_and_published_once(
    controller: FakeController, policy: First
) -> None:
    for _ in range(3):
        assert not take(controller, policy).accepted
    assert [publication.state for publication in controller.publications] == [TRANSIENT_FAILURE]
    assert take(controller, policy, "a") is ACCEPTED


def test_answer_after_a_resolver_error_counts_though_it_is_an_old_one(
    controller: FakeController, policy: First
) -> None:
    take(controller, policy)
    policy.resolver_failed(OSError("no such registry"))
    controller.turn(policy)
    take(controller, policy)
    assert controller.pick() == Fail(Status(StatusCode.UNAVAILABLE, "the resolver's answer has no endpoints"))


@pytest.mark.parametrize(
    "after",
    [
        ["b", "a", "c"],
        ["c", "b", "a", "d"],
        ["d", "a", "e", "b", "f", "c"],
        ["a", "b", "b", "c", "a"],
        [Endpoint("c:1", weight=3), Endpoint("a:1", zone="z"), Endpoint("b:1", metadata={"m": "1"})],
    ],
    ids=["reordered", "reordered and more", "in between", "duplicates", "attributes"],
)
def test_whatever_an_update_does_who_stays_keeps_the_connection(
    controller: FakeController, policy: First, after: list[str | Endpoint]
) -> None:
    take(controller, policy, "a", "b", "c")
    up(controller, policy, "a", "b", "c")
    before = [controller.live[name] for name in "abc"]
    take(controller, policy, *after)
    assert [controller.live[name] for name in "abc"] == before
    assert [subchannel.dials for subchannel in before] == [1, 1, 1]
    assert sorted(ready_names(controller)) == ["a", "b", "c"]


def test_ready_ones_come_in_the_order_of_the_last_update(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b", "c")
    up(controller, policy, "a", "b", "c")
    take(controller, policy, "c", "a", "b")
    assert ready_names(controller) == ["c", "a", "b"]
    take(controller, policy, "d", "c", "e", "b", "a")
    up(controller, policy, "d", "e")
    assert ready_names(controller) == ["d", "c", "e", "b", "a"]


def test_order_holds_when_a_long_list_is_taken_in_parts(controller: FakeController, policy: First) -> None:
    take(controller, policy, "last")
    names = [f"b{number}" for number in range(3000)] + ["last"]
    take(controller, policy, *names)
    while controller.settle_wanted:
        controller.turn(policy)
    for subchannel in controller.subchannels:
        subchannel.become(READY)
    controller.turn(policy)
    assert ready_names(controller) == names


def test_of_an_endpoint_listed_twice_the_first_counts(controller: FakeController, policy: First) -> None:
    first, second = Endpoint("a:1", weight=1), Endpoint("a:1", weight=2)
    take(controller, policy, first, "b", second)
    assert [str(subchannel.endpoint) for subchannel in controller.subchannels] == ["a:1", "b:1"]
    assert controller.live["a"].endpoint is first
    take(controller, policy, second, "b", first)
    assert controller.live["a"].endpoint is second


def test_removed_one_finishes_its_calls_and_gets_no_more(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b")
    up(controller, policy, "a", "b")
    old, gone = controller.picker, controller.live["a"]
    gone.in_flight = 3
    take(controller, policy, "b")
    assert gone.shutdowns == 1  # which drains: Subchannel.shutdown lets calls in flight finish
    assert gone.in_flight == 3
    assert controller.picker is not old
    assert ready_names(controller) == ["b"]


def test_news_of_those_that_are_not_picked_makes_no_picker(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b", "c")
    up(controller, policy, "a")
    published = len(controller.publications)
    for state in (CONNECTING, TRANSIENT_FAILURE, IDLE, CONNECTING, TRANSIENT_FAILURE):
        controller.live["b"].become(state)
        controller.turn(policy)
    assert len(controller.publications) == published
    assert controller.reresolutions == 2
    controller.live["a"].become(IDLE)
    controller.turn(policy)
    assert controller.state is CONNECTING
    controller.live["a"].become(CONNECTING)
    controller.live["a"].become(TRANSIENT_FAILURE)
    controller.live["c"].become(TRANSIENT_FAILURE)
    controller.turn(policy)
    assert controller.state is TRANSIENT_FAILURE


def test_loss_and_return_in_one_turn_gets_a_picker(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a")
    up(controller, policy, "a")
    published = len(controller.publications)
    for state in (IDLE, CONNECTING, READY):
        controller.live["a"].become(state)
    controller.turn(policy)
    assert len(controller.publications) == published + 1  # for the calls that found it gone


def test_order_of_addresses_is_no_new_endpoint(controller: FakeController, policy: First) -> None:
    v4, v6 = Address("127.0.0.1", 1), Address("::1", 1)
    take(controller, policy, Endpoint([v4, v6]))
    take(controller, policy, Endpoint([v6, v4]))
    assert len(controller.subchannels) == 1


def test_endpoint_listed_twice_is_one(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "a")
    assert len(controller.subchannels) == 1


def test_lost_connection_reconnects_at_once_and_asks_for_addresses(
    controller: FakeController, policy: First
) -> None:
    take(controller, policy, "a", "b")
    up(controller, policy, "a", "b")
    controller.live["a"].become(IDLE)
    controller.turn(policy)
    assert controller.live["a"].dials == 2
    assert controller.reresolutions == 1
    assert ready_names(controller) == ["b"]


def test_failed_attempt_asks_for_addresses(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a")
    controller.live["a"].become(TRANSIENT_FAILURE)
    controller.turn(policy)
    assert controller.reresolutions == 1


def test_failure_sticks_until_ready(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a")
    for state in (TRANSIENT_FAILURE, IDLE, CONNECTING, TRANSIENT_FAILURE, IDLE):
        controller.live["a"].become(state)
        controller.turn(policy)
        assert controller.state is TRANSIENT_FAILURE
    assert controller.live["a"].dials == 3
    assert len(controller.publications) == 2
    up(controller, policy, "a")
    assert controller.state is READY


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((TRANSIENT_FAILURE, TRANSIENT_FAILURE), TRANSIENT_FAILURE),
        ((TRANSIENT_FAILURE, CONNECTING), CONNECTING),
        ((TRANSIENT_FAILURE, None), CONNECTING),
        ((CONNECTING, READY), READY),
        ((TRANSIENT_FAILURE, READY), READY),
    ],
)
def test_state_is_that_of_the_best(
    controller: FakeController, policy: First, states: tuple[Any, Any], expected: object
) -> None:
    take(controller, policy, "a", "b")
    for name, state in zip("ab", states, strict=True):
        if state is not None:
            controller.live[name].become(state)
    controller.turn(policy)
    assert controller.state is expected


def test_readiness_that_is_over_before_settling_is_not_picked(
    controller: FakeController, policy: First
) -> None:
    take(controller, policy, "a")
    controller.live["a"].become(READY)
    policy.subchannel_changed(*controller.news.popleft())
    controller.live["a"].become(IDLE)
    policy.settle()
    assert controller.state is CONNECTING


def test_resolver_error_is_what_calls_fail_with(controller: FakeController, policy: First) -> None:
    policy.resolver_failed(OSError("no such registry"))
    controller.turn(policy)
    assert controller.state is TRANSIENT_FAILURE
    assert controller.pick() == Fail(Status(StatusCode.UNAVAILABLE, "no such registry"))
    take(controller, policy, "a")
    assert controller.state is CONNECTING


def test_answer_without_endpoints_is_rejected_and_fails_calls(
    controller: FakeController, policy: First
) -> None:
    take(controller, policy, "a")
    up(controller, policy, "a")
    verdict = take(controller, policy)
    assert not verdict.accepted
    assert verdict.reason == "the answer has no endpoints"
    controller.turn(policy)
    assert not controller.live
    assert controller.pick() == Fail(Status(StatusCode.UNAVAILABLE, "the resolver's answer has no endpoints"))


def test_explanation_names_each_backend(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b")
    for subchannel in controller.subchannels:
        subchannel.become(TRANSIENT_FAILURE)
    controller.turn(policy)
    pick = controller.pick()
    assert isinstance(pick, Fail)
    assert pick.status.details == (
        "all 2 backends are down (first)\n"
        "  a:1  connection refused\n"
        "  b:1  connection refused\n"
        "  hint: wait_for_ready=True queues calls instead of failing them"
    )


def test_explanation_of_one_backend(controller: FakeController) -> None:
    (endpoint,) = resolution("a").endpoints
    text = explain_failures("p", [FakeSubchannel(endpoint, controller)])
    assert text.startswith("the only backend is down (p)\n  a:1  connection refused\n")


def test_explanation_of_many_counts_the_rest(controller: FakeController) -> None:
    answer = resolution(*[f"b{number}" for number in range(13)])
    lines = explain_failures(
        "p", [FakeSubchannel(each, controller) for each in answer.endpoints]
    ).splitlines()
    assert lines[0] == "all 13 backends are down (p)"
    assert lines[10].startswith("  b9:1")
    assert lines[11] == "  and 3 more"


def test_close_shuts_everything_down(controller: FakeController, policy: First) -> None:
    take(controller, policy, "a", "b")
    up(controller, policy, "a")
    published = len(controller.publications)
    policy.close()
    assert not controller.live
    controller.turn(policy)
    assert len(controller.publications) == published


# Functions as policies


def make(controller: Controller, answer: Any) -> FunctionBalancer:
    return FunctionBalancer(controller, {}, answer, "mine")


def test_function_gets_a_tuple_of_ready_ones_and_the_call(controller: FakeController) -> None:
    seen: list[Any] = []

    def pick(ready: Sequence[Subchannel], call: CallInfo) -> Subchannel:
        seen.append((ready, call))
        return ready[-1]

    policy = make(controller, pick)
    take(controller, policy, "a", "b", "c")
    up(controller, policy, "a", "b")
    call = FakeCall()
    assert name_of(controller.picker.pick(call)) == "b"
    assert seen == [((controller.live["a"], controller.live["b"]), call)]


@pytest.mark.parametrize(
    "answer", [QUEUE, Fail(Status(StatusCode.ABORTED)), Drop(Status(StatusCode.ABORTED))]
)
def test_function_may_give_any_answer(controller: FakeController, answer: Pick) -> None:
    policy = make(controller, lambda ready, call: answer)
    take(controller, policy, "a")
    up(controller, policy, "a")
    assert controller.pick() is answer


def test_answers_can_be_read_in_a_log(controller: FakeController) -> None:
    policy = make(controller, lambda ready, call: ready[0])
    take(controller, policy, "a")
    up(controller, policy, "a")
    assert repr(controller.pick()) == "Picked(a:1)"
    assert repr(QUEUE) == "QUEUE"
    assert QueuePicker().pick(FakeCall()) is QUEUE


def test_decorated_function_is_a_policy_of_that_name(controller: FakeController) -> None:
    try:

        @balancer("test-last")
        def pick(ready: Sequence[Subchannel], call: CallInfo) -> Subchannel:
            return ready[-1]

        policy = registry.get("test-last")(controller, {})
        policy.resolver_failed(OSError("x"))
        take(controller, policy, "a")
        controller.live["a"].become(TRANSIENT_FAILURE)
        controller.turn(policy)
        assert isinstance(controller.picker, FailPicker)
        assert "(test-last)" in str(controller.pick())
    finally:
        registry._registered.pop("test-last", None)


def test_decorated_class_is_a_policy() -> None:
    try:
        assert balancer("test-first")(First) is First
        assert registry.get("test-first") is First
    finally:
        registry._registered.pop("test-first", None)


async def coroutine(ready: Sequence[Subchannel], call: CallInfo) -> Subchannel:
    return ready[0]


@pytest.mark.parametrize("wrong", [coroutine, int, "text"])
def test_decorator_refuses_anything_else(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"must (be a Balancer subclass|derive from lbkit\.Balancer)"):
        balancer("test-wrong")(wrong)
    assert "test-wrong" not in registry


def test_config_is_kept(controller: FakeController) -> None:
    config: Mapping[str, Any] = {"key": 1}
    assert First(controller, config).config is config
