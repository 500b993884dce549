"""A warehouse: the client. Arguments: the server's address, the certificate of who signed its certificate."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import warehouse_pb2 as pb2
import warehouse_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "lbkit.examples.migrate.Warehouse"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
OPTIONS = [
    ("grpc.service_config", json.dumps(RETRIES)),
    ("grpc.keepalive_time_ms", 600_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.primary_user_agent", "warehouse-client/1.0"),
]


def with_word(details: Any) -> grpc.aio.ClientCallDetails:
    """Say the word with a call."""
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add("word", "sesame")
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class UnaryWord(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(with_word(client_call_details), request)
        print(f"  asked for {getattr(request, 'name', 'health')}: {(await call.code()).name}")
        return call


class ListWord(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(with_word(client_call_details), request)


class StoreWord(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(with_word(client_call_details), request_iterator)


class PriceWord(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(with_word(client_call_details), request_iterator)


async def goods() -> AsyncIterator[pb2.Item]:
    for count in (10, 20, 30):
        yield pb2.Item(name="screw", count=count)


async def unary(stub: Any) -> None:
    call = stub.Get(pb2.Item(name="bolt"), timeout=10.0, metadata=(("customer", "ann"),))
    item = await call
    print(item.count, dict(await call.initial_metadata())["shelf"], await call.code() is grpc.StatusCode.OK)
    try:
        await stub.Get(pb2.Item(name="gold"), timeout=10.0)
    except grpc.aio.AioRpcError as error:
        print(error.code().name, error.details(), error.trailing_metadata()["shelves-searched"])
    try:
        await stub.Get(pb2.Item(name="elephant"), timeout=0.2)
    except grpc.RpcError as error:
        print(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED)


async def streaming(stub: Any) -> None:
    print([item.name async for item in stub.List(pb2.Item(name="n"), timeout=10.0)])
    print((await stub.Store(goods(), timeout=10.0, compression=grpc.Compression.Gzip)).count)
    call = stub.Price(timeout=10.0)
    for count in (1, 2):
        await call.write(pb2.Item(name="nail", count=count))
        print((await call.read()).count)
    await call.done_writing()
    print(await call.read() is grpc.aio.EOF, (await call.code()).name)
    call = stub.Price()
    await call.write(pb2.Item(name="nail", count=1))
    await call.read()
    print(call.cancel(), call.cancelled() or (await call.code()).name)


async def main(target: str, ca: bytes) -> None:
    credentials = grpc.ssl_channel_credentials(ca)
    words = [UnaryWord(), ListWord(), StoreWord(), PriceWord()]
    async with grpc.aio.secure_channel(target, credentials, options=OPTIONS, interceptors=words) as channel:
        await channel.channel_ready()
        request = health_pb2.HealthCheckRequest()
        checked = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10.0)
        print(checked.status == health_pb2.HealthCheckResponse.SERVING)
        stub = warehouse_pb2_grpc.WarehouseStub(channel)
        await unary(stub)
        await streaming(stub)
    async with grpc.aio.secure_channel(target, credentials) as channel:
        try:
            await warehouse_pb2_grpc.WarehouseStub(channel).Get(pb2.Item(name="nut"), timeout=10.0)
        except grpc.aio.AioRpcError as error:
            print(error.code().name, error.details())


asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
