"""One request, a stream of responses: the client."""

import asyncio
import sys

import examples_pb2 as pb2

import lbkit


async def main(target: str = "static:///127.0.0.1:50051") -> None:
    async with lbkit.Channel(target) as channel:
        calculator = channel.stub(pb2, "Calculator")
        async for number in calculator.CountDown(pb2.Number(value=3)):
            print(f"{number.value:g} ...")
        print("lift-off")


asyncio.run(main(*sys.argv[1:]))
