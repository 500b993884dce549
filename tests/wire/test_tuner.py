"""How large a receive window grows: as the path needs, and only then (RFC 9113 6.9.2 leaves it to us)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lbkit.http2.tuner import Tuner

KIB = 1024
MIB = 1024 * KIB


def sample(tuner: Tuner, size: int, *, at: float = 0.0, took: float = 0.1) -> int:
    """Receive ``size`` bytes while a PING is on its way; return by how much the window grew."""
    assert tuner.begin(1000, at)
    return tuner.end(1000 + size, at + took)


def test_a_full_window_doubles() -> None:
    tuner = Tuner(64 * KIB, MIB)
    assert sample(tuner, 64 * KIB) == 64 * KIB
    assert tuner.window == 128 * KIB


def test_a_window_that_was_not_the_bottleneck_stays() -> None:
    """Under two thirds of it came in a round trip: the sender had room."""
    tuner = Tuner(90 * KIB, MIB)
    assert sample(tuner, 59 * KIB) == 0
    assert tuner.window == 90 * KIB


def test_two_thirds_are_enough_to_grow() -> None:
    tuner = Tuner(90 * KIB, MIB)
    assert sample(tuner, 60 * KIB) == 30 * KIB
    assert tuner.window == 120 * KIB


def test_the_window_never_passes_its_limit() -> None:
    tuner = Tuner(64 * KIB, 100 * KIB)
    assert sample(tuner, 64 * KIB) == 36 * KIB
    assert tuner.window == 100 * KIB
    assert not tuner.begin(0, 1.0)  # no PING for nothing


def test_a_window_that_begins_at_its_limit_is_not_measured() -> None:
    assert not Tuner(MIB, MIB).begin(0, 0.0)
    assert not Tuner(2 * MIB, MIB).begin(0, 0.0)


def test_one_sample_runs_at_a_time() -> None:
    tuner = Tuner(64 * KIB, MIB)
    assert tuner.begin(0, 0.0)
    assert not tuner.begin(100, 0.05)
    assert tuner.end(64 * KIB, 0.1) == 64 * KIB  # counted from the first beginning
    assert tuner.begin(0, 0.2)


def test_an_end_without_a_beginning_changes_nothing() -> None:
    tuner = Tuner(64 * KIB, MIB)
    assert tuner.end(MIB, 1.0) == 0
    sample(tuner, 64 * KIB)
    assert tuner.end(MIB, 2.0) == 0
    assert tuner.window == 128 * KIB


def test_no_more_bandwidth_means_no_more_window() -> None:
    """A path that is full gives longer round trips to a larger window, and not more bytes a second."""
    tuner = Tuner(64 * KIB, 16 * MIB)
    assert sample(tuner, 64 * KIB, took=0.1) > 0
    assert sample(tuner, 128 * KIB, at=1.0, took=3.0) == 0
    assert tuner.window == 128 * KIB


def test_a_window_that_fits_already_does_not_shrink() -> None:
    tuner = Tuner(96 * KIB, MIB)
    sample(tuner, 96 * KIB)
    assert tuner.window == 192 * KIB
    assert sample(tuner, 192 * KIB, at=1.0) == 192 * KIB
    assert sample(tuner, 300 * KIB, at=2.0) == 600 * KIB - 384 * KIB
    assert sample(tuner, 1, at=3.0) == 0
    assert tuner.window == 600 * KIB


def test_a_clock_that_stands_still_is_survived() -> None:
    """Within one turn of a loop the time does not change."""
    tuner = Tuner(64 * KIB, MIB)
    assert sample(tuner, 64 * KIB, took=0.0) == 64 * KIB


@given(
    st.integers(1, 1 << 24),
    st.integers(1, 1 << 24),
    st.lists(st.tuples(st.integers(0, 1 << 25), st.floats(0, 10)), max_size=20),
)
def test_whatever_comes_the_window_only_grows_and_within_its_limit(
    start: int, most: int, samples: list[tuple[int, float]]
) -> None:
    tuner = Tuner(start, most)
    at = 0.0
    for size, took in samples:
        before = tuner.window
        if tuner.begin(0, at):
            assert tuner.end(size, at + took) == tuner.window - before
        at += took
        assert before <= tuner.window <= max(start, most)
