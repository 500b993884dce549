"""Implementations of gRPC as child processes that do what a test tells them, by JSON lines.

They run apart because grpcio starts threads of its own, which would trip the leak check, and because some are killed.
``python -m tests.support.peers grpcio_aio`` does what the lines of its standard input say, until that ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.tied import tied
from tests.support.tools import grpc_js

ROOT = Path(__file__).parents[3]
ANSWER_TIMEOUT_S = 30.0

GRPCIO = ["grpcio_aio", "grpcio_blocking"]
FOREIGN = [*GRPCIO, "grpclib"]


class PeerProcess:
    """A running peer."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the peer do something, without blocking the event loop; return its answer."""
        return await asyncio.to_thread(self.ask_now, do, **arguments)

    def ask_now(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the peer do something; return its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        stdin.flush()
        if not select.select([stdout], [], [], ANSWER_TIMEOUT_S)[0]:
            raise AssertionError(f"{self.name} did not answer {do!r} within {ANSWER_TIMEOUT_S} s")
        line = stdout.readline()
        assert line, f"{self.name} ended with {self._process.wait()} when asked to {do}"
        answer: dict[str, Any] = json.loads(line)
        assert "broken" not in answer, answer["broken"]
        return answer

    def kill(self) -> None:
        """End it at once; its sockets are closed by the kernel."""
        os.kill(self._process.pid, signal.SIGKILL)


def environment() -> dict[str, str]:
    """What a child process needs to find the packages and the tests."""
    path = os.pathsep.join(str(each) for each in (ROOT, ROOT / "resolvers", ROOT / "balancers"))
    return {**os.environ, "PYTHONPATH": path, "GRPC_VERBOSITY": "NONE"}


@contextmanager
def peer(name: str) -> Generator[PeerProcess, None, None]:
    """Run a peer, one of ``FOREIGN``, ``lbkit`` or ``grpc_js``; it ends when its standard input does, or is killed.

    Raises:
        Missing: it is grpc-js, and that is not installed.
    """
    with subprocess.Popen(
        tied([sys.executable, "-m", "tests.support.peers", name] if name != "grpc_js" else grpc_js()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
        text=True,
    ) as process:
        try:
            yield PeerProcess(name, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
