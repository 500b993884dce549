"""Whether and when a call is tried again: gRFC A6's rules, and Finagle's budget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.metadata import Metadata
from lbkit.retry import (
    MAX_ATTEMPTS,
    STOP,
    RetryBudget,
    RetryPolicy,
    RetryState,
    RetryThrottle,
    RetryThrottling,
    pushback_of,
)
from lbkit.status import StatusCode

POLICY = RetryPolicy(4, 0.1, 0.25, 2.0, frozenset([StatusCode.UNAVAILABLE]))


class Middle(random.Random):
    """Draws the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def delays(
    state: RetryState, *pushbacks: float | None, throttle: RetryThrottle | None = None
) -> list[float | None]:
    return [state.after(StatusCode.UNAVAILABLE, pushback, throttle, Middle()) for pushback in pushbacks]


def test_waits_grow_by_the_multiplier_up_to_the_maximum_and_end_with_the_attempts() -> None:
    assert delays(RetryState(POLICY), None, None, None, None) == [0.1, 0.2, 0.25, None]


@given(st.integers(), st.integers(1, 3))
def test_jitter_is_a_fifth_both_ways(seed: int, failures: int) -> None:
    state, source = RetryState(POLICY), random.Random(seed)
    for failure in range(failures):
        delay = state.after(StatusCode.UNAVAILABLE, None, None, source)
        assert delay is not None
        base = min(0.1 * 2**failure, 0.25)
        assert base * 0.8 <= delay <= base * 1.2


def test_at_most_five_attempts_whatever_the_policy_says() -> None:
    state = RetryState(POLICY._replace(max_attempts=100))
    assert delays(state, *[None] * 10).count(None) == 10 - (MAX_ATTEMPTS - 1)


def test_other_codes_are_not_tried_again_and_cost_no_token() -> None:
    throttle = RetryThrottle(RetryThrottling(10, 0.1))
    assert RetryState(POLICY).after(StatusCode.INTERNAL, None, throttle, Middle()) is None
    assert throttle.tokens == 10


def test_pushback_is_obeyed_exactly_and_begins_the_backoff_anew() -> None:
    assert delays(RetryState(POLICY), None, 7.0, None) == [0.1, 7.0, 0.1]
    assert delays(RetryState(POLICY), 0.0) == [0.0]


def test_pushback_to_stop_ends_the_call_and_costs_a_token_whatever_the_code() -> None:
    throttle = RetryThrottle(RetryThrottling(10, 0.1))
    assert RetryState(POLICY).after(StatusCode.INTERNAL, STOP, throttle, Middle()) is None
    assert delays(RetryState(POLICY), STOP, throttle=throttle) == [None]
    assert throttle.tokens == 8


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ([], None),
        (["0"], 0.0),
        (["250"], 0.25),
        (["0000001000"], 1.0),
        (["-1"], STOP),
        (["1.5"], STOP),
        (["soon"], STOP),
        ([""], STOP),
        (["²"], STOP),
        (["1" * 11], STOP),
        (["1", "2"], STOP),
    ],
)
def test_pushback_is_read(said: list[str], means: float | None) -> None:
    trailing = Metadata([("other", "1"), *(("grpc-retry-pushback-ms", value) for value in said)])
    assert pushback_of(trailing) == means


def test_with_half_of_its_tokens_or_fewer_nothing_is_tried_again() -> None:
    throttle = RetryThrottle(RetryThrottling(4, 0.5))
    assert [throttle.failed() for _ in range(6)] == [True, False, False, False, False, False]
    assert throttle.tokens == 0
    for _ in range(4):
        throttle.succeeded()
    assert not throttle.open
    throttle.succeeded()
    assert throttle.open
    for _ in range(100):
        throttle.succeeded()
    assert throttle.tokens == 4


def test_tokens_count_in_thousandths_without_drift() -> None:
    throttle = RetryThrottle(RetryThrottling(1000, 0.001))
    for _ in range(900):
        throttle.failed()
    for _ in range(100_000):
        throttle.succeeded()
    assert throttle.tokens == 200


def test_a_budget_gives_a_share_of_the_calls() -> None:
    budget = RetryBudget(0.2, minimum_per_s=0)
    for _ in range(100):
        budget.deposit(5.0)
    assert sum(budget.withdraw(5.0) for _ in range(100)) == 20


def test_a_budget_of_a_tenth_is_paid_by_ten_calls() -> None:
    budget = RetryBudget(0.1, minimum_per_s=0)
    for _ in range(10):
        budget.deposit(5.0)
    assert budget.withdraw(5.0)
    assert not budget.withdraw(5.0)


def test_a_budget_has_a_floor_for_channels_with_few_calls() -> None:
    budget = RetryBudget(0.0, minimum_per_s=2, ttl_s=10)
    assert sum(budget.withdraw(100.0) for _ in range(50)) == 20
    assert not budget.withdraw(109.0)
    assert sum(budget.withdraw(110.0) for _ in range(50)) == 20


def test_calls_count_for_a_budget_as_long_as_it_says() -> None:
    budget = RetryBudget(1.0, minimum_per_s=0, ttl_s=10)
    budget.deposit(0.5)
    budget.deposit(5.5)
    assert budget.withdraw(10.5)  # the older of the two is gone, one is left
    assert not budget.withdraw(10.5)


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=300))
def test_attempts_never_exceed_the_share_and_the_floor(events: list[tuple[float, bool]]) -> None:
    budget = RetryBudget(0.5, minimum_per_s=1, ttl_s=10)
    calls = attempts = 0
    for now, call in sorted(events):
        if call:
            budget.deposit(now)
            calls += 1
        else:
            attempts += budget.withdraw(now)
    # A floor's worth at once, and again each time it is renewed.
    assert attempts <= calls * 0.5 + 10 * (1 + 3)


@pytest.mark.parametrize(
    "bad", [{"ratio": -0.1}, {"minimum_per_s": float("nan")}, {"ttl_s": 0}, {"ttl_s": float("inf")}]
)
def test_a_budget_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        RetryBudget(**bad)
