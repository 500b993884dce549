"""Deadlines of calls: many short-lived timers that nearly always are taken back before they fire."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

from lbkit.clock import Clock, TimerHandle

TICK_S = 0.01  # a deadline fires at most this much late
_TICKS_PER_SECOND = 100


class Expiring(Protocol):
    """What is told that its time is up."""

    def expired(self) -> None:
        """Run once, at or up to ``TICK_S`` after the deadline, unless taken back before. Must not raise."""
        ...


Bucket = dict[Expiring, None]


class Deadlines:
    """All deadlines of one event loop, in buckets of ten milliseconds.

    Adding and taking back are O(1) and leave nothing behind. A heap of timers would keep every finished call
    until its deadline: at 20 000 calls a second with a 60 s deadline that is over a million entries.
    """

    __slots__ = ("_buckets", "_clock", "_ticks", "_timer")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[int, Bucket] = {}
        self._ticks: list[int] = []  # the keys of the buckets, as a heap: at most a hundred a second
        self._timer: TimerHandle | None = None

    def add(self, item: Expiring, when: float) -> Bucket:
        """Arrange for ``item.expired()`` at ``when`` (seconds of the clock).

        To take it back call ``bucket.pop(item, None)`` on the bucket returned.
        """
        tick = int(when * _TICKS_PER_SECOND) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._arm()
        bucket[item] = None
        return bucket

    def close(self) -> None:
        """Drop every deadline without firing it."""
        self._buckets.clear()
        self._ticks.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._ticks:
            self._timer = self._clock.call_at(self._ticks[0] / _TICKS_PER_SECOND, self._fire)

    def _fire(self) -> None:
        now = self._clock.time()
        due: list[Bucket] = []
        while self._ticks and self._ticks[0] / _TICKS_PER_SECOND <= now:
            due.append(self._buckets.pop(heappop(self._ticks)))
        self._arm()  # first, so that a callback that raises does not stop the clock for the others
        for bucket in due:
            while bucket:  # an item's expiry may take back another item of the same bucket
                item = next(iter(bucket))
                del bucket[item]
                item.expired()
