"""The peers of ``tests/support/peers`` with more to do, and lbkit itself, as child processes.

``python -m tests.interop.programs grpcio_aio`` does what the JSON lines of its standard input say, until that ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.support.peers import ROOT, PeerProcess
from tests.support.peers.protocol import PATH, PATIENCE_S, run

Request = dict[str, Any]  # text, number, size, body: of an Item; timeout: of the call
Ending = list[Any]  # name of the code, details, size of the body that came
Answer = TypeVar("Answer")

FOREIGN = ["grpcio_aio", "grpcio_blocking", "grpclib_peer"]
GRPCIO = FOREIGN[:2]
WORKERS = 10


class Process(PeerProcess):
    """A running program."""

    def kill(self) -> None:
        """End it at once; its sockets are closed by the kernel."""
        os.kill(self._process.pid, signal.SIGKILL)


@contextmanager
def program(name: str) -> Generator[Process, None, None]:
    """Run one of the programs below; it ends with its standard input, or is killed."""
    path = os.pathsep.join(str(each) for each in (ROOT, ROOT / "resolvers", ROOT / "balancers"))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.interop.programs", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "GRPC_VERBOSITY": "NONE"},
        cwd=ROOT,
        text=True,
    ) as child:
        try:
            yield Process(name, child)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()


def item_of(request: Request) -> Any:
    """The message that a request stands for."""
    from tests.support.protos import kinds_pb2

    body = bytes(request.get("size", 0)) or request.get("body", "").encode()
    return kinds_pb2.Item(text=request.get("text", ""), number=request.get("number", 0), body=body)


async def at_once(count: int, call: Callable[[], Awaitable[Answer]]) -> list[Answer]:
    """Make calls at the same time."""
    return list(await asyncio.gather(*(call() for _ in range(count))))


class Load:
    """Calls one after the other, by several workers, until it is told to end."""

    def __init__(self) -> None:
        self.going = True
        self.done = 0
        self.failed: list[str] = []

    def report(self) -> dict[str, Any]:
        """What came of it."""
        return {"done": self.done, "failed": self.failed}


def grpcio_aio() -> Any:
    """The asyncio API of grpcio."""
    import grpc
    import grpc.aio

    from tests.support.peers import grpcio_aio as base
    from tests.support.protos import bench_pb2, bench_pb2_grpc, kinds_pb2_grpc

    class Bench(bench_pb2_grpc.BenchServicer):
        async def Echo(self, request: Any, context: Any) -> Any:
            return request

    class Kinds(base.Servicer):
        def __init__(self) -> None:
            super().__init__()
            self.go_on = asyncio.Event()
            self.handled: list[None] = []
            self.remaining: float | None = None

        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            self.handled.append(None)
            self.remaining = context.time_remaining()
            if request.text == "hold":
                await context.send_initial_metadata((("x-held", "1"),))
                await self.go_on.wait()
            return await super().UnaryUnary(request, context)

    class Peer(base.Peer):
        def __init__(self) -> None:
            super().__init__()
            self.kinds = self.servicer = Kinds()
            self.at: dict[int, grpc.aio.Server] = {}
            self.load: tuple[Load, list[asyncio.Task[None]], grpc.aio.Channel] | None = None

        async def serve(self, limited: bool = False, compress: bool = False) -> dict[str, Any]:
            compression = grpc.Compression.Gzip if compress else None
            server = grpc.aio.server(options=base.OPTIONS if limited else base.LARGE, compression=compression)
            kinds_pb2_grpc.add_KindsServicer_to_server(self.kinds, server)
            bench_pb2_grpc.add_BenchServicer_to_server(Bench(), server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            self.servers.append(server)
            self.at[port] = server
            return {"port": port}

        async def seen(self) -> dict[str, Any]:
            return {"handled": len(self.kinds.handled), "remaining": self.kinds.remaining}

        async def drain(self, port: int) -> dict[str, Any]:
            self.draining = asyncio.create_task(self.at[port].stop(PATIENCE_S))
            return {}

        async def release(self) -> dict[str, Any]:
            self.kinds.go_on.set()
            await self.draining
            self.kinds.go_on.clear()
            return {}

        async def endings(self, port: int, requests: list[Request], compress: bool = False) -> dict[str, Any]:
            endings: list[Ending] = []
            compression = grpc.Compression.Gzip if compress else None
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=base.OPTIONS) as channel:
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
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=base.OPTIONS) as channel:
                method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
                item = item_of({"size": size})
                answers = await at_once(count, lambda: method(item, timeout=PATIENCE_S))
            return {"sizes": [len(answer.body) for answer in answers]}

        async def generated(self, port: int, note: str) -> dict[str, Any]:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=base.OPTIONS) as channel:
                stub = bench_pb2_grpc.BenchStub(channel)
                answer = await stub.Echo(bench_pb2.Payload(note=note), timeout=PATIENCE_S)
            return {"note": answer.note}

        async def streaming(self, port: int) -> dict[str, Any]:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=base.OPTIONS) as channel:
                stub = kinds_pb2_grpc.KindsStub(channel)
                calls = [
                    stub.UnaryStream(base.Item(), timeout=PATIENCE_S),
                    # Nothing is written: grpc.aio says INTERNAL if the call ends meanwhile, with any server.
                    stub.StreamUnary(timeout=PATIENCE_S),
                    stub.StreamStream(timeout=PATIENCE_S),
                ]
                return {"codes": [(await call.code()).name for call in calls]}

        async def load_begin(self, ports: list[int]) -> dict[str, Any]:
            options = (("grpc.lb_policy_name", "round_robin"), *base.OPTIONS)
            target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
            channel = grpc.aio.insecure_channel(target, options=options)
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            load = Load()

            async def work() -> None:
                while load.going:
                    try:
                        await method(base.Item(), timeout=PATIENCE_S)
                        load.done += 1
                    except grpc.aio.AioRpcError as error:
                        load.failed.append(f"{error.code().name}: {error.details()}")

            self.load = load, [asyncio.create_task(work()) for _ in range(WORKERS)], channel
            return {}

        async def load_end(self) -> dict[str, Any]:
            assert self.load is not None
            load, tasks, channel = self.load
            load.going = False
            await asyncio.gather(*tasks)
            await channel.close()
            return load.report()

    return Peer()


def grpcio_blocking() -> Any:
    """The blocking API of grpcio."""
    import grpc

    from tests.support.peers import grpcio_blocking as base
    from tests.support.peers.grpcio_aio import LARGE, OPTIONS
    from tests.support.protos import bench_pb2, bench_pb2_grpc, kinds_pb2_grpc

    class Bench(bench_pb2_grpc.BenchServicer):
        def Echo(self, request: Any, context: Any) -> Any:
            return request

    class Kinds(base.Servicer):
        def __init__(self) -> None:
            super().__init__()
            self.go_on = threading.Event()
            self.handled: list[None] = []
            self.remaining: float | None = None

        def UnaryUnary(self, request: Any, context: Any) -> Any:
            self.handled.append(None)
            self.remaining = context.time_remaining()
            if request.text == "hold":
                context.send_initial_metadata((("x-held", "1"),))
                assert self.go_on.wait(PATIENCE_S)
            return super().UnaryUnary(request, context)

    class Peer(base.Peer):
        def __init__(self) -> None:
            super().__init__()
            self.kinds = self.servicer = Kinds()
            self.at: dict[int, grpc.Server] = {}
            self.load: tuple[Load, list[threading.Thread], grpc.Channel] | None = None

        async def serve(self, limited: bool = False, compress: bool = False) -> dict[str, Any]:
            server = grpc.server(
                ThreadPoolExecutor(2 * WORKERS),
                options=OPTIONS if limited else LARGE,
                compression=grpc.Compression.Gzip if compress else None,
            )
            kinds_pb2_grpc.add_KindsServicer_to_server(self.kinds, server)
            bench_pb2_grpc.add_BenchServicer_to_server(Bench(), server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            self.servers.append(server)
            self.at[port] = server
            return {"port": port}

        async def seen(self) -> dict[str, Any]:
            return {"handled": len(self.kinds.handled), "remaining": self.kinds.remaining}

        async def drain(self, port: int) -> dict[str, Any]:
            self.draining = self.at[port].stop(PATIENCE_S)
            return {}

        async def release(self) -> dict[str, Any]:
            self.kinds.go_on.set()
            assert self.draining.wait(PATIENCE_S)
            self.kinds.go_on.clear()
            return {}

        async def endings(self, port: int, requests: list[Request], compress: bool = False) -> dict[str, Any]:
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
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
                method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
                calls = [method.future(item_of({"size": size}), timeout=PATIENCE_S) for _ in range(count)]
                return {"sizes": [len(call.result().body) for call in calls]}

        async def generated(self, port: int, note: str) -> dict[str, Any]:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
                stub = bench_pb2_grpc.BenchStub(channel)
                return {"note": stub.Echo(bench_pb2.Payload(note=note), timeout=PATIENCE_S).note}

        async def streaming(self, port: int) -> dict[str, Any]:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
                stub = kinds_pb2_grpc.KindsStub(channel)
                calls = [
                    stub.UnaryStream(base.Item(), timeout=PATIENCE_S),
                    stub.StreamUnary.future(iter([base.Item()]), timeout=PATIENCE_S),
                    stub.StreamStream(iter([base.Item()]), timeout=PATIENCE_S),
                ]
                return {"codes": [call.code().name for call in calls]}

        async def load_begin(self, ports: list[int]) -> dict[str, Any]:
            options = (("grpc.lb_policy_name", "round_robin"), *OPTIONS)
            target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
            channel = grpc.insecure_channel(target, options=options)
            method = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            load, lock = Load(), threading.Lock()

            def work() -> None:
                while load.going:
                    try:
                        method(base.Item(), timeout=PATIENCE_S)
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
            assert self.load is not None
            load, threads, channel = self.load
            load.going = False
            for thread in threads:
                thread.join()
            channel.close()
            return load.report()

    return Peer()


def grpclib_peer() -> Any:
    """The client and server of grpclib."""
    from grpclib.client import (
        Channel,
        StreamStreamMethod,
        StreamUnaryMethod,
        UnaryStreamMethod,
        UnaryUnaryMethod,
    )
    from grpclib.events import RecvRequest, listen
    from grpclib.exceptions import GRPCError, StreamTerminatedError
    from grpclib.server import Server, Stream

    from tests.support.peers import grpclib_peer as base
    from tests.support.protos import bench_grpc, bench_pb2

    class Bench(bench_grpc.BenchBase):
        async def Echo(self, stream: Stream[Any, Any]) -> None:
            request = await stream.recv_message()
            assert request is not None
            await stream.send_message(request)

    class Peer(base.Peer):
        def __init__(self) -> None:
            super().__init__()
            self.handled = 0
            self.remaining: float | None = None

        async def serve(self) -> dict[str, Any]:
            server = Server([self.servicer, Bench()])
            listen(server, RecvRequest, self.note)
            listener = socket.create_server(("127.0.0.1", 0))
            await server.start(sock=listener)
            self.servers.append(server)
            return {"port": listener.getsockname()[1]}

        async def note(self, event: RecvRequest) -> None:
            self.handled += 1
            self.remaining = None if event.deadline is None else event.deadline.time_remaining()

        async def seen(self) -> dict[str, Any]:
            return {"handled": self.handled, "remaining": self.remaining}

        async def endings(self, port: int, requests: list[Request]) -> dict[str, Any]:
            endings: list[Ending] = []
            async with Channel("127.0.0.1", port) as channel:
                method: Any = UnaryUnaryMethod(channel, PATH, base.Item, base.Item)
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
            async with Channel("127.0.0.1", port) as channel:
                method: Any = UnaryUnaryMethod(channel, PATH, base.Item, base.Item)
                item = item_of({"size": size})
                answers = await at_once(count, lambda: method(item, timeout=PATIENCE_S))
            return {"sizes": [len(answer.body) for answer in answers]}

        async def generated(self, port: int, note: str) -> dict[str, Any]:
            async with Channel("127.0.0.1", port) as channel:
                stub = bench_grpc.BenchStub(channel)
                answer = await stub.Echo(bench_pb2.Payload(note=note), timeout=PATIENCE_S)
            return {"note": answer.note}

        async def streaming(self, port: int) -> dict[str, Any]:
            codes: list[str] = []
            service = PATH.rpartition("/")[0]
            async with Channel("127.0.0.1", port) as channel:
                item = base.Item()
                methods: list[tuple[Any, Any]] = [
                    (UnaryStreamMethod(channel, f"{service}/UnaryStream", base.Item, base.Item), item),
                    (StreamUnaryMethod(channel, f"{service}/StreamUnary", base.Item, base.Item), [item]),
                    (StreamStreamMethod(channel, f"{service}/StreamStream", base.Item, base.Item), [item]),
                ]
                for method, request in methods:
                    try:
                        await method(request, timeout=PATIENCE_S)
                        codes.append("OK")
                    except GRPCError as error:
                        codes.append(error.status.name)
            return {"codes": codes}

    return Peer()


def lbkit_itself() -> Any:
    """A server of ours, to be killed."""
    import lbkit
    from tests.support.protos import kinds_pb2

    class Peer:
        def __init__(self) -> None:
            self.server = lbkit.Server()
            self.server.add(kinds_pb2, "Kinds", self)
            self.begun = asyncio.Event()

        async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
            if request.text == "wait":
                self.begun.set()
                await asyncio.get_running_loop().create_future()
            return request

        async def serve(self) -> dict[str, Any]:
            port = self.server.bind("127.0.0.1:0")
            await self.server.start()
            return {"port": port}

        async def waiting(self) -> dict[str, Any]:
            async with asyncio.timeout(PATIENCE_S):
                await self.begun.wait()
            return {}

        async def stop(self) -> None:
            await self.server.stop(None)

    return Peer()


async def main() -> None:
    """Be the program that the command line names."""
    make = {each.__name__: each for each in (grpcio_aio, grpcio_blocking, grpclib_peer, lbkit_itself)}
    await run(make[sys.argv[1]]())


if __name__ == "__main__":
    asyncio.run(main())
