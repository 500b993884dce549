"""grpclib as a peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import grpclib
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.events import RecvInitialMetadata, RecvTrailingMetadata, listen
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from tests.support.peers.protocol import PATH, PATIENCE_S, UNKNOWN_PATH, pack, run, unpack
from tests.support.protos import kinds_pb2

Item = kinds_pb2.Item


class Kinds:
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def unary(self, stream: Stream[Any, Any]) -> None:
        """Do it."""
        request = await stream.recv_message()
        assert request is not None
        mine: Any = [pair for pair in (stream.metadata or {}).items() if pair[0].startswith("x-")]
        if request.text == "abort":
            await stream.send_trailing_metadata(
                status=Status(request.number),
                status_message=request.body.decode(),
                metadata=[("x-why", "because"), ("x-why-bin", b"\x00\xff")],
            )
            return
        if request.text == "wait":
            await stream.send_initial_metadata()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.ended.set()
        if request.text == "echo":
            await stream.send_initial_metadata(metadata=[("x-kind", "initial"), *mine])
        await stream.send_message(Item(body=bytes(request.number)) if request.text == "size" else request)
        if request.text == "echo":
            await stream.send_trailing_metadata(metadata=[("x-kind", "trailing"), *mine])

    def __mapping__(self) -> dict[str, Handler]:
        return {PATH: Handler(self.unary, Cardinality.UNARY_UNARY, Item, Item)}


class Peer:
    """grpclib."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.servicer = Kinds()

    async def serve(self) -> dict[str, Any]:
        """Start a server."""
        server = Server([self.servicer])
        listener = socket.create_server(("127.0.0.1", 0))
        await server.start(sock=listener)
        self.servers.append(server)
        return {"port": listener.getsockname()[1]}

    async def cancelled(self) -> dict[str, Any]:
        """Wait for a handler's end."""
        async with asyncio.timeout(PATIENCE_S):
            await self.servicer.ended.wait()
        self.servicer.ended.clear()
        return {}

    async def call(
        self,
        port: int,
        text: str = "echo",
        number: int = 0,
        body: str = "",
        size: int = 0,
        metadata: list[list[Any]] | None = None,
        timeout: float | None = None,
        cancel_after: float | None = None,
        unknown: bool = False,
    ) -> dict[str, Any]:
        """Make a call."""
        loop = asyncio.get_running_loop()
        seen: dict[str, Any] = {"initial": [], "trailing": []}

        async def initial(event: RecvInitialMetadata) -> None:
            seen["initial"] = pack(event.metadata.items())

        async def trailing(event: RecvTrailingMetadata) -> None:
            seen["trailing"] = pack(event.metadata.items())

        async with Channel("127.0.0.1", port) as channel:
            listen(channel, RecvInitialMetadata, initial)
            listen(channel, RecvTrailingMetadata, trailing)
            method: Any = UnaryUnaryMethod(channel, UNKNOWN_PATH if unknown else PATH, Item, Item)
            began = loop.time()
            item = Item(text=text, number=number, body=bytes(size) or body.encode())
            code, details, answer = Status.OK, "", Item()
            try:
                async with asyncio.timeout(cancel_after):
                    answer = await method(item, timeout=timeout, metadata=unpack(metadata or []))
            except GRPCError as error:
                code, details = error.status, error.message or ""
            except TimeoutError:  # ours, or what grpclib makes of its deadline
                code = Status.CANCELLED if cancel_after is not None else Status.DEADLINE_EXCEEDED
            elapsed = loop.time() - began
        return {
            "code": code.name,
            "details": details,
            **seen,
            "text": answer.text,
            "number": answer.number,
            "size": len(answer.body),
            "elapsed": elapsed,
        }

    async def many(self, port: int, count: int) -> dict[str, Any]:
        """Make many calls at the same time."""
        async with Channel("127.0.0.1", port) as channel:
            method: Any = UnaryUnaryMethod(channel, PATH, Item, Item)
            answers = await asyncio.gather(*(method(Item(number=n)) for n in range(count)))
            return {"numbers": [answer.number for answer in answers]}

    async def stop(self) -> None:
        """End the servers."""
        for server in self.servers:
            server.close()
            with contextlib.suppress(grpclib.GRPCError):
                await server.wait_closed()


async def main() -> None:
    """Run."""
    await run(Peer())


if __name__ == "__main__":
    asyncio.run(main())
