"""A stream in both directions: the client. It writes when it likes; chat_client.py uses an iterator instead."""

import asyncio
import sys

import examples_pb2 as pb2

import lbkit


async def main(target: str = "static:///127.0.0.1:50051") -> None:
    async with lbkit.Channel(target) as channel:
        call = channel.stub(pb2, "Calculator").RunningSum()
        for value in (1, 10, 100):
            await call.write(pb2.Number(value=value))
            total = await call.read()
            print(f"after {value}: {total.value:g}")
        await call.done_writing()
        print("the end" if await call.read() is lbkit.EOF else "more?")


asyncio.run(main(*sys.argv[1:]))
