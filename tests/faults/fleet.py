"""A fleet of backend processes for the fault figures: started together, signalled, and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lbkit
from tests.bench.processes import cpu_seconds
from tests.faults.node import Node
from tests.faults.uids import read
from tests.support.servers import target_of
from tests.support.tied import tied

ROOT = Path(__file__).parents[2]
_READY_WITHIN_S = 60.0


class Backend:
    """One process of ``tests.faults.node``.

    Attributes:
        node: what it is like; from the first start on with the ports that it got, so that it gets them again.
        process: the process.
    """

    process: asyncio.subprocess.Process

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.node.name

    @property
    def address(self) -> str:
        """Where it listens first."""
        return f"127.0.0.1:{self.node.ports[0]}"

    async def start(self) -> None:
        """Start the process, and wait until it listens."""
        self.process = await asyncio.create_subprocess_exec(
            *tied([sys.executable, "-m", "tests.faults.node", json.dumps(asdict(self.node))]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            process_group=0,
        )
        ports = tuple((await self._read())["ports"])
        if self.node.servers == 1:
            self.node = replace(self.node, ports=ports)
        self.ports = ports

    async def ask(self) -> dict[str, Any]:
        """Ask what it has seen."""
        assert self.process.stdin is not None, "started with a pipe"
        self.process.stdin.write(b"?\n")
        return await self._read()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        """Close its stdin, and wait until it is gone; return its exit status."""
        assert self.process.stdin is not None, "started with a pipe"
        self.process.stdin.close()
        return await self.process.wait()

    async def restart(self) -> None:
        """Stop it with SIGTERM, wait until its calls are over, and start it again on the same ports."""
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(_READY_WITHIN_S):
            status = await self.process.wait()
        assert status == 0, f"{self.name} ended with status {status}"
        await self.start()

    def cpu_s(self) -> float:
        """The CPU time that it has used."""
        return cpu_seconds([self.process.pid]) or 0.0

    async def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None, "started with a pipe"
        async with asyncio.timeout(_READY_WITHIN_S):
            line = await self.process.stdout.readline()
        assert line, f"{self.name} died"
        answer: dict[str, Any] = json.loads(line)
        return answer


class Fleet:
    """So many backends of one kind: ``backend 0`` and so on. Killed at the end of the ``async with`` block.

    Args:
        count: how many.
        journals: the folder that they keep their journals in; None for none.
        options: those of ``Node``.
    """

    def __init__(self, count: int, journals: Path | None = None, **options: Any) -> None:
        self._journals = [] if journals is None else [journals / f"journal {n}" for n in range(count)]
        self.backends = [
            Backend(
                Node(
                    f"backend {n}",
                    str(self._journals[n]) if self._journals else "",
                    parent=os.getpid(),
                    **options,
                )
            )
            for n in range(count)
        ]

    @property
    def target(self) -> str:
        """The static target of all of them."""
        return target_of(*(backend.address for backend in self.backends))

    def channel(self, **options: Any) -> lbkit.Channel:
        """Return a channel to all of them."""
        return lbkit.Channel(self.target, balancer="round_robin", **options)

    def entries(self) -> dict[str, int]:
        """What they have entered in their journals."""
        return read(self._journals)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(backend.start() for backend in self.backends))
        except BaseException:  # cancelled too: no process is left behind
            await self._kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._kill()

    async def _kill(self) -> None:
        for backend in self.backends:
            if hasattr(backend, "process"):
                await backend.kill()
                transport = backend.process._transport  # type: ignore[attr-defined]  # its pipes, at once
                transport.close()
