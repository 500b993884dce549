"""One request, one response: the server."""

import asyncio
import math
import sys

import examples_pb2 as pb2

import lbkit


class Calculator:
    async def SquareRoot(self, request: pb2.Number, context: lbkit.ServicerContext) -> pb2.Number:
        if request.value < 0:
            await context.abort(lbkit.StatusCode.INVALID_ARGUMENT, f"{request.value:g} has no real root")
        return pb2.Number(value=math.sqrt(request.value))


async def main(address: str = "127.0.0.1:50051") -> None:
    server = lbkit.Server()
    server.add(pb2, "Calculator", Calculator())
    port = server.bind(address)
    async with server.serving():  # Ctrl-C and SIGTERM let running calls finish
        print(f"listening on port {port}")
        await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:]))
