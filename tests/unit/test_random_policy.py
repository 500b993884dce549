from __future__ import annotations

from collections import Counter

import pytest

from lbkit.address import Address, Endpoint
from lbkit.balancer import registry
from lbkit_balancers.random_policy import RandomPolicy
from tests.support.fakes import READY, TRANSIENT_FAILURE, FakeController, resolution

PICKS = 20_000


def backends(*weights: float) -> list[Endpoint]:
    """Endpoints ``b0``, ``b1`` ... of these weights."""
    return [Endpoint([Address(f"b{number}", 1)], weight=weight) for number, weight in enumerate(weights)]


def start(*weights: float, seed: int = 0) -> tuple[FakeController, RandomPolicy]:
    controller = FakeController(seed=seed)
    policy = RandomPolicy(controller, {})
    policy.update(resolution(*backends(*weights)))
    controller.turn(policy)
    for subchannel in controller.subchannels:
        subchannel.become(READY)
    controller.turn(policy)
    return controller, policy


def chi_square(seen: Counter[str], weights: tuple[float, ...]) -> float:
    """Pearson's statistic of the shares that were seen against the weights."""
    total = sum(weights)
    expected = {f"b{number}": weight / total * seen.total() for number, weight in enumerate(weights)}
    return sum((seen[name] - count) ** 2 / count for name, count in expected.items())


def test_is_installed_under_its_name() -> None:
    assert registry.get("random") is RandomPolicy


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("weights", "limit"),  # what the statistic exceeds once in a hundred thousand times
    [((1.0,) * 4, 25.9), ((1.0, 1.0, 2.0, 4.0), 25.9), ((0.1, 0.7, 100.0), 23.0), ((5.0, 1.0), 19.5)],
    ids=str,
)
def test_shares_follow_the_weights(weights: tuple[float, ...], limit: float, seed: int) -> None:
    controller, _ = start(*weights, seed=seed)
    seen = Counter(controller.pick_names(PICKS))
    assert chi_square(seen, weights) < limit


def test_shares_of_a_thousand_backends_follow_the_weights() -> None:
    weights = tuple(1.0 + number % 4 for number in range(1000))
    controller, _ = start(*weights)
    seen = Counter(controller.pick_names(100_000))
    assert len(seen) == 1000
    assert chi_square(seen, weights) < 999 + 5 * (2 * 999) ** 0.5
    by_weight = Counter[int]()
    for name, count in seen.items():
        by_weight[int(name[1:]) % 4 + 1] += count
    assert [round(by_weight[weight] / 10_000, 1) for weight in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, 4.0]


def test_weights_of_any_size_can_be_drawn_by() -> None:
    controller, _ = start(1e300, 1e308, 1e308)
    assert set(controller.pick_names(200)) == {"b1", "b2"}
    controller, _ = start(1e-300, 1e300)
    assert set(controller.pick_names(200)) == {"b1"}


def test_clients_differ_and_a_seed_repeats() -> None:
    first, again, other = (start(1, 2, 3, seed=seed)[0].pick_names(30) for seed in (1, 1, 2))
    assert first == again != other


def test_only_ready_ones_are_drawn() -> None:
    controller, policy = start(1, 1, 8)
    controller.live["b2"].become(TRANSIENT_FAILURE)
    controller.turn(policy)
    assert set(controller.pick_names(200)) == {"b0", "b1"}


def test_changed_weight_counts_at_once_and_costs_no_connection() -> None:
    controller, policy = start(1, 1)
    policy.update(resolution(*backends(1, 1e9)))
    controller.turn(policy)
    assert set(controller.pick_names(200)) == {"b1"}
    assert [subchannel.dials for subchannel in controller.subchannels] == [1, 1]


def test_pick_makes_no_object() -> None:
    controller, _ = start(1, 2, 3)
    assert {id(controller.pick()) for _ in range(200)} == {id(each.picked) for each in controller.subchannels}
