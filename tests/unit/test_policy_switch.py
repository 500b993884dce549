"""A policy gives way to another one without a gap: the old one serves until the new one can."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from lbkit.balancer import Balancer, BalancerFactory, Controller, EndpointBalancer, Subchannel, registry
from lbkit.balancing import PolicyHost
from lbkit.callinfo import CallInfo
from lbkit.connectivity import ConnectivityState
from lbkit.picking import QUEUE, Fail, Pick, Picked, Picker
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.service_config import PolicyChoice
from lbkit.switching import PolicySwitch
from lbkit.testing.clock import VirtualClock
from lbkit.testing.scripted import CONNECTING, IDLE, READY, TRANSIENT_FAILURE, ScriptedDialler
from tests.support.fakes import FakeCall, resolution


class FirstReady(EndpointBalancer):
    """Picks the first; its configuration says who it is."""

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        return Signed(self, ready[0])

    def close(self) -> None:
        super().close()
        closed.append(self)


class Adaptable(FirstReady):
    """Takes another configuration while it runs."""

    def reconfigure(self, config: Mapping[str, Any]) -> bool:
        if "refused" in config:
            raise ValueError("not that")
        self.config = config
        return True


class Signed(Picker):
    def __init__(self, policy: Balancer, subchannel: Subchannel) -> None:
        self.policy = policy
        self.subchannel = subchannel

    def pick(self, call: CallInfo) -> Pick:
        return self.subchannel.picked


closed: list[Balancer] = []


@pytest.fixture(autouse=True)
def _nobody_closed_yet() -> None:
    closed.clear()


def choice(name: str, factory: BalancerFactory = FirstReady, **config: Any) -> PolicyChoice:
    """A policy; ``FirstReady`` under another name is another policy."""
    return PolicyChoice(name, factory, {"who": name, **config})


OLD, NEW, NEWEST = choice("old"), choice("new"), choice("newest")


class World:
    """A switch on scripted subchannels; turns of the event loop happen when the test says so."""

    def __init__(self, first: PolicyChoice = OLD) -> None:
        self.clock = VirtualClock()
        self.dialler = ScriptedDialler(self.clock, random.Random(0))
        self.due: list[Callable[[], None]] = []
        self.published: list[tuple[ConnectivityState, Picker]] = []
        self.wishes = 0
        self.switch = PolicySwitch(
            first,
            dialler=self.dialler,
            schedule=self.due.append,
            publish=lambda state, picker: self.published.append((state, picker)),
            reresolve=self.wish,
        )

    def wish(self) -> None:
        self.wishes += 1

    def turns(self) -> None:
        """Run the event loop until it has nothing to do."""
        for _ in range(20):
            due, self.due[:] = list(self.due), []
            for callback in due:
                callback()
        assert not self.due

    def update(self, chosen: PolicyChoice, *names: str) -> Verdict:
        verdict = self.switch.update(resolution(*names or ("a", "b")), chosen)
        self.turns()
        return verdict

    def dial(self) -> None:
        """Let every attempt begin."""
        for subchannel in list(self.dialler.waiting):
            self.dialler.dial(subchannel)
        self.turns()

    def connecting(self) -> list[Any]:
        return [each for each in self.switch.subchannels if each.state is CONNECTING]

    def connect(self) -> None:
        """Let every attempt begin and succeed."""
        self.dial()
        for subchannel in self.connecting():
            self.dialler.succeed(subchannel)
        self.turns()

    def fail(self) -> None:
        """Let every attempt begin and fail."""
        self.dial()
        for subchannel in self.connecting():
            self.dialler.fail(subchannel)
        self.turns()

    @property
    def state(self) -> ConnectivityState:
        return self.published[-1][0]

    @property
    def serving(self) -> str:
        """Who the last picker is of."""
        picker = self.published[-1][1]
        assert isinstance(picker, Signed)
        return str(picker.policy.config["who"])

    def pick(self) -> Pick:
        return self.published[-1][1].pick(FakeCall())

    def live(self) -> list[tuple[str, str]]:
        return [(each.endpoint.addresses[0].host, each.state.name) for each in self.switch.subchannels]


def serving_world(chosen: PolicyChoice = OLD) -> World:
    """One in which the first policy serves."""
    world = World(chosen)
    world.update(chosen)
    world.connect()
    assert (world.state, world.serving) == (READY, "old")
    world.published.clear()
    return world


# The swap


def test_same_policy_with_the_same_configuration_goes_on() -> None:
    world = serving_world()
    assert world.update(choice("old"), "a", "b", "c") is ACCEPTED
    assert len(world.live()) == 3
    assert closed == []


def test_old_policy_serves_until_the_new_one_is_ready() -> None:
    world = serving_world()
    assert world.update(NEW) is ACCEPTED
    world.dial()
    assert world.published == []  # that the new one is CONNECTING is nobody's business
    assert world.switch.name == "old"
    assert world.live() == [("a", "READY"), ("b", "READY"), ("a", "CONNECTING"), ("b", "CONNECTING")]
    world.dialler.succeed(world.connecting()[0])
    world.turns()
    assert [state for state, _ in world.published] == [READY]
    assert world.serving == world.switch.name == "new"
    assert world.live() == [("a", "READY"), ("b", "CONNECTING")]
    assert [policy.config["who"] for policy in closed] == ["old"]


def test_old_policys_news_is_passed_on_while_it_serves() -> None:
    world = serving_world()
    world.update(NEW)
    world.dialler.lose(next(world.switch.subchannels))
    world.turns()
    assert (world.state, world.serving) == (READY, "old")
    assert isinstance(pick := world.pick(), Picked)
    assert pick.subchannel.endpoint.addresses[0].host == "b"


def test_picker_is_replaced_before_the_old_policy_closes() -> None:
    world = serving_world()
    world.update(NEW)
    world.dial()
    old = list(world.switch.subchannels)[:2]
    states: list[ConnectivityState] = []
    world.switch._publish = lambda state, picker: states.extend(each.state for each in old)
    world.dialler.succeed(world.connecting()[0])
    world.turns()
    assert states == [READY, READY]
    assert [each.state for each in old] == [ConnectivityState.SHUTDOWN] * 2


def test_new_policy_that_fails_takes_over_as_in_grpc() -> None:
    world = serving_world()
    world.update(NEW)
    world.fail()
    assert [state for state, _ in world.published] == [TRANSIENT_FAILURE]
    assert isinstance(world.pick(), Fail)
    assert len(closed) == 1


def test_new_policy_that_is_idle_takes_over_as_in_grpc() -> None:
    class Lazy(FirstReady):
        def settle(self) -> None:
            self.controller.publish(
                IDLE, Signed(self, self.controller.new_subchannel(resolution("a").endpoints[0]))
            )

    world = serving_world()
    world.update(choice("new", Lazy))
    assert (world.state, world.serving) == (IDLE, "new")


def test_new_policy_takes_over_as_soon_as_the_old_one_is_not_ready() -> None:
    world = serving_world()
    world.update(NEW)
    for subchannel in list(world.switch.subchannels)[:2]:
        world.dialler.lose(subchannel)
    world.turns()
    assert [state for state, _ in world.published] == [CONNECTING]
    assert world.pick() is QUEUE
    assert world.switch.name == "new"
    assert [name for name, _ in world.live()] == ["a", "b"]
    world.connect()
    assert (world.state, world.serving) == (READY, "new")


def test_old_policy_that_stops_serving_before_the_new_one_says_anything_leaves_a_queue() -> None:
    world = serving_world()
    world.switch.update(resolution("a", "b"), NEW)
    for subchannel in list(world.switch.subchannels)[:2]:
        world.dialler.lose(subchannel)
    world.turns()
    assert world.published[0][0] is CONNECTING
    assert world.published[0][1].pick(FakeCall()) is QUEUE
    assert world.switch.name == "new"


def test_policy_that_never_served_gives_way_at_once() -> None:
    world = World()
    world.update(NEW)
    assert world.switch.name == "new"
    assert [policy.config["who"] for policy in closed] == ["old"]
    world.connect()
    assert (world.state, world.serving) == (READY, "new")


def test_newer_policy_replaces_one_that_has_not_served_yet() -> None:
    world = serving_world()
    world.update(NEW)
    world.dial()
    world.update(NEWEST)
    assert [policy.config["who"] for policy in closed] == ["new"]
    assert (len(world.live()), world.published) == (4, [])
    world.connect()
    assert (world.state, world.serving) == (READY, "newest")
    assert [policy.config["who"] for policy in closed] == ["new", "old"]
    assert len(world.live()) == 2


def test_going_back_before_the_new_policy_serves_makes_a_third_one() -> None:
    world = serving_world()
    world.update(NEW)
    world.update(OLD)
    world.connect()
    assert (world.state, world.serving) == (READY, "old")
    assert [policy.config["who"] for policy in closed] == ["new", "old"]


def test_answers_go_to_the_new_policy_alone() -> None:
    world = serving_world()
    world.update(NEW)
    world.update(NEW, "c")
    assert [name for name, _ in world.live()] == ["a", "b", "c"]
    assert [state for _, state in world.live()] == ["READY", "READY", "IDLE"]


def test_calls_in_flight_on_the_old_subchannels_are_left_alone() -> None:
    world = serving_world()
    old = next(world.switch.subchannels)
    old.in_flight += 1
    world.update(NEW)
    world.connect()
    assert old.state is ConnectivityState.SHUTDOWN
    assert old.in_flight == 1


@pytest.mark.parametrize("name", ["round_robin", "random", "weighted_round_robin", "pick_first"])
def test_installed_policies_can_follow_each_other(name: str) -> None:
    world = World(PolicyChoice("round_robin", registry.get("round_robin"), {}))
    for step in (name, "random", name):
        assert world.update(PolicyChoice(step, registry.get(step), {})) is ACCEPTED
        for _ in range(3):
            world.connect()
            world.clock.advance(1.0)
        assert world.state is READY
        assert world.switch.name == step
        assert isinstance(world.pick(), Picked)


# Another configuration


def test_policy_that_takes_no_other_configuration_is_made_anew() -> None:
    world = serving_world()
    world.update(choice("old", x=1))
    assert world.published == []
    world.connect()
    assert (world.state, world.serving) == (READY, "old")
    assert [dict(policy.config) for policy in closed] == [{"who": "old"}]


def test_policy_that_takes_another_configuration_keeps_its_connections() -> None:
    world = serving_world(choice("old", Adaptable))
    before = list(world.switch.subchannels)
    assert world.update(choice("old", Adaptable, x=1)) is ACCEPTED
    assert list(world.switch.subchannels) == before
    policy = world.switch._current.host.policy
    assert policy.config == {"who": "old", "x": 1}
    assert world.update(choice("old", Adaptable, x=1)) is ACCEPTED
    assert closed == []


def test_policy_that_raises_over_a_configuration_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    world = serving_world(choice("old", Adaptable))
    world.update(choice("old", Adaptable, refused=True))
    world.connect()
    assert (world.state, world.serving) == (READY, "old")
    assert len(closed) == 1
    assert "Adaptable' raised" in caplog.text


def test_configuration_comes_before_the_answer_and_after_older_news() -> None:
    said: list[str] = []

    class Diary(Adaptable):
        def reconfigure(self, config: Mapping[str, Any]) -> bool:
            said.append("reconfigure")
            return super().reconfigure(config)

        def update(self, resolution: Resolution) -> Verdict:
            said.append("update")
            return super().update(resolution)

        def wake(self) -> None:
            said.append("wake")

    world = World(choice("old", Diary))
    world.switch.wake()
    world.switch.update(resolution("a"), choice("old", Diary, x=1))
    assert said == ["wake", "reconfigure", "update"]


def test_host_that_is_closed_or_busy_takes_no_configuration() -> None:
    asked: list[bool] = []

    class Nested(Adaptable):
        def wake(self) -> None:
            assert isinstance(self.controller, PolicyHost)
            asked.append(self.controller.reconfigure({}))

    world = World(choice("old", Nested))
    world.switch.wake()
    world.turns()
    world.switch.close()
    assert asked == [False]
    assert not world.switch._current.host.reconfigure({})


# What goes wrong


class Unmakeable(FirstReady):
    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        raise LookupError("no licence")


def test_policy_that_cannot_be_made_leaves_the_old_one_serving(caplog: pytest.LogCaptureFixture) -> None:
    world = serving_world()
    verdict = world.update(choice("new", Unmakeable), "a", "b", "c")
    assert not verdict.accepted
    assert verdict.reason == "the balancing policy 'new' cannot be made: LookupError: no licence"
    assert [name for name, _ in world.live()] == [
        "a",
        "b",
        "c",
    ]  # the answer's endpoints are used all the same
    assert "no licence" in caplog.text
    assert world.update(OLD).accepted
    assert closed == []


def test_policy_that_rejects_the_answer_says_so() -> None:
    world = serving_world()
    verdict = world.switch.update(Resolution(()), NEW)
    assert verdict == Verdict(accepted=False, reason="the answer has no endpoints")


def test_resolver_failure_and_wake_reach_the_policy() -> None:
    world = World()
    world.switch.resolver_failed(OSError("the registry is down"))
    world.turns()
    assert isinstance(pick := world.pick(), Fail)
    assert "the registry is down" in pick.status.details
    world.switch.wake()
    world.turns()


def test_wishes_for_fresh_addresses_of_both_policies_are_passed_on() -> None:
    world = serving_world()
    world.update(NEW)
    world.dialler.lose(next(world.switch.subchannels))
    world.turns()
    assert world.wishes == 1
    world.fail()
    assert world.wishes > 1


# The end


def test_close_leaves_nothing_of_either_policy() -> None:
    world = serving_world()
    world.update(NEW)
    world.switch.close()
    assert world.live() == []
    assert len(closed) == 2
    world.turns()
    world.clock.advance(1000.0)
    world.turns()
    assert (len(closed), world.published) == (2, [])


def test_close_in_the_turn_of_the_swap_closes_each_policy_once() -> None:
    world = serving_world()
    world.update(NEW)
    world.dial()
    world.dialler.succeed(world.connecting()[0])
    (turn,) = world.due
    world.due.clear()
    turn()  # swapped, and the old one not closed yet
    assert closed == []
    world.switch.close()
    world.turns()
    assert [policy.config["who"] for policy in closed] == ["new", "old"]
    assert world.live() == []


def test_closed_switch_makes_no_more_policies() -> None:
    world = serving_world()
    world.switch.close()
    assert not world.switch.update(resolution("a"), NEW).accepted
    assert len(closed) == 1
    assert world.live() == []


def test_many_switches_leave_one_policys_subchannels() -> None:
    world = serving_world()
    steps = random.Random(7)
    for number in range(300):
        world.update(choice(f"policy {number}"))
        what = steps.random()
        if what < 0.5:
            world.connect()
        elif what < 0.7:
            world.fail()
        elif what < 0.8:
            world.clock.advance(200.0)
            world.turns()
    world.connect()
    world.clock.advance(200.0)
    world.turns()
    world.connect()
    assert (world.state, world.serving) == (READY, "policy 299")
    assert world.live() == [("a", "READY"), ("b", "READY")]
    assert len(closed) == 300
