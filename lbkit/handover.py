"""Streams between a thread that may block and an event loop that must not, in either direction, with back-pressure.

Each wakes the other side only when that waits: while both are busy, items pass without a system call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, Self, TypeVar

T = TypeVar("T")

Post = Callable[[Callable[[], object]], object]  # has something done on the loop

# How far a reader may be behind: its writer rests at so many items, or so many bytes, until so few items are left.
_MANY, _MANY_BYTES, _FEW = 128, 128 * 1024, 16

_CREDIT_BYTES = 4096


class ToLoop(Generic[T]):
    """From a thread to the loop, which iterates over it: ``async for item in ...``. For one thread and one task.

    Args:
        loop: the event loop.
        post: has something done on the loop, called from the thread.
        ahead: how many items the thread may be ahead; an item of more than 4 KiB counts for several.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, post: Post, ahead: int) -> None:
        self.loop = loop
        self._post = post
        self._ahead = ahead
        self._items: deque[tuple[T, int]] = deque()
        self._credits: SimpleQueue[None] = SimpleQueue()
        for _ in range(ahead):
            self._credits.put(None)
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._stopped = False

    # In the thread

    def put(self, item: T, size: int = 0) -> bool:
        """Pass an item of so many bytes on, as soon as there is room for it. False: nobody wants more."""
        price = min(self._ahead, 1 + size // _CREDIT_BYTES)
        for _ in range(price):
            self._credits.get()
            if self._stopped:
                return False
        self._items.append((item, price))
        if self._waiter is not None:
            self._post(self._wake)
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, or that this is to be raised behind what came."""
        self._error = error
        self._ended = True
        if not self._stopped:
            self._post(self._wake)

    @property
    def stopped(self) -> bool:
        """Whether nobody wants more."""
        return self._stopped

    # On the loop

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        items = self._items
        while not items:
            if self._ended and not items:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            waiter = self._waiter = self.loop.create_future()
            if not items and not self._ended:  # else the thread did not see that somebody waits
                await waiter
            self._waiter = None
        item, price = items.popleft()
        for _ in range(price):
            self._credits.put(None)
        return item

    def stop(self) -> None:
        """Want no more."""
        self._stopped = True
        self._items.clear()
        self._credits.put(None)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class End:
    """What stands behind the last item of a ``ToThread``, for good."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class ToThread(Generic[T]):
    """From a task on the loop to threads.

    Args:
        loop: the event loop.
        post: has something done on the loop, called from threads.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, post: Post) -> None:
        self._loop = loop
        self._post = post
        self._items: SimpleQueue[T | End] = SimpleQueue()
        self._ended = False
        self._resting: asyncio.Future[None] | None = None
        self._bytes = 0  # since few items were left

    # On the loop

    async def put(self, item: T, size: int) -> None:
        """Pass an item of so many bytes on; rests while there are many."""
        items = self._items
        items.put(item)
        self._bytes += size
        if self._bytes >= _MANY_BYTES or items.qsize() >= _MANY:
            if items.qsize() > _FEW:
                resting = self._resting = self._loop.create_future()
                if items.qsize() > _FEW:  # else the reader did not see that somebody rests
                    await resting
                self._resting = None
            self._bytes = 0

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, or that this is to be raised behind what came. The first time counts."""
        if not self._ended:
            self._ended = True
            self._items.put(End(error))

    def stop(self, error: BaseException) -> None:
        """Say so, and drop what came, unless that was said before."""
        if not self._ended:
            with suppress(Empty):
                while True:
                    self._items.get_nowait()
            self.end(error)

    def go_on(self) -> None:
        """Let who rests go on."""
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    # In threads

    @property
    def waiting(self) -> bool:
        """Whether there is something to get."""
        return self._items.qsize() > 0

    def get(self, timeout: float | None = None) -> T | End:
        """Return the next item, or the end of them.

        Raises:
            queue.Empty: there was none within ``timeout`` seconds.
        """
        items = self._items
        found = items.get(True, timeout)
        if type(found) is End:
            items.put(found)
        elif self._resting is not None and items.qsize() <= _FEW:
            self._post(self.go_on)
        return found


__all__ = ["Empty", "End", "ToLoop", "ToThread"]
