"""When something is idle, and the table of what an idle channel does, every pair of it."""

from __future__ import annotations

import math

import pytest

from lbkit import idleness
from lbkit.idleness import (
    ASLEEP,
    AWAKE,
    CLOSED,
    CLOSING,
    TRANSITIONS,
    UNUSED,
    WANT,
    WANTED,
    Idleness,
    checked_timeout,
)

EXPECTED = {
    (AWAKE, UNUSED): CLOSING,
    (AWAKE, WANT): AWAKE,
    (CLOSING, WANT): WANTED,
    (CLOSING, CLOSED): ASLEEP,
    (WANTED, WANT): WANTED,
    (WANTED, CLOSED): AWAKE,
    (ASLEEP, WANT): AWAKE,
}


@pytest.mark.parametrize(
    "before", range(len(idleness.STATE_NAMES)), ids=lambda number: idleness.STATE_NAMES[number]
)
@pytest.mark.parametrize(
    "event", range(len(idleness.INPUT_NAMES)), ids=lambda number: idleness.INPUT_NAMES[number]
)
def test_every_pair_moves_as_written(before: int, event: int) -> None:
    assert TRANSITIONS[before * len(idleness.INPUT_NAMES) + event] == EXPECTED.get((before, event), -1)
    assert len(TRANSITIONS) == len(idleness.STATE_NAMES) * len(idleness.INPUT_NAMES)


def idle_after(uses: dict[float, tuple[float, bool]]) -> float:
    """When 100 s without a call are found out, if looks from given times on find these marks and open calls."""
    watch = Idleness(100.0, 0.0)
    mark, busy = 0.0, False
    while True:
        now = watch.due
        for at, use in uses.items():
            if at <= now:
                mark, busy = use
        if watch.look(now, mark, busy=busy):
            return now


def test_what_was_never_used_is_idle_at_once_after_the_timeout() -> None:
    assert idle_after({}) == 100.0


def test_an_open_call_puts_it_off() -> None:
    assert idle_after({20.0: (0.0, True), 500.0: (0.0, False)}) == 600.0


def test_a_call_between_two_looks_puts_it_off() -> None:
    """It may have ended just before the look."""
    assert idle_after({30.0: (30.0, False)}) == 150.0


@pytest.mark.parametrize("ends", [100.0 + step for step in range(0, 200, 7)])
def test_it_is_never_found_too_early_nor_more_than_a_quarter_too_late(ends: float) -> None:
    found = idle_after({0.0: (1.0, True), ends: (1.0, False)})
    assert ends + 100.0 <= found <= ends + 125.0


@pytest.mark.parametrize("text", [-1.0, math.nan])
def test_timeouts_must_make_sense(text: float) -> None:
    with pytest.raises(ValueError, match="idle_timeout="):
        checked_timeout("idle_timeout", text)


@pytest.mark.parametrize("none", [None, 0, 0.0, math.inf])
def test_none_and_nothing_are_no_timeout(none: float | None) -> None:
    assert checked_timeout("idle_timeout", none) is None
