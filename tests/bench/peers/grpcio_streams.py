"""grpcio's asyncio client and server, with streams of small messages: generators to ``async for``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from tests.bench.flow_load import CHAT, GATHER, SERVICE, STREAM, chat, gather, measure_streams, messages
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.bench.peers.grpcio_aio import CHANNEL_OPTIONS, target
from tests.support.protos.bench_pb2 import Payload


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    codec: dict[str, Any] = {
        "request_deserializer": Payload.FromString,
        "response_serializer": Payload.SerializeToString,
    }
    handlers = {
        STREAM: grpc.unary_stream_rpc_method_handler(messages, **codec),
        GATHER: grpc.stream_unary_rpc_method_handler(gather, **codec),
        CHAT: grpc.stream_stream_rpc_method_handler(chat, **codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


async def measure(job: Job) -> Sample:
    """Do one job over one channel."""
    async with grpc.aio.insecure_channel(target(job.ports), options=CHANNEL_OPTIONS) as channel:
        return await measure_streams(channel, job)


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
