"""Figure F21: an event loop that stands still takes nobody else for dead."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import lbkit
from tests.faults.fleet import Fleet
from tests.faults.load import Load, kinds, tell
from tests.faults.node import STALL
from tests.support.servers import Item, all_connected, unary, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(120)]

BACKENDS = 2
STALL_S = 3.0
ROUNDS = 3
LENIENT = {"ping_interval_s": 0.0, "idle_ping_interval_s": 0.0}


def pings(channel: lbkit.Channel) -> int:
    """How many keepalive PINGs were sent."""
    return channel.counters.seen["keepalive_pings"]


async def test_f21_a_stalled_client_kills_no_healthy_connection() -> None:
    """Each stall begins when a PING has just gone out, so that its time to be answered passes meanwhile."""
    options: dict[str, Any] = {"keepalive": 1.0, "keepalive_timeout": 1.0}
    async with Fleet(BACKENDS, limits=LENIENT) as fleet, fleet.channel(**options) as channel:
        await all_connected(channel, BACKENDS)
        load = Load(channel, work_ms=int((ROUNDS * (STALL_S + 2.0) + 2.0) * 1000), timeout=60.0)
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(load.call())
            for _ in range(ROUNDS):
                before = pings(channel)
                await until(lambda: pings(channel) > before)  # noqa: B023 -- awaited here
                time.sleep(STALL_S)  # noqa: ASYNC251 -- the fault
                await asyncio.sleep(0.5)
        seen = [await backend.ask() for backend in fleet.backends]
        tell(
            f"F21 client's loop stalled {ROUNDS} times for {STALL_S:.0f} s, keepalive 1 s and 1 s",
            len(load.calls),
            len(load.failed()),
            f"{pings(channel)} PINGs, {channel.counters.exceeded['keepalive_timeout']} connections given up",
            f"{kinds(load.failed())}",
        )
        assert not load.failed()
        assert not channel.counters.exceeded
        assert [each["connections"] for each in seen] == [{"backend 0": 1}, {"backend 1": 1}]


@pytest.mark.parametrize(("timeout_s", "survives"), [(5.0, True), (1.0, False)])
async def test_f21_a_stalled_server_is_given_the_time_that_was_set(timeout_s: float, survives: bool) -> None:
    """From outside it cannot be told from a dead one: what is allowed to stall must be below the time-out."""
    options: dict[str, Any] = {"keepalive": 0.5, "keepalive_timeout": timeout_s}
    async with Fleet(1, limits=LENIENT) as fleet, fleet.channel(**options) as channel:
        await all_connected(channel, 1)
        call = unary(channel)(Item(number=int(STALL_S * 1000), body=STALL), timeout=20.0)
        code = await call.code()
        tell(
            f"F21 server's loop stalled for {STALL_S:.0f} s by a handler, keepalive 0.5 s and {timeout_s:g} s",
            1,
            int(code is not lbkit.StatusCode.OK),
            f"{pings(channel)} PINGs, {channel.counters.exceeded['keepalive_timeout']} connections given up",
        )
        assert (code is lbkit.StatusCode.OK) == survives
