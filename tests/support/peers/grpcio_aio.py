"""grpcio's asyncio API as a peer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from tests.support.peers.protocol import (
    PATIENCE_S,
    UNKNOWN_PATH,
    WORKERS,
    Ending,
    Load,
    Request,
    at_once,
    item_of,
    pack,
    unpack,
)
from tests.support.protos import bench_pb2, bench_pb2_grpc, kinds_pb2, kinds_pb2_grpc

OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
LARGE = (("grpc.max_receive_message_length", -1), *OPTIONS)
Item = kinds_pb2.Item


class Bench(bench_pb2_grpc.BenchServicer):
    """A service with code generated for it on both sides."""

    async def Echo(self, request: Any, context: Any) -> Any:
        """Send back what came."""
        return request


class Servicer(kinds_pb2_grpc.KindsServicer):
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.go_on = asyncio.Event()
        self.handled = 0
        self.remaining: float | None = None

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        """Do it."""
        self.handled += 1
        self.remaining = context.time_remaining()
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
        elif request.text == "hold":
            await context.send_initial_metadata((("x-held", "1"),))
            await self.go_on.wait()
        elif request.text == "size":
            return Item(body=bytes(request.number))
        return request


class Peer:
    """grpc.aio."""

    def __init__(self) -> None:
        self.servers: dict[int, grpc.aio.Server] = {}
        self.servicer = Servicer()
        self.load: tuple[Load, list[asyncio.Task[None]], grpc.aio.Channel] | None = None

    async def serve(self, limited: bool = False, compress: bool = False) -> dict[str, Any]:
        """Start a server."""
        compression = grpc.Compression.Gzip if compress else None
        server = grpc.aio.server(options=OPTIONS if limited else LARGE, compression=compression)
        kinds_pb2_grpc.add_KindsServicer_to_server(self.servicer, server)
        bench_pb2_grpc.add_BenchServicer_to_server(Bench(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.servers[port] = server
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

    async def seen(self) -> dict[str, Any]:
        """Say what came to the servicer."""
        return {"handled": self.servicer.handled, "remaining": self.servicer.remaining}

    async def drain(self, port: int) -> dict[str, Any]:
        """Begin to stop a server gracefully."""
        self.draining = asyncio.create_task(self.servers[port].stop(PATIENCE_S))
        return {}

    async def release(self) -> dict[str, Any]:
        """Let the handlers that hold go on, and wait for the server's end."""
        self.servicer.go_on.set()
        await self.draining
        self.servicer.go_on.clear()
        return {}

    async def endings(self, port: int, requests: list[Request], compress: bool = False) -> dict[str, Any]:
        """Make calls one after the other; say how each ended."""
        endings: list[Ending] = []
        compression = grpc.Compression.Gzip if compress else None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            for each in requests:
                timeout = each.get("timeout", PATIENCE_S)
                call = method(item_of(each), timeout=timeout, compression=compression)
                try:
                    endings.append(["OK", "", len((await call).body)])
                except grpc.aio.AioRpcError as error:
                    endings.append([error.code().name, error.details(), 0])
        return {"endings": endings}

    async def bulk(self, port: int, count: int, size: int) -> dict[str, Any]:
        """Send large messages at the same time."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            item = item_of({"size": size})
            answers = await at_once(count, lambda: method(item, timeout=PATIENCE_S))
        return {"sizes": [len(answer.body) for answer in answers]}

    async def generated(self, port: int, note: str) -> dict[str, Any]:
        """Call with a generated stub."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            stub = bench_pb2_grpc.BenchStub(channel)
            answer = await stub.Echo(bench_pb2.Payload(note=note), timeout=PATIENCE_S)
        return {"note": answer.note}

    async def streaming(self, port: int) -> dict[str, Any]:
        """Call a method of each streaming kind."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            stub = kinds_pb2_grpc.KindsStub(channel)
            calls = [
                stub.UnaryStream(Item(), timeout=PATIENCE_S),
                # Nothing is written: grpc.aio says INTERNAL if the call ends meanwhile, with any server.
                stub.StreamUnary(timeout=PATIENCE_S),
                stub.StreamStream(timeout=PATIENCE_S),
            ]
            return {"codes": [(await call.code()).name for call in calls]}

    async def load_begin(self, ports: list[int]) -> dict[str, Any]:
        """Begin to call, without a pause, over all of the servers."""
        options = (("grpc.lb_policy_name", "round_robin"), *OPTIONS)
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        channel = grpc.aio.insecure_channel(target, options=options)
        method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
        load = Load()

        async def work() -> None:
            while load.going:
                try:
                    await method(Item(), timeout=PATIENCE_S)
                    load.done += 1
                except grpc.aio.AioRpcError as error:
                    load.failed.append(f"{error.code().name}: {error.details()}")

        self.load = load, [asyncio.create_task(work()) for _ in range(WORKERS)], channel
        return {}

    async def load_end(self) -> dict[str, Any]:
        """End that."""
        assert self.load is not None
        load, tasks, channel = self.load
        load.going = False
        await asyncio.gather(*tasks)
        await channel.close()
        return load.report()

    async def stop(self) -> None:
        """End the servers."""
        for server in self.servers.values():
            await server.stop(None)
