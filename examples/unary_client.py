"""One request, one response: the client."""

import asyncio
import sys

import examples_pb2 as pb2

import lbkit


async def main(target: str = "static:///127.0.0.1:50051") -> None:
    async with lbkit.Channel(target) as channel:
        calculator = channel.stub(pb2, "Calculator")
        for value in (2, -2):
            try:
                reply = await calculator.SquareRoot(pb2.Number(value=value), timeout=5.0)
                print(f"the root of {value} is {reply.value:.3f}")
            except lbkit.RpcError as error:
                print(f"{error.code().name}: {error.details()}")


asyncio.run(main(*sys.argv[1:]))
