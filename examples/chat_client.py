"""A member of the room: chat_client.py NAME. Ctrl-D leaves."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import examples_pb2 as pb2

import lbkit


async def typed() -> AsyncIterator[pb2.Line]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with contextlib.closing(pipe):
        async for line in reader:
            yield pb2.Line(text=line.decode().rstrip())


async def main(name: str, target: str = "static:///127.0.0.1:50051") -> None:
    async with lbkit.Channel(target) as channel:
        chat = channel.stub(pb2, "Chat")
        try:
            async for line in chat.Join(typed(), metadata={"name": name}):  # typed() is read at the same time
                print(f"{line.who}: {line.text}")
        except lbkit.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(*sys.argv[1:]))
