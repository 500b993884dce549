"""What the peers have in common: the commands, and how messages and metadata travel in JSON."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from tests.support.protos import kinds_pb2

Request = dict[str, Any]  # text, number, size, body: of an Item; timeout: of the call
Ending = list[Any]  # name of the code, details, size of the body that came
Answer = TypeVar("Answer")

PATH = "/lbkit.tests.Kinds/UnaryUnary"
UNKNOWN_PATH = "/lbkit.tests.Kinds/Nothing"
PATIENCE_S = 20.0
WORKERS = 10


class Commands(Protocol):
    """A part of a peer; the names of its methods are the commands that it knows."""

    async def stop(self) -> None:
        """End everything."""
        ...


class Load:
    """Calls one after the other, by several workers, until it is told to end."""

    def __init__(self) -> None:
        self.going = True
        self.done = 0
        self.failed: list[str] = []

    def report(self) -> dict[str, Any]:
        """What came of it."""
        return {"done": self.done, "failed": self.failed}


async def run(*parts: Commands) -> None:
    """Do what the lines of standard input say until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        name = command.pop("do")
        try:
            (do,) = (getattr(part, name) for part in parts if hasattr(part, name))
            # In a task of its own: grpclib cancels the task that it ends a call in, and on Python before 3.11.4 no
            # asyncio.timeout works in that task any more.
            answer = await asyncio.ensure_future(do(**command))
        except (Exception, asyncio.CancelledError):
            answer = {"broken": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    for part in parts:
        await part.stop()


async def at_once(count: int, call: Callable[[], Awaitable[Answer]]) -> list[Answer]:
    """Make calls at the same time."""
    return list(await asyncio.gather(*(call() for _ in range(count))))


def item_of(request: Request) -> Any:
    """The message that a request stands for."""
    body = bytes(request.get("size", 0)) or request.get("body", "").encode()
    return kinds_pb2.Item(text=request.get("text", ""), number=request.get("number", 0), body=body)


def listener(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Listen for grpclib: asyncio turns Nagle's algorithm off only for sockets that say they are TCP."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((host, port))
    return found


def pack(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[list[Any]]:
    """Metadata as JSON; what is not of the test's making is left out."""
    return [
        [key, {"hex": bytes(value).hex()} if isinstance(value, bytes | bytearray) else value]
        for key, value in metadata or ()
        if key.startswith("x-")
    ]


def unpack(metadata: list[list[Any]]) -> list[tuple[str, str | bytes]]:
    """Metadata from JSON."""
    return [
        (key, bytes.fromhex(value["hex"]) if isinstance(value, dict) else value) for key, value in metadata
    ]
