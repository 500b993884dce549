"""Who knows that the network is back need not wait for the end of back-offs."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import lbkit
from lbkit import ConnectivityState
from lbkit.resolver import Resolver, Sink
from lbkit.target import Target
from lbkit.testing import MemoryNetwork, memory_channel, virtual_time
from lbkit_resolvers.combinators import Debounce
from tests.support.servers import Backend, Item, echo, unary

SLOW = lbkit.BackoffPolicy(initial_s=100.0, multiplier=10.0, jitter=0.0, maximum_s=3600.0)


@pytest.mark.parametrize("balancer", ["round_robin", "pick_first"])
def test_backends_that_are_down_are_tried_at_once(balancer: str) -> None:
    @virtual_time
    async def body() -> None:
        servers = [Backend(echo).server for _ in range(3)]
        async with memory_channel(*servers, balancer=balancer, backoff=SLOW) as channel:
            network = channel.network
            for address in network.addresses:
                network.refuse(address)
            channel.get_state(try_to_connect=True)
            await asyncio.sleep(150)  # the second failure of each, and 1000 s to wait
            assert channel.get_state() is ConnectivityState.TRANSIENT_FAILURE
            for address in network.addresses:
                network.admit(address)
            began = asyncio.get_running_loop().time()
            channel.reset_backoff()
            assert (await unary(channel)(Item(number=7), wait_for_ready=True)).number == 7
            assert asyncio.get_running_loop().time() - began < 1.0

    body()


@virtual_time
async def test_the_next_back_off_is_short_again() -> None:
    async with memory_channel(Backend(echo).server, backoff=SLOW) as channel:
        (address,) = channel.network.addresses
        channel.network.refuse(address)
        channel.get_state(try_to_connect=True)
        await asyncio.sleep(150)
        assert len(channel.network.dials) == 2
        channel.reset_backoff()
        await asyncio.sleep(99)
        assert len(channel.network.dials) == 3
        await asyncio.sleep(2)
        assert len(channel.network.dials) == 4


class Failing(Resolver):
    """Fails until it is told better."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(Target("failing:///x", "failing", "", "x", ""))
        self.works = False
        self.starts = 0
        self._network = network

    async def run(self, sink: Sink) -> None:
        self.starts += 1
        if not self.works:
            raise OSError("the registry is down")
        await self._network.run(sink)


class Pausing(Failing):
    """Goes on by itself after a failure."""

    async def run(self, sink: Sink) -> None:
        while True:
            try:
                await super().run(sink)
            except OSError as error:
                sink.fail(error)
            await sink.pause(500.0)


class Waiting(Failing):
    """Waits to be asked after a failure."""

    async def run(self, sink: Sink) -> None:
        while True:
            try:
                await super().run(sink)
            except OSError as error:
                sink.fail(error)
            await sink.wanted(minimum=300.0, refresh=500.0)


@pytest.mark.parametrize("inside", ["the channel", "a combinator", "a combinator in another"])
@pytest.mark.parametrize("kind", [Failing, Pausing, Waiting])
def test_a_resolver_that_failed_tries_again_at_once(kind: type[Failing], inside: str) -> None:
    @virtual_time
    async def body() -> None:
        network = MemoryNetwork()
        server = Backend(echo).server
        network.add(server)
        await server.start()
        failing = kind(network)
        resolver: Resolver = failing
        for _ in range(inside.count("combinator") + inside.count("another")):
            resolver = Debounce(resolver)
        options: dict[str, Any] = {"resolver": resolver, "connector": network, "random": random.Random(1)}
        async with lbkit.Channel("failing:///x", **options) as channel:
            channel.get_state(try_to_connect=True)
            await asyncio.sleep(1000)
            starts, failing.works = failing.starts, True
            began = asyncio.get_running_loop().time()
            channel.reset_backoff()
            await unary(channel)(Item(), wait_for_ready=True)
            assert asyncio.get_running_loop().time() - began < 1.0
            assert failing.starts == starts + 1
        await server.stop()

    body()


@pytest.mark.parametrize("inside", ["the channel", "a combinator"])
def test_a_resolver_fails_with_short_waits_again(inside: str) -> None:
    @virtual_time
    async def body() -> None:
        failing = Failing(MemoryNetwork())
        options: dict[str, Any] = {"resolver": failing if inside == "the channel" else Debounce(failing)}
        async with lbkit.Channel("failing:///x", **options, random=random.Random(1)) as channel:
            channel.get_state(try_to_connect=True)
            await asyncio.sleep(1000)  # waits of 120 s by now
            channel.reset_backoff()
            starts = failing.starts
            await asyncio.sleep(10)
            assert failing.starts >= starts + 4

    body()


@virtual_time
async def test_channels_that_are_well_or_unused_or_closed_or_idle_do_not_mind() -> None:
    async with memory_channel(Backend(echo).server, idle_timeout=60.0) as channel:
        channel.reset_backoff()
        await unary(channel)(Item())
        channel.reset_backoff()
        await unary(channel)(Item())
        assert len(channel.network.dials) == 1
        await asyncio.sleep(100)
        assert channel.get_state() is ConnectivityState.IDLE
        channel.reset_backoff()
        await asyncio.sleep(100)
        assert channel.get_state() is ConnectivityState.IDLE
    channel.reset_backoff()


def test_it_belongs_to_the_channels_event_loop() -> None:
    channel = lbkit.Channel("static:///127.0.0.1:1", backoff=SLOW)

    async def misuse() -> None:
        with pytest.raises(lbkit.ForeignLoopError):
            channel.reset_backoff()

    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(asyncio.sleep(0))
        one.get_loop().call_soon(channel.get_state, True)
        one.run(asyncio.sleep(0.01))
        other.run(misuse())
        one.run(channel.close())
