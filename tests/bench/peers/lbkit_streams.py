"""lbkit's own client and server, with streams of small messages: generators to ``async for``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lbkit
from tests.bench.flow_load import CHAT, GATHER, SERVICE, STREAM, chat, gather, measure_streams, messages
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.support.protos.bench_pb2 import Payload


def handler(kind: str, behaviour: Callable[..., Any]) -> SimpleNamespace:
    """Return what ``grpc.unary_stream_rpc_method_handler`` and its siblings do, without grpcio in the process."""
    return SimpleNamespace(
        request_streaming=kind.startswith("stream"),
        response_streaming=kind.endswith("stream"),
        request_deserializer=Payload.FromString,
        response_serializer=Payload.SerializeToString,
        **{kind: behaviour},
    )


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = lbkit.Server()
    handlers = {
        STREAM: handler("unary_stream", messages),
        GATHER: handler("stream_unary", gather),
        CHAT: handler("stream_stream", chat),
    }
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.bind("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


async def measure(job: Job) -> Sample:
    """Do one job over one channel."""
    (port,) = job.ports
    async with lbkit.Channel(f"static:///127.0.0.1:{port}", balancer="round_robin") as channel:
        return await measure_streams(channel, job)


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
