"""What all connections of a channel or a server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from lbkit.deadline import Deadlines, Expiring
from lbkit.http2.engines import EngineFactory, engine_factory
from lbkit.limits import Counters, Limits
from lbkit.transport.keepalive import KeepalivePolicy
from lbkit.transport.offload import Offload

if TYPE_CHECKING:
    import random as random_module

_AGE_JITTER = 0.1  # gRFC A9: connections that were made together do not end together


class MaxAge:
    """How old a server's connections get, so that clients spread over servers that came later. Times in seconds.

    Args:
        age_s: then the client is told to make another one; +-10 %, for each connection its own.
        grace_s: so long may calls go on after that; None for as long as they last.
        random: the source of the jitter.

    Raises:
        ValueError: the age is not above 0, or the grace below.
    """

    __slots__ = ("_age_s", "_random", "grace_s")

    def __init__(self, age_s: float, grace_s: float | None, random: random_module.Random) -> None:
        if not age_s > 0:
            raise ValueError(f"max_connection_age={age_s!r}: it must be above 0 seconds")
        if grace_s is not None and not grace_s >= 0:
            raise ValueError(f"max_connection_age_grace={grace_s!r}: it must be at least 0 seconds")
        self._age_s = age_s
        self._random = random
        self.grace_s = inf if grace_s is None else grace_s

    def draw(self) -> float:
        """Return the age of one connection."""
        return self._age_s * self._random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)


class ConnectionSetup:
    """Limits, what was counted against them, the choice of engine, and one timer for what is due.

    Args:
        limits: what each connection announces and enforces.
        engine: ``"native"`` or ``"h2"``; None asks the environment.
        keepalive: how to find peers that are gone; None never asks.
        max_age: of a server's connections; None lets them live.
        max_idle_s: after so long without a call a server lets a connection go; None keeps it.

    Attributes:
        counters: what the limits are about, counted over all connections.
        offload: where large messages are compressed and decompressed.

    Raises:
        ValueError, ImportError: that engine cannot be had.
    """

    __slots__ = (
        "_deadlines",
        "_now",
        "_watched",
        "counters",
        "engine",
        "keepalive",
        "limits",
        "max_age",
        "max_idle_s",
        "offload",
    )

    def __init__(
        self,
        limits: Limits | None = None,
        engine: str | None = None,
        *,
        keepalive: KeepalivePolicy | None = None,
        max_age: MaxAge | None = None,
        max_idle_s: float | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.counters = Counters()
        self.offload = Offload()
        self.engine: EngineFactory = engine_factory(engine)
        self.keepalive = keepalive
        self.max_age = max_age
        self.max_idle_s = max_idle_s
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
