"""How news reaches a policy: in order, never nested, and with one settle() for each turn of the loop."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, Controller
from lbkit.balancing import PolicyHost
from lbkit.connectivity import ConnectivityState
from lbkit.picking import Picker, QueuePicker
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.subchannel import ConnectOptions, Dialler, Subchannel
from lbkit.testing.clock import VirtualClock
from lbkit.transport.setup import ConnectionSetup

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
SHUTDOWN = ConnectivityState.SHUTDOWN
REJECTED = Verdict(accepted=False, reason="not to my taste")


class Diary(Balancer):
    """A policy that writes down what it is told, and does what the test has it do meanwhile."""

    def __init__(self, controller: Controller, config: Any) -> None:
        super().__init__(controller, config)
        self.said: list[str] = []
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self.inside = False

    def _note(self, what: str) -> Any:
        assert not self.inside, f"{what} while the policy was busy"
        self.said.append(what)
        self.inside = True
        try:
            return self.meanwhile.get(what, lambda: None)()
        finally:
            self.inside = False

    def update(self, resolution: Resolution) -> Verdict:
        verdict: Verdict = self._note(f"update {len(resolution.endpoints)}") or ACCEPTED
        return verdict

    def subchannel_changed(self, subchannel: Any, state: ConnectivityState) -> None:
        self._note(f"{subchannel.endpoint} {state.name}")

    def resolver_failed(self, error: Exception) -> None:
        self._note(f"failed {error}")

    def settle(self) -> None:
        self._note("settle")

    def wake(self) -> None:
        self._note("wake")

    def close(self) -> None:
        self._note("close")


class World:
    """A host with a Diary; turns of the loop happen when the test says so."""

    def __init__(self) -> None:
        self.clock = VirtualClock(100.0)
        self.scheduled: list[Callable[[], None]] = []
        self.published: list[tuple[ConnectivityState, Picker]] = []
        self.wishes = 0
        dialler = Dialler(self.clock, random.Random(0), ConnectOptions(ConnectionSetup()))
        self.host = PolicyHost(
            Diary,
            {"a": 1},
            dialler=dialler,
            schedule=self.scheduled.append,
            publish=lambda state, picker: self.published.append((state, picker)),
            reresolve=self.wish,
        )
        assert isinstance(self.host.policy, Diary)
        self.diary = self.host.policy
        self.subchannels = {name: self.host.new_subchannel(Endpoint(f"{name}:1")) for name in "abc"}

    def wish(self) -> None:
        self.wishes += 1

    def tell(self, name: str, state: ConnectivityState) -> None:
        """Report a change of a subchannel."""
        self.host.subchannel_changed(self.subchannels[name], state)

    def turn(self) -> None:
        """Run one turn of the loop."""
        scheduled, self.scheduled[:] = list(self.scheduled), []
        for callback in scheduled:
            callback()

    def said(self) -> list[str]:
        """What the policy was told since the last time."""
        said, self.diary.said = self.diary.said, []
        return said


def resolution(count: int) -> Resolution:
    return Resolution(tuple(Endpoint(f"host{n}:1") for n in range(count)))


def test_policy_gets_its_configuration_clock_and_random_source() -> None:
    world = World()
    assert world.diary.config == {"a": 1}
    assert world.diary.controller.clock is world.clock
    assert isinstance(world.diary.controller.random, random.Random)


def test_news_comes_in_order_in_the_next_turn_and_then_one_settle() -> None:
    world = World()
    world.tell("a", CONNECTING)
    world.tell("b", CONNECTING)
    world.host.wake()
    world.host.resolver_failed(OSError("down"))
    world.tell("a", READY)
    assert world.said() == []
    world.turn()
    assert world.said() == ["a:1 CONNECTING", "b:1 CONNECTING", "wake", "failed down", "a:1 READY", "settle"]


def test_many_news_schedule_one_turn() -> None:
    world = World()
    for _ in range(50):
        world.tell("a", CONNECTING)
    assert len(world.scheduled) == 1
    world.turn()
    assert world.scheduled == []
    world.tell("a", READY)
    assert len(world.scheduled) == 1


def test_nothing_to_tell_means_no_turn() -> None:
    world = World()
    world.turn()
    assert world.said() == []


def test_update_is_told_at_once_after_older_news_and_settles_later() -> None:
    world = World()
    world.tell("a", CONNECTING)
    assert world.host.update(resolution(2)) is ACCEPTED
    assert world.said() == ["a:1 CONNECTING", "update 2"]
    world.turn()
    assert world.said() == ["settle"]


def test_verdict_is_handed_back() -> None:
    world = World()
    world.diary.meanwhile["update 0"] = lambda: REJECTED
    assert world.host.update(resolution(0)) is REJECTED


def test_news_made_by_the_policy_itself_waits_until_it_has_returned() -> None:
    world = World()
    world.diary.meanwhile["a:1 CONNECTING"] = lambda: world.tell("b", READY)
    world.diary.meanwhile["b:1 READY"] = world.host.wake
    world.tell("a", CONNECTING)
    world.turn()
    assert world.said() == ["a:1 CONNECTING", "b:1 READY", "wake", "settle"]


def test_news_made_while_settling_gets_a_turn_and_a_settle_of_its_own() -> None:
    world = World()
    world.tell("a", CONNECTING)
    world.diary.meanwhile["settle"] = lambda: world.tell("b", READY)
    world.turn()
    world.diary.meanwhile.clear()
    assert world.said() == ["a:1 CONNECTING", "settle"]
    world.turn()
    assert world.said() == ["b:1 READY", "settle"]


def test_update_that_the_policy_itself_caused_waits() -> None:
    world = World()
    verdicts: list[Verdict] = []
    world.diary.meanwhile["wake"] = lambda: verdicts.append(world.host.update(resolution(3)))
    world.host.wake()
    world.turn()
    assert verdicts == [ACCEPTED]
    assert world.said() == ["wake", "update 3", "settle"]


def test_flood_of_news_is_cut_into_turns() -> None:
    world = World()
    for _ in range(1200):
        world.tell("a", CONNECTING)
    told = []
    while world.scheduled:
        world.turn()
        said = world.said()
        assert said[-1] == "settle"
        assert said.count("settle") == 1
        told.append(len(said) - 1)
    assert sum(told) == 1200
    assert max(told) == 500


def test_publications_go_to_the_channel() -> None:
    world = World()
    picker = QueuePicker()
    world.diary.meanwhile["settle"] = lambda: world.host.publish(READY, picker)
    world.host.wake()
    world.turn()
    assert world.published == [(READY, picker)]


def test_wish_for_fresh_addresses_goes_to_the_resolver() -> None:
    world = World()
    world.diary.controller.reresolve()
    assert world.wishes == 1


def test_policy_may_ask_to_settle_again() -> None:
    world = World()
    world.diary.meanwhile["settle"] = world.host.settle_again
    world.host.wake()
    world.turn()
    assert world.said() == ["wake", "settle"]
    world.diary.meanwhile.clear()
    world.turn()
    assert world.said() == ["settle"]
    world.turn()
    assert world.said() == []


def test_long_settle_is_followed_by_a_rest() -> None:
    world = World()
    world.diary.meanwhile["settle"] = lambda: world.clock.advance(0.010)
    world.host.wake()
    world.turn()
    world.said()
    world.tell("a", READY)
    world.turn()
    assert world.said() == []
    world.clock.advance(0.039)
    assert world.said() == []
    world.clock.advance(0.002)
    assert world.said() == ["a:1 READY", "settle"]


def test_update_is_told_at_once_even_during_a_rest() -> None:
    world = World()
    world.diary.meanwhile["settle"] = lambda: world.clock.advance(0.010)
    world.host.wake()
    world.turn()
    world.said()
    world.host.update(resolution(1))
    assert world.said() == ["update 1"]


def test_subchannels_are_known_until_they_are_shut_down() -> None:
    world = World()
    assert [str(each.endpoint) for each in world.host.subchannels] == ["a:1", "b:1", "c:1"]
    assert all(isinstance(each, Subchannel) and each.state is IDLE for each in world.host.subchannels)
    world.subchannels["b"].shutdown()
    assert [str(each.endpoint) for each in world.host.subchannels] == ["a:1", "c:1"]
    world.turn()
    assert world.said() == []  # its own doing is no news to a policy


def test_closed_host_tells_and_publishes_nothing() -> None:
    world = World()
    world.tell("a", READY)
    world.host.close()
    assert world.said() == ["close"]
    world.turn()
    world.tell("b", READY)
    world.host.wake()
    world.host.publish(READY, QueuePicker())
    world.turn()
    assert world.said() == []
    assert world.published == []


def test_closing_during_a_rest_stops_its_timer() -> None:
    world = World()
    world.diary.meanwhile["settle"] = lambda: world.clock.advance(0.010)
    world.host.wake()
    world.turn()
    world.host.wake()
    assert world.clock.pending == 1
    world.host.close()
    assert world.clock.pending == 0


def test_policy_that_raises_still_hears_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("oh")

    world = World()
    world.diary.meanwhile.update({"a:1 READY": fail, "settle": fail})
    world.tell("a", READY)
    world.tell("b", READY)
    with caplog.at_level(logging.ERROR, "lbkit.balancer"):
        world.turn()
    assert world.said() == ["a:1 READY", "b:1 READY", "settle"]
    assert ["Diary" in record.getMessage() for record in caplog.records] == [True, True]
    world.tell("c", READY)
    world.diary.meanwhile.clear()
    world.turn()
    assert world.said() == ["c:1 READY", "settle"]


def test_update_that_raises_is_a_rejection(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("oh")

    world = World()
    world.diary.meanwhile["update 1"] = fail
    verdict = world.host.update(resolution(1))
    assert not verdict.accepted
    assert "policy failed" in verdict.reason
    assert len(caplog.records) == 1
