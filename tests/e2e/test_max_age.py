"""Connections that get old are replaced, without losing a call (gRFC A9)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.transport.setup import MaxAge
from tests.support.servers import (
    PATIENCE_S,
    Backend,
    Item,
    channel_to,
    failure,
    raw_client,
    serving,
    unary,
    until,
)
from tests.support.wire import Frame

MANY = 100  # frames; the server closes the connection long before


def goaways(received: list[Frame]) -> list[tuple[int, bytes]]:
    """The last stream id and the debug data of each."""
    return [
        (int.from_bytes(each.payload[:4], "big"), each.payload[8:])
        for each in received
        if each.kind == frames.GOAWAY
    ]


async def test_an_old_connection_is_drained_in_two_phases() -> None:
    async with serving(max_connection_age=0.1) as backend, raw_client(backend.port) as client:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while len(client.received) < MANY:
                await client.next_frame()
    assert goaways(client.received) == [(frames.MAX_STREAM_ID, b"max_age"), (0, b"max_age")]


async def test_calls_pass_from_one_connection_to_the_next() -> None:
    connections = set()

    async def behave(request: Any, context: lbkit.ServicerContext) -> Any:
        connections.add(context.peer())
        await asyncio.sleep(0.005)
        return request

    async with serving(behave, max_connection_age=0.1) as backend, channel_to(backend) as channel:

        async def call_on() -> None:
            while len(connections) < 5:
                assert (await unary(channel)(Item(number=7), timeout=PATIENCE_S)).number == 7

        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(call_on() for _ in range(10)))


async def slow(request: Any, context: lbkit.ServicerContext) -> Any:
    await asyncio.sleep(0.4)
    return request


async def test_without_a_grace_calls_last_as_long_as_they_want() -> None:
    async with serving(slow, max_connection_age=0.05) as backend, channel_to(backend) as channel:
        assert (await unary(channel)(Item(number=1), timeout=PATIENCE_S)).number == 1


async def test_the_grace_ends_what_is_left() -> None:
    ended = asyncio.Event()

    async def endless(request: Any, context: lbkit.ServicerContext) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    options: Any = {"max_connection_age": 0.05, "max_connection_age_grace": 0.05}
    async with serving(endless, **options) as backend, channel_to(backend) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


async def test_stopping_a_server_while_connections_age_waits_for_calls() -> None:
    backend = await Backend(slow, max_connection_age=0.05).start()
    async with channel_to(backend) as channel:
        call = unary(channel)(Item(number=3), timeout=PATIENCE_S)
        await until(lambda: backend.calls)
        await asyncio.gather(backend.server.stop(PATIENCE_S), call)
        assert (await call).number == 3


def test_ages_are_spread_by_a_tenth() -> None:
    """A fleet that was connected to in one moment is not reconnected to in one."""
    max_age = MaxAge(100.0, None, random.Random(7))
    ages = [max_age.draw() for _ in range(1000)]
    assert 90.0 <= min(ages) < 91.0
    assert 109.0 < max(ages) <= 110.0


@pytest.mark.parametrize(
    "options", [{"max_connection_age": 0.0}, {"max_connection_age": 1.0, "max_connection_age_grace": -1.0}]
)
def test_times_must_make_sense(options: Any) -> None:
    with pytest.raises(ValueError, match="max_connection_age"):
        lbkit.Server(**options)
