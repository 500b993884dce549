"""A process that forks with calls in flight: ``python -m tests.faults.forking ADDRESS``, for figure F16.

It prints one line of JSON: how many calls of the parent ended well, and what each child found.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import lbkit
from tests.support.protos import kinds_pb2

CALLS = 10
WORK_MS = 1000
CHILDREN = 3
_WITHIN_S = 20.0

Item = kinds_pb2.Item


def greet(channel: lbkit.Channel, text: str, work_ms: int = 0) -> Any:
    """Start a call."""
    return channel.stub(kinds_pb2, "Kinds").UnaryUnary(Item(text=text, number=work_ms), timeout=_WITHIN_S)


async def use_new(address: str) -> str:
    """Make a call on a channel of one's own."""
    async with lbkit.Channel(f"static:///{address}") as channel:
        return str((await greet(channel, "from a child")).text)


async def use_parents(channel: lbkit.Channel) -> str:
    """Make a call on the parent's channel; return what is raised, and whether that took no time."""
    began = time.monotonic()
    try:
        await greet(channel, "must not be sent")
    except lbkit.ForkedError:
        return "ForkedError at once" if time.monotonic() - began < 1.0 else "ForkedError, late"
    return "no error"


def report(parents: lbkit.Channel | None, address: str) -> list[str]:
    """What a child finds."""
    found = [] if parents is None else [asyncio.run(use_parents(parents))]
    return [*found, asyncio.run(use_new(address))]


def fork(parents: lbkit.Channel, address: str) -> tuple[int, int]:
    """Fork; return the child's id, and where it writes what it finds."""
    ours, childs = os.pipe()
    child = os.fork()
    if child:
        os.close(childs)
        return child, ours
    status = 1
    try:
        os.write(childs, json.dumps(report(parents, address)).encode())
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is to be tidied up here


def spawned(address: str, pipe: Connection) -> None:
    """Do what a forked child does, in a new process of multiprocessing's."""
    pipe.send(report(None, address))
    pipe.close()


async def main(address: str) -> None:
    """Fork while calls are in flight, and see what comes of them."""
    loop = asyncio.get_running_loop()
    async with lbkit.Channel(f"static:///{address}") as channel:
        await channel.ready(_WITHIN_S)
        calls = [asyncio.ensure_future(_text(greet(channel, str(n), WORK_MS))) for n in range(CALLS)]
        await asyncio.sleep(0.1)
        children = [fork(channel, address) for _ in range(CHILDREN)]
        ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=spawned, args=(address, theirs))
        process.start()
        texts = await asyncio.gather(*calls, return_exceptions=True)
        found = []
        for child, pipe in children:
            found.append(json.loads(await loop.run_in_executor(None, os.read, pipe, 65536) or "[]"))
            os.close(pipe)
            await loop.run_in_executor(None, os.waitpid, child, 0)
        spawn = await loop.run_in_executor(None, ours.recv)
        await loop.run_in_executor(None, process.join)
        after = await greet(channel, "the parent goes on")
    ended_well = sum(text == str(n) for n, text in enumerate(texts))
    print(json.dumps({"ended_well": ended_well, "forked": found, "spawned": spawn, "after": after.text}))


async def _text(call: Any) -> str:
    return str((await call).text)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
