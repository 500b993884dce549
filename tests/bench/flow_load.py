"""The client's side of a flow: many messages on few streams, or few calls with large messages."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from tests.bench.load import DEADLINE_S, PAYLOAD_BYTES, Job, Meter, Sample, payload
from tests.bench.processes import BrokenError
from tests.support.protos.bench_pb2 import Payload

SERVICE = "lbkit.bench.Flows"
STREAM, GATHER, CHAT, DOWN, UP, GZIP = "Stream", "Gather", "Chat", "Down", "Up", "Gzip"  # its methods
STREAMS = (STREAM, GATHER, CHAT)  # from the server, from the client, both ways
MIB = 1024 * 1024
BLOCK = bytes(range(256)) * (MIB // 256)
TEXT = b"".join(b'{"id": %d, "name": "%x"}, ' % (n, n * n * 2654435761) for n in range(4000))[
    :100_000
]  # to a third
_MAX_MESSAGES = 50_000_000  # of one stream: more than any run reads
_MAX_CALLS = 200_000

Call = Callable[..., Awaitable[bytes]]


# What the servers do, the same for every peer


async def messages(request: Payload, context: Any) -> AsyncGenerator[Payload, None]:
    """Send the request back again and again, as a new message each time."""
    for _ in range(_MAX_MESSAGES):
        yield Payload(body=request.body)


async def gather(requests: AsyncIterator[Payload], context: Any) -> Payload:
    """Count the messages of a stream."""
    count = 0
    async for request in requests:
        count += len(request.body) == PAYLOAD_BYTES
    return Payload(body=b"%d" % count)


async def chat(requests: AsyncIterator[Payload], context: Any) -> AsyncGenerator[Payload, None]:
    """Send each request of a stream back, as a new message."""
    async for request in requests:
        yield Payload(body=request.body)


async def down(request: bytes, context: Any) -> bytes:
    """Send a large message."""
    return BLOCK


async def up(request: bytes, context: Any) -> bytes:
    """Take a large message, and say how large it was."""
    return b"%d" % len(request)


async def back(request: bytes, context: Any) -> bytes:
    """Send a message back."""
    return request


# What the clients do


class _Tally:
    """What all streams have carried so far."""

    def __init__(self) -> None:
        self.messages = 0
        self.body_bytes = 0
        self.stop = False

    async def requests(self, counted: bool) -> AsyncGenerator[Payload, None]:
        """Give requests until it is time to stop."""
        request = payload()
        for _ in range(_MAX_MESSAGES):
            if self.stop:
                return
            if counted:
                self.messages += 1
                self.body_bytes += PAYLOAD_BYTES
            yield Payload(body=request.body)

    async def read(self, responses: AsyncIterator[Payload]) -> None:
        """Count responses."""
        async for message in responses:
            self.messages += 1
            self.body_bytes += len(message.body)


async def measure_streams(channel: Any, job: Job) -> Sample:
    """Use ``job.in_flight`` endless streams at once, and count what they carry in the timed part.

    Args:
        channel: of lbkit or grpc.aio: the calls are the same.
        job: what to do; its kind is the method.

    Raises:
        BrokenError: a stream ended before its time, or messages came without their content.
    """
    tally = _Tally()
    users = [asyncio.ensure_future(_USERS[job.kind](channel, tally)) for _ in range(job.in_flight)]
    try:
        await _go_on(users, job.warm_up)
        meter, before = Meter(job.server_pids), tally.messages
        await _go_on(users, job.seconds)
        sample = meter.sample(job.in_flight, tally.messages - before)
        tally.stop = True
        if job.kind == GATHER:  # whose servers say in the end what they got
            counts = await asyncio.wait_for(asyncio.gather(*users), DEADLINE_S)
            if sum(counts) != tally.messages:
                raise BrokenError(f"{tally.messages} messages were sent, {sum(counts)} came")
    finally:
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)
    if tally.body_bytes != tally.messages * PAYLOAD_BYTES:
        raise BrokenError(f"{tally.messages} messages had {tally.body_bytes} bytes of content")
    return sample


def _method(make: Callable[..., Any], kind: str) -> Any:
    return make(
        f"/{SERVICE}/{kind}",
        request_serializer=Payload.SerializeToString,
        response_deserializer=Payload.FromString,
    )


async def _use_stream(channel: Any, tally: _Tally) -> int:
    call = _method(channel.unary_stream, STREAM)(payload())
    try:
        await tally.read(call)
    finally:
        call.cancel()
    return 0


async def _use_gather(channel: Any, tally: _Tally) -> int:
    call = _method(channel.stream_unary, GATHER)(tally.requests(counted=True))
    try:
        return int((await call).body)
    finally:
        call.cancel()


async def _use_chat(channel: Any, tally: _Tally) -> int:
    call = _method(channel.stream_stream, CHAT)(tally.requests(counted=False))
    try:
        await tally.read(call)
    finally:
        call.cancel()
    return 0


_USERS = {STREAM: _use_stream, GATHER: _use_gather, CHAT: _use_chat}


# What is sent, and what has to come.
_LARGE = {DOWN: (b"", BLOCK), UP: (BLOCK, b"%d" % MIB), GZIP: (TEXT, TEXT)}


async def measure_bulk(call: Call, job: Job) -> Sample:
    """Make calls with large messages, ``job.in_flight`` at once, first untimed and then timed.

    Raises:
        BrokenError: an answer was wrong.
    """
    request, answer = _LARGE[job.kind]

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


async def _go_on(users: Sequence[asyncio.Future[int]], seconds: float) -> None:
    """Let the streams flow for a while."""
    ended, _ = await asyncio.wait(users, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for user in ended:
        user.result()
        raise BrokenError("a stream ended before its time")
