from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.backoff import Backoff, BackoffPolicy


def test_grows_by_the_multiplier_up_to_the_maximum() -> None:
    backoff = Backoff(BackoffPolicy(jitter=0), random.Random(0))
    delays = [backoff.next_delay() for _ in range(13)]
    assert delays[:4] == pytest.approx([1.0, 1.6, 2.56, 4.096])
    assert delays[-2:] == [120.0, 120.0]


@given(st.integers(), st.floats(0, 0.99), st.integers(1, 30))
def test_jitter_keeps_within_its_share(seed: int, jitter: float, failures: int) -> None:
    backoff = Backoff(BackoffPolicy(jitter=jitter), random.Random(seed))
    for _ in range(failures):
        base = backoff.base_s
        assert base * (1 - jitter) - 1e-9 <= backoff.next_delay() <= base * (1 + jitter) + 1e-9


def test_two_clients_wait_differently() -> None:
    delays = [Backoff(BackoffPolicy(), random.Random(seed)).next_delay() for seed in range(100)]
    assert len(set(delays)) == 100
    assert min(delays) >= 0.8
    assert max(delays) <= 1.2


def test_reset_starts_over() -> None:
    backoff = Backoff(BackoffPolicy(), random.Random(0))
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.base_s == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"initial_s": 0},
        {"initial_s": -1},
        {"initial_s": 200},
        {"initial_s": float("nan")},
        {"multiplier": 0.9},
        {"multiplier": float("nan")},
        {"jitter": 1},
        {"jitter": -0.1},
    ],
)
def test_senseless_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="back-off: "):
        BackoffPolicy(**values)
