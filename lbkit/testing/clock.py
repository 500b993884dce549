"""Time that passes only when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class VirtualTimer:
    """A timer that has been set on a ``VirtualClock``."""

    __slots__ = ("_args", "_callback", "_order", "cancelled", "when")

    def __init__(
        self, when: float, order: int, callback: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        self.when = when
        self.cancelled = False
        self._order = order
        self._callback = callback
        self._args = args

    def cancel(self) -> None:
        """Stop the timer; harmless when it fired or was cancelled before."""
        self.cancelled = True

    def fire(self) -> None:
        """Run the callback. For the clock that made it."""
        self._callback(*self._args)

    def __lt__(self, other: VirtualTimer) -> bool:
        return (self.when, self._order) < (other.when, other._order)


class VirtualClock:
    """A ``lbkit.clock.Clock`` that stands still until ``advance`` is called.

    Timers fire in the order of their times, those of one time in the order they were set, so that a test runs
    the same way each time.

    Args:
        start: what ``time()`` says at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._set = 0
        self._timers: list[VirtualTimer] = []

    def time(self) -> float:
        """Return the virtual seconds; inside a callback, the time its timer was set for."""
        return self._now

    def call_at(self, when: float, callback: Callable[..., object], /, *args: object) -> VirtualTimer:
        """Call ``callback(*args)`` when ``advance`` gets to ``when``; in the next ``advance`` if that is past."""
        self._set += 1
        timer = VirtualTimer(when, self._set, callback, args)
        heappush(self._timers, timer)
        return timer

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass and run what falls due in it, timers set by such callbacks included.

        An exception of a callback comes out here; time then stands where it was raised.

        Raises:
            ValueError: time cannot go backwards.
        """
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds} s")
        end = self._now + seconds
        while self._timers and self._timers[0].when <= end:
            timer = heappop(self._timers)
            if not timer.cancelled:
                self._now = max(self._now, timer.when)
                timer.fire()
        self._now = end

    @property
    def pending(self) -> int:
        """How many timers are set and not cancelled; 0 proves that nothing was left behind."""
        return sum(not timer.cancelled for timer in self._timers)
