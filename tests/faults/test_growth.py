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


@pytest.mark.parametrize("at", [1, 3, 5, 25, 29])
def test_one_step_is_no_slope(at: int) -> None:
    found = history(lambda number: 50_000 + 200 * (number >= at) + number % 3)
    assert found.slope(found.resident_kb) == pytest.approx(0.0, abs=0.3)


@pytest.mark.parametrize(("calls_a_round", "grows"), [(1000, True), (100, False)])
def test_growth_below_the_noise_is_none(calls_a_round: int, grows: bool) -> None:
    found = History()
    for number in range(31):
        found.calls.append(calls_a_round * number)
        found.resident_kb.append(50_000 + calls_a_round * number / 1000)
    assert found.grows(found.resident_kb, most=0.5, noise=20.0) == grows
    assert not found.grows(found.resident_kb, most=1.5, noise=20.0)


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
