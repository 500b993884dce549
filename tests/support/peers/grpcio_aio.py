"""grpcio's asyncio API as a peer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from tests.support.peers.protocol import PATIENCE_S, UNKNOWN_PATH, pack, run, unpack
from tests.support.protos import kinds_pb2, kinds_pb2_grpc

OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
LARGE = (("grpc.max_receive_message_length", -1), *OPTIONS)
Item = kinds_pb2.Item


class Servicer(kinds_pb2_grpc.KindsServicer):
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        """Do it."""
        mine = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-")]
        if request.text == "echo":
            await context.send_initial_metadata((("x-kind", "initial"), *mine))
            context.set_trailing_metadata((("x-kind", "trailing"), *mine))
        elif request.text == "abort":
            code = next(code for code in grpc.StatusCode if code.value[0] == request.number)
            await context.abort(
                code, request.body.decode(), (("x-why", "because"), ("x-why-bin", b"\x00\xff"))
            )
        elif request.text == "wait":
            try:  # around this too: the client may cancel as soon as the metadata is on its way
                await context.send_initial_metadata((("x-waiting", "1"),))
                await asyncio.get_running_loop().create_future()
            finally:
                self.ended.set()
        elif request.text == "size":
            return Item(body=bytes(request.number))
        return request


class Peer:
    """grpc.aio."""

    def __init__(self) -> None:
        self.servers: list[grpc.aio.Server] = []
        self.servicer = Servicer()

    async def serve(self) -> dict[str, Any]:
        """Start a server."""
        server = grpc.aio.server(options=LARGE)
        kinds_pb2_grpc.add_KindsServicer_to_server(self.servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.servers.append(server)
        return {"port": port}

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
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LARGE) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            if unknown:
                method = channel.unary_unary(UNKNOWN_PATH, Item.SerializeToString, Item.FromString)
            await channel.channel_ready()
            began = loop.time()
            item = Item(text=text, number=number, body=bytes(size) or body.encode())
            call = method(item, metadata=unpack(metadata or []), timeout=timeout)
            answer = Item()
            if cancel_after is not None:  # grpcio tells nothing of a unary call before its end
                loop.call_later(cancel_after, call.cancel)
            try:
                answer = await call
            except grpc.aio.AioRpcError:
                pass
            except asyncio.CancelledError:
                if not call.cancelled():
                    raise
            elapsed = loop.time() - began
            return {
                "code": (await call.code()).name,
                "details": await call.details(),
                "initial": pack(await call.initial_metadata()),
                "trailing": pack(await call.trailing_metadata()),
                "text": answer.text,
                "number": answer.number,
                "size": len(answer.body),
                "elapsed": elapsed,
            }

    async def many(self, port: int, count: int) -> dict[str, Any]:
        """Make many calls at the same time."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            answers = await asyncio.gather(*(method(Item(number=n)) for n in range(count)))
            return {"numbers": [answer.number for answer in answers]}

    async def round_robin(self, ports: list[int], count: int) -> dict[str, Any]:
        """Spread calls over servers with grpcio's own policy."""
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        options = (("grpc.lb_policy_name", "round_robin"), *OPTIONS)
        shares: dict[str, int] = {}
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            for _ in range(count):
                answer = await method(Item(text="name"), timeout=PATIENCE_S)
                shares[answer.text] = shares.get(answer.text, 0) + 1
        return {"shares": shares}

    async def stop(self) -> None:
        """End the servers."""
        for server in self.servers:
            await server.stop(None)


async def main() -> None:
    """Run."""
    await run(Peer())


if __name__ == "__main__":
    asyncio.run(main())
