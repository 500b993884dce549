"""The event loop behind the blocking API: one thread for all channels and servers of a process, while there are any."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import sys
import threading
import warnings
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage]  # the quick way to ask
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

from lbkit.errors import ForkedError, UsageError

T = TypeVar("T")

_EXIT_S = 2.0  # for the loop to end when the interpreter does

_log = logging.getLogger("lbkit.sync")


class LoopThread:
    """An event loop in a daemon thread, and the way for other threads to have things done on it.

    Things to do go into a deque, and a byte to the loop only if it has not been woken yet: ``call_soon_threadsafe``
    makes a handle and a system call for each of them.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ended = False  # nothing more is done
        self.forked = False  # this is a child process, and the thread its parent's
        self._users = 0
        self._stopping = False
        self._jobs: deque[Callable[[], object]] = deque()
        self._woken = False
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="lbkit-loop", daemon=True)
        self._thread.start()

    def post(self, job: Callable[[], object]) -> None:
        """Have ``job()`` run on the loop; jobs of one thread in order. It must not raise.

        Where the loop has ended it runs here and now, and has to look at ``ended`` for that.

        Raises:
            ForkedError: the loop is that of the parent process.
        """
        if self.forked:
            raise ForkedError(
                f"this was made before this process ({os.getpid()}) was forked; make a new one in the child"
            )
        self._jobs.append(job)
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # closed: the loop has just ended
                self._rope.send(b"\0")
        if self.ended:
            self._work()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop, in the context of this thread, and wait for what comes of it.

        Who is interrupted while waiting, by a signal's handler that raises, cancels it.

        Raises:
            ForkedError: see ``post``.
            RuntimeError: the loop has ended.
            TimeoutError: nothing came of it within ``timeout`` seconds; it is cancelled.
        """
        running = _Running(work, self)
        try:
            self.post(running.start)
        except ForkedError:
            work.close()
            raise
        value: T = running.result(timeout)
        return value

    # Its life

    def _run(self) -> None:
        loop = self.loop
        loop.add_reader(self._bell, self._wake)
        try:
            while not self._stopping:
                try:
                    loop.run_forever()
                except BaseException:  # SystemExit in a stranger's coroutine: the others' calls go on
                    _log.exception("something raised that ends the event loop of lbkit.sync; it goes on")
        finally:
            try:
                _cancel_all(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                self.ended = True
                self._work()
                loop.remove_reader(self._bell)
                loop.close()
                self._bell.close()
                self._rope.close()

    def _wake(self) -> None:
        self._bell.recv(64)
        self._woken = False  # before the work: a job that comes later wakes the loop once more
        self._work()

    def _work(self) -> None:
        jobs = self._jobs
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                return
            try:
                job()
            except Exception:  # one caller's must not keep the others waiting for ever
                _log.exception("a call of the blocking API raised on its event loop")

    def add_user(self) -> None:
        """Keep the loop for one more channel or server. Under the lock of this module."""
        self._users += 1

    def release(self) -> None:
        """Let the loop end if this was its last channel or server; wait for that, but on the loop itself."""
        if self.forked:
            return
        with _guard:
            self._users -= 1
            if self._users:
                return
            _forget(self)
        self.stop()

    def stop(self, timeout: float | None = None) -> None:
        """End the loop, and wait for it for up to ``timeout`` seconds, but on the loop itself."""
        self.post(self._end)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _end(self) -> None:
        self._stopping = True
        self.loop.stop()

    def after_fork(self) -> None:
        """Take note that this is a child process now: the thread is not there, and the loop the parent's."""
        self.forked = True
        # Not the loop: its selector is shared with the parent, which would be woken no more.
        self._bell.close()
        self._rope.close()


class _Running:
    """A coroutine on its way over the loop, and a thread that waits for it."""

    def __init__(self, work: Coroutine[Any, Any, Any], thread: LoopThread) -> None:
        self._work = work
        self._thread = thread
        self._context = copy_context()
        self._lock = threading.Lock()
        self._lock.acquire()
        self._task: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None
        self._value: Any = None

    def start(self) -> None:
        """Make the task. On the loop."""
        if self._thread.ended:
            self._work.close()
            self._error = RuntimeError("the event loop of lbkit.sync has ended")
            self._lock.release()
            return
        self._task = self._context.run(self._thread.loop.create_task, self._work)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        try:
            self._value = task.result()
        except BaseException as error:
            self._error = error
        self._lock.release()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self, timeout: float | None) -> Any:
        """Wait."""
        try:
            ended = self._lock.acquire(True, -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        except BaseException:  # KeyboardInterrupt
            self._thread.post(self._cancel)
            raise
        if not ended:
            self._thread.post(self._cancel)
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value


def immediate(work: Generator[Any, Any, T] | Coroutine[Any, Any, T]) -> T:
    """Return what an awaitable gives that does not have to wait, in whatever thread this is."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise AssertionError("it had to wait")


def check_thread() -> None:
    """Look whether this thread may block, before it does.

    Raises:
        UsageError: it is the one with the loop: it would wait for itself.
    """
    running = _get_running_loop()
    if running is not None:
        _check_loop(running)


_warned = False


def _check_loop(running: asyncio.AbstractEventLoop) -> None:
    global _warned
    if _current is not None and running is _current.loop:
        raise UsageError(
            "a blocking call on the event loop thread of lbkit.sync would wait for itself; callbacks and coroutines"
            " there use lbkit.Channel, or hand the work to a thread"
        )
    if not _warned:
        _warned = True
        level, frame = 1, sys._getframe()
        while frame.f_back is not None and frame.f_globals["__name__"].startswith("lbkit.sync"):
            level, frame = level + 1, frame.f_back
        warnings.warn(
            "a blocking call of lbkit.sync stops the event loop that runs in this thread until it is answered;"
            " asynchronous code uses lbkit.Channel (this is said once)",
            RuntimeWarning,
            stacklevel=level,
        )


# The one of this process

_guard = threading.Lock()
_current: LoopThread | None = None
_parents: list[LoopThread] = []  # in a child: kept, for a loop that is collected is closed


def acquire() -> LoopThread:
    """Return the loop of this process, for one more channel or server; ``release`` it when that is closed."""
    global _current
    with _guard:
        if _current is None:
            _current = LoopThread()
        _current.add_user()
        return _current


def _forget(thread: LoopThread) -> None:
    global _current
    if _current is thread:
        _current = None


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def _in_child() -> None:
    global _current, _guard
    _guard = threading.Lock()  # another thread of the parent may have held it
    if _current is not None:
        _current.after_fork()
        _parents.append(_current)
        _current = None


def _at_exit() -> None:
    current = _current
    if current is not None:
        current.stop(_EXIT_S)


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
