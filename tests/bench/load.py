"""The client's side of one measurement: the same loop, metadata and clock for every peer."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from tests.bench.processes import BrokenError, cpu_seconds, machine_busy_seconds, resident_bytes
from tests.support.protos.bench_pb2 import Payload

DEADLINE_S = 5.0
PAYLOAD_BYTES = 100
_MAX_CALLS = 2_000_000
_IDLE = 0.05  # of what the busiest server does: that much, timers and the like, is no load
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

Metadata = tuple[tuple[str, str], ...]


class EchoStub(Protocol):
    """What every peer's asyncio stub looks like to the load loop."""

    @property
    def Echo(self) -> Callable[..., Awaitable[Payload]]:
        """Make one call: ``Echo(request, timeout=..., metadata=...)``."""
        ...


Connect = Callable[[Sequence[int]], AbstractAsyncContextManager[EchoStub]]


@dataclass(frozen=True, slots=True)
class Job:
    """What one load process is asked to do."""

    ports: tuple[int, ...]
    in_flight: int
    seconds: float
    warm_up: float
    server_pids: tuple[int, ...]
    kind: str = ""  # of flow, where a peer can do several


@dataclass(frozen=True, slots=True)
class Sample:
    """What one timed run gave; ``other_cores`` is how many cores were busy with neither client nor servers.

    Of calls, or of the messages of streams: those have no latency.
    """

    calls: int
    rate: float
    client_us: float
    server_us: float | None
    median_ms: float | None
    p99_ms: float | None
    other_cores: float | None

    @property
    def both_us(self) -> float | None:
        """The CPU time of both sides together."""
        return None if self.server_us is None else self.client_us + self.server_us

    def as_json(self) -> dict[str, Any]:
        """Return the sample as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Sample:
        """Read what ``as_json`` wrote."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


class Meter:
    """Wall time, CPU time of both sides and the latency of each call, from its creation to ``sample()``."""

    def __init__(self, server_pids: Sequence[int]) -> None:
        """Start measuring."""
        self.latencies = array("d")
        self._pids = server_pids
        self._machine = machine_busy_seconds()
        self._server = [cpu_seconds([pid]) for pid in server_pids]
        self._client = client_cpu_seconds()
        self._start = time.perf_counter()

    def sample(self, in_flight: int, messages: int | None = None) -> Sample:
        """Stop measuring.

        Args:
            in_flight: how many calls were made at once.
            messages: how many of them came; None if calls count, by their latencies.

        Raises:
            BrokenError: No call was made, or one of several busy servers got none of the load.
        """
        elapsed = time.perf_counter() - self._start
        client = client_cpu_seconds() - self._client
        used = [
            _used(before, cpu_seconds([pid])) for before, pid in zip(self._server, self._pids, strict=True)
        ]
        busy = _used(self._machine, machine_busy_seconds())
        ordered = sorted(self.latencies)
        calls = len(ordered) if messages is None else messages
        if not calls:
            raise BrokenError("nothing was answered in the timed part")
        known = [value for value in used if value is not None]
        if in_flight > 1 and known and min(known) < _IDLE * max(known):
            raise BrokenError(f"one of {len(used)} servers did nothing: the load was not spread")
        server = sum(known) if len(known) == len(used) else None
        return Sample(
            calls=calls,
            rate=calls / elapsed,
            client_us=client / calls * 1e6,
            server_us=None if server is None else server / calls * 1e6,
            median_ms=ordered[calls // 2] * 1e3 if ordered else None,
            p99_ms=ordered[int(calls * 0.99)] * 1e3 if ordered else None,
            other_cores=None
            if busy is None or server is None
            else max(0.0, busy - client - server) / elapsed,
        )


def client_cpu_seconds() -> float:
    """Return the CPU time that this process has used, all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def payload() -> Payload:
    """Return the request that is echoed."""
    return Payload(body=bytes(range(PAYLOAD_BYTES)))


def changing_metadata() -> Iterator[Metadata]:
    """Give a new traceparent and request id per call, different in every process, by arithmetic alone."""
    for number in itertools.count(time.time_ns()):
        low = number * _GOLDEN & _MASK
        high = low * _GOLDEN & _MASK
        span = high ^ number
        yield (
            ("traceparent", f"00-{high:016x}{low:016x}-{span:016x}-01"),
            ("x-request-id", f"{low ^ span:016x}"),
        )


def metadata_cost_us(count: int = 100_000) -> float:
    """Measure what making one call's metadata costs; it is part of every client's CPU time."""
    source = changing_metadata()
    start = time.perf_counter()
    for _ in range(count):
        next(source)
    return (time.perf_counter() - start) / count * 1e6


async def measure(connect: Connect, job: Job) -> Sample:
    """Keep ``job.in_flight`` calls going over an asyncio stub, first untimed and then timed."""
    async with connect(job.ports) as stub:
        request = payload()
        source = changing_metadata()

        async def worker(end: float, latencies: array[float]) -> None:
            echo = stub.Echo
            now = time.perf_counter()
            for _ in range(_MAX_CALLS):
                if now >= end:
                    return
                await echo(request, timeout=DEADLINE_S, metadata=next(source))
                then, now = now, time.perf_counter()
                latencies.append(now - then)

        await check_echo(stub)
        end = time.perf_counter() + job.warm_up
        await asyncio.gather(*(worker(end, array("d")) for _ in range(job.in_flight)))
        meter = Meter(job.server_pids)
        end = time.perf_counter() + job.seconds
        await asyncio.gather(*(worker(end, meter.latencies) for _ in range(job.in_flight)))
        return meter.sample(job.in_flight)


async def check_echo(stub: EchoStub) -> None:
    """Make one call and compare the reply with the request.

    Raises:
        BrokenError: They differ.
    """
    request = payload()
    reply = await stub.Echo(request, timeout=DEADLINE_S, metadata=next(changing_metadata()))
    if reply != request:
        raise BrokenError("the server did not echo the payload")


async def idle_bytes(connect: Connect, port: int, count: int) -> float | None:
    """Open ``count`` channels, make one call on each, and return the resident bytes each adds to this process."""
    opened: list[AbstractAsyncContextManager[EchoStub]] = []

    async def open_more(number: int) -> int | None:
        for _ in range(number):
            channel = connect([port])
            opened.append(channel)
            await check_echo(await channel.__aenter__())
        return resident_bytes(os.getpid())

    try:
        before = await open_more(max(20, count // 20))
        after = await open_more(count)
    finally:
        for channel in opened:
            await channel.__aexit__(None, None, None)
    return None if before is None or after is None else (after - before) / count


def _used(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
