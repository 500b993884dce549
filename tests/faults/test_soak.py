"""Long runs: nothing fails, and memory does not grow."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import lbkit
from tests.support.protos import helloworld_pb2

BACKENDS = 3
WORKERS = 32
WARM_UP_CALLS = 3_000
CALLS = 20_000
MAX_GROWTH_MIB = 4.0
STATM = Path("/proc/self/statm")

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not STATM.exists(), reason="needs /proc")]


class Greeter:
    """Say hello, and who says it."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def SayHello(self, request: helloworld_pb2.HelloRequest, context: Any) -> helloworld_pb2.HelloReply:
        return helloworld_pb2.HelloReply(message=f"{self.name} greets {request.name}")


@asynccontextmanager
async def backend(name: str) -> AsyncGenerator[int, None]:
    """Serve a greeter on a free port."""
    server = lbkit.Server()
    server.add(helloworld_pb2, "Greeter", Greeter(name))
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=1.0)


def resident_mib() -> float:
    """The memory of this process that is in RAM, litter taken out first."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def call_many(greeter: Any, count: int) -> tuple[Counter[str], Counter[str]]:
    """Make the calls from all workers; count the answers per backend, and the failures per kind."""
    numbers = iter(range(count))
    shares: Counter[str] = Counter()
    failures: Counter[str] = Counter()

    async def work() -> None:
        for number in numbers:
            try:
                reply = await greeter.SayHello(helloworld_pb2.HelloRequest(name=str(number)), timeout=10.0)
            except lbkit.RpcError as error:
                failures[repr(error)] += 1
            else:
                name, _, greeted = reply.message.partition(" greets ")
                if greeted != str(number):
                    failures["answer to another call"] += 1
                shares[name] += 1

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return shares, failures


@pytest.mark.timeout(600)
async def test_steady_load_neither_fails_nor_grows() -> None:
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(backend(f"backend {n}")) for n in range(BACKENDS)]
        target = "static:///" + ",".join(f"127.0.0.1:{port}" for port in ports)
        channel = await stack.enter_async_context(lbkit.Channel(target, balancer="round_robin"))
        greeter = channel.stub(helloworld_pb2, "Greeter")

        await call_many(greeter, WARM_UP_CALLS)
        before = resident_mib()
        started = time.monotonic()
        shares, failures = await call_many(greeter, CALLS)
        elapsed = time.monotonic() - started
        growth = resident_mib() - before

    print(f"\n{CALLS} calls in {elapsed:.1f} s, {CALLS / elapsed:.0f}/s from {WORKERS} workers")
    print(f"shares {dict(sorted(shares.items()))}, failures {dict(failures)}")
    print(f"resident memory {before:.1f} MiB after warm-up, grown by {growth:+.2f} MiB")
    assert not failures
    assert max(shares.values()) - min(shares.values()) <= WORKERS
    assert growth < MAX_GROWTH_MIB
