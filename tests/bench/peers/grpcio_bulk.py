"""grpcio's asyncio client and server, with unary calls that carry 1 MiB of raw bytes one way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from tests.bench.flow_load import DOWN, SERVICE, UP, down, measure_bulk, up
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.bench.peers.grpcio_aio import CHANNEL_OPTIONS, target


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers: dict[str, Any] = {
        DOWN: grpc.unary_unary_rpc_method_handler(down),
        UP: grpc.unary_unary_rpc_method_handler(up),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


async def measure(job: Job) -> Sample:
    """Do one job over one channel."""
    async with grpc.aio.insecure_channel(target(job.ports), options=CHANNEL_OPTIONS) as channel:
        return await measure_bulk(channel.unary_unary(f"/{SERVICE}/{job.kind}"), job)


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
