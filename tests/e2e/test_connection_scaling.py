"""More connections to a backend that lets one connection have only so many calls (gRFC A105), for who asks for it."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from typing import Any

import pytest

import lbkit
from lbkit import ConnectivityState, StatusCode
from lbkit.http2.frames import Setting
from lbkit.testing import memory_channel, virtual_time
from tests.attacks.bad_server import good
from tests.support.servers import (
    GROWING_S,
    PATIENCE_S,
    Backend,
    Item,
    channel_to,
    failure,
    raw_server,
    serving,
    unary,
    until,
)
from tests.support.wire import settings_frame

STREAMS = 10


class Crowd:
    """Handlers that wait until they are let go, and count who they are on."""

    def __init__(self) -> None:
        self.on: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.go = asyncio.Event()

    async def __call__(self, request: Any, context: lbkit.ServicerContext) -> Any:
        peer = context.peer()
        self.on[peer] += 1
        self.peak[peer] = max(self.peak[peer], self.on[peer])
        try:
            await self.go.wait()
        finally:
            self.on[peer] -= 1
        return request

    @property
    def spread(self) -> list[int]:
        """How many calls run on each connection, the oldest connection first."""
        return [number for number in self.on.values() if number]


def calls(channel: lbkit.Channel, count: int, **options: Any) -> list[asyncio.Task[Any]]:
    """Begin some calls."""
    return [asyncio.ensure_future(_one(channel, options)) for _ in range(count)]


async def _one(channel: lbkit.Channel, options: dict[str, Any]) -> Any:
    return await unary(channel)(Item(), **options)


def backend(crowd: Crowd, streams: int = STREAMS) -> Backend:
    return Backend(crowd, max_concurrent_streams=streams)


@virtual_time
async def test_one_connection_is_all_there_is_unless_more_are_allowed() -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server) as channel:
        running = calls(channel, 35)
        await asyncio.sleep(10)
        assert crowd.spread == [STREAMS]
        crowd.go.set()
        await asyncio.gather(*running)
        assert len(channel.network.dials) == 1


@virtual_time
async def test_calls_that_wait_have_more_connections_made() -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server, max_connections_per_backend=5) as channel:
        running = calls(channel, 35)
        await asyncio.sleep(10)
        assert crowd.spread == [STREAMS, STREAMS, STREAMS, 5]
        assert len(channel.subchannels()) == 1
        crowd.go.set()
        await asyncio.gather(*running)
        assert len(channel.network.dials) == 4


@virtual_time
async def test_no_more_than_are_allowed() -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server, max_connections_per_backend=2) as channel:
        running = calls(channel, 35)
        await asyncio.sleep(1000)
        assert crowd.spread == [STREAMS, STREAMS]
        crowd.go.set()
        await asyncio.gather(*running)
        assert crowd.peak.most_common(1)[0][1] <= STREAMS
        assert len(channel.network.dials) == 2


@virtual_time
async def test_a_service_config_may_ask_for_it_and_take_it_back() -> None:
    crowd = Crowd()
    config = {"connectionScaling": {"maxConnectionsPerSubchannel": 2}}
    async with memory_channel(backend(crowd).server, service_config=config) as channel:
        running = calls(channel, 35)
        await asyncio.sleep(10)
        assert crowd.spread == [STREAMS, STREAMS]
        channel._dialler.max_connections = 1  # as an update of the config would
        running += calls(channel, 5)
        await asyncio.sleep(10)
        assert crowd.spread == [STREAMS, STREAMS]  # none is closed for that
        crowd.go.set()
        await asyncio.gather(*running)


@virtual_time
async def test_the_oldest_connection_with_room_is_used() -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server, max_connections_per_backend=5) as channel:
        running = calls(channel, 25)
        await asyncio.sleep(10)
        assert crowd.spread == [10, 10, 5]
        crowd.go.set()
        await asyncio.gather(*running)
        crowd.go.clear()
        again = calls(channel, 12)
        await asyncio.sleep(10)
        assert list(crowd.on.values()) == [10, 2, 0]
        crowd.go.set()
        await asyncio.gather(*again)
        assert len(channel.network.dials) == 3


@virtual_time
async def test_one_attempt_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server, max_connections_per_backend=10) as channel:
        first = calls(channel, STREAMS)
        await asyncio.sleep(1)
        dial = channel.network.connect
        going = most = 0

        async def slowly(*args: Any) -> None:
            nonlocal going, most
            going += 1
            most = max(most, going)
            await asyncio.sleep(1)
            await dial(*args)
            going -= 1

        monkeypatch.setattr(channel.network, "connect", slowly)
        rest = calls(channel, 90)
        await asyncio.sleep(3.5)
        assert len(crowd.spread) == 4
        await asyncio.sleep(10)
        assert most == 1
        assert crowd.spread == [STREAMS] * 10
        crowd.go.set()
        await asyncio.gather(*first, *rest)


@virtual_time
async def test_calls_that_are_over_before_it_is_made_need_none() -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server, max_connections_per_backend=10) as channel:
        running = calls(channel, STREAMS)
        await asyncio.sleep(1)
        unary(channel)(Item()).cancel()
        await asyncio.sleep(1)
        assert len(channel.network.dials) == 1
        crowd.go.set()
        await asyncio.gather(*running)


@virtual_time
async def test_what_cannot_be_made_is_tried_again_after_its_back_off_and_costs_no_call() -> None:
    crowd = Crowd()
    backoff = lbkit.BackoffPolicy(initial_s=1.0, multiplier=2.0, jitter=0.0)
    async with memory_channel(
        backend(crowd).server, max_connections_per_backend=3, backoff=backoff
    ) as channel:
        running = calls(channel, 25)
        (where,) = channel.network.addresses
        await channel.ready(5.0)
        channel.network.refuse(where, errno.ECONNREFUSED)
        await asyncio.sleep(6.5)
        assert channel.get_state() is ConnectivityState.READY
        assert len(channel.network.dials) == 1 + 3  # at 0, 1 and 3 seconds; 7 comes next
        assert crowd.spread == [STREAMS]
        channel.network.admit(where)
        await asyncio.sleep(1)
        assert crowd.spread == [10, 10, 5]
        crowd.go.set()
        await asyncio.gather(*running)


@virtual_time
async def test_losing_one_of_several_loses_its_calls_only() -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server, max_connections_per_backend=3) as channel:
        states: list[str] = []
        running = calls(channel, 30)
        await asyncio.sleep(1)
        (place,) = channel.network._places.values()
        for lost in (0, 1):  # the oldest, and then what is the oldest now
            waiting = calls(channel, 1)
            place.streams[lost].cut()
            await asyncio.sleep(0.5)
            states.append(channel.get_state().name)
            crowd_now = sum(crowd.spread)
            assert crowd_now == 20 + 1
            running += waiting
            await asyncio.sleep(0.5)
            refill = calls(channel, 9)
            await asyncio.sleep(0.5)
            assert sum(crowd.spread) == 30
            running += refill
        assert states == ["READY", "READY"]
        crowd.go.set()
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert sum(isinstance(each, lbkit.RpcError) for each in ended) == 20


@virtual_time
async def test_losing_all_of_them_leaves_ready_and_who_waits_is_asked_again() -> None:
    crowd = Crowd()
    async with memory_channel(backend(crowd).server, max_connections_per_backend=2) as channel:
        running = calls(channel, 25)
        await asyncio.sleep(1)
        assert channel.network.cut() == 2
        await asyncio.sleep(5)
        assert crowd.spread == [5]
        crowd.go.set()
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert sum(isinstance(each, lbkit.RpcError) for each in ended) == 20
        assert len(channel.network.dials) == 3


@pytest.mark.parametrize(
    ("waits", "expected"), [("dial", ["CONNECTING", "READY"]), ("back-off", ["TRANSIENT_FAILURE"])]
)
def test_losing_the_last_one_while_another_is_made(
    waits: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @virtual_time
    async def body() -> None:
        crowd = Crowd()
        backoff = lbkit.BackoffPolicy(initial_s=100.0, jitter=0.0)
        async with memory_channel(
            backend(crowd).server, max_connections_per_backend=2, backoff=backoff, balancer="pick_first"
        ) as channel:
            first = calls(channel, STREAMS)
            await asyncio.sleep(1)
            dial = channel.network.connect

            async def slowly(*args: Any) -> None:
                await asyncio.sleep(5)
                if waits == "back-off":
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
                await dial(*args)

            monkeypatch.setattr(channel.network, "connect", slowly)
            more = calls(channel, 1, timeout=500.0)
            await asyncio.sleep(10 if waits == "back-off" else 2)
            (subchannel,) = channel.subchannels()
            assert subchannel.state is ConnectivityState.READY
            channel.network.cut()
            await asyncio.sleep(0.01)
            seen = [subchannel.state.name]
            await asyncio.sleep(4)
            if subchannel.state.name != seen[-1]:
                seen.append(subchannel.state.name)
            assert seen == expected
            monkeypatch.undo()
            crowd.go.set()
            await asyncio.gather(*first, *more, return_exceptions=True)

    body()


@virtual_time
async def test_an_address_that_is_listed_no_more_drains_all_of_them() -> None:
    crowd = Crowd()
    old, new = backend(crowd), Backend(crowd)
    async with memory_channel(old.server, new.server, max_connections_per_backend=3) as channel:
        first, second = channel.network.addresses
        channel.network.remove(second)
        running = calls(channel, 30)
        await asyncio.sleep(1)
        assert crowd.spread == [10, 10, 10]
        waiting = calls(channel, 5)
        await asyncio.sleep(1)
        channel.network._places[second] = channel.network._places.pop(first)._replace(
            endpoint=lbkit.Endpoint(second)
        )
        channel.network._tell()
        await asyncio.sleep(1)
        assert sum(crowd.spread) == 35
        crowd.go.set()
        await asyncio.gather(*running, *waiting)
        await asyncio.sleep(1)
        assert len(old.server._connections) == 1  # of four


@virtual_time
async def test_back_off_can_be_cut_short() -> None:
    crowd = Crowd()
    backoff = lbkit.BackoffPolicy(initial_s=100.0, jitter=0.0)
    async with memory_channel(
        backend(crowd).server, max_connections_per_backend=2, backoff=backoff
    ) as channel:
        running = calls(channel, 15)
        (where,) = channel.network.addresses
        await channel.ready(5.0)
        channel.network.refuse(where)
        await asyncio.sleep(1)
        channel.network.admit(where)
        channel.reset_backoff()
        await asyncio.sleep(1)
        assert crowd.spread == [10, 5]
        crowd.go.set()
        await asyncio.gather(*running)


async def test_c22_limit_of_none_makes_no_more_than_are_allowed_and_then_rests() -> None:
    def answer(peer: Any, stream_id: int) -> bytes:
        return good(peer, stream_id)

    none = settings_frame((Setting.MAX_CONCURRENT_STREAMS, 0))
    async with (
        raw_server(answer, none) as server,
        channel_to(server.port, max_connections_per_backend=3) as channel,
    ):
        for timeout in GROWING_S:
            error = await failure(unary(channel)(Item(), timeout=timeout))
            assert error.code() is StatusCode.DEADLINE_EXCEEDED
            if len(server.peers) >= 3:
                break
        assert len(server.peers) == 3
        call = asyncio.ensure_future(_one(channel, {"timeout": PATIENCE_S}))
        await asyncio.sleep(0)
        server.peers[1].writer.write(settings_frame((Setting.MAX_CONCURRENT_STREAMS, 1)))
        await call  # by whichever has room first
        assert len(server.peers) == 3


async def test_c22_limit_that_is_lowered_later_has_another_one_made() -> None:
    crowd = Crowd()
    async with (
        serving(crowd, max_concurrent_streams=100) as one,
        channel_to(one, max_connections_per_backend=2) as channel,
    ):
        running = calls(channel, 5)
        await until(lambda: crowd.spread == [5])
        (connection,) = channel._dialler._connections
        connection.engine.max_streams = 5  # type: ignore[misc]  # as its SETTINGS would
        running += calls(channel, 5)
        await until(lambda: crowd.spread == [5, 5])
        crowd.go.set()
        await asyncio.gather(*running)


@pytest.mark.parametrize("wrong", [0, 11, -1])
def test_numbers_must_make_sense(wrong: int) -> None:
    with pytest.raises(ValueError, match="max_connections_per_backend"):
        lbkit.Channel("static:///127.0.0.1:1", max_connections_per_backend=wrong)
