"""grpclib's client and server. Its client knows one host per channel, so it never balances."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from grpclib.client import Channel
from grpclib.server import Server, Stream

from tests.bench.load import EchoStub
from tests.bench.peers.command import main
from tests.support.protos.bench_grpc import BenchBase, BenchStub
from tests.support.protos.bench_pb2 import Payload


class Echo(BenchBase):
    """Send back what came."""

    async def Echo(self, stream: Stream[Payload, Payload]) -> None:
        """Send back what came."""
        request = await stream.recv_message()
        assert request is not None
        await stream.send_message(request)


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    # asyncio turns Nagle's algorithm off only where the protocol is named, as it is when grpclib resolves a host.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = Server([Echo()])
    await server.start(sock=listener, backlog=1024)
    ready(listener.getsockname()[1])
    await server.wait_closed()


@asynccontextmanager
async def connect(ports: Sequence[int]) -> AsyncIterator[EchoStub]:
    """Open a channel to the one port, and give its stub."""
    (port,) = ports
    async with Channel("127.0.0.1", port) as channel:
        yield BenchStub(channel)


if __name__ == "__main__":
    main(serve, connect)
