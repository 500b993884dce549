"""One request, a stream of responses: the server."""

import asyncio
import sys
from collections.abc import AsyncIterator

import examples_pb2 as pb2

import lbkit


class Calculator:
    async def CountDown(
        self, request: pb2.Number, context: lbkit.ServicerContext
    ) -> AsyncIterator[pb2.Number]:
        for value in range(int(request.value), 0, -1):
            yield pb2.Number(value=value)
            await asyncio.sleep(0.1)  # a client that hangs up ends the method here


async def main(address: str = "127.0.0.1:50051") -> None:
    server = lbkit.Server()
    server.add(pb2, "Calculator", Calculator())
    port = server.bind(address)
    async with server.serving():  # Ctrl-C and SIGTERM let running calls finish
        print(f"listening on port {port}")
        await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:]))
