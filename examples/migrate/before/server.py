"""A warehouse: the server. Arguments: the address, a certificate, its key."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import warehouse_pb2 as pb2
import warehouse_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc

Context = grpc.aio.ServicerContext[pb2.Item, pb2.Item]


class Warehouse(warehouse_pb2_grpc.WarehouseServicer):
    def __init__(self) -> None:
        self.items = {"bolt": 120, "nut": 95}

    async def Get(self, request: pb2.Item, context: Context) -> pb2.Item:
        if request.name == "elephant":
            await asyncio.sleep(60)  # it takes a while to find one
        if request.name not in self.items:
            context.set_trailing_metadata((("shelves-searched", "7"),))
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.name} here")
        await context.send_initial_metadata((("shelf", "3"),))
        return pb2.Item(name=request.name, count=self.items[request.name])

    async def List(self, request: pb2.Item, context: Context) -> AsyncIterator[pb2.Item]:
        for name, count in sorted(self.items.items()):
            if name.startswith(request.name):
                yield pb2.Item(name=name, count=count)

    async def Store(self, request_iterator: AsyncIterator[pb2.Item], context: Context) -> pb2.Item:
        total = 0
        async for item in request_iterator:
            self.items[item.name] = self.items.get(item.name, 0) + item.count
            total += item.count
        return pb2.Item(name="everything", count=total)

    async def Price(self, request_iterator: AsyncIterator[pb2.Item], context: Context) -> None:
        async for item in request_iterator:
            await context.write(pb2.Item(name=item.name, count=item.count * len(item.name)))


class Gate(grpc.aio.ServerInterceptor):
    """Lets nobody in who does not know the word."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if ("word", "sesame") in handler_call_details.invocation_metadata:
            return await continuation(handler_call_details)

        async def refuse(_request: Any, context: Context) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "what is the word?")

        return grpc.unary_unary_rpc_method_handler(refuse)


async def main(address: str, cert: bytes, key: bytes) -> None:
    options = [("grpc.keepalive_time_ms", 60_000), ("grpc.max_receive_message_length", -1)]
    server = grpc.aio.server(interceptors=[Gate()], options=options, maximum_concurrent_rpcs=100)
    warehouse_pb2_grpc.add_WarehouseServicer_to_server(Warehouse(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    credentials = grpc.ssl_server_credentials([(key, cert)])
    port = server.add_secure_port(address, credentials)
    await server.start()
    print(f"listening on port {port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(grace=1.0)
    print("stopped")


asyncio.run(main(sys.argv[1], *(Path(path).read_bytes() for path in sys.argv[2:])))
