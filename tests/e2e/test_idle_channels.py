"""A channel that nobody uses lets go of everything, and the next call gets it back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import lbkit
from lbkit import ConnectivityState
from lbkit.resolver import Resolver, Sink
from lbkit.target import Target
from lbkit.testing import MemoryNetwork, memory_channel, virtual_time
from tests.support.protos import kinds_pb2
from tests.support.servers import Backend, Item, echo, failure, unary, until

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY

HALF_HOUR = 1800.0
LATE = HALF_HOUR / 4


def connections(backend: Backend) -> int:
    """How many the server has."""
    return len(backend.server._connections)


async def called(channel: lbkit.Channel) -> None:
    """Make a call."""
    assert (await unary(channel)(Item(number=7), timeout=60.0)).number == 7


@virtual_time
async def test_after_half_an_hour_without_a_call_everything_is_closed() -> None:
    backend = Backend(echo)
    async with memory_channel(backend.server) as channel:
        await called(channel)
        await asyncio.sleep(HALF_HOUR - 1)
        assert (channel.get_state(), connections(backend)) == (READY, 1)
        await asyncio.sleep(LATE + 1)
        assert (channel.get_state(), connections(backend)) == (IDLE, 0)
        assert channel.subchannels() == ()
        assert channel.network._changed == []  # the resolver's run is over


@pytest.mark.parametrize("balancer", ["round_robin", "pick_first", "random"])
def test_the_next_call_makes_everything_anew(balancer: str) -> None:
    @virtual_time
    async def body() -> None:
        backend = Backend(echo)
        async with memory_channel(backend.server, balancer=balancer) as channel:
            for round_ in range(1, 4):
                await called(channel)
                assert len(channel.network.dials) == round_
                assert channel.get_state() is READY
                await asyncio.sleep(HALF_HOUR + LATE)
                assert channel.get_state() is IDLE

    body()


@virtual_time
async def test_addresses_that_changed_meanwhile_are_used() -> None:
    first, second = Backend(echo), Backend(echo)
    async with memory_channel(first.server, second.server, idle_timeout=60.0) as channel:
        channel.network.remove(channel.network.addresses[1])
        await called(channel)
        await asyncio.sleep(100)
        (old,) = channel.network.addresses
        channel.network._places["10.0.0.2:50051"] = channel.network._places.pop(old)._replace(
            endpoint=lbkit.Endpoint("10.0.0.2:50051")
        )
        await called(channel)
        assert channel.network.dials == ["10.0.0.1:50051", "10.0.0.2:50051"]


@virtual_time
async def test_asking_for_the_state_may_wake_it() -> None:
    async with memory_channel(Backend(echo).server) as channel:
        await called(channel)
        await asyncio.sleep(HALF_HOUR + LATE)
        assert channel.get_state(try_to_connect=True) in {IDLE, CONNECTING}
        await channel.wait_for_state_change(IDLE)
        await channel.wait_for_state_change(CONNECTING)
        assert channel.get_state() is READY
        await asyncio.sleep(HALF_HOUR + 2 * LATE)  # nobody made a call for all that
        assert channel.get_state() is IDLE
        await channel.ready(1.0)


@virtual_time
async def test_open_calls_count_however_quiet_they_are() -> None:
    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(request.number)
        return request

    backend = Backend(slow)
    async with memory_channel(backend.server) as channel:
        assert (await unary(channel)(Item(number=86_400))).number == 86_400
        assert len(channel.network.dials) == 1
        assert channel.get_state() is READY


@virtual_time
async def test_open_streams_count() -> None:
    class Kinds:
        async def StreamStream(self, requests: Any, context: Any) -> Any:
            async for request in requests:
                yield request

    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Kinds())
    async with memory_channel(server) as channel:
        stream = channel.stub(kinds_pb2, "Kinds").StreamStream()
        await stream.write(Item(number=1))
        assert (await stream.read()).number == 1
        await asyncio.sleep(86_400)
        await stream.write(Item(number=2))
        assert (await stream.read()).number == 2
        await stream.done_writing()
        assert len(channel.network.dials) == 1


@virtual_time
async def test_calls_that_wait_for_a_backend_count() -> None:
    async with lbkit.Channel("memory:///x", resolver=MemoryNetwork(), connector=MemoryNetwork()) as channel:
        error = await failure(unary(channel)(Item(), timeout=7200.0, wait_for_ready=True))
        assert error.code() is lbkit.StatusCode.DEADLINE_EXCEEDED
        assert channel.get_state() is not IDLE


@virtual_time
async def test_a_call_now_and_then_keeps_it_awake() -> None:
    async with memory_channel(Backend(echo).server, idle_timeout=60.0) as channel:
        for _ in range(100):
            await called(channel)
            await asyncio.sleep(59.0)
        assert len(channel.network.dials) == 1


@pytest.mark.parametrize("never", [None, 0, float("inf")])
def test_it_can_be_switched_off(never: float | None) -> None:
    @virtual_time
    async def body() -> None:
        async with memory_channel(Backend(echo).server, idle_timeout=never) as channel:
            await called(channel)
            await asyncio.sleep(86_400)
            assert channel.get_state() is READY

    body()


class Slow(Resolver):
    """Takes its time to end, and does not bear to be run twice at a time."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(Target("slow:///x", "slow", "", "x", ""))
        self.runs = 0
        self.running = 0
        self._network = network

    async def run(self, sink: Sink) -> None:
        self.runs += 1
        self.running += 1
        assert self.running == 1
        try:
            await self._network.run(sink)
        finally:
            await asyncio.sleep(5.0)
            self.running -= 1


