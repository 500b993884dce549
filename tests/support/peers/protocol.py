"""What the peers have in common: the commands, and how metadata travels in JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Protocol

PATH = "/lbkit.tests.Kinds/UnaryUnary"
UNKNOWN_PATH = "/lbkit.tests.Kinds/Nothing"
PATIENCE_S = 20.0


class AsyncPeer(Protocol):
    """What a peer on asyncio does."""

    async def serve(self) -> dict[str, Any]:
        """Start a server; answer with its port."""
        ...

    async def cancelled(self) -> dict[str, Any]:
        """Wait for a handler of the server to be cancelled."""
        ...

    async def call(self, **call: Any) -> dict[str, Any]:
        """Make a call; answer with all that came of it."""
        ...

    async def many(self, port: int, count: int) -> dict[str, Any]:
        """Make calls at the same time; answer with the numbers that came back."""
        ...

    async def stop(self) -> None:
        """End everything."""
        ...


async def run(peer: AsyncPeer) -> None:
    """Do what the lines of standard input say until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = await getattr(peer, command.pop("do"))(**command)
        except Exception:
            answer = {"broken": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    await peer.stop()


def pack(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[list[Any]]:
    """Metadata as JSON; what is not of the test's making is left out."""
    return [
        [key, {"hex": bytes(value).hex()} if isinstance(value, bytes | bytearray) else value]
        for key, value in metadata or ()
        if key.startswith("x-")
    ]


def unpack(metadata: list[list[Any]]) -> list[tuple[str, str | bytes]]:
    """Metadata from JSON."""
    return [(key, bytes.fromhex(value["hex"]) if isinstance(value, dict) else value) for key, value in metadata]
