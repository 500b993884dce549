"""The figures of F14 find a leak, say where it is, and find none where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.faults.growth import FDS, STATM, History, culprits

pytestmark = pytest.mark.skipif(not (STATM.exists() and FDS.exists()), reason="needs /proc")


def history(resident_kb: Callable[[int], float]) -> History:
    """One of thirty rounds of a thousand calls."""
    found = History()
    for number in range(30):
        found.calls.append(1000 * number)
        found.resident_kb.append(resident_kb(number))
    return found


def test_the_slope_is_what_a_thousand_calls_add() -> None:
    found = history(lambda number: 50_000 + 2 * number)
    assert found.slope(found.resident_kb) == pytest.approx(2.0)


def test_what_goes_up_and_down_has_no_slope() -> None:
    found = history(lambda number: 50_000 + 4 * (number % 2))
    assert found.slope(found.resident_kb) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(("leaks", "grows"), [(False, 0), (True, 1000)])
async def test_one_object_a_call_is_found_among_the_blocks(leaks: bool, grows: int) -> None:
    kept: list[object] = []
    found = History()
    for number in range(20):
        for _ in range(1000):
            made = object()
            if leaks:
                kept.append(made)
        await asyncio.sleep(0)
        found.look(1000 * number)
    assert found.slope(found.blocks) == pytest.approx(grows, abs=10)
    assert len(found.counted) == 1


async def test_what_was_left_behind_is_shown_with_its_place() -> None:
    kept: list[bytearray] = []

    async def work() -> None:
        kept.extend(bytearray(1000) for _ in range(100))

    told = await culprits(work)
    assert "kept.extend(bytearray(1000) for _ in range(100))" in told.split("bytes in")[1]
