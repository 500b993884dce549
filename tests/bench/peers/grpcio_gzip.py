"""grpcio's asyncio client and server, with unary calls that carry 100 kB in gzip both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from tests.bench.flow_load import GZIP, SERVICE, back, measure_bulk
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.bench.peers.grpcio_aio import CHANNEL_OPTIONS, target


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    # A context's set_compression() does nothing in a unary handler that does not send its headers itself.
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),), compression=grpc.Compression.Gzip)
    handlers: dict[str, Any] = {GZIP: grpc.unary_unary_rpc_method_handler(back)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


async def measure(job: Job) -> Sample:
    """Do one job over one channel."""
    gzip = grpc.Compression.Gzip
    async with grpc.aio.insecure_channel(
        target(job.ports), options=CHANNEL_OPTIONS, compression=gzip
    ) as channel:
        return await measure_bulk(channel.unary_unary(f"/{SERVICE}/{job.kind}"), job)


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
