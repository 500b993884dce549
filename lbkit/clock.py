"""Time as a parameter: what every timer and deadline in lbkit is given instead of calling ``time``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """A timer that has been set."""

    def cancel(self) -> None:
        """Stop the timer; harmless when it fired or was cancelled before."""
        ...


class Clock(Protocol):
    """Monotonic seconds and one-shot timers. An asyncio event loop is a Clock as it stands."""

    def time(self) -> float:
        """Return monotonic seconds; the zero point is arbitrary."""
        ...

    def call_at(self, when: float, callback: Callable[..., object], /, *args: object) -> TimerHandle:
        """Call ``callback(*args)`` once ``time()`` has reached ``when``."""
        ...
