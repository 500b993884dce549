"""One backend of a fleet, as a process: ``python -m tests.faults.node '{"name": ..., "journal": ...}'``.

It serves ``Kinds``: enters the text of each request in its journal, works for ``number`` milliseconds, and sends it
back with its own name in the body; ``UnaryStream`` sends an item each tenth of a second meanwhile. It says where it
listens in a line of JSON, answers lines on stdin with what it has seen, and stops gracefully on SIGTERM, or at once
when stdin closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lbkit
from lbkit.cli.backend import die_with
from tests.faults.uids import Journal
from tests.faults.victim import lines, say
from tests.support.protos import kinds_pb2

# In the body of a request:
STALL = b"stall"  # its handler stops the event loop
EARLY = b"early"  # begins it: the handler says at once that it has begun
PIECE_S = 0.1  # between the items of a stream
_GRACE_S = 5.0

Item = kinds_pb2.Item


@dataclass(frozen=True)
class Node:
    """What a backend is like.

    Attributes:
        name: what it calls itself in answers.
        journal: the file that ids are entered in; empty for none.
        ports: to listen on, 0 for a free one.
        server: keyword arguments of ``lbkit.Server``.
        limits: those of its ``lbkit.Limits``.
        servers: how many there are in the process, each with all the ports; the ports must be free ones.
        implementation: ``lbkit`` or ``grpcio``.
        parent: the process that it dies with, also while it is stopped by a signal.
        fails: it answers unary calls with UNAVAILABLE, once it has entered them.
        register: the target that it registers itself with; empty for none.
    """

    name: str
    journal: str = ""
    ports: tuple[int, ...] = (0,)
    server: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    servers: int = 1
    implementation: str = "lbkit"
    parent: int = 0
    fails: bool = False
    register: str = ""


class Seen:
    """What the handlers of a process have seen."""

    def __init__(self) -> None:
        self.calls = 0
        self.running = 0
        self.cancelled = 0
        self.on: Counter[str] = Counter()  # calls that run, by connection
        self.peak = 0  # the most that ran on one connection
        self.connections: dict[str, set[str]] = {}  # those that calls came on, by the server's name

    @contextmanager
    def running_on(self, server: str, peer: str) -> Iterator[None]:
        """Count a call while its handler runs."""
        self.calls += 1
        self.running += 1
        self.on[peer] += 1
        self.peak = max(self.peak, self.on[peer])
        self.connections.setdefault(server, set()).add(peer)
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self.on[peer] -= 1

    def told(self) -> dict[str, Any]:
        """The same, for JSON."""
        connections = {name: len(peers) for name, peers in self.connections.items()}
        return {
            "calls": self.calls,
            "running": self.running,
            "cancelled": self.cancelled,
            "peak": self.peak,
            "connections": connections,
        }


class Kinds:
    """The service."""

    def __init__(self, name: str, journal: Journal | None, seen: Seen, *, fails: bool = False) -> None:
        self._name = name
        self._journal = journal
        self._seen = seen
        self._fails = fails

    def _enter(self, request: Any) -> None:
        if self._journal is not None:
            self._journal.enter(request.text)

    def _answer(self, request: Any) -> Any:
        # A large body comes back, so that windows are used both ways.
        return Item(text=request.text, number=len(request.body), body=self._name.encode() + request.body)

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        """Work once."""
        self._enter(request)
        with self._seen.running_on(self._name, context.peer()):
            if request.body.startswith(EARLY):
                await context.send_initial_metadata(())
            if self._fails:
                await context.abort(lbkit.StatusCode.UNAVAILABLE, "this backend fails every call")
            if request.body == STALL:
                time.sleep(request.number / 1000)  # noqa: ASYNC251 -- what it is there for
            elif request.number:
                await asyncio.sleep(request.number / 1000)
            return self._answer(request)

    async def UnaryStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Work, and say so now and then."""
        self._enter(request)
        with self._seen.running_on(self._name, context.peer()):
            ends = time.monotonic() + request.number / 1000
            while time.monotonic() < ends:
                yield self._answer(request)
                await asyncio.sleep(PIECE_S)


async def run_lbkit(node: Node) -> None:
    """Serve until SIGTERM, and then until the calls in flight are over; or until stdin closes."""
    seen = Seen()
    journal = Journal(Path(node.journal)) if node.journal else None
    names = [node.name] if node.servers == 1 else [f"{node.name}.{number}" for number in range(node.servers)]
    options: dict[str, Any] = {**node.server, "limits": lbkit.Limits(**node.limits)}
    servers = [lbkit.Server(**options) for _ in names]
    ports = []
    async with contextlib.AsyncExitStack() as stack:
        for name, server in zip(names, servers, strict=True):
            server.add(kinds_pb2, "Kinds", Kinds(name, journal, seen, fails=node.fails))
            ports += [server.bind(f"127.0.0.1:{port}") for port in node.ports]
            await stack.enter_async_context(server.serving(grace=_GRACE_S, register=node.register or None))
        gc.collect()
        gc.freeze()
        say(ports=ports)
        answering = asyncio.get_running_loop().create_task(answer(seen, servers[0].counters))
        stopped = asyncio.get_running_loop().create_task(servers[0].wait_for_termination())
        await asyncio.wait({answering, stopped}, return_when=asyncio.FIRST_COMPLETED)
        answering.cancel()
        stopped.cancel()
        await asyncio.wait({answering, stopped})


async def run_grpcio(node: Node) -> None:
    """Serve with grpcio until stdin closes; ``server`` holds channel arguments."""
    import grpc

    seen = Seen()
    options = list(node.server.items())
    server = grpc.aio.server(options=options)
    behaviour = Kinds(node.name, None, seen).UnaryUnary
    method = grpc.unary_unary_rpc_method_handler(behaviour, Item.FromString, Item.SerializeToString)
    handler = grpc.method_handlers_generic_handler("lbkit.tests.Kinds", {"UnaryUnary": method})
    server.add_generic_rpc_handlers((handler,))
    ports = [server.add_insecure_port(f"127.0.0.1:{port}") for port in node.ports]
    await server.start()
    say(ports=ports)
    await answer(seen, lbkit.Counters())
    await server.stop(None)


async def answer(seen: Seen, counters: lbkit.Counters) -> None:
    """Answer each line with what was seen so far, until stdin closes."""
    async for _ in lines():
        say(**seen.told(), exceeded=dict(counters.exceeded), counted=dict(counters.seen), pid=os.getpid())


if __name__ == "__main__":
    made = Node(**json.loads(sys.argv[1]))
    die_with(made.parent)
    asyncio.run(run_grpcio(made) if made.implementation == "grpcio" else run_lbkit(made))
