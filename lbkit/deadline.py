"""Deadlines of calls: many short-lived timers that nearly always are taken back before they fire."""

from __future__ import annotations

from contextvars import Context
from heapq import heappop, heappush
from typing import Protocol

from lbkit.clock import Clock, TimerHandle

TICK_S = 0.01  # a deadline fires at most this much late
_TICKS_PER_SECOND = 100
_FAR_S = 1.0  # deadlines further away than this wait in coarse buckets first
_FAR_TICKS = 50  # the width of a coarse bucket

Bucket = dict["Expiring", float]  # the item and its deadline


class Expiring(Protocol):
    """What is told that its time is up.

    Attributes:
        bucket: where ``Deadlines`` keeps the item; take it back with ``bucket.pop(item, None)``. The item sets it
            to None when it is made.
    """

    bucket: Bucket | None

    def expired(self) -> None:
        """Run once, at or up to ``TICK_S`` after the deadline, unless taken back before. Must not raise."""
        ...


class Deadlines:
    """All deadlines of one event loop, in buckets of ten milliseconds.

    Adding and taking back are O(1), and memory is that of the calls in flight. A heap of timers would keep every
    finished call until its deadline: at 20 000 calls a second with a 60 s deadline that is over a million entries.
    Far deadlines wait in buckets of half a second, which are dealt out to fine ones in time: an emptied dict keeps
    its table, and 6000 fine ones for the next minute would hold 50 MB.
    """

    __slots__ = ("_buckets", "_clock", "_ticks", "_timer")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # By (tick at which it is looked at, whether it is coarse); the keys are also kept as a heap.
        self._buckets: dict[tuple[int, bool], Bucket] = {}
        self._ticks: list[tuple[int, bool]] = []
        self._timer: TimerHandle | None = None

    def add(self, item: Expiring, when: float) -> None:
        """Arrange for ``item.expired()`` at ``when`` (seconds of the clock); sets ``item.bucket``."""
        tick = int(when * _TICKS_PER_SECOND) + 1
        coarse = when - self._clock.time() > _FAR_S
        if coarse:
            tick -= tick % _FAR_TICKS + 1  # before any of its deadlines
        key = tick, coarse
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = {}
            heappush(self._ticks, key)
            if self._ticks[0] == key:
                self._arm()
        bucket[item] = when
        item.bucket = bucket

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
            # In a context of its own: that of whoever comes first would be kept until the timer fires, and be the
            # one that the expiry of others' items runs in.
            when = self._ticks[0][0] / _TICKS_PER_SECOND
            self._timer = Context().run(self._clock.call_at, when, self._fire)

    def _fire(self) -> None:
        now = self._clock.time()
        due: list[Bucket] = []
        while self._ticks and self._ticks[0][0] / _TICKS_PER_SECOND <= now:
            key = heappop(self._ticks)
            bucket = self._buckets.pop(key)
            if key[1]:
                for item, when in bucket.items():
                    self.add(item, when)
            else:
                due.append(bucket)
        self._arm()  # first, so that a callback that raises does not stop the clock for the others
        for bucket in due:
            while bucket:  # an item's expiry may take back another item of the same bucket
                item = next(iter(bucket))
                del bucket[item]
                item.expired()
