"""Policies that follow endpoint weights, over sockets: shares, changes of weight, and removal under load."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import lbkit
from lbkit.address import Endpoint
from lbkit.resolution import Resolution
from lbkit.subchannel import Subchannel
from lbkit_resolvers.manual import Manual
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Backend, Item, fleet, naming, serving, shares, unary, until


def answer(backends: list[Backend], *weights: float) -> Resolution:
    """A resolver's answer of backends with weights."""
    return Resolution(
        tuple(Endpoint(each.address, weight=weight) for each, weight in zip(backends, weights, strict=True))
    )


def connections(channel: lbkit.Channel) -> set[Any]:
    """The connections that the channel has now."""
    return {each.connection for each in channel.subchannels() if isinstance(each, Subchannel)}


async def all_picked(channel: lbkit.Channel, count: int) -> None:
    """Make calls until so many backends are among those that are picked."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await shares(unary(channel), 50)) < count:
            pass


async def test_weighted_round_robin_gives_exact_shares_and_follows_a_change_at_once() -> None:
    async with fleet(3) as backends:
        manual = Manual("weighted")
        manual.update(answer(backends, 1, 2, 4))
        async with lbkit.Channel(manual.target, balancer="weighted_round_robin") as channel:
            await all_picked(channel, 3)
            before = connections(channel)
            assert await shares(unary(channel), 70) == {"backend 0": 10, "backend 1": 20, "backend 2": 40}
            manual.update(answer(backends, 3, 3, 1))
            picker = channel.picker
            await until(lambda: channel.picker is not picker)
            assert await shares(unary(channel), 70) == {"backend 0": 30, "backend 1": 30, "backend 2": 10}
            assert connections(channel) == before


async def test_random_follows_the_weights() -> None:
    async with fleet(3) as backends:
        manual = Manual("weighted")
        manual.update(answer(backends, 1, 1, 2))
        async with lbkit.Channel(manual.target, balancer="random", random=random.Random(5)) as channel:
            await all_picked(channel, 3)
            seen = await shares(unary(channel), 400)
    assert 40 <= seen["backend 0"] <= 160
    assert 40 <= seen["backend 1"] <= 160
    assert 130 <= seen["backend 2"] <= 270


async def test_equal_update_publishes_no_picker() -> None:
    async with fleet(2) as backends:
        manual = Manual("weighted")
        manual.update(answer(backends, 1, 2))
        async with lbkit.Channel(manual.target, balancer="weighted_round_robin") as channel:
            await all_picked(channel, 2)
            picker, before = channel.picker, connections(channel)
            manual.update(answer(backends, 1, 2))
            await shares(unary(channel), 10)
            assert channel.picker is picker
            assert connections(channel) == before


@pytest.mark.parametrize("policy", ["weighted_round_robin", "random", "round_robin", "pick_first"])
async def test_call_in_flight_finishes_on_a_backend_that_is_removed(policy: str) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: lbkit.ServicerContext) -> Any:
        begun.set()
        await finish.wait()
        return kinds_pb2.Item(text="slow")

    async with serving(slow) as old, serving(naming("new")) as new:
        manual = Manual("weighted")
        manual.update(answer([old], 5))
        async with lbkit.Channel(manual.target, balancer=policy) as channel:
            call = asyncio.ensure_future(unary(channel)(Item()))
            await begun.wait()
            (leaving,) = connections(channel)
            manual.update(answer([new], 1))
            assert await shares(unary(channel), 5) == {"new": 5}
            assert not call.done()
            finish.set()
            assert (await call).text == "slow"
            await until(leaving.closed.done)


def test_unknown_option_is_said_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"no option 'shuffleAdressList'\. Did you mean 'shuffleAddressList'"
    ):
        lbkit.Channel("static:///a:1", balancer="pick_first", balancer_config={"shuffleAdressList": True})
