"""What all connections of a channel or a server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lbkit.deadline import Deadlines, Expiring
from lbkit.http2.engines import EngineFactory, engine_factory
from lbkit.limits import Counters, Limits


class ConnectionSetup:
    """Limits, what was counted against them, the choice of engine, and one timer for what is due.

    Args:
        limits: what each connection announces and enforces.
        engine: ``"native"`` or ``"h2"``; None asks the environment.

    Attributes:
        counters: what the limits are about, counted over all connections.

    Raises:
        ValueError, ImportError: that engine cannot be had.
    """

    __slots__ = ("_deadlines", "_now", "_watched", "counters", "engine", "limits")

    def __init__(self, limits: Limits | None = None, engine: str | None = None) -> None:
        self.limits = limits or Limits()
        self.counters = Counters()
        self.engine: EngineFactory = engine_factory(engine)
        self._deadlines: Deadlines | None = None
        self._watched = 0  # connections that have a deadline
        self._now: Callable[[], float] | None = None

    def now_of(self, loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
        """Return the loop's clock: one method object for all connections."""
        if self._now is None:
            self._now = loop.time
        return self._now

    def watch(self, connection: Expiring, when: float, loop: asyncio.AbstractEventLoop) -> None:
        """Have ``connection.expired()`` called then. One timer for all: each would be half a kilobyte."""
        if self._deadlines is None:
            self._deadlines = Deadlines(loop)
        self._watched += 1
        self._deadlines.add(connection, when)

    def unwatch(self, connection: Expiring) -> None:
        """Take that back, if it was arranged; the last one stops the timer."""
        if connection.bucket is None or self._deadlines is None:
            return
        connection.bucket.pop(connection, None)
        connection.bucket = None
        self._watched -= 1
        if not self._watched:
            self._deadlines.close()
