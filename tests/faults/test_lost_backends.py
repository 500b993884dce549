"""Figures F1, F2 and F6: backends that are killed, that freeze, and that are all down for a while."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.transport.connector import SocketConnector
from tests.faults.fleet import Fleet
from tests.faults.load import Call, Load, kinds, milliseconds, tell
from tests.faults.uids import check
from tests.support.servers import all_connected, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(120)]

BACKENDS = 5
RATE = 400
_KILL_S = 0.2  # a call that begins so long after a kill does not come to the process any more
BACKOFF = lbkit.BackoffPolicy(initial_s=0.2, maximum_s=2.0)


def in_flight(channel: lbkit.Channel, address: str) -> int:
    """How many calls are on one backend."""
    return sum(each.in_flight for each in channel.subchannels() if str(each.endpoint) == address)


async def test_f1_a_killed_backend_costs_the_calls_it_had(tmp_path: Path) -> None:
    async with Fleet(BACKENDS, tmp_path) as fleet, fleet.channel(backoff=BACKOFF) as channel:
        loop = asyncio.get_running_loop()
        await all_connected(channel, BACKENDS)
        load = Load(channel, work_ms=50)
        victim = fleet.backends[1]
        async with load.at(RATE):
            await asyncio.sleep(3.0)
            had = in_flight(channel, victim.address)
            await victim.kill()
            killed = loop.time()
            await asyncio.sleep(5.0)
        failed = load.failed()
        last = max((call.began - killed for call in failed), default=0.0)
        found = check(load.ledger, fleet.entries())
        tell(
            "F1 kill -9 of 1 of 5",
            len(load.calls),
            len(failed),
            f"{had} calls were on it",
            f"the last that failed began {last * 1000:+.0f} ms from the kill",
            f"all {milliseconds(call.took for call in load.calls)}",
            str(found),
        )
        # Those picked between the gauge and the signal.
        assert len(failed) <= max(had, 1) + RATE / BACKENDS * 0.05
        assert {call.backend for call in failed} <= {victim.address}
        assert {call.code for call in failed} <= {StatusCode.UNAVAILABLE}
        assert not load.failed(killed + 1.0)
        assert found.good


async def test_f2_a_frozen_backend_is_found_out_by_keepalive() -> None:
    limits = {"ping_interval_s": 0.0, "idle_ping_interval_s": 0.0}
    options = {"backoff": BACKOFF, "keepalive": 1.0, "keepalive_timeout": 1.0, "connect_timeout": 2.0}
    async with Fleet(BACKENDS, limits=limits) as fleet, fleet.channel(**options) as channel:
        loop = asyncio.get_running_loop()
        await all_connected(channel, BACKENDS)
        load = Load(channel)
        victim = fleet.backends[2]
        async with load.at(RATE):
            await asyncio.sleep(2.0)
            had = in_flight(channel, victim.address)
            victim.signal(signal.SIGSTOP)
            frozen = loop.time()
            await asyncio.sleep(5.0)
            thawed = loop.time()
            victim.signal(signal.SIGCONT)
            await asyncio.sleep(5.0)
        failed = load.failed()
        last = max((call.began - frozen for call in failed), default=0.0)
        back = load.answered_by(victim.name, thawed)
        returned = back[0].ended - thawed if back else float("inf")
        tell(
            "F2 SIGSTOP of 1 of 5, keepalive 1 s and 1 s",
            len(load.calls),
            len(failed),
            f"the last call that it got was picked {last:.2f} s after (<= 2.5)",
            f"failed calls waited {milliseconds(call.took for call in failed)}",
            f"traffic was back {returned:.2f} s after SIGCONT (<= 5)",
            f"{channel.counters.exceeded['keepalive_timeout']} connections given up",
        )
        assert last <= 2.5
        assert {call.backend for call in failed} == {victim.address}
        assert len(failed) <= had + RATE / BACKENDS * 3.0
        assert not load.failed(frozen + 2.5)
        assert returned <= 5.0
        assert channel.counters.exceeded["keepalive_timeout"] == 1


class CountingConnector(SocketConnector):
    """Counts the attempts at each address."""

    def __init__(self) -> None:
        self.attempts: Counter[str] = Counter()

    async def connect(self, address: lbkit.Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Count, and connect."""
        self.attempts[str(address)] += 1
        await super().connect(address, protocol)


async def test_f6_all_backends_down_for_5_s() -> None:
    connector = CountingConnector()
    backoff = lbkit.BackoffPolicy(maximum_s=2.0)
    async with Fleet(BACKENDS) as fleet, fleet.channel(backoff=backoff, connector=connector) as channel:
        loop = asyncio.get_running_loop()
        await all_connected(channel, BACKENDS)
        patient = Load(channel, wait_for_ready=True, timeout=30.0)
        hasty = Load(channel)
        async with patient.at(20), hasty.at(100):
            await asyncio.sleep(1.0)
            await until(lambda: not patient.running)  # calls that are on a backend that is killed do fail
            for backend in fleet.backends:
                backend.signal(signal.SIGKILL)
            down = loop.time()
            connector.attempts.clear()
            await asyncio.gather(*(backend.process.wait() for backend in fleet.backends))
            await asyncio.sleep(5.0 - (loop.time() - down))
            attempts = dict(connector.attempts)
            began_again = loop.time()
            await fleet.backends[0].start()
            up = loop.time()
            await asyncio.gather(*(backend.start() for backend in fleet.backends[1:]))
            await asyncio.sleep(max(0.0, up + 4.0 - loop.time()))

        def while_down(call: Call) -> bool:
            return down + _KILL_S < call.began < began_again

        failed_fast = [call for call in hasty.failed() if while_down(call)]
        back = min(call.ended for call in hasty.calls if call.code is None and call.began > down + _KILL_S)
        lost = patient.failed(down + _KILL_S)
        tell(
            "F6 all 5 down for 5 s, wait_for_ready",
            len(patient.calls),
            len(lost),
            f"others failed in {milliseconds(call.took for call in failed_fast)} (<= 20)",
            f"answers {back - up:.2f} s after the return (<= 2.5)",
            f"attempts at an address in 5 s: {sorted(attempts.values())} (<= 5)",
            f"{kinds(lost)}",
        )
        assert not lost
        assert {call.code for call in failed_fast} == {StatusCode.UNAVAILABLE}
        assert sorted(call.took for call in failed_fast)[len(failed_fast) // 2] <= 0.02
        assert back - up <= 2.5
        assert max(attempts.values()) <= 6
        assert not hasty.failed(up + 2.5)
