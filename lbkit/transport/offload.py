"""Work that would hold up the event loop: the compressing and decompressing of large messages, in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from lbkit.wire.packing import Compressed, unpack, unpack_small

T = TypeVar("T")

_MOST_THREADS = 4


def _threads() -> int:
    """How many: with one for each processor, the event loop would have none, and other calls would wait."""
    return max(1, min(_MOST_THREADS, (os.cpu_count() or 1) - 1))


class Offload:
    """The threads of a channel or a server, made when they are first needed.

    They are its own, for those of others may all wait for a message that one of them would have to decompress.
    """

    __slots__ = ("_closed", "_executor")

    def __init__(self) -> None:
        self._executor: Executor | None = None
        self._closed = False

    def submit(
        self, loop: asyncio.AbstractEventLoop, work: Callable[..., T], *arguments: Any
    ) -> asyncio.Future[T]:
        """Have a thread do it; after ``close`` the future is cancelled. Cancel it if nobody waits any more."""
        if self._closed:
            refused: asyncio.Future[T] = loop.create_future()
            refused.cancel()
            return refused
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(_threads(), "lbkit-compression")
        job = _Job(work, arguments)
        done: Future[T] = self._executor.submit(job.run)
        done.add_done_callback(job.forget)
        return asyncio.wrap_future(done, loop=loop)

    async def unpack(self, loop: asyncio.AbstractEventLoop, payload: Compressed, limit: int) -> bytes:
        """Decompress a message, here if it is small; errors as ``wire.packing.unpack``."""
        plain = unpack_small(payload, limit)
        return await self.submit(loop, unpack, payload, limit) if plain is None else plain

    def close(self) -> None:
        """End the threads; what they have not begun is cancelled."""
        self._closed = True
        if self._executor is not None:
            # Not waited for: one may still work for a call that is over, and the others end at once.
            self._executor.shutdown(wait=False, cancel_futures=True)


class _Job:
    """A piece of work that lets go of its message when it is cancelled, and not when a thread comes to see that."""

    __slots__ = ("_arguments", "_work")

    def __init__(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._work = work
        self._arguments = arguments

    def run(self) -> Any:
        """Do it. Called in a thread."""
        return self._work(*self._arguments)

    def forget(self, _: object) -> None:
        """Let go. Called as soon as nobody wants it, or when it is done."""
        self._arguments = ()
