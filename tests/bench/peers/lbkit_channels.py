"""Load over several channels to the same ports: ``load --kind CHANNELS``."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time

from tests.bench.load import DEADLINE_S, Job, client_cpu_seconds, payload
from tests.bench.peers.command import arguments_of
from tests.bench.peers.lbkit_peer import connect
from tests.bench.processes import cpu_seconds


async def measure(job: Job) -> dict[str, float]:
    """Keep calls going; return their number, their rate and the CPU time of both sides for each."""
    async with contextlib.AsyncExitStack() as stack:
        stubs = [
            await stack.enter_async_context(connect([port]))
            for port, _ in zip(
                itertools.cycle(job.ports), range(max(int(job.kind), len(job.ports))), strict=False
            )
        ]
        request = payload()
        calls = 0

        async def work(number: int, end: float) -> None:
            nonlocal calls
            echo = stubs[number % len(stubs)].Echo
            while time.perf_counter() < end:
                await echo(request, timeout=DEADLINE_S)
                calls += 1

        async def run(seconds: float) -> None:
            end = time.perf_counter() + seconds
            await asyncio.gather(*(work(number, end) for number in range(job.in_flight)))

        await run(job.warm_up)
        calls = 0
        server, client = cpu_seconds(job.server_pids) or 0.0, client_cpu_seconds()
        began = time.perf_counter()
        await run(job.seconds)
        return {
            "calls": calls,
            "rate": calls / (time.perf_counter() - began),
            "server_us": ((cpu_seconds(job.server_pids) or 0.0) - server) / calls * 1e6,
            "client_us": (client_cpu_seconds() - client) / calls * 1e6,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(arguments_of()))), flush=True)
