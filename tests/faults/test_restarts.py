"""Figures F3 and F4: backends that are replaced and connections that get old, under load, without a failed call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import lbkit
from tests.faults.fleet import Fleet
from tests.faults.load import Load, kinds, milliseconds, tell
from tests.faults.uids import check
from tests.support.servers import all_connected, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]

BACKENDS = 5
RATE = 300
STREAMS_RATE = 15  # thirty of them at a time
STREAM_MS = 2000
AGED_CALLS = 10_000
BACKOFF = lbkit.BackoffPolicy(initial_s=0.1, maximum_s=0.5)


async def restart_all(fleet: Fleet, channel: lbkit.Channel) -> None:
    """Replace one backend after the other, each when the one before is connected again."""
    for backend in fleet.backends:
        await backend.restart()
        await until(
            lambda: all(each.state is lbkit.ConnectivityState.READY for each in channel.subchannels())
        )


async def test_f3_rolling_restart_of_all_backends_fails_no_call(tmp_path: Path) -> None:
    async with Fleet(BACKENDS, tmp_path) as fleet, fleet.channel(backoff=BACKOFF) as channel:
        await all_connected(channel, BACKENDS)
        unary = Load(channel)
        async with unary.at(RATE):
            await asyncio.sleep(1.0)
            await restart_all(fleet, channel)
            await asyncio.sleep(1.0)
        found = check(unary.ledger, fleet.entries())
        tell(
            "F3 rolling restart of all 5, unary",
            len(unary.calls),
            len(unary.failed()),
            milliseconds(call.took for call in unary.calls),
            str(found),
            f"{kinds(unary.failed())}",
        )
        assert not unary.failed()
        assert found.good
        assert {call.backend for call in unary.calls} == {backend.name for backend in fleet.backends}


async def test_f3_rolling_restart_of_all_backends_fails_no_stream(tmp_path: Path) -> None:
    async with Fleet(BACKENDS, tmp_path) as fleet, fleet.channel(backoff=BACKOFF) as channel:
        await all_connected(channel, BACKENDS)
        streams = Load(channel, work_ms=STREAM_MS, timeout=10.0)
        async with streams.at(STREAMS_RATE, streams=True):
            await asyncio.sleep(1.0)
            await restart_all(fleet, channel)
            await asyncio.sleep(1.0)
        found = check(streams.ledger, fleet.entries())
        tell(
            "F3 rolling restart of all 5, streams of 2 s",
            len(streams.calls),
            len(streams.failed()),
            milliseconds(call.took for call in streams.calls),
            str(found),
            f"{kinds(streams.failed())}",
        )
        assert not streams.failed()
        assert found.good


async def test_f4_connections_that_get_old_fail_no_call(tmp_path: Path) -> None:
    options = {"max_connection_age": 2.0}
    async with Fleet(3, tmp_path, server=options) as fleet, fleet.channel(backoff=BACKOFF) as channel:
        await all_connected(channel, 3)
        load = Load(channel)
        async with load.at(RATE + 200):
            await until_made(load, AGED_CALLS)
        found = check(load.ledger, fleet.entries())
        connections = sum([sum((await backend.ask())["connections"].values()) for backend in fleet.backends])
        tell(
            "F4 max_connection_age 2 s",
            len(load.calls),
            len(load.failed()),
            f"{connections} connections",
            milliseconds(call.took for call in load.calls),
            str(found),
            f"{kinds(load.failed())}",
        )
        assert not load.failed()
        assert found.good
        assert connections >= 3 * 5


async def until_made(load: Load, count: int) -> None:
    """Wait for so many calls to end."""
    async with asyncio.timeout(120.0):
        while len(load.calls) < count:  # noqa: ASYNC110 -- a call that ends sets no event
            await asyncio.sleep(0.01)
