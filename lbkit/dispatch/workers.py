"""Shared workers: a number of long-lived tasks that run the handlers of calls, one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any

_RECYCLE_CALLS = 65536  # as grpc-go: what libraries keep for each task does not grow for ever


class Job:
    """A handler in the hands of the workers; to a call it is what a task is otherwise."""

    __slots__ = ("context", "coroutine", "task")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutine: Coroutine[Any, Any, None] | None = coroutine
        # What a task of its own would have taken: no call sees the context variables of another one.
        self.context: Context = copy_context()
        self.task: asyncio.Task[None] | None = None  # who runs it, once it runs

    def cancel(self) -> None:
        """Cancel the handler; one that has not begun never does."""
        if self.task is not None:
            self.task.cancel()
        elif self.coroutine is not None:
            self.coroutine.close()
            self.coroutine = None


class Workers:
    """Hands each call to an idle worker, or to a task of its own if there is none: a call never waits for another.

    A worker runs the calls that came in one turn of the loop together, as long as they do not wait for anything. When
    one does, the rest goes to other workers at once.

    Args:
        loop: the server's event loop.
        count: how many workers there are at most. They are made when they are first needed.
        tasks: where tasks are kept, until they have ended, that run one handler only.

    Attributes:
        tasks: those of the workers.

    Raises:
        ValueError: the count is below 1.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int, tasks: set[asyncio.Task[None]]) -> None:
        self._loop = loop
        self._queue: deque[Job] = deque()  # for the workers that have been woken
        self._count = count
        self._alone = tasks
        self.tasks: set[asyncio.Task[None]] = set()
        self._alive = 0
        self._idle: list[asyncio.Future[None]] = []  # the last one that became idle is the next to work
        self._woken = 0  # workers that have been woken, and have not come yet
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, None]) -> Job:
        """Have a handler run. Called by calls."""
        job = Job(coroutine)
        if self._woken or self._wake():
            self._queue.append(job)
        else:
            self._run_alone(job)
        return job

    def close(self) -> None:
        """Let idle workers end now, and busy ones after their calls."""
        self._closed = True
        while self._idle:
            self._wake()

    # For workers

    def came(self) -> None:
        """Take note that a worker that had been woken has begun to work."""
        self._woken -= 1

    def take(self) -> Job | None:
        """Return the next handler that has to run; None if there is none."""
        while self._queue:
            job = self._queue.popleft()
            if job.coroutine is not None:
                return job
        return None

    def spread(self) -> None:
        """Have others run what is queued: the worker that was to do it waits for something."""
        while len(self._queue) > self._woken:
            if not self._wake():
                self._run_alone(self._queue.pop())

    def idle(self) -> asyncio.Future[None] | None:
        """Return what a worker without work waits for; None if it shall end."""
        if self._closed:
            return None
        future = self._loop.create_future()
        self._idle.append(future)
        return future

    def gone(self, waited_for: asyncio.Future[None] | None) -> None:
        """Take note that a worker has ended, and what it waited for then."""
        self._alive -= 1
        if waited_for is not None:
            if waited_for.done() and not waited_for.cancelled():
                self.came()
            elif waited_for in self._idle:
                self._idle.remove(waited_for)
        self.spread()

    def _wake(self) -> bool:
        """Have a worker look at the queue in the next turn of the loop. False if all are busy."""
        while self._idle:
            future = self._idle.pop()
            if not future.done():  # somebody has cancelled the worker
                future.set_result(None)
                self._woken += 1
                return True
        if self._alive < self._count and not self._closed:
            self._alive += 1
            self._woken += 1
            self._start(_Worker(self).main(), None, self.tasks)
            return True
        return False

    def _run_alone(self, job: Job) -> None:
        if job.coroutine is not None:
            job.task = self._start(job.coroutine, job.context, self._alone)
            job.coroutine = None

    def _start(
        self, coroutine: Coroutine[Any, Any, None], context: Context | None, tasks: set[asyncio.Task[None]]
    ) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine, context=context)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task


class _Worker:
    """One worker, awaited by its task: the handlers' steps are the task's, each in the context of its call."""

    __slots__ = ("_workers",)

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def main(self) -> None:
        """Work until there is reason to end. The body of the task."""
        await self

    def __await__(self) -> Generator[Any, Any, None]:
        workers = self._workers
        task = asyncio.current_task()
        assert task is not None, "it runs as a task"
        waited_for: asyncio.Future[None] | None = None
        workers.came()
        try:
            left = _RECYCLE_CALLS
            # A cancellation that a handler has left on the task would hit the next call: the worker is replaced.
            while left and not task.cancelling():
                job = workers.take()
                if job is not None:
                    left -= 1
                    yield from _steps(job, task, workers.spread)
                    continue
                waited_for = workers.idle()
                if waited_for is None:
                    return
                yield from waited_for
                waited_for = None
                workers.came()
        finally:
            workers.gone(waited_for)


def _steps(job: Job, task: asyncio.Task[None], spread: Callable[[], None]) -> Generator[Any, Any, None]:
    """Run a handler: what it waits for, the task waits for."""
    coroutine = job.coroutine
    assert coroutine is not None, "it was not cancelled"
    job.coroutine = None
    job.task = task
    run = job.context.run
    error: BaseException | None = None
    while True:
        try:
            awaited = run(coroutine.send, None) if error is None else run(coroutine.throw, error)
        except StopIteration:
            return
        spread()
        error = None
        try:
            yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as thrown:
            error = thrown
