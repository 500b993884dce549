"""grpcio's blocking API as a peer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.support.peers.grpcio_aio import LARGE, OPTIONS
from tests.support.peers.protocol import PATIENCE_S, UNKNOWN_PATH, pack, run, unpack
from tests.support.protos import kinds_pb2, kinds_pb2_grpc

Item = kinds_pb2.Item


class Servicer(kinds_pb2_grpc.KindsServicer):
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def UnaryUnary(self, request: Any, context: Any) -> Any:
        """Do it."""
        mine = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-")]
        if request.text == "echo":
            context.send_initial_metadata((("x-kind", "initial"), *mine))
            context.set_trailing_metadata((("x-kind", "trailing"), *mine))
        elif request.text == "abort":
            code = next(code for code in grpc.StatusCode if code.value[0] == request.number)
            context.set_trailing_metadata((("x-why", "because"), ("x-why-bin", b"\x00\xff")))
            context.abort(code, request.body.decode())
        elif request.text == "wait":
            context.send_initial_metadata((("x-waiting", "1"),))
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait(PATIENCE_S)
            self.ended.set()
        elif request.text == "size":
            return Item(body=bytes(request.number))
        return request


class Peer:
    """grpc with threads."""

    def __init__(self) -> None:
        self.servers: list[grpc.Server] = []
        self.servicer = Servicer()

    async def serve(self) -> dict[str, Any]:
        """Start a server."""
        server = grpc.server(ThreadPoolExecutor(20), options=LARGE)
        kinds_pb2_grpc.add_KindsServicer_to_server(self.servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.servers.append(server)
        return {"port": port}

    async def cancelled(self) -> dict[str, Any]:
        """Wait for a handler's end."""
        assert self.servicer.ended.wait(PATIENCE_S)
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
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=LARGE) as channel:
            method: Any = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            if unknown:
                method = channel.unary_unary(UNKNOWN_PATH, Item.SerializeToString, Item.FromString)
            grpc.channel_ready_future(channel).result(PATIENCE_S)
            began = time.monotonic()
            item = Item(text=text, number=number, body=bytes(size) or body.encode())
            call = method.future(item, metadata=unpack(metadata or []), timeout=timeout)
            if cancel_after is not None:
                threading.Timer(cancel_after, call.cancel).start()
            answer = Item()
            with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
                answer = call.result(PATIENCE_S)
            elapsed = time.monotonic() - began
            return {
                "code": call.code().name,
                "details": call.details(),
                "initial": pack(call.initial_metadata()),
                "trailing": pack(call.trailing_metadata()),
                "text": answer.text,
                "number": answer.number,
                "size": len(answer.body),
                "elapsed": elapsed,
            }

    async def many(self, port: int, count: int) -> dict[str, Any]:
        """Make many calls at the same time."""
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            calls = [method.future(Item(number=n)) for n in range(count)]
            return {"numbers": [call.result(PATIENCE_S).number for call in calls]}

    async def stop(self) -> None:
        """End the servers."""
        for server in self.servers:
            server.stop(None).wait()


if __name__ == "__main__":
    asyncio.run(run(Peer()))
