"""lbkit's own client and server, with unary calls that carry 1 MiB of raw bytes one way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import lbkit
from tests.bench.flow_load import DOWN, SERVICE, UP, down, measure_bulk, up
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main


def raw(behaviour: Callable[..., Awaitable[bytes]]) -> SimpleNamespace:
    """Return what ``grpc.unary_unary_rpc_method_handler(behaviour)`` does, without grpcio in the process."""
    return SimpleNamespace(
        request_streaming=False,
        response_streaming=False,
        request_deserializer=None,
        response_serializer=None,
        unary_unary=behaviour,
    )


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = lbkit.Server()
    server.add_registered_method_handlers(SERVICE, {DOWN: raw(down), UP: raw(up)})
    port = server.bind("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


async def measure(job: Job) -> Sample:
    """Do one job over one channel."""
    (port,) = job.ports
    async with lbkit.Channel(f"static:///127.0.0.1:{port}", balancer="round_robin") as channel:
        return await measure_bulk(channel.unary_unary(f"/{SERVICE}/{job.kind}"), job)


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
