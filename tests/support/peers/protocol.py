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


class AnyPeer(Protocol):
    """What a peer does; the names of its other methods are the commands it knows."""

    async def serve(self) -> dict[str, Any]:
        """Start a server; answer with its port."""
        ...

    async def stop(self) -> None:
        """End everything."""
        ...


async def run(peer: AnyPeer) -> None:
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
    return [
        (key, bytes.fromhex(value["hex"]) if isinstance(value, dict) else value) for key, value in metadata
    ]
