"""A policy's turns at their limits: nothing nested, nothing twice, rests kept, nothing after shutdown or close."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, Controller
from lbkit.balancer import Subchannel as SubchannelContract
from lbkit.balancing import PolicyHost
from lbkit.connectivity import ConnectivityState
from lbkit.picking import QueuePicker
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.subchannel import ConnectOptions, Dialler, Subchannel
from lbkit.testing.clock import VirtualClock
from lbkit.transport.setup import ConnectionSetup
from tests.support.fakes import resolution

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY


class ScriptedPolicy(Balancer):
    """Writes down what it is told, as text; does in each method what the test put into ``react``."""

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self.heard: list[str] = []
        self.react: dict[str, Callable[[], object]] = {}  # by method
        self.verdict = ACCEPTED
        self.inside: list[str] = []
        self.nested: list[str] = []  # calls that came while another was running; asserted to be none

    def _hear(self, method: str, what: str = "") -> None:
        if self.inside:
            self.nested.append(f"{method} inside {self.inside}")
        self.heard.append(f"{method} {what}".rstrip())
        self.inside.append(method)
        try:
            self.react.get(method, lambda: None)()
        finally:
            self.inside.pop()

    def update(self, resolution: Resolution) -> Verdict:
        self._hear("update", ",".join(map(str, resolution.endpoints)))
        return self.verdict

    def subchannel_changed(self, subchannel: SubchannelContract, state: ConnectivityState) -> None:
        self._hear("changed", f"{subchannel.endpoint} {state.name}")

    def resolver_failed(self, error: Exception) -> None:
        self._hear("failed", str(error))

    def settle(self) -> None:
        self._hear("settle")

    def wake(self) -> None:
        self._hear("wake")

    def close(self) -> None:
        self._hear("close")


class World:
    """A host, its policy, and an event loop that runs one turn when the test says so."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.dialler = Dialler(self.clock, random.Random(0), ConnectOptions(ConnectionSetup()))
        self.scheduled: list[Callable[[], None]] = []
        self.published: list[ConnectivityState] = []
        self.host = PolicyHost(
            ScriptedPolicy,
            {},
            dialler=self.dialler,
            schedule=self.scheduled.append,
            publish=lambda state, picker: self.published.append(state),
            reresolve=lambda: None,
        )
        assert isinstance(self.host.policy, ScriptedPolicy)
        self.policy = self.host.policy

    def heard(self) -> list[str]:
        """Return what the policy was told since this was asked last."""
        heard, self.policy.heard = self.policy.heard, []
        return heard

    def turn(self) -> list[str]:
        """Run what is scheduled now, and return what the policy was told; what it schedules is for the next turn."""
        due, self.scheduled[:] = list(self.scheduled), []
        for callback in due:
            callback()
        return self.heard()

    def react(self, method: str, *reactions: Callable[[], object]) -> None:
        """Have the policy do one of these each time that ``method`` is called, and then nothing more."""
        left = list(reactions)
        self.policy.react[method] = lambda: left.pop(0)() if left else None

    def settle_for(self, *seconds: float) -> None:
        """Wake the policy and have this settle take its time, and the following ones theirs."""
        self.react("settle", *[lambda each=each: self.clock.advance(each) for each in seconds])
        self.host.wake()
        assert self.turn() == ["wake", "settle"]

    def subchannel(self, name: str = "a") -> Subchannel:
        made = self.host.new_subchannel(Endpoint(f"{name}:1"))
        assert isinstance(made, Subchannel)
        return made

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing more to do, now or later."""
        return not self.scheduled and not self.clock.pending


@pytest.fixture
def world(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    world = World()
    yield world
    assert world.policy.nested == []
    if "log" not in request.fixturenames:
        assert caplog.get_records("call") == []


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "lbkit.balancer")
    return caplog


NEWS: dict[str, Callable[[World], object]] = {
    "changed": lambda world: world.host.subchannel_changed(world.subchannel(), READY),
    "failed": lambda world: world.host.resolver_failed(OSError("no route")),
    "wake": lambda world: world.host.wake(),
}


def fail() -> None:
    raise RuntimeError("a bug in the policy")


# Never nested


@pytest.mark.parametrize("method", NEWS)
def test_an_update_from_inside_a_callback_comes_after_it_and_shares_its_settle(
    world: World, method: str
) -> None:
    verdicts: list[Verdict] = []
    world.policy.verdict = Verdict(accepted=False, reason="is not known yet")
    world.react(method, lambda: verdicts.append(world.host.update(resolution("b"))))
    NEWS[method](world)
    assert [text.partition(" ")[0] for text in world.turn()] == [method, "update", "settle"]
    assert verdicts == [ACCEPTED]
    assert world.at_rest  # no second settle for what was settled already


def test_an_update_from_inside_an_update_comes_in_the_next_turn(world: World) -> None:
    world.react("update", lambda: world.host.update(resolution("b")))
    world.host.update(resolution("a"))
    assert world.heard() == ["update a:1"]
    assert world.turn() == ["update b:1", "settle"]
    assert world.at_rest


def test_an_update_from_inside_settle_comes_in_the_next_turn(world: World) -> None:
    world.react("settle", lambda: world.host.update(resolution("b")))
    world.host.update(resolution("a"))
    assert world.turn() == ["update a:1", "settle"]
    assert world.turn() == ["update b:1", "settle"]
    assert world.at_rest


def test_news_from_inside_a_callback_goes_to_the_end_of_the_queue(world: World) -> None:
    subchannel = world.subchannel()
    world.react("changed", lambda: world.host.subchannel_changed(subchannel, READY))
    world.host.subchannel_changed(subchannel, CONNECTING)
    world.host.wake()
    assert world.turn() == ["changed a:1 CONNECTING", "wake", "changed a:1 READY", "settle"]
    assert world.at_rest


# Much news


def test_an_update_comes_after_all_older_news_however_much(world: World) -> None:
    for _ in range(1200):
        world.host.wake()
    world.host.update(resolution("a"))
    assert world.heard() == ["wake"] * 1200 + ["update a:1"]
    assert world.turn() == ["settle"]
    assert world.at_rest


def test_500_pieces_of_news_are_one_turn_s_and_501_are_two(world: World) -> None:
    for _ in range(500):
        world.host.wake()
    assert world.turn() == ["wake"] * 500 + ["settle"]
    assert world.at_rest
    for number in range(501):
        world.host.resolver_failed(OSError(number))
    assert world.turn()[-2:] == ["failed 499", "settle"]
    assert world.turn() == ["failed 500", "settle"]
    assert world.at_rest


def test_a_policy_that_makes_news_of_all_news_leaves_the_loop_its_turns(world: World) -> None:
    world.policy.react["wake"] = world.host.wake
    world.host.wake()
    for _ in range(3):
        assert world.turn() == ["wake"] * 500 + ["settle"]


# settle_again


@pytest.mark.parametrize("method", ["settle", *NEWS])
def test_settle_again_from_inside_a_turn_makes_one_more_settle_in_the_next(world: World, method: str) -> None:
    world.react(method, world.host.settle_again)
    NEWS.get(method, NEWS["wake"])(world)
    assert world.turn()[1:] == ["settle"]
    assert world.turn() == ["settle"]
    assert world.at_rest


def test_settle_again_between_turns_makes_one_turn(world: World) -> None:
    world.host.settle_again()
    world.host.settle_again()
    assert world.heard() == []
    assert world.turn() == ["settle"]
    assert world.at_rest


def test_settle_again_does_not_wait_for_a_rest(world: World) -> None:
    def long_and_more() -> None:
        world.clock.advance(0.1)
        world.host.settle_again()

    world.react("settle", long_and_more, long_and_more, lambda: world.clock.advance(0.1))
    world.host.wake()
    assert world.turn() == ["wake", "settle"]
    assert world.turn() == ["settle"]
    assert world.turn() == ["settle"]
    assert world.at_rest
    world.host.wake()  # and after the last one there is a rest
    assert not world.scheduled
    assert world.clock.pending == 1


# Rest


@pytest.mark.parametrize("took", [0.002, 0.01, 3.0])
def test_turns_are_five_times_as_long_apart_as_a_long_settle_took(world: World, took: float) -> None:
    world.settle_for(took)
    assert world.at_rest  # nothing is set up before there is news
    world.host.wake()
    assert not world.scheduled
    world.clock.advance(took * 3.999)  # of the five, one has passed in settle
    assert world.heard() == []
    world.clock.advance(took * 0.002)
    assert world.heard() == ["wake", "settle"]
    assert world.at_rest


def test_a_short_settle_needs_no_rest(world: World) -> None:
    world.settle_for(0.0019)
    world.host.wake()
    assert not world.clock.pending
    assert world.turn() == ["wake", "settle"]


def test_news_of_the_whole_rest_is_delivered_in_one_turn_in_order(world: World) -> None:
    world.settle_for(0.1)
    for number in range(3):
        world.host.resolver_failed(OSError(number))
        world.clock.advance(0.1)
    assert world.clock.pending == 1
    assert world.heard() == []
    world.clock.advance(0.1)
    assert world.heard() == ["failed 0", "failed 1", "failed 2", "settle"]
    assert world.at_rest


def test_one_long_settle_makes_one_rest(world: World) -> None:
    world.settle_for(0.1, 0.001)
    world.host.wake()
    world.clock.advance(0.4)
    assert world.heard() == ["wake", "settle"]
    world.host.wake()
    assert world.turn() == ["wake", "settle"]


def test_an_update_during_the_rest_takes_older_news_along_and_is_settled_after_it(world: World) -> None:
    world.settle_for(0.1)
    world.host.wake()
    world.host.update(resolution("a"))
    assert world.heard() == ["wake", "update a:1"]
    assert not world.scheduled
    world.clock.advance(0.4)
    assert world.heard() == ["settle"]
    assert world.at_rest


def test_news_from_inside_a_long_settle_waits_for_the_rest_too(world: World) -> None:
    def long_with_news() -> None:
        world.host.wake()  # as a call does that a picker sends back into the queue
        world.clock.advance(0.1)

    world.react("settle", long_with_news)
    world.host.wake()
    assert world.turn() == ["wake", "settle"]
    assert not world.scheduled
    world.clock.advance(0.4)
    assert world.heard() == ["wake", "settle"]
    assert world.at_rest


def test_news_that_a_turn_left_over_waits_for_the_rest_too(world: World) -> None:
    world.react("settle", lambda: world.clock.advance(0.1))
    for _ in range(501):
        world.host.wake()
    assert len(world.turn()) == 501
    assert not world.scheduled
    world.clock.advance(0.4)
    assert world.heard() == ["wake", "settle"]
    assert world.at_rest


# A policy that raises


@pytest.mark.parametrize("method", ["settle", *NEWS])
def test_whatever_raises_is_logged_with_its_traceback_and_the_following_news_still_comes(
    world: World, log: pytest.LogCaptureFixture, method: str
) -> None:
    world.react(method, fail)
    NEWS.get(method, NEWS["wake"])(world)
    world.host.resolver_failed(OSError("the following"))
    assert world.turn()[1:] == ["failed the following", "settle"]
    assert log.messages == ["the balancing policy 'ScriptedPolicy' raised"]
    assert "a bug in the policy" in log.text
    world.host.update(resolution("a"))
    assert world.heard() == ["update a:1"]  # at once: the host does not take the policy for busy


def test_a_close_that_raises_is_logged(world: World, log: pytest.LogCaptureFixture) -> None:
    world.react("close", fail)
    world.host.close()
    assert world.heard() == ["close"]
    assert "a bug in the policy" in log.text


# Nothing after shutdown or close


def test_news_of_a_subchannel_that_was_shut_down_meanwhile_is_not_told(world: World) -> None:
    a, b = world.subchannel("a"), world.subchannel("b")
    world.host.subchannel_changed(a, READY)
    world.host.subchannel_changed(b, READY)
    world.react("changed", b.shutdown)
    assert world.turn() == ["changed a:1 READY", "settle"]


def test_shutdown_alone_makes_no_turn(world: World) -> None:
    world.subchannel().shutdown()
    assert not world.host.subchannels
    assert world.at_rest


@pytest.mark.parametrize("method", ["settle_again", *NEWS])
def test_after_close_no_turn_is_scheduled(world: World, method: str) -> None:
    world.host.close()
    world.heard()
    NEWS.get(method, lambda world: world.host.settle_again())(world)
    assert world.at_rest


def test_after_close_an_update_is_rejected_and_not_delivered(world: World) -> None:
    world.host.close()
    world.heard()
    verdict = world.host.update(resolution("a"))
    assert not verdict.accepted
    assert "closed" in verdict.reason
    assert world.heard() == []
    assert world.at_rest


def test_publish_in_close_is_ignored_and_what_it_shuts_down_is_gone(world: World) -> None:
    def publish_and_shut_down() -> None:
        world.host.publish(IDLE, QueuePicker())
        subchannel.shutdown()

    subchannel = world.subchannel()
    world.react("close", publish_and_shut_down)
    world.host.close()
    assert world.published == []
    assert not world.host.subchannels
    assert world.at_rest


def test_a_policy_that_refuses_its_configuration_raises_to_who_makes_the_host(world: World) -> None:
    def refuse(controller: Controller, config: Mapping[str, Any]) -> Balancer:
        raise ValueError("no such colour")

    with pytest.raises(ValueError, match="no such colour"):
        PolicyHost(
            refuse,
            {},
            dialler=world.dialler,
            schedule=world.scheduled.append,
            publish=lambda state, picker: None,
            reresolve=lambda: None,
        )
