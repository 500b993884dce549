"""A room: what one member says, all hear."""

import asyncio
import sys
from collections.abc import AsyncIterator

import examples_pb2 as pb2

import lbkit

Inbox = asyncio.Queue[pb2.Line | None]


class Chat:
    def __init__(self) -> None:
        self.room: set[Inbox] = set()

    def tell_all(self, who: str, text: str) -> None:
        for inbox in self.room:
            if not inbox.full():  # who reads too slowly misses some; the others do not wait for him
                inbox.put_nowait(pb2.Line(who=who, text=text))

    async def Join(self, lines: AsyncIterator[pb2.Line], context: lbkit.ServicerContext) -> None:
        who = str(context.invocation_metadata().get("name", "somebody"))
        inbox = Inbox(1000)
        self.room.add(inbox)
        self.tell_all(who, "is here")
        try:
            async with asyncio.TaskGroup() as group:  # reading and writing do not wait for each other
                group.create_task(deliver(inbox, context))
                async for line in lines:
                    self.tell_all(who, line.text)
                await inbox.put(None)
        finally:
            self.room.remove(inbox)
            self.tell_all(who, "is gone")


async def deliver(inbox: Inbox, context: lbkit.ServicerContext) -> None:
    while line := await inbox.get():
        await context.write(line)


async def main(address: str = "127.0.0.1:50051") -> None:
    server = lbkit.Server()
    server.add(pb2, "Chat", Chat())
    port = server.bind(address)
    async with server.serving(grace=1.0):  # short: conversations do not end by themselves
        print(f"listening on port {port}")
        await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:]))
