"""The order in which addresses are tried: families in turn, and what pick_first makes of endpoints and weights."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import pytest

from lbkit.address import Address, Endpoint
from lbkit.families import interleaved
from lbkit.resolution import Resolution
from lbkit.testing.clock import VirtualClock
from lbkit_balancers.pick_first import PickFirst, shuffled
from tests.support.fakes import FakeController, resolution

NAMES = ["a:1", "b:1", "c:1"]
V6 = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"]
V4 = ["192.0.2.1:1", "192.0.2.2:1"]


def pick_first(*endpoints: Endpoint, seed: int = 0, shuffle: bool = False) -> list[str]:
    """The addresses of a new list, as pick_first will try them."""
    policy = PickFirst(FakeController(seed=seed), {"shuffleAddressList": shuffle})
    policy.update(Resolution(endpoints))
    return [str(address) for address in policy._order]


def order(*addresses: str) -> list[str]:
    return [str(address) for address in interleaved([Address.parse(text) for text in addresses])]


@pytest.mark.parametrize(
    ("listed", "tried"),
    [
        (["a:1"], ["a:1"]),
        ([*V6, *V4], [V6[0], V4[0], V6[1], V4[1], V6[2]]),
        ([*V4, *V6], [V4[0], V6[0], V4[1], V6[1], V6[2]]),
        ([V4[0], V6[0], V4[0], V4[1], V6[0]], [V4[0], V6[0], V4[1]]),
        (["b:1", "a:1", "b:1"], ["b:1", "a:1"]),
        (["a:1", V6[0], "unix:/run/x", "b:1", V4[0]], ["a:1", V6[0], "unix:/run/x", V4[0], "b:1"]),
    ],
    ids=str,
)
def test_families_take_turns_and_each_address_comes_once(listed: list[str], tried: list[str]) -> None:
    assert order(*listed) == tried


def test_pick_first_makes_one_such_list_of_all_endpoints() -> None:
    endpoints = Endpoint(V6[:2]), Endpoint(V6[2]), Endpoint([*V4, V6[0]])
    assert pick_first(*endpoints) == [V6[0], V4[0], V6[1], V4[1], V6[2]]


def test_list_is_tried_in_order_by_default() -> None:
    endpoints = [Endpoint(name) for name in NAMES]
    assert all(pick_first(*endpoints, seed=seed) == NAMES for seed in range(20))


def test_shuffle_tries_a_random_one_first() -> None:
    endpoints = [Endpoint(name) for name in NAMES]
    assert {pick_first(*endpoints, seed=seed, shuffle=True)[0] for seed in range(20)} == set(NAMES)


def test_weights_say_how_often_the_shuffle_puts_one_first() -> None:
    backends = [
        Endpoint(f"{name}:1", weight=weight) for name, weight in zip("abcd", (1, 1, 2, 4), strict=True)
    ]
    chance = random.Random(7)
    firsts = Counter(str(shuffled(backends, chance)[0]) for _ in range(8000))
    for backend in backends:
        assert firsts[str(backend)] == pytest.approx(1000 * backend.weight, rel=0.15)


def test_weights_say_how_the_shuffle_goes_on() -> None:
    backends = [Endpoint(f"{name}:1", weight=weight) for name, weight in zip("abc", (1, 2, 3), strict=True)]
    chance = random.Random(7)
    orders = [[str(each) for each in shuffled(backends, chance)] for _ in range(6000)]
    after_c = Counter(order[1] for order in orders if order[0] == "c:1")
    assert after_c["b:1"] / after_c.total() == pytest.approx(2 / 3, abs=0.04)
    assert all(sorted(order) == ["a:1", "b:1", "c:1"] for order in orders)


@pytest.mark.parametrize("weight", [1e-12, 1e12])
def test_shuffle_copes_with_any_weights(weight: float) -> None:
    backends = [Endpoint("a:1", weight=weight), Endpoint("b:1", weight=weight)]
    chance = random.Random(0)
    assert {str(shuffled(backends, chance)[0]) for _ in range(30)} == {"a:1", "b:1"}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"shuffleAddressList": "yes"}, "pick_first: shuffleAddressList must be true or false, not 'yes'"),
        ({"shuffleAddressList": 1}, "pick_first: shuffleAddressList must be true or false, not 1"),
        ({"connectionAttemptDelay": "fast"}, "must be a duration, like \"0.25s\" or 0.25, not 'fast'"),
        ({"connectionAttemptDelay": "fasts"}, "must be a duration"),
        ({"connectionAttemptDelay": True}, "must be a duration"),
        ({"connectionAttemptDelay": -1}, "must be a duration"),
        ({"connectionAttemptDelay": "nans"}, "must be a duration"),
        ({"connectionAttemptDelay": None}, "must be a duration"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(config: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        PickFirst(FakeController(), config)


def test_shuffle_changes_no_answer() -> None:
    answer = resolution("a", "b", "c", "d")
    before = answer.endpoints
    PickFirst(FakeController(), {"shuffleAddressList": True}).update(answer)
    assert answer.endpoints == before


@pytest.mark.parametrize(
    ("configured", "delay"),
    [("0.5s", 0.5), (1, 1.0), (0, 0.1), ("0.01s", 0.1), (60.0, 2.0), ("1000s", 2.0), (None, 0.25)],
)
def test_delay_is_configured_within_bounds(configured: object, delay: float) -> None:
    config = {} if configured is None else {"connectionAttemptDelay": configured}
    controller, clock = FakeController(), VirtualClock()
    controller.clock = clock
    PickFirst(controller, config).update(resolution("a", "b"))
    clock.advance(delay - 0.001)
    assert list(controller.live) == ["a"]
    clock.advance(0.002)
    assert list(controller.live) == ["a", "b"]
