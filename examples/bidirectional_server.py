"""A stream in both directions: the server."""

import asyncio
import sys
from collections.abc import AsyncIterator

import examples_pb2 as pb2

import lbkit


class Calculator:
    async def RunningSum(
        self, requests: AsyncIterator[pb2.Number], context: lbkit.ServicerContext
    ) -> AsyncIterator[pb2.Number]:
        total = 0.0
        async for number in requests:
            total += number.value
            yield pb2.Number(value=total)


async def main(address: str = "127.0.0.1:50051") -> None:
    server = lbkit.Server()
    server.add(pb2, "Calculator", Calculator())
    port = server.bind(address)
    async with server.serving():  # Ctrl-C and SIGTERM let running calls finish
        print(f"listening on port {port}")
        await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:]))
