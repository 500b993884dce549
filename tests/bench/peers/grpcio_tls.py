"""grpcio's asyncio client and server, over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc.aio

from tests.bench.load import EchoStub
from tests.bench.peers.command import main
from tests.bench.peers.grpcio_aio import CHANNEL_OPTIONS, Echo, target
from tests.bench.secured import pem
from tests.support.protos import bench_pb2_grpc


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    _, cert, key = pem()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    bench_pb2_grpc.add_BenchServicer_to_server(Echo(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    await server.start()
    ready(port)
    await server.wait_for_termination()


@asynccontextmanager
async def connect(ports: Sequence[int]) -> AsyncIterator[EchoStub]:
    """Open a channel, and give its stub."""
    credentials = grpc.ssl_channel_credentials(pem()[0])
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "localhost"))
    async with grpc.aio.secure_channel(target(ports), credentials, options=options) as channel:
        yield bench_pb2_grpc.BenchStub(channel)


if __name__ == "__main__":
    main(serve, connect)
