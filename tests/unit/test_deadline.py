from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.deadline import TICK_S, Bucket, Deadlines
from lbkit.testing.clock import VirtualClock


class Call:
    def __init__(self, clock: VirtualClock, then: Callable[[], object] = lambda: None) -> None:
        self.clock = clock
        self.then = then
        self.bucket: Bucket | None = None
        self.expired_at: list[float] = []

    def take_back(self) -> None:
        assert self.bucket is not None
        self.bucket.pop(self, None)

    def expired(self) -> None:
        self.expired_at.append(self.clock.time())
        self.then()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(start=1000.0)


@pytest.fixture
def deadlines(clock: VirtualClock) -> Deadlines:
    return Deadlines(clock)


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 1e6))
def test_expires_once_and_within_one_tick(after: list[float], start: float) -> None:
    clock = VirtualClock(start)
    deadlines = Deadlines(clock)
    calls = {Call(clock): start + seconds for seconds in after}
    for call, when in calls.items():
        deadlines.add(call, when)
    clock.advance(101)
    for call, when in calls.items():
        (at,) = call.expired_at
        assert when - 1e-9 <= at <= when + TICK_S + 1e-9
    assert clock.pending == 0


def test_expires_in_order_of_ticks(clock: VirtualClock, deadlines: Deadlines) -> None:
    order: list[int] = []
    for seconds in (3, 1, 2):
        deadlines.add(Call(clock, lambda seconds=seconds: order.append(seconds)), clock.time() + seconds)  # type: ignore[misc]
    clock.advance(5)
    assert order == [1, 2, 3]


def test_past_deadline_expires_at_the_next_chance(clock: VirtualClock, deadlines: Deadlines) -> None:
    call = Call(clock)
    deadlines.add(call, clock.time() - 5)
    clock.advance()
    assert call.expired_at == [1000.0]


def test_taken_back_never_expires(clock: VirtualClock, deadlines: Deadlines) -> None:
    call, other = Call(clock), Call(clock)
    deadlines.add(call, clock.time() + 1)
    deadlines.add(other, clock.time() + 1)
    call.take_back()
    call.take_back()
    clock.advance(2)
    assert not call.expired_at
    assert other.expired_at


def test_adding_and_taking_back_leaves_nothing(clock: VirtualClock, deadlines: Deadlines) -> None:
    buckets = []
    for number in range(100_000):
        call = Call(clock)
        deadlines.add(call, clock.time() + 60 + number / 20_000)
        call.take_back()
        buckets.append(call.bucket)
    assert not any(buckets)
    assert len({id(bucket) for bucket in buckets}) <= 12  # of half a second each
    assert clock.pending == 1
    clock.advance(66)
    assert clock.pending == 0
    assert not deadlines._buckets


def test_one_timer_however_many_deadlines(clock: VirtualClock, deadlines: Deadlines) -> None:
    for seconds in (5, 3, 4, 1, 2):
        deadlines.add(Call(clock), clock.time() + seconds)
        assert clock.pending == 1


def test_callback_may_add(clock: VirtualClock, deadlines: Deadlines) -> None:
    second = Call(clock)
    first = Call(clock, lambda: deadlines.add(second, clock.time() + 1))
    deadlines.add(first, clock.time() + 1)
    deadlines.add(Call(clock), clock.time() + 60)
    clock.advance(3)
    assert second.expired_at == [pytest.approx(1002, abs=3 * TICK_S)]


def test_callback_may_take_back_any_other(clock: VirtualClock, deadlines: Deadlines) -> None:
    when = clock.time() + 1
    same, later = Call(clock), Call(clock)

    def take_back() -> None:
        for other in (same, later):
            assert other.bucket is not None
            assert other in other.bucket
            other.take_back()

    deadlines.add(Call(clock, take_back), when)
    deadlines.add(same, when)
    deadlines.add(later, when + 1)
    clock.advance(5)
    assert not same.expired_at
    assert not later.expired_at


def test_far_deadline_can_be_taken_back_after_it_moved_to_a_fine_bucket(
    clock: VirtualClock, deadlines: Deadlines
) -> None:
    call = Call(clock)
    deadlines.add(call, clock.time() + 60)
    before = call.bucket
    clock.advance(59.995)
    assert call.bucket is not before
    call.take_back()
    clock.advance(5)
    assert not call.expired_at


def test_late_timer_expires_all_that_is_due(clock: VirtualClock, deadlines: Deadlines) -> None:
    deadlines.add(Call(clock, lambda: clock.advance(10)), clock.time() + 1)  # the loop was blocked for 10 s
    late = Call(clock)
    deadlines.add(late, clock.time() + 5)
    clock.advance(1 + 2 * TICK_S)
    assert late.expired_at == [pytest.approx(1005, abs=2 * TICK_S)]


def test_callback_that_raises_does_not_stop_the_clock(clock: VirtualClock, deadlines: Deadlines) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    later = Call(clock)
    deadlines.add(Call(clock, fail), clock.time() + 1)
    deadlines.add(later, clock.time() + 2)
    with pytest.raises(RuntimeError, match="on purpose"):
        clock.advance(5)
    clock.advance(5)
    assert len(later.expired_at) == 1


def test_close_drops_everything(clock: VirtualClock, deadlines: Deadlines) -> None:
    call = Call(clock)
    deadlines.add(call, clock.time() + 1)
    deadlines.close()
    deadlines.close()
    assert clock.pending == 0
    clock.advance(2)
    assert not call.expired_at
    deadlines.add(call, clock.time() + 1)
    clock.advance(2)
    assert len(call.expired_at) == 1
