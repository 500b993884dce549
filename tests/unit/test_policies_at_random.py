"""Whatever comes in whatever order, a policy never publishes a pick of what is not READY, and leaks nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lbkit.address import Address, Endpoint
from lbkit.balancer import Balancer
from lbkit.connectivity import ConnectivityState
from lbkit.picking import Picked, Picker
from lbkit.resolution import Resolution
from lbkit_balancers.pick_first import PickFirst
from lbkit_balancers.round_robin import RoundRobin
from tests.support.fakes import (
    CONNECTING,
    IDLE,
    READY,
    TRANSIENT_FAILURE,
    FakeCall,
    FakeController,
    FakeSubchannel,
)

# Where a subchannel can go by itself; out of IDLE only once connect() was called.
MOVES: dict[ConnectivityState, list[ConnectivityState]] = {
    IDLE: [CONNECTING],
    CONNECTING: [READY, READY, TRANSIENT_FAILURE],
    READY: [IDLE],
    TRANSIENT_FAILURE: [IDLE],
}
HOSTS = ["a", "b", "c", "d", "e", "f"]
POLICIES: list[type[Balancer]] = [RoundRobin, PickFirst]


class World(FakeController):
    """A controller that checks what must always hold."""

    def __init__(self, policy: type[Balancer], seed: int = 0, *, waiting: int = 0) -> None:
        super().__init__(seed=seed, waiting=waiting)
        self.policy = policy(self, {"shuffleAddressList": bool(seed % 2)})
        self.listed: set[str] = set()

    def publish(self, state: ConnectivityState, picker: Picker) -> None:
        """Check a publication at the moment it is made."""
        if state is READY:
            self.check_shares(picker)
        super().publish(state, picker)

    def check_shares(self, picker: Picker) -> None:
        """Only READY ones are picked; with round_robin, equally often over any window."""
        ready = [each for each in self.subchannels if each.state is READY]
        picks = []
        for _ in range(3 * len(ready) + 2):
            pick = picker.pick(FakeCall())
            assert isinstance(pick, Picked)
            assert pick.subchannel.state is READY
            picks.append(pick.subchannel)
        if isinstance(self.policy, RoundRobin):
            window: Counter[object] = Counter(dict.fromkeys(ready, 0))
            for size in range(len(picks) + 1):
                assert max(window.values()) - min(window.values()) <= 1
                if size < len(picks):
                    window[picks[size]] += 1
            assert picks[len(ready) :] == picks[: -len(ready)]  # hence the same for windows that start later

    def update(self, hosts: list[str], weight: float) -> None:
        """Deliver a new list."""
        self.listed = set(hosts)
        verdict = self.policy.update(
            Resolution(tuple(Endpoint([Address(host, 1)], weight=weight) for host in hosts))
        )
        assert verdict.accepted == bool(hosts)
        self.check()

    def movable(self) -> list[FakeSubchannel]:
        """The subchannels that can change their state by themselves."""
        return [each for each in self.live.values() if each.state is not IDLE or each.connect_wanted]

    def check(self) -> None:
        """Check what holds whenever the policy has been told something."""
        live = [each.name for each in self.live.values()]
        assert len(live) == len(set(live)), "two subchannels of one endpoint"
        assert set(live) <= self.listed, "a subchannel of an endpoint that is not listed"

    def check_settled(self) -> None:
        """Check what holds when all news has been told, and the policy has published."""
        self.check()
        if self.publications and self.state is READY:
            assert any(each.state is READY for each in self.live.values())
        if isinstance(self.policy, RoundRobin):
            assert set(self.live) == self.listed
        if self.listed:
            connecting = any(each.state is not IDLE or each.connect_wanted for each in self.live.values())
            assert connecting or self.state is IDLE, "nothing goes on, and nobody says so"

    def close(self) -> None:
        """Close the policy and check that nothing is left."""
        self.policy.close()
        assert not self.live
        assert all(each.shutdowns == 1 for each in self.subchannels)
        self.policy.wake()
        assert not self.live


class PolicyMachine(RuleBasedStateMachine):
    world: World

    @initialize(policy=st.sampled_from(POLICIES), seed=st.integers(0, 99), waiting=st.integers(0, 1))
    def start(self, policy: type[Balancer], seed: int, waiting: int) -> None:
        self.world = World(policy, seed, waiting=waiting)

    @rule(hosts=st.lists(st.sampled_from(HOSTS)), weight=st.sampled_from([1.0, 2.0]))
    def update(self, hosts: list[str], weight: float) -> None:
        self.world.update(hosts, weight)

    @precondition(lambda self: self.world.movable())
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        subchannel = data.draw(st.sampled_from(self.world.movable()))
        subchannel.become(data.draw(st.sampled_from(MOVES[subchannel.state])))

    @rule()
    def turn(self) -> None:
        self.world.turn(self.world.policy)
        self.world.check_settled()

    @rule()
    def resolver_failed(self) -> None:
        self.world.policy.resolver_failed(OSError("registry is down"))

    @rule()
    def wake(self) -> None:
        self.world.policy.wake()

    @precondition(lambda self: self.world.publications)
    @rule()
    def call(self) -> None:
        self.world.pick()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_random_events(policy: type[Balancer], seed: int) -> None:
    world = World(policy, seed, waiting=seed % 2)
    chance = random.Random(seed)
    for _ in range(3000):
        event = chance.random()
        if event < 0.1:
            world.update(chance.choices(HOSTS, k=chance.randrange(8)), chance.choice([1.0, 2.0]))
        elif event < 0.7:
            if movable := world.movable():
                subchannel = chance.choice(movable)
                subchannel.become(chance.choice(MOVES[subchannel.state]))
        elif event < 0.72:
            world.policy.wake()
        else:
            world.turn(world.policy)
            world.check_settled()
    world.close()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("seed", range(20))
def test_ready_in_the_end_when_all_backends_answer(policy: type[Balancer], seed: int) -> None:
    world = World(policy, seed, waiting=1)
    chance = random.Random(seed)
    for _ in range(200):
        if chance.random() < 0.1:
            world.update(chance.choices(HOSTS, k=chance.randrange(1, 8)), 1.0)
        if movable := world.movable():
            subchannel = chance.choice(movable)
            subchannel.become(chance.choice(MOVES[subchannel.state]))
        if chance.random() < 0.5:
            world.turn(world.policy)
    world.update(chance.choices(HOSTS, k=5), 1.0)
    for _ in range(10):
        world.turn(world.policy)
        for subchannel in world.movable():
            if subchannel.state is not READY:
                subchannel.become(READY if subchannel.state is CONNECTING else MOVES[subchannel.state][0])
    world.turn(world.policy)
    assert world.state is READY
    if isinstance(world.policy, RoundRobin):
        assert {world.pick() for _ in range(10)} == {each.picked for each in world.live.values()}
    world.close()
