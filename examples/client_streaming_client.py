"""A stream of requests, one response: the client."""

import asyncio
import sys
from collections.abc import AsyncIterator

import examples_pb2 as pb2

import lbkit


async def numbers() -> AsyncIterator[pb2.Number]:
    for value in (1, 2, 3, 4):
        print(f"adding {value}")
        yield pb2.Number(value=value)  # comes back when there is room for the next


async def main(target: str = "static:///127.0.0.1:50051") -> None:
    async with lbkit.Channel(target) as channel:
        calculator = channel.stub(pb2, "Calculator")
        total = await calculator.Sum(numbers())
        print(f"the sum is {total.value:g}")


asyncio.run(main(*sys.argv[1:]))
