"""A server and a healthy client, each in a process of its own, for tests that attack the one and ask the other.

``python -m tests.faults.victim serve '{"limits": {...}}'`` serves ``Kinds.UnaryUnary``, or with ``"streams": true``
endless replies below the gRPC layer; ``... call PORT`` calls such a server all the time. Both answer lines on stdin
with lines of JSON, and stop when stdin closes: what they cost is read from /proc, apart from what attacks them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import math
import os
import resource
import select
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lbkit
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.transport.server import ServerConnection, listen, serve
from lbkit.transport.setup import ConnectionSetup
from tests.bench.processes import cpu_seconds, machine_busy_seconds, resident_bytes
from tests.support.servers import Backend, Item, channel_to, unary
from tests.support.wire import RESPONSE, TRAILERS

PROC = Path("/proc/self/clear_refs")
NAME = "tests.faults.victim"
WAIT = "wait"  # the text of a request whose handler waits until it is cancelled
CALLS_PER_S = 200
_SETTLING_CALLS = 40
CHUNK = 64 * 1024  # of a streamed reply
STREAMED = 64 * 2**20  # the whole of it
_TIMEOUT_S = 5.0
_ANSWER_S = 30.0
MIB = 2**20


# The server's process


async def behave(request: Any, context: lbkit.ServicerContext) -> Any:
    """Send back what came, a body of the size that was asked for, or nothing for ever."""
    if request.text == WAIT:
        await asyncio.get_running_loop().create_future()
    return Item(body=b"r" * request.number) if request.number else request


class LongReply:
    """The sink of a stream, and the task that answers it with 64 MiB, a chunk whenever there is room."""

    def __init__(self, connection: ServerConnection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._room: asyncio.Future[None] | None = None
        self._over = False
        self.task = connection.loop.create_task(self._run())

    async def _run(self) -> None:
        connection, stream = self._connection, self._stream
        engine = connection.engine
        engine.send_headers(stream, None, RESPONSE, False)
        for _ in range(STREAMED // CHUNK):
            if self._over:
                return
            if not engine.send_data(stream, b"r" * CHUNK, False):
                self._room = connection.loop.create_future()
                connection.kick()
                await self._room
        engine.send_headers(stream, None, TRAILERS, True)
        connection.kick()

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Ignore the rest of the request."""

    def data(self, data: bytes, end: bool) -> None:
        """Ignore it."""

    def data_buffer(self, length: int) -> memoryview | None:
        """Want none."""
        return None

    def filled(self, length: int, end: bool) -> None:
        """Never happens."""

    def reset(self, code: int, reason: str) -> None:
        """Stop."""
        self._over = True
        self.writable()

    def lost(self, reason: str) -> None:
        """Stop."""
        self.reset(0, reason)

    def writable(self) -> None:
        """Write on."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class LongReplies:
    """A ``ServerOwner`` that gives everybody a ``LongReply``."""

    def __init__(self) -> None:
        self.setup = ConnectionSetup()
        self._tasks: set[asyncio.Task[None]] = set()

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        reply = LongReply(connection, stream)
        stream.sink = reply
        self._tasks.add(reply.task)
        reply.task.add_done_callback(self._tasks.discard)

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Never happens."""

    def connection_opened(self, connection: ServerConnection) -> None:
        """Ignore."""

    def connection_closed(self, connection: ServerConnection) -> None:
        """Ignore."""


async def run_server(options: dict[str, Any]) -> None:
    """Serve until stdin closes; tell the counters whenever a line comes, and tidy up before if it says so."""
    limits = lbkit.Limits(**options.get("limits", {}))
    if options.get("streams"):
        owner = LongReplies()
        sock = listen(lbkit.Address.parse("127.0.0.1:0"))
        loop = asyncio.get_running_loop()
        async with await serve(sock, lambda: ServerConnection(loop, owner, owner.setup)):
            say(port=sock.getsockname()[1])
            async for line in lines():
                say(**told(line, owner.setup.counters))
        return
    backend = await Backend(behave, limits=limits).start()
    gc.collect()
    gc.freeze()  # as `lbkit backend` does, and as docs/design/http2.md advises
    say(port=backend.port)
    async for line in lines():
        say(**told(line, backend.server.counters))
    await backend.server.stop()


def told(line: str, counters: lbkit.Counters) -> dict[str, dict[str, int]]:
    """What was counted, for JSON."""
    if line.strip() == "tidy":
        gc.collect()
        with contextlib.suppress(AttributeError):  # glibc's: free pages go back to the system
            ctypes.CDLL(None).malloc_trim(0)
    return {"seen": dict(counters.seen), "exceeded": dict(counters.exceeded)}


# The healthy client's process


async def run_caller(port: int) -> None:
    """Make one call after the other, at an even pace, until stdin closes.

    ``start`` forgets what was measured; ``take N`` tells the latencies when there are N.
    """
    latencies = array("d")
    failures: list[str] = []
    enough = asyncio.Event()
    wanted = calls = 0

    async def call_on(method: Any) -> None:
        nonlocal calls
        interval = 1 / CALLS_PER_S
        due = time.monotonic()
        while True:
            await asyncio.sleep(due - time.monotonic())
            begun = time.monotonic()
            try:
                await method(Item(text="healthy"), timeout=_TIMEOUT_S)
            except lbkit.RpcError as error:
                failures.append(repr(error))
            calls += 1
            took = time.monotonic() - begun
            due = begun + max(interval, took)
            # Calls that were due meanwhile would have waited for the rest of it: a stall is no single slow call.
            while took > 0:
                latencies.append(took)
                took -= interval
            if 0 < wanted <= len(latencies):
                enough.set()

    async with channel_to(port) as channel:
        method = unary(channel)
        await method(Item(), timeout=_TIMEOUT_S)
        calling = asyncio.get_running_loop().create_task(call_on(method))
        say(ready=True)
        async for line in lines():
            if line.startswith("take"):
                wanted = int(line.split()[1])
                if len(latencies) < wanted:
                    await enough.wait()
                say(latencies=list(latencies), failures=failures, calls=calls)
            else:
                say()
            enough.clear()
            wanted = calls = 0
            del latencies[:], failures[:]
        calling.cancel()
        await asyncio.wait([calling])


