"""The event loop in virtual time: it jumps, and it tells on tests that hang, spin or leave something."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from lbkit.testing import loop, run_virtual, virtual_time


def test_hours_pass_at_once_and_in_order() -> None:
    seen: list[tuple[str, int]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, round(asyncio.get_running_loop().time() * 10)))

    async def main() -> str:
        await asyncio.gather(sleeper("late", 7200.0), sleeper("soon", 0.5))
        return "done"

    assert run_virtual(main()) == "done"
    assert seen == [("soon", 5), ("late", 72000)]


def test_test_that_waits_for_ever_is_told_so() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="deadlock: nothing to do"):
        run_virtual(main())


def test_test_that_spins_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_MOST_TURNS", 1000)

    async def main() -> None:
        for _ in range(10_000):
            await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="livelock: 1000 turns"):
        run_virtual(main())


def test_many_turns_are_no_livelock_while_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_MOST_TURNS", 100)

    async def main() -> None:
        for _ in range(300):
            await asyncio.sleep(0.001)

    run_virtual(main())


def test_task_left_behind_fails_the_test() -> None:
    async def main() -> None:
        main.task = asyncio.create_task(asyncio.sleep(1.0), name="forgotten")  # type: ignore[attr-defined]

    with pytest.raises(AssertionError, match="forgotten"):
        run_virtual(main())


def test_timer_left_behind_fails_the_test() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(60.0, print)

    with pytest.raises(AssertionError, match="left behind"):
        run_virtual(main())


def test_error_that_nobody_looked_at_fails_the_test() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1.0)

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_virtual(main())


def test_decorated_test_is_a_plain_function_of_the_same_arguments() -> None:
    @virtual_time
    async def test(number: int, *, text: str = "x") -> str:
        await asyncio.sleep(3600)
        return text * number

    assert not inspect.iscoroutinefunction(test)
    assert list(inspect.signature(test).parameters) == ["number", "text"]
    assert test(3) == "xxx"
