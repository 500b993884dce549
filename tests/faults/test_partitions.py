"""Figure F17: the network to one backend of five lets nothing through for 10 s, and then heals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import lbkit
from lbkit.testing import FaultProxy
from tests.faults.fleet import Fleet
from tests.faults.load import Load, kinds, milliseconds, tell
from tests.support.servers import all_connected, target_of, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(120)]

BACKENDS = 5
RATE = 400
PARTITION_S = 10.0
KEEPALIVE_S = TIMEOUT_S = 1.0
SLACK_S = 0.5  # a machine with other things to do
LENIENT = {"ping_interval_s": 0.0, "idle_ping_interval_s": 0.0}


async def test_f17_a_partition_costs_calls_on_that_backend_only() -> None:
    backoff = lbkit.BackoffPolicy(initial_s=0.2, maximum_s=2.0)
    async with Fleet(BACKENDS, limits=LENIENT) as fleet, FaultProxy(fleet.backends[0].address) as proxy:
        others = [backend.address for backend in fleet.backends[1:]]
        async with lbkit.Channel(
            target_of(proxy.address, *others),
            backoff=backoff,
            connect_timeout=2.0,
            keepalive=KEEPALIVE_S,
            keepalive_timeout=TIMEOUT_S,
        ) as channel:
            loop = asyncio.get_running_loop()
            await all_connected(channel, BACKENDS)
            load = Load(channel)
            async with load.at(RATE):
                await asyncio.sleep(2.0)
                proxy.blackhole()
                parted = loop.time()
                await until(lambda: channel.counters.exceeded["keepalive_timeout"])
                found_out = loop.time() - parted
                await asyncio.sleep(PARTITION_S - found_out)
                proxy.heal()
                healed = loop.time()
                await asyncio.sleep(5.0)
            failed = load.failed()
            last = max((call.began - parted for call in failed), default=0.0)
            back = [call for call in load.answered_by("backend 0", healed) if call.began > parted]
            returned = back[0].ended - healed if back else float("inf")
            tell(
                "F17 partition of 1 of 5 for 10 s, keepalive 1 s and 1 s",
                len(load.calls),
                len(failed),
                f"found out after {found_out:.2f} s (<= {KEEPALIVE_S + TIMEOUT_S:g})",
                f"the last call that failed was picked {last:.2f} s after it",
                f"failed calls waited {milliseconds(call.took for call in failed)}",
                f"traffic was back {returned:.2f} s after it healed (<= 3)",
                f"{kinds(failed)}",
            )
            assert failed
            assert {call.backend for call in failed} == {proxy.address}
            assert found_out <= KEEPALIVE_S + TIMEOUT_S + SLACK_S
            assert last <= found_out
            assert returned <= 3.0
            assert channel.counters.exceeded["keepalive_timeout"] == 1


async def test_f17_a_partition_in_one_direction_is_found_out_as_well() -> None:
    """The backend hears us, and we do not hear it: calls are served, and nobody knows."""
    async with Fleet(1, limits=LENIENT) as fleet, FaultProxy(fleet.backends[0].address) as proxy:
        options: dict[str, Any] = {"keepalive": KEEPALIVE_S, "keepalive_timeout": TIMEOUT_S}
        async with lbkit.Channel(target_of(proxy.address), **options) as channel:
            await all_connected(channel, 1)
            loop = asyncio.get_running_loop()
            load = Load(channel, timeout=10.0)
            await load.call()
            for direction in ("up", "down"):
                proxy.blackhole("up" if direction == "up" else "down")
                began = loop.time()
                await load.call()
                took = loop.time() - began
                proxy.heal()
                await channel.ready(10.0)
                await load.call()
                tell(f"F17 nothing comes {direction}", 1, 1, f"found out after {took:.2f} s (<= 2)")
                assert took <= KEEPALIVE_S + TIMEOUT_S + SLACK_S
            assert len(load.failed()) == 2
            assert channel.counters.exceeded["keepalive_timeout"] == 2
