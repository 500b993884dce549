"""How often a resolver that watches something publishes: at once, but not again and again."""

from __future__ import annotations

from collections.abc import Callable

from lbkit.clock import Clock, TimerHandle

INTERVAL_S = 0.05  # 20 answers a second, however many changes there are


class Pace:
    """Publishes the first change at once, and those that follow together, once per interval.

    Args:
        clock: the sink's.
        publish: gives the sink what is known at that time.
        interval_s: seconds between two answers, at least.
    """

    def __init__(self, clock: Clock, publish: Callable[[], object], interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._publish = publish
        self._interval_s = interval_s
        self._next_s = float("-inf")
        self._timer: TimerHandle | None = None

    def changed(self) -> None:
        """Take note that there is something to publish."""
        if self._timer is not None:
            return
        if self._clock.time() >= self._next_s:
            self._go()
        else:
            self._timer = self._clock.call_at(self._next_s, self._go)

    def flush(self) -> None:
        """Publish what waits now: whatever comes next is no part of it."""
        if self._timer is not None:
            self.close()
            self._go()

    def close(self) -> None:
        """Publish nothing more. Call it in ``finally``."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        self._timer = None
        self._next_s = self._clock.time() + self._interval_s
        self._publish()
