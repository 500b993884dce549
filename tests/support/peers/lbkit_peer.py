"""A server of ours as a peer, to be killed."""

from __future__ import annotations

import asyncio
from typing import Any

import lbkit
from tests.support.peers.protocol import PATIENCE_S
from tests.support.protos import kinds_pb2


class Peer:
    """lbkit."""

    def __init__(self) -> None:
        self.server = lbkit.Server()
        self.server.add(kinds_pb2, "Kinds", self)
        self.begun = asyncio.Event()

    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        """Answer, or never."""
        if request.text == "wait":
            self.begun.set()
            await asyncio.get_running_loop().create_future()
        return request

    async def serve(self) -> dict[str, Any]:
        """Start the server."""
        port = self.server.bind("127.0.0.1:0")
        await self.server.start()
        return {"port": port}

    async def waiting(self) -> dict[str, Any]:
        """Wait until a handler waits."""
        async with asyncio.timeout(PATIENCE_S):
            await self.begun.wait()
        return {}

    async def stop(self) -> None:
        """End the server."""
        await self.server.stop(None)
