"""grpcio's blocking API as a peer."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.support.peers.grpcio_aio import LARGE, OPTIONS
from tests.support.peers.protocol import (
    PATIENCE_S,
    UNKNOWN_PATH,
    WORKERS,
    Ending,
    Load,
    Request,
    item_of,
    pack,
    unpack,
)
from tests.support.protos import bench_pb2, bench_pb2_grpc, kinds_pb2, kinds_pb2_grpc

Item = kinds_pb2.Item


class Bench(bench_pb2_grpc.BenchServicer):
    """A service with code generated for it on both sides."""

    def Echo(self, request: Any, context: Any) -> Any:
        """Send back what came."""
        return request


class Servicer(kinds_pb2_grpc.KindsServicer):
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.go_on = threading.Event()
        self.handled = 0
        self.remaining: float | None = None
        self._counting = threading.Lock()

    def UnaryUnary(self, request: Any, context: Any) -> Any:
        """Do it."""
        with self._counting:
            self.handled += 1
        self.remaining = context.time_remaining()
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
        elif request.text == "hold":
            context.send_initial_metadata((("x-held", "1"),))
            assert self.go_on.wait(PATIENCE_S)
        elif request.text == "size":
            return Item(body=bytes(request.number))
        return request


class Peer:
    """grpc with threads."""

    def __init__(self) -> None:
        self.servers: dict[int, grpc.Server] = {}
        self.servicer = Servicer()
        self.load: tuple[Load, list[threading.Thread], grpc.Channel] | None = None

    async def serve(self, limited: bool = False, compress: bool = False) -> dict[str, Any]:
        """Start a server."""
        server = grpc.server(
            ThreadPoolExecutor(2 * WORKERS),
            options=OPTIONS if limited else LARGE,
            compression=grpc.Compression.Gzip if compress else None,
        )
        kinds_pb2_grpc.add_KindsServicer_to_server(self.servicer, server)
        bench_pb2_grpc.add_BenchServicer_to_server(Bench(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.servers[port] = server
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

    async def seen(self) -> dict[str, Any]:
        """Say what came to the servicer."""
        return {"handled": self.servicer.handled, "remaining": self.servicer.remaining}

    async def drain(self, port: int) -> dict[str, Any]:
        """Begin to stop a server gracefully."""
        self.draining = self.servers[port].stop(PATIENCE_S)
        return {}

    async def release(self) -> dict[str, Any]:
        """Let the handlers that hold go on, and wait for the server's end."""
        self.servicer.go_on.set()
        assert self.draining.wait(PATIENCE_S)
        self.servicer.go_on.clear()
        return {}

    async def endings(self, port: int, requests: list[Request], compress: bool = False) -> dict[str, Any]:
        """Make calls one after the other; say how each ended."""
        endings: list[Ending] = []
        compression = grpc.Compression.Gzip if compress else None
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            for each in requests:
                timeout = each.get("timeout", PATIENCE_S)
                try:
                    answer = method(item_of(each), timeout=timeout, compression=compression)
                    endings.append(["OK", "", len(answer.body)])
                except grpc.RpcError as error:
                    call: Any = error
                    endings.append([call.code().name, call.details(), 0])
        return {"endings": endings}

    async def bulk(self, port: int, count: int, size: int) -> dict[str, Any]:
        """Send large messages at the same time."""
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            calls = [method.future(item_of({"size": size}), timeout=PATIENCE_S) for _ in range(count)]
            return {"sizes": [len(call.result().body) for call in calls]}

    async def generated(self, port: int, note: str) -> dict[str, Any]:
        """Call with a generated stub."""
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            stub = bench_pb2_grpc.BenchStub(channel)
            return {"note": stub.Echo(bench_pb2.Payload(note=note), timeout=PATIENCE_S).note}

    async def streaming(self, port: int) -> dict[str, Any]:
        """Call a method of each streaming kind."""
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            stub = kinds_pb2_grpc.KindsStub(channel)
            calls = [
                stub.UnaryStream(Item(), timeout=PATIENCE_S),
                stub.StreamUnary.future(iter([Item()]), timeout=PATIENCE_S),
                stub.StreamStream(iter([Item()]), timeout=PATIENCE_S),
            ]
            return {"codes": [call.code().name for call in calls]}

    async def load_begin(self, ports: list[int]) -> dict[str, Any]:
        """Begin to call, without a pause, over all of the servers."""
        options = (("grpc.lb_policy_name", "round_robin"), *OPTIONS)
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        channel = grpc.insecure_channel(target, options=options)
        method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
        load, lock = Load(), threading.Lock()

        def work() -> None:
            while load.going:
                try:
                    method(Item(), timeout=PATIENCE_S)
                    with lock:
                        load.done += 1
                except grpc.RpcError as error:
                    load.failed.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        self.load = load, threads, channel
        return {}

    async def load_end(self) -> dict[str, Any]:
        """End that."""
        assert self.load is not None
        load, threads, channel = self.load
        load.going = False
        for thread in threads:
            thread.join()
        channel.close()
        return load.report()

    async def stop(self) -> None:
        """End the servers."""
        for server in self.servers.values():
            server.stop(None).wait()
