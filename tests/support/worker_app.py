"""A program for ``lbkit.serve``: ``python -m tests.support.worker_app WORKERS [ADDRESS]``. It prints where it serves.

Its workers tell their process id in ``number``, work for as many milliseconds as a request's ``number`` says, and enter
the text of requests in the journal that ``JOURNAL`` names. A file ``BROKEN`` keeps new workers from starting.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import lbkit
from tests.faults.uids import Journal
from tests.support.protos import kinds_pb2

Item = kinds_pb2.Item
DIE = "die"  # the text of a request that ends its worker


class Kinds:
    """The service."""

    def __init__(self) -> None:
        path = os.environ.get("JOURNAL")
        self._journal = Journal(Path(path)) if path else None

    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        """Work once."""
        if self._journal is not None:
            self._journal.enter(request.text)
        if request.text == DIE:
            os._exit(7)
        if request.number:
            await asyncio.sleep(request.number / 1000)
        return Item(text=request.text, number=os.getpid())

    async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        """Work in ten pieces."""
        if self._journal is not None:
            self._journal.enter(request.text)
        for _ in range(10):
            yield Item(text=request.text, number=os.getpid())
            await asyncio.sleep(request.number / 10_000)


def make_server() -> lbkit.Server:
    """Build a worker's server."""
    if (broken := os.environ.get("BROKEN")) and Path(broken).exists():
        raise RuntimeError("this version of the program is broken")
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Kinds())
    return server


async def make_server_later() -> lbkit.Server:
    """Do the same as a coroutine."""
    await asyncio.sleep(0)
    return make_server()


def make_nothing() -> None:
    """Build no server."""


def main(workers: int, address: str) -> None:
    """Serve."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lbkit.serve(
        make_server,
        address,
        workers=workers,
        grace=float(os.environ.get("GRACE", "10")),
        ready=lambda where: print(where[0], flush=True),
    )
    print("stopped", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:0")
