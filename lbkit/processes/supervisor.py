"""Keeps a number of workers serving: starts, replaces, renews and stops them. What to do is decided by ``state``."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from lbkit.backoff import Backoff
from lbkit.errors import CrashLoopError
from lbkit.processes import state as life
from lbkit.processes.state import GONE, READY, STARTING

_log = logging.getLogger("lbkit.processes")

_LOSSES_WINDOW_S = 60.0
_ABORT_WAIT_S = 3.0  # for handlers that were cancelled
_DRAIN_MARGIN_S = 5.0  # beyond the grace, which the worker itself keeps to


class Process(Protocol):
    """A worker's process, as the supervisor handles it."""

    pid: int | None

    def drain(self) -> None:
        """Tell it to finish its calls and end."""
        ...

    def abort(self) -> None:
        """Tell it to end its calls now."""
        ...

    def kill(self) -> None:
        """Kill it."""
        ...


Start = Callable[[Callable[[], None], Callable[[], None], Callable[[int], None]], Process]


class Worker:
    """One worker: its process, and where it is in its life.

    Attributes:
        number: how many were started before it, and one.
        process: None until it has been started.
        state: of ``lbkit.processes.state``.
        old: one of its successors is wanted.
    """

    __slots__ = ("number", "old", "process", "state", "timer")

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.state = STARTING
        self.old = False
        self.timer: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.process.pid if self.process else '?'})"


