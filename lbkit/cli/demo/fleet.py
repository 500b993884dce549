"""The demo's processes: backends and the registry, all gone when the demo is, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

LEASE_S = 3  # that a backend stays listed which is killed

_READY_WITHIN_S = 30.0
_KEPT_LINES = 20  # of what a process prints, to be shown if it does not start


class StartError(Exception):
    """A process did not start; the text is what it printed."""


class Process:
    """One process of the ``lbkit`` command. Made by ``Fleet``.

    Attributes:
        name: what it calls itself: in replies, if it is a backend.
        address: where it listens.
    """

    def __init__(self, name: str, child: asyncio.subprocess.Process) -> None:
        self.name = name
        self.address = ""
        self._child = child
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.returncode is None

    async def ready(self) -> None:
        """Wait for the line that says where it listens.

        Raises:
            StartError: it ended, or took too long.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_WITHIN_S):
                while line := await self._read_line():
                    if line.startswith(f"{self.name} is ready on "):
                        self.address = line.rpartition(" ")[2]
                        self._reader = asyncio.create_task(self._read_on())
                        return
        raise StartError("\n  ".join((f"{self.name} did not start:", *self._lines)))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of the process and of its output; return the exit status."""
        status = await self._child.wait()
        if self._reader is not None:
            await self._reader
        return status

    async def _read_line(self) -> str:
        assert self._child.stdout is not None, "started with a pipe"
        line = (await self._child.stdout.readline()).decode(errors="replace")
        if line:
            self._lines.append(line.rstrip())
        return line.rstrip("\n") or line

    async def _read_on(self) -> None:
        while await self._read_line():
            pass


class Fleet:
    """Every process of a demo, and the folder that the backends serve. At the end of the ``async with`` block none is left.

    A process group of their own keeps the terminal's Ctrl-C from them. Should this process itself be killed, the
    kernel kills them (``--parent``), and only the folder is left.

    Args:
        etcd: the etcd to register with, ``host:port``; None to start a registry, and use that.

    Attributes:
        backends: all that were ever started, oldest first.
        registry: the one that was started; None before, and if there is an etcd.
    """

    def __init__(self, etcd: str | None = None) -> None:
        self.backends: list[Process] = []
        self.registry: Process | None = None
        self._etcd = etcd or ""
        # Others may use that etcd, and what was killed in the demo before this one may still be listed.
        self._service = f"lbkit-demo-{os.getpid()}" if etcd else "demo"
        self._named = 0
        self._folder = TemporaryDirectory(prefix="lbkit-demo-", ignore_cleanup_errors=True)

    @property
    def folder(self) -> Path:
        """Whose files all backends serve."""
        return Path(self._folder.name)

    @property
    def members(self) -> str:
        """Where the registry is, ``host:port``, or several of them; empty until it has been started."""
        return self.registry.address if self.registry is not None else self._etcd

    @property
    def target(self) -> str:
        """What finds the backends."""
        return f"etcd://{self.members}/{self._service}"

    @property
    def prefix(self) -> str:
        """What the keys of their records begin with."""
        return f"{self._service}/"

    async def start_registry(self) -> None:
        """Start a registry, and wait until it listens; unless there is an etcd.

        Raises:
            StartError: it does not start.
        """
        if not self._etcd:
            self.registry = await self._start("registry", "registry", "--listen", "127.0.0.1:0")
            await self.registry.ready()

    async def start(self) -> Process:
        """Start one more backend, and wait until it listens. It registers itself.

        Raises:
            StartError: it does not start.
        """
        self._named += 1
        name = f"backend-{self._named}"
        backend = await self._start(
            name,
            "backend",
            "--name",
            name,
            "--files",
            str(self.folder),
            "--register",
            f"{self.target}?ttl={LEASE_S}s",
        )
        self.backends.append(backend)
        await backend.ready()
        return backend

    def kill(self) -> None:
        """Kill all that run, and remove the folder; returns at once."""
        for process in self._all():
            process.signal(signal.SIGKILL)
        self._folder.cleanup()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        await asyncio.gather(*(process.ended() for process in self._all()))

    def _all(self) -> list[Process]:
        return [*self.backends, *([self.registry] if self.registry is not None else [])]

    async def _start(self, name: str, *arguments: str) -> Process:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lbkit",
            *arguments,
            "--parent",
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,
        )
        return Process(name, child)
