"""What interceptors cost: calls in memory, with none of them, and with one, two and five on either side."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import lbkit
from lbkit.testing import memory_channel

COUNTS = (1, 2, 5)
PATH = "/lbkit.bench.Bench/Echo"
_WORKERS = 16
_CALLS = 20  # by each of them, in one measurement
_PAYLOAD = b"x" * 100


class Client(lbkit.ClientInterceptor):
    """Does nothing."""

    async def intercept(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Go on."""
        return await continuation(client_call_details, request)


class Server(lbkit.ServerInterceptor):
    """Does nothing."""

    async def intercept(self, proceed: Any, request: Any, context: lbkit.ServicerContext) -> Any:
        """Go on."""
        return await proceed(request, context)


class AioServer:
    """Does nothing, in the shape of ``grpc.aio.ServerInterceptor``."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Go on."""
        return await continuation(handler_call_details)


SIDES: dict[str, tuple[type, str]] = {
    "client": (Client, "client"),
    "server": (Server, "server"),
    "server, of grpc.aio's kind": (AioServer, "server"),
}


class Handler:
    """Echoes, as a grpcio method handler."""

    request_streaming = response_streaming = False
    request_deserializer = response_serializer = None

    async def unary_unary(self, request: Any, context: Any) -> Any:
        """Send back what came."""
        return request


async def echo(stack: AsyncExitStack, client: list[Any], server: list[Any]) -> Any:
    """Run a server in memory, and return what makes calls to it."""
    made = lbkit.Server(interceptors=server)
    made.add_registered_method_handlers("lbkit.bench.Bench", {"Echo": Handler()})
    channel = await stack.enter_async_context(memory_channel(made, interceptors=client))
    return channel.unary_unary(PATH)


async def one_by_one(call: Any) -> None:
    """Make calls."""
    for _ in range(_CALLS):
        await call(_PAYLOAD, timeout=30.0)


async def cost_us(call: Any) -> float:
    """Return the CPU time of a call, both ends together, in microseconds."""
    began = time.process_time()
    await asyncio.gather(*(one_by_one(call) for _ in range(_WORKERS)))
    return (time.process_time() - began) / (_WORKERS * _CALLS) * 1e6


async def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return, by side and number of interceptors, what they add to a call: medians of ``rounds``, taken in turn."""
    async with AsyncExitStack() as stack:
        plain = await echo(stack, [], [])
        calls: dict[tuple[str, int], Any] = {}
        for name, (kind, side) in SIDES.items():
            for count in COUNTS:
                made = [kind() for _ in range(count)]
                on_client = side == "client"
                calls[name, count] = await echo(stack, made if on_client else [], [] if on_client else made)
        for call in (plain, *calls.values()):
            await one_by_one(call)
        gc.collect()
        gc.freeze()
        added: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
        base: list[float] = []
        for _ in range(rounds):
            base.append(await cost_us(plain))
            for key, call in calls.items():
                added[key].append(await cost_us(call) - base[-1])
    found = {name: {str(count): median(added[name, count]) for count in COUNTS} for name in SIDES}
    found["none"] = {"0": median(base)}
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1])))))
