"""The client's side of a flow: many messages on few streams, or few calls with large messages."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from tests.bench.load import DEADLINE_S, PAYLOAD_BYTES, Job, Meter, Sample, payload
from tests.bench.processes import BrokenError
from tests.support.protos.bench_pb2 import Payload

SERVICE = "lbkit.bench.Flows"
STREAM, DOWN, UP = "Stream", "Down", "Up"  # its methods
MIB = 1024 * 1024
BLOCK = bytes(range(256)) * (MIB // 256)
_MAX_MESSAGES = 50_000_000  # of one stream: more than any run reads
_MAX_CALLS = 200_000

OpenStream = Callable[[Payload], AbstractAsyncContextManager[AsyncIterator[Payload]]]
Call = Callable[..., Awaitable[bytes]]


# What the servers do, the same for every peer


async def messages(request: Payload, context: Any) -> AsyncGenerator[Payload, None]:
    """Send the request back again and again, as a new message each time."""
    for _ in range(_MAX_MESSAGES):
        yield Payload(body=request.body)


async def down(request: bytes, context: Any) -> bytes:
    """Send a large message."""
    return BLOCK


async def up(request: bytes, context: Any) -> bytes:
    """Take a large message, and say how large it was."""
    return b"%d" % len(request)


# What the clients do


class _Tally:
    """What the readers of all streams have got so far."""

    def __init__(self) -> None:
        self.messages = 0
        self.body_bytes = 0


async def measure_streams(open_stream: OpenStream, job: Job) -> Sample:
    """Read ``job.in_flight`` endless streams at once, and count what comes in the timed part.

    Raises:
        BrokenError: a stream ended before its time, or messages came without their content.
    """
    tally = _Tally()

    async def read() -> None:
        async with open_stream(payload()) as stream:
            async for message in stream:
                tally.messages += 1
                tally.body_bytes += len(message.body)

    readers = [asyncio.ensure_future(read()) for _ in range(job.in_flight)]
    try:
        await _go_on(readers, job.warm_up)
        meter, before = Meter(job.server_pids), tally.messages
        await _go_on(readers, job.seconds)
        sample = meter.sample(job.in_flight, tally.messages - before)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    if tally.body_bytes != tally.messages * PAYLOAD_BYTES:
        raise BrokenError(f"{tally.messages} messages had {tally.body_bytes} bytes of content")
    return sample


async def measure_bulk(call: Call, job: Job) -> Sample:
    """Make calls of 1 MiB one way, ``job.in_flight`` at once, first untimed and then timed.

    Raises:
        BrokenError: an answer was wrong.
    """
    request, answer = (b"", BLOCK) if job.kind == DOWN else (BLOCK, b"%d" % MIB)

    async def worker(end: float, latencies: array[float]) -> None:
        now = time.perf_counter()
        for _ in range(_MAX_CALLS):
            if now >= end:
                return
            found = await call(request, timeout=DEADLINE_S)
            then, now = now, time.perf_counter()
            latencies.append(now - then)
            if len(found) != len(answer):
                raise BrokenError(f"{len(found)} bytes came, not {len(answer)}")

    if await call(request, timeout=DEADLINE_S) != answer:
        raise BrokenError("what came is not what was sent")
    end = time.perf_counter() + job.warm_up
    await asyncio.gather(*(worker(end, array("d")) for _ in range(job.in_flight)))
    meter = Meter(job.server_pids)
    end = time.perf_counter() + job.seconds
    await asyncio.gather(*(worker(end, meter.latencies) for _ in range(job.in_flight)))
    return meter.sample(job.in_flight)


async def _go_on(readers: Sequence[asyncio.Future[None]], seconds: float) -> None:
    """Let the readers read for a while."""
    ended, _ = await asyncio.wait(readers, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for reader in ended:
        reader.result()
        raise BrokenError("a stream ended before its time")