def say(**what: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(what), flush=True)


async def lines() -> AsyncIterator[str]:
    """Read stdin until it closes, without standing in the loop's way."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async for line in reader:
            yield line.decode()
    finally:
        transport.close()


# The side of the tests


class Process:
    """This module as a child process that answers lines with JSON."""

    def __init__(self, *arguments: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", NAME, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self.pid = self._child.pid
        self.hello = self.read()

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        self._child.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Return the next answer."""
        output = self._child.stdout
        assert output is not None
        assert select.select([output], [], [], _ANSWER_S)[0], f"the child said nothing in {_ANSWER_S:.0f} s"
        line = output.readline()
        assert line, f"the child died, exit status {self._child.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Close its stdin and wait; a child that does not stop by itself fails the test."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            assert self._child.wait(_ANSWER_S) == 0, "the child failed"
        finally:
            self._child.kill()
            self._child.wait()
            self._child.stdout.close()


class Victim(Process):
    """The server's process, seen from outside."""

    def __init__(self, *, streams: bool = False, **limits: Any) -> None:
        super().__init__("serve", json.dumps({"streams": streams, "limits": limits}))
        self.port = int(self.hello["port"])

    def counters(self) -> dict[str, dict[str, int]]:
        """What the server has counted."""
        return self.ask("counters")

    def cpu_s(self) -> float:
        """The CPU time it has used."""
        used = cpu_seconds([self.pid])
        assert used is not None
        return used

    def busy_ms(self) -> float:
        """The same in ms and to the ns, which the kernel tells of one thread: the server has one."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e6

    def resident(self) -> float:
        """Its memory in RAM, in MiB."""
        size = resident_bytes(self.pid)
        assert size is not None
        return size / MIB

    def held(self) -> float:
        """The same without litter, and without free memory that malloc keeps for later: what is really in use."""
        self.ask("tidy")
        return self.resident()

    def forget_peak(self) -> float:
        """Begin to watch its peak of memory, and return where it is now, tidied up, in MiB."""
        held = self.held()
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # man 5 proc: resets VmHWM
        return held

    def peak(self) -> float:
        """The most memory that was in RAM since ``forget_peak``, in MiB."""
        with Path(f"/proc/{self.pid}/status").open() as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

    def sockets(self) -> int:
        """How many sockets it has open."""
        found = 0
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found += str(fd.readlink()).startswith("socket:")
            except OSError:  # closed meanwhile
                continue
        return found

    def wait_for_sockets(self, count: int) -> None:
        """Wait until it has closed all but so many sockets, and done what comes of that."""
        deadline = time.monotonic() + _ANSWER_S
        while self.sockets() > count:
            assert time.monotonic() < deadline, f"{self.sockets()} sockets are open, {count} expected"
            self.counters()  # answered in a later turn of its loop
        self.counters()


@dataclass(frozen=True)
class Sample:
    """How long calls took, in ms; those count that were held up by one before, too."""

    calls: int
    p99: float
    worst: float
    failures: list[str]


class Caller(Process):
    """The healthy client's process."""

    def __init__(self, port: int) -> None:
        super().__init__("call", str(port))

    def start(self) -> None:
        """Forget what was measured so far."""
        self.ask("start")

    def take(self, count: int) -> Sample:
        """Wait until so many calls were made since ``start``, and return how they went; starts again."""
        said = self.ask(f"take {count}")
        took: Sequence[float] = sorted(said["latencies"])
        place = max(0, math.ceil(0.99 * len(took)) - 1)
        return Sample(said["calls"], took[place] * 1000, took[-1] * 1000, said["failures"])

    def settle(self) -> None:
        """Let calls pass that something before held up."""
        self.baseline(_SETTLING_CALLS)

    def baseline(self, count: int) -> Sample:
        """Measure now."""
        self.start()
        return self.take(count)


_Process = TypeVar("_Process", bound=Process)


@contextmanager
def running(process: _Process) -> Iterator[_Process]:
    """Stop a process at the end of the block."""
    try:
        yield process
    finally:
        process.stop()


class Noise:
    """How much of the machine was busy with anything but this process and some others."""

    def __init__(self, *pids: int) -> None:
        self._pids = [os.getpid(), *pids]
        self._started = time.monotonic()
        self._busy = self._others()

    def cores(self) -> float:
        """How many cores others have kept busy since this was made."""
        return max(0.0, (self._others() - self._busy) / (time.monotonic() - self._started))

    def _others(self) -> float:
        return (machine_busy_seconds() or 0.0) - (cpu_seconds(self._pids) or 0.0)


def allow_sockets() -> int:
    """Have this process and its children open as many files as the system lets them; return how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(run_server(json.loads(sys.argv[2])))
    else:
        asyncio.run(run_caller(int(sys.argv[2])))
