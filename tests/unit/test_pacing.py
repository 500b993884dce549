from __future__ import annotations

import pytest

from lbkit.testing.clock import VirtualClock
from lbkit_resolvers.pacing import INTERVAL_S, Pace


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def test_first_change_is_published_at_once(clock: VirtualClock) -> None:
    published: list[float] = []
    pace = Pace(clock, lambda: published.append(clock.time()))
    pace.changed()
    assert published == [0.0]
    assert clock.pending == 0


def test_changes_that_follow_are_published_together(clock: VirtualClock) -> None:
    published: list[float] = []
    pace = Pace(clock, lambda: published.append(clock.time()))
    for _ in range(1000):
        pace.changed()
        clock.advance(0.001)
    clock.advance(1.0)
    assert published == pytest.approx([n * INTERVAL_S for n in range(21)])


def test_change_after_a_pause_is_published_at_once_again(clock: VirtualClock) -> None:
    published: list[float] = []
    pace = Pace(clock, lambda: published.append(clock.time()))
    pace.changed()
    clock.advance(INTERVAL_S)
    pace.changed()
    assert published == [0.0, INTERVAL_S]


def test_nothing_is_published_after_close(clock: VirtualClock) -> None:
    published: list[float] = []
    pace = Pace(clock, lambda: published.append(clock.time()))
    pace.changed()
    pace.changed()
    pace.close()
    clock.advance(1.0)
    assert (published, clock.pending) == ([0.0], 0)


def test_what_waits_can_be_published_at_once(clock: VirtualClock) -> None:
    published: list[float] = []
    pace = Pace(clock, lambda: published.append(clock.time()))
    pace.changed()
    pace.flush()
    clock.advance(0.01)
    pace.changed()
    pace.flush()
    clock.advance(1.0)
    assert (published, clock.pending) == ([0.0, 0.01], 0)
