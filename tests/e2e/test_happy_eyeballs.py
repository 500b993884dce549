"""Backends with several addresses, and lists whose first address leads nowhere, over sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator

import pytest

import lbkit
from lbkit.address import Endpoint
from lbkit.resolution import Resolution
from lbkit_resolvers.manual import Manual
from tests.support.servers import Item, fleet, naming, serving, unary


@pytest.fixture
def silent() -> Generator[str, None, None]:
    """An address where connections are accepted, by the system alone, and nobody says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


async def answered_by(*endpoints: Endpoint, balancer: str) -> tuple[str, float, list[str]]:
    """Make one call; return who answered, after how many seconds, and the subchannels there are then."""
    manual = Manual("eyeballs")
    manual.update(Resolution(endpoints))
    loop = asyncio.get_running_loop()
    async with lbkit.Channel(manual.target, balancer=balancer) as channel:
        began = loop.time()
        reply = await unary(channel)(Item(), timeout=10.0)
        took = loop.time() - began
        return reply.text, took, [str(each.endpoint) for each in channel.subchannels()]


@pytest.mark.parametrize("balancer", ["round_robin", "pick_first"])
async def test_backend_answers_at_its_second_address_while_the_first_is_silent(
    silent: str, balancer: str
) -> None:
    async with serving(naming("alive")) as backend:
        name, took, _ = await answered_by(Endpoint([silent, backend.address]), balancer=balancer)
    assert name == "alive"
    assert took >= 0.24  # and not the 20 s that an attempt may take


@pytest.mark.parametrize("balancer", ["round_robin", "pick_first"])
async def test_refused_address_costs_no_delay(closed: str, balancer: str) -> None:
    async with serving(naming("alive")) as backend:
        endpoint = Endpoint([closed, "[::1]:" + closed.rpartition(":")[2], backend.address])
        name, _, _ = await answered_by(endpoint, balancer=balancer)
    assert name == "alive"


async def test_pick_first_goes_on_to_the_next_backend_and_drops_the_silent_one(silent: str) -> None:
    async with fleet(2) as (first, second):
        endpoints = [Endpoint(address) for address in (silent, first.address, second.address)]
        name, took, left = await answered_by(*endpoints, balancer="pick_first")
    assert name == "backend 0"
    assert took >= 0.24
    assert left == [first.address]


async def test_error_names_every_address_of_the_backend(closed: str) -> None:
    other = "[::1]:" + closed.rpartition(":")[2]
    manual = Manual("eyeballs")
    manual.update(Resolution((Endpoint([closed, other]),)))
    async with lbkit.Channel(manual.target) as channel:
        with pytest.raises(lbkit.RpcError) as caught:
            await unary(channel)(Item(), timeout=10.0)
    details = caught.value.details()
    assert f"{closed}: connection refused" in details
    assert f"{other}: " in details
