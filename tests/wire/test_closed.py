"""What is remembered of streams that are gone, and that it is never much (RFC 9113 5.1, "closed")."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from lbkit.http2.closed import (
    _GAPS,
    _REMEMBERED,
    ENDED,
    FORGOTTEN,
    PASSED_OVER,
    RESET_BY_PEER,
    RESET_BY_US,
    ClosedStreams,
)


def test_a_stream_that_nothing_is_known_of_has_ended_well() -> None:
    assert ClosedStreams().fate(1) == ENDED


def test_who_reset_a_stream_is_remembered() -> None:
    closed = ClosedStreams()
    closed.reset(1, RESET_BY_US)
    closed.reset(3, RESET_BY_PEER)
    assert [closed.fate(n) for n in (1, 3, 5)] == [RESET_BY_US, RESET_BY_PEER, ENDED]


def test_the_last_reset_of_a_stream_counts() -> None:
    """RFC 9113 5.1: once we have reset it too, what is still on its way is dropped."""
    closed = ClosedStreams()
    closed.reset(1, RESET_BY_PEER)
    closed.reset(1, RESET_BY_US)
    assert closed.fate(1) == RESET_BY_US


def test_ids_passed_over_are_no_streams_that_ended() -> None:
    """RFC 9113 5.1.1: only ids of the same end are closed."""
    closed = ClosedStreams()
    closed.pass_over(3, 7)
    assert [closed.fate(n) for n in (1, 3, 5, 7, 9)] == [ENDED, PASSED_OVER, PASSED_OVER, PASSED_OVER, ENDED]
    assert closed.fate(4) == ENDED


def test_the_oldest_reset_is_forgotten_first() -> None:
    closed = ClosedStreams()
    for n in range(_REMEMBERED + 1):
        closed.reset(2 * n + 1, RESET_BY_PEER)
    assert [closed.fate(n) for n in (1, 3, 2 * _REMEMBERED + 1)] == [FORGOTTEN, RESET_BY_PEER, RESET_BY_PEER]


def test_the_oldest_gap_is_forgotten_first() -> None:
    closed = ClosedStreams()
    for n in range(_GAPS + 1):
        closed.pass_over(4 * n + 1, 4 * n + 1)
    assert [closed.fate(n) for n in (1, 5, 4 * _GAPS + 1)] == [FORGOTTEN, PASSED_OVER, PASSED_OVER]


def test_below_what_was_forgotten_nothing_is_certain() -> None:
    """A stream that ended well cannot be told from one that was reset long ago: neither is held against the peer."""
    closed = ClosedStreams()
    closed.reset(101, RESET_BY_PEER)
    for n in range(_REMEMBERED):
        closed.reset(1001 + 2 * n, RESET_BY_US)
    assert [closed.fate(n) for n in (99, 101, 103, 999)] == [FORGOTTEN, FORGOTTEN, ENDED, ENDED]


def test_what_is_forgotten_never_sinks() -> None:
    closed = ClosedStreams()
    closed.reset(999, RESET_BY_US)
    closed.reset(1, RESET_BY_US)
    for n in range(_REMEMBERED):
        closed.reset(2001 + 2 * n, RESET_BY_US)
    assert closed.fate(501) == FORGOTTEN


def test_memory_is_bounded() -> None:
    """S1: a flood of resets costs what a thousand cost."""
    closed = ClosedStreams()
    for n in range(100_000):
        closed.reset(4 * n + 1, RESET_BY_PEER)
        closed.pass_over(4 * n + 3, 4 * n + 3)
    assert len(closed._resets or ()) == _REMEMBERED
    assert len(closed._gaps) == _GAPS
    assert sys.getsizeof(closed._resets) < 100_000


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 3)), max_size=60))
def test_every_stream_has_its_fate(steps: list[tuple[bool, bool, int]]) -> None:
    """Against a list of everything that ever happened, as long as nothing had to be forgotten."""
    closed = ClosedStreams()
    expected: dict[int, int] = {}
    next_id = 1
    for reset, by_us, skipped in steps:
        if skipped > 1:
            last = next_id + 2 * (skipped - 2)
            closed.pass_over(next_id, last)
            expected |= dict.fromkeys(range(next_id, last + 1, 2), PASSED_OVER)
            next_id = last + 2
        if reset:
            closed.reset(next_id, RESET_BY_US if by_us else RESET_BY_PEER)
        expected[next_id] = (RESET_BY_US if by_us else RESET_BY_PEER) if reset else ENDED
        next_id += 2
    assert {n: closed.fate(n) for n in expected} == expected
