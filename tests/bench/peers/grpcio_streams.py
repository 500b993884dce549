"""grpcio's asyncio client and server, with streams from the server: an async generator to ``async for``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc.aio

from tests.bench.flow_load import SERVICE, STREAM, measure_streams, messages
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.bench.peers.grpcio_aio import CHANNEL_OPTIONS, target
from tests.support.protos.bench_pb2 import Payload


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler = grpc.unary_stream_rpc_method_handler(
        messages, request_deserializer=Payload.FromString, response_serializer=Payload.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {STREAM: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


async def measure(job: Job) -> Sample:
    """Do one job over one channel."""
    async with grpc.aio.insecure_channel(target(job.ports), options=CHANNEL_OPTIONS) as channel:
        method = channel.unary_stream(
            f"/{SERVICE}/{STREAM}",
            request_serializer=Payload.SerializeToString,
            response_deserializer=Payload.FromString,
        )

        @asynccontextmanager
        async def open_stream(request: Payload) -> AsyncIterator[AsyncIterator[Payload]]:
            call = method(request)
            try:
                yield call.__aiter__()
            finally:
                call.cancel()

        return await measure_streams(open_stream, job)


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