@virtual_time
async def test_a_call_that_comes_while_it_closes_waits_for_the_end_of_that() -> None:
    network = MemoryNetwork()
    server = Backend(echo).server
    network.add(server)
    await server.start()
    resolver = Slow(network)
    async with lbkit.Channel("slow:///x", resolver=resolver, connector=network, idle_timeout=60.0) as channel:
        await called(channel)
        await channel.wait_for_state_change(READY)
        assert (channel.get_state(), resolver.running) == (IDLE, 1)
        began = asyncio.get_running_loop().time()
        call = asyncio.ensure_future(unary(channel)(Item(number=1), timeout=60.0))
        await channel.wait_for_state_change(IDLE)
        assert channel.get_state() is CONNECTING
        assert (await call).number == 1
        assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.1)
        assert resolver.runs == 2
    await server.stop()


@pytest.mark.parametrize("wanted", [False, True])
def test_it_can_be_closed_while_it_closes_for_want_of_calls(wanted: bool) -> None:
    @virtual_time
    async def body() -> None:
        network = MemoryNetwork()
        server = Backend(echo).server
        network.add(server)
        await server.start()
        resolver = Slow(network)
        channel = lbkit.Channel("slow:///x", resolver=resolver, connector=network, idle_timeout=60.0)
        await called(channel)
        await channel.wait_for_state_change(READY)
        if wanted:
            channel.get_state(try_to_connect=True)
        await channel.close()
        assert (resolver.runs, resolver.running) == (1, 0)
        assert channel.get_state() is ConnectivityState.SHUTDOWN
        await server.stop()

    body()


@virtual_time
async def test_an_idle_channel_can_be_closed() -> None:
    async with memory_channel(Backend(echo).server) as channel:
        await called(channel)
        await asyncio.sleep(HALF_HOUR + LATE)
        assert channel.get_state() is IDLE
    assert channel.get_state() is ConnectivityState.SHUTDOWN


@virtual_time
async def test_who_waits_for_ready_is_not_forgotten() -> None:
    """Nobody makes a call, so the channel goes to sleep; who waits has it wake again."""
    network = MemoryNetwork()
    server = Backend(echo).server
    address = network.add(server)
    network.refuse(address)
    await server.start()
    async with lbkit.Channel(
        "memory:///x", resolver=network, connector=network, idle_timeout=60.0
    ) as channel:
        waiting = asyncio.ensure_future(channel.channel_ready())
        await asyncio.sleep(1000)
        network.admit(address)
        await asyncio.wait_for(waiting, 300)
    await server.stop()


@virtual_time
async def test_selectors_and_service_configs_hold_on_until_there_are_new_ones() -> None:
    config = {"methodConfig": [{"name": [{}], "timeout": "0.5s"}]}

    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(request.number)
        return request

    async with memory_channel(Backend(slow).server, idle_timeout=60.0, service_config=config) as channel:
        for _ in range(2):
            error = await failure(unary(channel)(Item(number=5)))
            assert error.code() is lbkit.StatusCode.DEADLINE_EXCEEDED
            await asyncio.sleep(100)
            assert channel.get_state() is IDLE


async def test_it_works_over_sockets() -> None:
    backend = await Backend(echo).start()
    async with lbkit.Channel(f"static:///{backend.address}", idle_timeout=0.2) as channel:
        await called(channel)
        await until(lambda: channel.get_state() is IDLE)
        await until(lambda: connections(backend) == 0)
        await called(channel)
        assert channel.get_state() is READY
    await backend.server.stop()


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_times_must_make_sense(wrong: float) -> None:
    with pytest.raises(ValueError, match="idle_timeout"):
        lbkit.Channel("static:///127.0.0.1:1", idle_timeout=wrong)
