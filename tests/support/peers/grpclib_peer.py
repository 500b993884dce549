"""grpclib as a peer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpclib
from grpclib.client import Channel, StreamStreamMethod, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.events import RecvInitialMetadata, RecvRequest, RecvTrailingMetadata, listen
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Server, Stream

from tests.support.peers.protocol import (
    PATH,
    PATIENCE_S,
    UNKNOWN_PATH,
    Ending,
    Request,
    at_once,
    item_of,
    listener,
    pack,
    unpack,
)
from tests.support.protos import bench_grpc, bench_pb2, kinds_pb2

Item = kinds_pb2.Item


class Bench(bench_grpc.BenchBase):
    """A service with code generated for it on both sides."""

    async def Echo(self, stream: Stream[Any, Any]) -> None:
        """Send back what came."""
        request = await stream.recv_message()
        assert request is not None
        await stream.send_message(request)


class Kinds:
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.handled = 0
        self.remaining: float | None = None

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

    async def note(self, event: RecvRequest) -> None:
        """Count; told of each request before its handler is."""
        self.handled += 1
        self.remaining = None if event.deadline is None else event.deadline.time_remaining()

    def __mapping__(self) -> dict[str, Handler]:
        return {PATH: Handler(self.unary, Cardinality.UNARY_UNARY, Item, Item)}


class Peer:
    """grpclib."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.servicer = Kinds()

    async def serve(self) -> dict[str, Any]:
        """Start a server."""
        server = Server([self.servicer, Bench()])
        listen(server, RecvRequest, self.servicer.note)
        sock = listener()
        await server.start(sock=sock)
        self.servers.append(server)
        return {"port": sock.getsockname()[1]}

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

    async def seen(self) -> dict[str, Any]:
        """Say what came to the servicer."""
        return {"handled": self.servicer.handled, "remaining": self.servicer.remaining}

    async def endings(self, port: int, requests: list[Request]) -> dict[str, Any]:
        """Make calls one after the other; say how each ended."""
        endings: list[Ending] = []
        async with Channel("127.0.0.1", port) as channel:
            method: Any = UnaryUnaryMethod(channel, PATH, Item, Item)
            for each in requests:
                try:
                    answer = await method(item_of(each), timeout=each.get("timeout", PATIENCE_S))
                    endings.append(["OK", "", len(answer.body)])
                except GRPCError as error:
                    endings.append([error.status.name, error.message or "", 0])
                except TimeoutError:
                    endings.append(["DEADLINE_EXCEEDED", "", 0])
                except StreamTerminatedError as error:  # grpclib has no status for a broken connection
                    endings.append(["UNAVAILABLE", str(error), 0])
        return {"endings": endings}

    async def bulk(self, port: int, count: int, size: int) -> dict[str, Any]:
        """Send large messages at the same time."""
        async with Channel("127.0.0.1", port) as channel:
            method: Any = UnaryUnaryMethod(channel, PATH, Item, Item)
            item = item_of({"size": size})
            answers = await at_once(count, lambda: method(item, timeout=PATIENCE_S))
        return {"sizes": [len(answer.body) for answer in answers]}

    async def generated(self, port: int, note: str) -> dict[str, Any]:
        """Call with a generated stub."""
        async with Channel("127.0.0.1", port) as channel:
            stub = bench_grpc.BenchStub(channel)
            answer = await stub.Echo(bench_pb2.Payload(note=note), timeout=PATIENCE_S)
        return {"note": answer.note}

    async def streaming(self, port: int) -> dict[str, Any]:
        """Call a method of each streaming kind."""
        codes: list[str] = []
        service = PATH.rpartition("/")[0]
        async with Channel("127.0.0.1", port) as channel:
            item = Item()
            methods: list[tuple[Any, Any]] = [
                (UnaryStreamMethod(channel, f"{service}/UnaryStream", Item, Item), item),
                (StreamUnaryMethod(channel, f"{service}/StreamUnary", Item, Item), [item]),
                (StreamStreamMethod(channel, f"{service}/StreamStream", Item, Item), [item]),
            ]
            for method, request in methods:
                try:
                    await method(request, timeout=PATIENCE_S)
                    codes.append("OK")
                except GRPCError as error:
                    codes.append(error.status.name)
        return {"codes": codes}

    async def stop(self) -> None:
        """End the servers."""
        for server in self.servers:
            server.close()
            with contextlib.suppress(grpclib.GRPCError):
                await server.wait_closed()
