"""The demo's backends: processes that are gone when the demo is, however it ends."""

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

_READY_WITHIN_S = 30.0
_KEPT_LINES = 20  # of what a backend prints, to be shown if it does not start


class BackendError(Exception):
    """A backend did not start; the text is what it printed."""


class Backend:
    """One ``lbkit backend`` process. Made by ``Fleet.start``.

    Attributes:
        name: what it calls itself in replies.
        address: where it listens.
        process: the process.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.address = ""
        self.process = process
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait for the line that says where it listens.

        Raises:
            BackendError: it ended, or took too long.
        """
        assert self.process.stdout is not None, "started with a pipe"
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_WITHIN_S):
                while line := await self._read_line():
                    if line.startswith(f"{self.name} is ready on "):
                        self.address = line.rpartition(" ")[2]
                        self._reader = asyncio.create_task(self._read_on())
                        return
        raise BackendError("\n  ".join((f"{self.name} did not start:", *self._lines)))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of the process and of its output; return the exit status."""
        status = await self.process.wait()
        if self._reader is not None:
            await self._reader
        return status

    async def _read_line(self) -> str:
        assert self.process.stdout is not None, "started with a pipe"
        line = (await self.process.stdout.readline()).decode(errors="replace")
        if line:
            self._lines.append(line.rstrip())
        return line.rstrip("\n") or line

    async def _read_on(self) -> None:
        while await self._read_line():
            pass


class Fleet:
    """Every backend of a demo, and the folder that they serve. At the end of the ``async with`` block none is left.

    A process group of their own keeps the terminal's Ctrl-C from them. Should this process itself be killed, the
    kernel kills them (``--parent``), and only the folder is left.
    """

    def __init__(self) -> None:
        self.backends: list[Backend] = []
        self._named = 0
        self._folder = TemporaryDirectory(prefix="lbkit-demo-", ignore_cleanup_errors=True)

    @property
    def folder(self) -> Path:
        """Whose files all backends serve."""
        return Path(self._folder.name)

    async def start(self) -> Backend:
        """Start one more, and wait until it listens.

        Raises:
            BackendError: it does not start.
        """
        self._named += 1
        name = f"backend-{self._named}"
        arguments = [
            "-m",
            "lbkit",
            "backend",
            "--name",
            name,
            "--parent",
            str(os.getpid()),
            "--files",
            str(self.folder),
        ]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,
        )
        backend = Backend(name, process)
        self.backends.append(backend)
        await backend.ready()
        return backend

    def kill(self) -> None:
        """Kill all that run, and remove the folder; returns at once."""
        for backend in self.backends:
            backend.signal(signal.SIGKILL)
        self._folder.cleanup()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        await asyncio.gather(*(backend.ended() for backend in self.backends))
