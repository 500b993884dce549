"""lbkit's own client and server, over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import lbkit
from tests.bench.load import EchoStub
from tests.bench.peers.command import main
from tests.bench.peers.lbkit_peer import Echo
from tests.bench.secured import pem
from tests.support.protos import bench_pb2_grpc


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    _, cert, key = pem()
    server = lbkit.Server()
    bench_pb2_grpc.add_BenchServicer_to_server(Echo(), server)
    port = server.bind("127.0.0.1:0", tls=lbkit.tls(cert=cert, key=key))
    await server.start()
    ready(port)
    await server.wait_for_termination()


@asynccontextmanager
async def connect(ports: Sequence[int]) -> AsyncIterator[EchoStub]:
    """Open a channel, and give its stub."""
    ca, _, _ = pem()
    async with lbkit.Channel(f"static:///127.0.0.1:{ports[0]}", tls=lbkit.tls(ca=ca)) as channel:
        yield bench_pb2_grpc.BenchStub(channel)


if __name__ == "__main__":
    main(serve, connect)
