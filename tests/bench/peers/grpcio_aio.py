"""grpcio's asyncio client and server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from tests.bench.load import EchoStub
from tests.bench.peers.command import main
from tests.support.protos import bench_pb2, bench_pb2_grpc

# A subchannel pool per channel: otherwise channels to one address share a connection.
CHANNEL_OPTIONS = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


def target(ports: Sequence[int]) -> str:
    """Return the grpcio target for ports of this machine."""
    return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)


class Echo(bench_pb2_grpc.BenchServicer):
    """Send back what came."""

    async def Echo(self, request: bench_pb2.Payload, context: Any) -> bench_pb2.Payload:
        """Send back what came."""
        return request


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    bench_pb2_grpc.add_BenchServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


@asynccontextmanager
async def connect(ports: Sequence[int]) -> AsyncIterator[EchoStub]:
    """Open a channel that balances over the ports, and give its stub."""
    async with grpc.aio.insecure_channel(target(ports), options=CHANNEL_OPTIONS) as channel:
        yield bench_pb2_grpc.BenchStub(channel)


if __name__ == "__main__":
    main(serve, connect)
