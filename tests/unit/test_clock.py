from __future__ import annotations

import asyncio

import pytest

from lbkit.clock import Clock
from lbkit.testing.clock import VirtualClock


def test_time_stands_still_until_advanced() -> None:
    clock = VirtualClock(start=100.0)
    assert clock.time() == 100.0
    clock.advance(2.5)
    assert clock.time() == 102.5


def test_timers_fire_in_order_of_time_then_of_setting() -> None:
    clock = VirtualClock()
    fired: list[tuple[str, float]] = []
    for name, when in [("late", 2.0), ("first", 1.0), ("second", 1.0), ("beyond", 3.5)]:
        clock.call_at(when, lambda name: fired.append((name, clock.time())), name)
    clock.advance(3.0)
    assert fired == [("first", 1.0), ("second", 1.0), ("late", 2.0)]
    assert clock.pending == 1


def test_timers_set_by_timers_fire_too() -> None:
    clock = VirtualClock()
    fired: list[float] = []

    def again() -> None:
        fired.append(clock.time())
        clock.call_at(clock.time() + 1.0, again)

    clock.call_at(1.0, again)
    clock.advance(3.0)
    assert fired == [1.0, 2.0, 3.0]


def test_cancelled_timer_does_not_fire() -> None:
    clock = VirtualClock()
    fired: list[str] = []
    timer = clock.call_at(1.0, fired.append, "cancelled")
    clock.call_at(1.0, timer.cancel)
    timer.cancel()
    clock.advance(2.0)
    timer.cancel()
    assert not fired
    assert clock.pending == 0


def test_timer_of_the_past_fires_in_the_next_advance() -> None:
    clock = VirtualClock(start=10.0)
    fired: list[float] = []
    clock.call_at(1.0, lambda: fired.append(clock.time()))
    assert not fired
    clock.advance()
    assert fired == [10.0]


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back by 1"):
        VirtualClock().advance(-1)


def test_exception_of_a_callback_comes_out() -> None:
    clock = VirtualClock()

    def fail() -> None:
        raise RuntimeError("on purpose")

    clock.call_at(1.0, fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        clock.advance(5.0)
    assert clock.time() == 1.0


async def test_event_loop_is_a_clock() -> None:
    clocks: list[Clock] = [asyncio.get_running_loop(), VirtualClock()]
    for clock in clocks:
        clock.call_at(clock.time() + 1, print).cancel()
