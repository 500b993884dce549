"""Figures F19 and F20: answers of the resolver that never stop changing, and one with a thousand addresses."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

import lbkit
from lbkit_resolvers.manual import Manual
from tests.faults.fleet import Fleet
from tests.faults.load import Load, kinds, milliseconds, tell
from tests.faults.victim import allow_sockets
from tests.support.servers import PATIENCE_S, Item, all_connected, unary

pytestmark = [pytest.mark.soak, pytest.mark.timeout(120)]

READY, CONNECTING = lbkit.ConnectivityState.READY, lbkit.ConnectivityState.CONNECTING

SERVERS = 60
LISTED = 50
STAYING = 40  # of those listed; the others are drawn for each update
UPDATES_PER_S = 100
CHURN_S = 8.0
RATE = 300

ADDRESSES = 1000
MAX_DIALS = 100
RUNS = 3


async def spent(seconds: float, load: Load) -> tuple[float, int]:
    """Wait, and return the CPU time that this process used meanwhile, and how many calls it made."""
    cpu, calls = time.process_time(), len(load.calls)
    await asyncio.sleep(seconds)
    return time.process_time() - cpu, len(load.calls) - calls


async def test_f19_an_answer_that_keeps_changing_costs_no_connection() -> None:
    rng = random.Random(19)
    async with Fleet(1, servers=SERVERS) as fleet:
        (backend,) = fleet.backends
        addresses = [f"127.0.0.1:{port}" for port in backend.ports]
        staying, passing = addresses[:STAYING], addresses[STAYING:]
        handle = Manual("f19")
        updates = 0

        def update() -> None:
            listed = [*staying, *rng.sample(passing, LISTED - STAYING)]
            rng.shuffle(listed)
            handle.update([lbkit.Endpoint(each, weight=rng.choice((1.0, 2.0, 3.0))) for each in listed])

        async def churn() -> None:
            nonlocal updates
            loop = asyncio.get_running_loop()
            due = loop.time()
            while True:
                update()
                updates += 1
                due += 1 / UPDATES_PER_S
                await asyncio.sleep(due - loop.time())

        update()
        async with lbkit.Channel(handle.target, balancer="round_robin") as channel:
            await all_connected(channel, LISTED)
            load = Load(channel)
            async with load.at(RATE):
                calm_s, calm_calls = await spent(3.0, load)
                churning = asyncio.get_running_loop().create_task(churn())
                stormy_s, stormy_calls = await spent(CHURN_S, load)
                churning.cancel()
                await asyncio.wait([churning])
        connections = (await backend.ask())["connections"]
        kept = {connections.get(f"{backend.name}.{number}", 0) for number in range(STAYING)}
        # At the rate that was meant, whatever else the machine does.
        share = (stormy_s - calm_s / calm_calls * stormy_calls) / updates * UPDATES_PER_S
        tell(
            f"F19 {updates / CHURN_S:.0f} updates a second of {LISTED} addresses, {STAYING} of which stay",
            len(load.calls),
            len(load.failed()),
            f"connections to each address that stayed: {sorted(kept)} (1)",
            f"{share:.0%} of a core for {UPDATES_PER_S} updates a second (< 30 %)",
            milliseconds(call.took for call in load.calls),
            f"{kinds(load.failed())}",
        )
        assert not load.failed()
        assert kept == {1}
        assert updates >= UPDATES_PER_S
        assert share < 1.0  # 30 % on a quiet machine


async def test_f20_the_first_call_does_not_wait_for_a_thousand_connections() -> None:
    allow_sockets()
    async with Fleet(1, ports=(0,) * ADDRESSES) as fleet:
        target = "static:///" + ",".join(f"127.0.0.1:{port}" for port in fleet.backends[0].ports)
        firsts, alls, most = [], [], 0
        for _ in range(RUNS):
            loop = asyncio.get_running_loop()
            async with lbkit.Channel(target, balancer="round_robin") as channel:
                began = loop.time()
                await unary(channel)(Item(), timeout=PATIENCE_S)
                firsts.append(loop.time() - began)
                async with asyncio.timeout(PATIENCE_S):
                    while True:
                        states = [each.state for each in channel.subchannels()]
                        most = max(most, states.count(CONNECTING))
                        if states.count(READY) == ADDRESSES:
                            break
                        await asyncio.sleep(0.001)
                alls.append(loop.time() - began)
        tell(
            f"F20 {ADDRESSES} addresses at once",
            RUNS,
            0,
            f"first call {milliseconds(firsts)} (<= 200)",
            f"all connected after {milliseconds(alls)}",
            f"at most {most} attempts at a time (<= {MAX_DIALS})",
        )
        assert most <= MAX_DIALS
        assert sorted(firsts)[RUNS // 2] <= 1.0  # 200 ms on a quiet machine
