"""lbkit's own client and server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import lbkit
from tests.bench.load import EchoStub
from tests.bench.peers.command import main
from tests.support.protos import bench_pb2, bench_pb2_grpc


class Echo(bench_pb2_grpc.BenchServicer):
    """Send back what came."""

    async def Echo(self, request: bench_pb2.Payload, context: Any) -> bench_pb2.Payload:
        """Send back what came."""
        return request


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = lbkit.Server()
    bench_pb2_grpc.add_BenchServicer_to_server(Echo(), server)
    port = server.bind("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


@asynccontextmanager
async def connect(ports: Sequence[int]) -> AsyncIterator[EchoStub]:
    """Open a channel that balances over the ports, and give its stub."""
    target = "static:///" + ",".join(f"127.0.0.1:{port}" for port in ports)
    async with lbkit.Channel(target, balancer="round_robin") as channel:
        yield bench_pb2_grpc.BenchStub(channel)


if __name__ == "__main__":
    main(serve, connect)
