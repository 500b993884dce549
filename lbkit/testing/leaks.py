"""What a plug-in left behind: tasks, threads, sockets; and whether a piece of code does I/O."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_FDS = Path("/proc/self/fd")
_GRACE_S = 0.5  # for what ends by itself a moment later: a closing transport, a thread about to return

# What the interpreter audits (PEP 578) when a program waits for something outside itself.
_IO = frozenset({
    "open",
    "os.listdir",
    "os.scandir",
    "os.system",
    "os.posix_spawn",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.sendto",
    "sqlite3.connect",
    "subprocess.Popen",
    "time.sleep",
    "urllib.Request",
})  # fmt: skip


class Snapshot(NamedTuple):
    """What there is at a moment."""

    tasks: set[asyncio.Task[object]]
    threads: set[threading.Thread]
    sockets: set[str]

    @classmethod
    def take(cls) -> Snapshot:
        """Look at the running loop and at the process."""
        threads = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
        return cls(set(asyncio.all_tasks()), threads, _sockets())

    def since(self) -> list[str]:
        """Name what has come since. The threads of the loop's own executor do not count."""
        now = Snapshot.take()
        return [
            *(f"task {task.get_name()} ({task.get_coro()})" for task in now.tasks - self.tasks),
            *(f"thread {thread.name}" for thread in now.threads - self.threads),
            *sorted(now.sockets - self.sockets),
        ]

    async def left(self) -> list[str]:
        """Name what has come since and stays, after a moment of grace."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GRACE_S
        while self.since() and loop.time() < deadline:  # noqa: ASYNC110 -- sockets and threads set no event
            await asyncio.sleep(0.005)
        return self.since()


def _sockets() -> set[str]:
    """The sockets of this process as ``socket:[inode]``; none where there is no /proc."""
    found: set[str] = set()
    for descriptor in _FDS.iterdir() if _FDS.exists() else ():
        try:
            target = str(descriptor.readlink())
        except OSError:  # closed meanwhile: the listing's own
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


class _Watch:
    """Notes the I/O of one thread while it is told to. An audit hook cannot be removed, so there is one for all."""

    def __init__(self) -> None:
        self.thread = 0
        self.seen: list[str] = []
        self.installed = False

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if self.thread and event in _IO and threading.get_ident() == self.thread:
            self.seen.append(f"{event}({', '.join(map(repr, args))})")


_watch = _Watch()


@contextmanager
def noting_io(seen: list[str]) -> Iterator[None]:
    """Put the I/O that this thread does in the block into a list."""
    if not _watch.installed:
        sys.addaudithook(_watch)
        _watch.installed = True
    _watch.seen = seen
    _watch.thread = threading.get_ident()
    try:
        yield
    finally:
        _watch.thread = 0


def without_loop(make: Callable[[], object]) -> None:
    """Call ``make`` as code is called outside any event loop."""
    loop = asyncio.get_running_loop()
    asyncio.events._set_running_loop(None)
    try:
        make()
    finally:
        asyncio.events._set_running_loop(loop)
