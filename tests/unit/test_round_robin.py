from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from lbkit.balancer import registry
from lbkit_balancers.round_robin import RoundRobin
from tests.support.fakes import IDLE, READY, TRANSIENT_FAILURE, FakeController, resolution

NAMES = [f"b{number}" for number in range(10)]


def start(names: Sequence[str], seed: int = 0) -> tuple[FakeController, RoundRobin]:
    controller = FakeController(seed=seed)
    policy = RoundRobin(controller, {})
    policy.update(resolution(*names))
    controller.turn(policy)
    set_all(controller, policy, *names)
    return controller, policy


def set_all(controller: FakeController, policy: RoundRobin, *names: str, state: object = READY) -> None:
    for name in names:
        controller.live[name].become(state)  # type: ignore[arg-type]
    controller.turn(policy)


@pytest.fixture
def ten() -> tuple[FakeController, RoundRobin]:
    return start(NAMES)


def test_is_installed_under_its_name() -> None:
    assert registry.get("round_robin") is RoundRobin


def test_each_backend_in_turn_and_always_in_the_same_order(ten: tuple[FakeController, RoundRobin]) -> None:
    controller, _ = ten
    first = controller.pick_names(10)
    assert sorted(first) == NAMES
    assert controller.pick_names(30) == first * 3


def test_pick_makes_no_object(ten: tuple[FakeController, RoundRobin]) -> None:
    controller, _ = ten
    assert {id(controller.pick()) for _ in range(100)} == {id(each.picked) for each in controller.subchannels}


def test_clients_start_anywhere() -> None:
    firsts = Counter(start(NAMES, seed)[0].pick_names(1)[0] for seed in range(300))
    assert len(firsts) == 10
    assert max(firsts.values()) < 60


def test_clients_that_see_the_backends_come_up_one_by_one_spread_too() -> None:
    seconds: Counter[str] = Counter()
    for seed in range(300):
        controller = FakeController(seed=seed)
        policy = RoundRobin(controller, {})
        policy.update(resolution(*NAMES))
        controller.turn(policy)
        set_all(controller, policy, "b0")
        assert controller.pick_names(1) == ["b0"]
        for name in NAMES[1:]:
            set_all(controller, policy, name)
        seconds.update(controller.pick_names(1))
    assert len(seconds) == 9
    assert max(seconds.values()) < 60


def test_turn_goes_on_when_one_that_is_not_next_flaps(ten: tuple[FakeController, RoundRobin]) -> None:
    controller, policy = ten
    order = controller.pick_names(10)
    assert controller.pick_names(3) == order[:3]
    set_all(controller, policy, order[7], state=IDLE)
    assert controller.pick_names(3) == order[3:6]
    set_all(controller, policy, order[7])
    assert controller.pick_names(4) == order[6:10]


@pytest.mark.parametrize("position", [2, 3])
def test_turn_goes_to_the_one_after_when_the_last_or_next_one_goes(
    ten: tuple[FakeController, RoundRobin], position: int
) -> None:
    controller, policy = ten
    order = controller.pick_names(10)
    controller.pick_names(3)
    set_all(controller, policy, order[position], state=TRANSIENT_FAILURE)
    left = [name for name in order[3:] + order[:3] if name != order[position]]
    assert controller.pick_names(9) == left


def test_flapping_moves_nobody_else(ten: tuple[FakeController, RoundRobin]) -> None:
    controller, policy = ten
    order = controller.pick_names(10)
    others = [name for name in order if name != order[0]]
    shares: Counter[str] = Counter()
    for _ in range(200):
        set_all(controller, policy, order[0], state=IDLE)
        shares.update(controller.pick_names(3))
        set_all(controller, policy, order[0])
        shares.update(controller.pick_names(3))
    assert max(shares[name] for name in others) - min(shares[name] for name in others) <= 1


def test_turn_survives_a_time_without_any_backend(ten: tuple[FakeController, RoundRobin]) -> None:
    controller, policy = ten
    order = controller.pick_names(10)
    controller.pick_names(4)
    set_all(controller, policy, *NAMES, state=TRANSIENT_FAILURE)
    assert controller.state is TRANSIENT_FAILURE
    set_all(controller, policy, *NAMES)
    assert controller.pick_names(10) == order[4:] + order[:4]


def test_update_keeps_the_turn_and_the_order_of_those_that_stay(
    ten: tuple[FakeController, RoundRobin],
) -> None:
    controller, policy = ten
    order = controller.pick_names(10)
    controller.pick_names(4)
    stay = order[2:8]
    policy.update(resolution(*stay, "new"))
    controller.turn(policy)
    assert controller.pick_names(6) == order[4:8] + order[2:4]
    set_all(controller, policy, "new")
    assert sorted(controller.pick_names(7)) == sorted([*stay, "new"])


def test_all_backends_replaced(ten: tuple[FakeController, RoundRobin]) -> None:
    controller, policy = ten
    policy.update(resolution("x", "y"))
    controller.turn(policy)
    set_all(controller, policy, "x", "y")
    assert sorted(controller.pick_names(2)) == ["x", "y"]
    assert len(policy._places) == 2


def test_a_backend_that_flaps_while_nobody_is_picked_gets_no_second_turn() -> None:
    controller, policy = start(NAMES[:2])
    for _ in range(5):
        first = controller.pick_names(1)[0]
        for _ in range(3):  # it breaks at once, and is back before the next call
            set_all(controller, policy, first, state=IDLE)
            set_all(controller, policy, first)
        assert controller.pick_names(1)[0] != first
