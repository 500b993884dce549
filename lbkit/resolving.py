"""Runs a resolver for a channel: starts it, backs off and restarts it, and feeds its answers to the policy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING

from lbkit.backoff import Backoff
from lbkit.clock import Clock
from lbkit.errors import ResolverError
from lbkit.resolution import ACCEPTED, Discovery, Resolution, Verdict
from lbkit.resolver import Resolver, Sink

if TYPE_CHECKING:
    import random

_log = logging.getLogger("lbkit.resolver")


class ResolverHost(Sink):
    """The sink of one resolver, and the task that runs it.

    Args:
        resolver: what to run.
        clock: the channel's event loop.
        random: for the jitter of the back-off.
        update: takes an answer and returns the policy's verdict.
        fail: takes the error when there never was an answer.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        clock: Clock,
        random: random.Random,
        update: Callable[[Resolution], Verdict],
        fail: Callable[[Exception], None],
    ) -> None:
        self.clock = clock
        self.random = random
        self.latest: Resolution | None = None  # what the policy was last given
        self.error: Exception | None = None  # since then
        self._answered_at = 0.0
        self._verdict = ACCEPTED  # what the policy said to the latest
        self._resolver = resolver
        self._deliver = update
        self._report = fail
        self._backoff = Backoff(resolver.backoff, random)
        self._wanted = asyncio.Event()
        self._heard_at = float("-inf")  # when it last gave an answer, or said that there is none
        self._task: asyncio.Task[None] | None = None
        self._resumed = asyncio.Event()  # set, and replaced, to end all pauses
        self._hurried = False  # the next answer is wanted at once

    def start(self) -> None:
        """Run the resolver as a task of the running loop."""
        # A context of its own: it is no part of the call that the channel was first used for.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    def want(self) -> None:
        """Ask for a new answer; a hint."""
        self._wanted.set()

    def reset_backoff(self) -> None:
        """Have a resolver that failed try again now: one that raised, one that pauses, and one that waits to be asked."""
        self._backoff.reset()
        if self.error is not None:
            self._hurried = True
            self._wanted.set()
        self._resumed.set()
        self._resumed = asyncio.Event()

    async def close(self) -> None:
        """Cancel the resolver and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def update(self, resolution: Resolution) -> Verdict:
        """Number the answer and hand it to the policy; an equal one goes no further."""
        self._heard_at = self._answered_at = self.clock.time()
        if self.error is not None:
            _log.info("resolver of %s: answers again", self._resolver.target)
            self.error = None
        latest = self.latest
        if latest is None or resolution != latest:
            self.latest = resolution.numbered(latest.generation + 1 if latest else 1)
            self._verdict = self._deliver(self.latest)
        elif resolution.source != latest.source:
            self.latest = resolution.numbered(latest.generation)
        if self._verdict.accepted:
            self._backoff.reset()
        return self._verdict

    def fail(self, error: Exception) -> None:
        """Keep the last good answer; without one, let calls fail with the error."""
        self._heard_at = self.clock.time()
        self._failed(error)

    def discovery(self) -> Discovery:
        """Return what is known, and since when."""
        age_s = self.clock.time() - self._answered_at if self.latest is not None else 0.0
        return Discovery(self.latest, age_s, self.error)

    async def wanted(self, minimum: float = 30.0, refresh: float | None = None) -> None:
        """Sleep until an answer is wanted and allowed, or due."""
        due = self._heard_at + refresh if refresh is not None else None
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - self.clock.time())):
                await self._wanted.wait()
        except TimeoutError:
            pass
        else:
            pause = self._heard_at + minimum - self.clock.time()
            if due is not None:
                pause = min(pause, due - self.clock.time())
            if pause > 0 and not self._hurried:
                await self.pause(pause)
        self._hurried = False
        self._wanted.clear()  # only now: this grants what was asked meanwhile too, and a cancellation loses nothing

    async def pause(self, seconds: float | None) -> bool:
        """Sleep so long, or until ``reset_backoff``."""
        try:
            async with asyncio.timeout(seconds):
                await self._resumed.wait()
        except TimeoutError:
            return False
        return True

    def _failed(self, error: Exception) -> None:
        if str(error) != str(self.error):  # once, as it may stay so for long
            _log.warning("resolver of %s: %s", self._resolver.target, error)
        self.error = error
        if self.latest is None:
            self._report(error)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                await self._resolver.run(self)
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                self._failed(ResolverError("something that it waited for was cancelled"))
            except Exception as error:  # a stranger's code: whatever it raises is "report, back off, again"
                if task.cancelling():
                    _log.warning("resolver of %s: when cancelled: %s", self._resolver.target, error)
                    return
                self._failed(error)
            else:
                return
            if await self.pause(self._backoff.next_delay()):
                self._backoff.reset()
