"""Other gRPC implementations as child processes that do what a test tells them, by JSON lines.

They run apart because grpcio starts threads of its own, which would trip the leak check.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
ANSWER_TIMEOUT_S = 30.0


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


@contextmanager
def peer(name: str) -> Generator[PeerProcess, None, None]:
    """Run ``tests.support.peers.<name>``; it ends when its standard input does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"}
    with subprocess.Popen(
        [sys.executable, "-m", f"tests.support.peers.{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
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