class Supervisor:
    """Keeps ``count`` workers serving until told to stop.

    Args:
        start: starts a process, and calls its arguments when it serves, when somebody else asked it to end, and when it
            has ended (with its exit status).
        count: how many workers.
        grace: seconds that calls get when a worker stops.
        start_timeout: seconds that a worker may take until it serves.
        max_losses: so many workers lost within a minute are a crash loop.
        backoff: between a loss and the next start.
        ready: called once, when all workers serve for the first time.
    """

    def __init__(
        self,
        start: Start,
        count: int,
        *,
        grace: float,
        start_timeout: float,
        max_losses: int,
        backoff: Backoff,
        ready: Callable[[], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._count = count
        self._grace = grace
        self._start_timeout = start_timeout
        self._max_losses = max_losses
        self._backoff = backoff
        self._ready: Callable[[], object] | None = ready
        self._workers: list[Worker] = []
        self._started = 0
        self._losses: deque[float] = deque()
        self._restart: asyncio.TimerHandle | None = None
        self._renewing = True  # if that is wanted
        self._stopping = False
        self._failure: CrashLoopError | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Keep them serving; return when all have stopped as they were told to.

        Raises:
            CrashLoopError: they cannot be kept serving.
        """
        self._settle()
        try:
            await asyncio.shield(self._done)
        finally:
            if self._restart is not None:
                self._restart.cancel()

    # What it can be told

    def stop(self) -> None:
        """Have all workers finish their calls and end; told again, end them now."""
        for worker in list(self._workers):
            self._give(worker, life.NOW if self._stopping else life.RETIRE)
        self._stopping = True
        self._settle()

    def prepare_to_stop(self) -> None:
        """Renew nothing any more: ``stop`` comes in a moment. What is lost until then is replaced."""
        self._renewing = False
        for worker in self._workers:
            worker.old = False
        self._settle()

    def renew(self) -> None:
        """Replace every worker, one after the other: each drains when another one serves in its place."""
        if self._renewing:
            _log.info("renewing all workers")
            self._replace(*self._workers)

    def resize(self, by: int) -> None:
        """Have more workers, or fewer, but one at least."""
        self._count = max(1, self._count + by)
        _log.info("%d workers are wanted", self._count)
        self._settle()

    # Inside

    def _asked(self, worker: Worker) -> None:
        """Renew a worker that got a signal. If that was for all processes of the service, ours is on its way."""
        if self._renewing and worker.state in {STARTING, READY}:
            _log.info("%s was asked to end; another one will serve in its place", worker)
            self._replace(worker)

    def _replace(self, *workers: Worker) -> None:
        for worker in workers:
            worker.old = True
        self._settle()

    def _settle(self) -> None:
        """Start and retire what the wanted number asks for."""
        if not self._stopping:
            serving = self._in(READY)
            new = [worker for worker in self._in(STARTING, READY) if not worker.old]
            old = [worker for worker in self._in(STARTING, READY) if worker.old]
            # One more than wanted while workers are renewed, so that the number that serves never falls.
            if self._restart is None:
                room = self._count - len(new) if not old else min(1, self._count + 1 - len(new) - len(old))
                for _ in range(room):
                    self._begin()
            surplus = len(serving) - self._count
            for worker in sorted(serving, key=lambda each: (not each.old, -each.number))[: max(0, surplus)]:
                self._give(worker, life.RETIRE)
            if self._ready is not None and len(serving) >= self._count:
                ready, self._ready = self._ready, None
                ready()
        elif not self._workers and not self._done.done():
            if self._failure is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(self._failure)

    def _in(self, *states: int) -> list[Worker]:
        return [worker for worker in self._workers if worker.state in states]

    def _begin(self) -> None:
        self._started += 1
        worker = Worker(self._started)
        self._workers.append(worker)
        self._time(worker, self._start_timeout)
        worker.process = self._start(
            lambda: self._given(worker, life.SERVES, 0),
            lambda: self._asked(worker),
            lambda status: self._given(worker, life.EXITED, status),
        )

    def _given(self, worker: Worker, given: int, status: int) -> None:
        """Take an input from outside, and see what it changes for the others."""
        self._give(worker, given, status)
        self._settle()

    def _give(self, worker: Worker, given: int, status: int = 0) -> None:
        before = worker.state
        worker.state, action = life.step(before, given)
        if worker.state != before or worker.state == GONE:
            self._time(worker, None)
        process = worker.process
        assert process is not None, "it was started"
        if action == life.COUNT:
            _log.info("%s serves", worker)
        elif action == life.DRAIN:
            _log.info("%s stops; its calls have %.1f s", worker, self._grace)
            process.drain()
            self._time(worker, self._grace + _DRAIN_MARGIN_S)
        elif action == life.ABORT:
            process.abort()
            self._time(worker, _ABORT_WAIT_S)
        elif action == life.KILL:
            _log.warning(
                "%s is killed: it did not %s in time", worker, "serve" if before == STARTING else "end"
            )
            process.kill()
            if before == STARTING:  # a loss as any other
                self._lost(worker, f"it did not serve within {self._start_timeout:.0f} s")
        elif action == life.LOSE:
            self._workers.remove(worker)
            self._lost(worker, _how(status), before)
        elif action == life.FORGET:
            _log.info("%s has ended", worker)
            self._workers.remove(worker)

    def _time(self, worker: Worker, seconds: float | None) -> None:
        if worker.timer is not None:
            worker.timer.cancel()
        worker.timer = (
            None if seconds is None else self._loop.call_later(seconds, self._given, worker, life.OVERDUE, 0)
        )

    def _lost(self, worker: Worker, how: str, before: int = STARTING) -> None:
        """Have a lost worker replaced after a while; give up if too many are lost."""
        if self._stopping:
            return
        now = self._loop.time()
        self._losses.append(now)
        while self._losses and self._losses[0] < now - _LOSSES_WINDOW_S:
            self._losses.popleft()
        if len(self._losses) == 1:
            self._backoff.reset()
        what = "before it served" if before == STARTING else "while it served"
        if before == STARTING and any(each.old for each in self._in(READY)):
            # What serves is better than what does not start.
            _log.error("%s was lost %s: %s; the old workers go on, and are not renewed", worker, what, how)
            for each in self._workers:
                each.old = False
            return
        never = before == STARTING and self._ready is not None and not self._in(READY)
        if never or len(self._losses) > self._max_losses:
            text = (
                f"{worker} was lost {what}: {how}"
                if never
                else f"{len(self._losses)} workers were lost within a minute; the last, {worker}, {what}: {how}"
            )
            self._give_up(text + "; what it printed says more")
            return
        delay = self._backoff.next_delay()
        _log.error("%s was lost %s: %s; another one starts in %.1f s", worker, what, how, delay)
        if self._restart is None:
            self._restart = self._loop.call_later(delay, self._resume)

    def _resume(self) -> None:
        self._restart = None
        self._settle()

    def _give_up(self, text: str) -> None:
        _log.error("%s", text)
        self._failure = CrashLoopError(text)
        self.stop()


def _how(status: int) -> str:
    """Say how a process ended: with a status, or by a signal."""
    return f"it ended with exit status {status}" if status >= 0 else f"it was killed by signal {-status}"
