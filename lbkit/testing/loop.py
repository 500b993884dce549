"""An event loop whose time jumps to the next timer when nothing is left to do: hours of back-off in no time.

For code without sockets, threads and processes: the loop would not wait for them.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


_MOST_TURNS = 1_000_000  # of the loop at one moment of virtual time


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits; adds to ``passed`` what it was to wait instead."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self._turns = 0  # at this moment

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        self._turns += 1
        if not ready and timeout is None:
            raise AssertionError("deadlock: nothing to do and no timer set")
        if self._turns > _MOST_TURNS:
            raise AssertionError(f"livelock: {_MOST_TURNS} turns of the loop, and no time passes")
        if not ready and timeout is not None and timeout > 0:
            self.passed += timeout
            self._turns = 0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which starts at 0 seconds."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._jumping.passed


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, as ``asyncio.run`` does in real time.

    Raises:
        AssertionError: it left a task, a timer, or an error that nobody looked at; or nothing could ever happen
            any more.
    """
    errors: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))

        async def body() -> T:
            result = await main
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if left:
                raise AssertionError(f"left behind: {left}")
            return result

        result = runner.run(body())
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        if timers:
            raise AssertionError(f"left behind: {timers}")
    if errors:
        raise AssertionError(f"nobody looked at {errors}")
    return result


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make a plain test function of an async one, which runs in virtual time. For pytest, unittest, or none."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(test(*args, **kwargs))

    return run
