"""How long the etcd resolver waits for what, and for whom not: in virtual time, without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.protos import etcd
from lbkit.testing import memory_channel, virtual_time
from lbkit.testing.memory import MemoryChannel
from lbkit_resolvers.etcd import EtcdResolver
from tests.support.etcd_following import Following, following, target
from tests.support.etcd_liar import CREATED, GOOD, Liar, good_range, refusing, saying

NEEDS_PEOPLE = [
    (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
]


@asynccontextmanager
async def followed(liar: Liar, **options: Any) -> AsyncGenerator[tuple[Following, MemoryChannel], None]:
    """Run a resolver of ``s`` that asks this server."""
    async with (
        memory_channel(liar.server, random=random.Random(3), **options) as channel,
        following(EtcdResolver(target("etcd:///s"), channel=channel)) as seen,
    ):
        yield seen, channel


@pytest.mark.parametrize(("code", "text"), NEEDS_PEOPLE)
def test_what_only_people_can_mend_is_tried_again_after_half_a_minute_or_when_told(
    code: StatusCode, text: str
) -> None:
    @virtual_time
    async def body() -> None:
        liar = Liar()
        liar.range = refusing(code, text)
        async with followed(liar) as (seen, _):
            await asyncio.sleep(29.0)
            assert (liar.ranges, len(seen.errors)) == (1, 1)
            await asyncio.sleep(600.0)
            assert 600 / 72 - 1 <= liar.ranges <= 600 / 32 + 1
            assert (seen.answers, len(seen.errors)) == ([], 1)
            before, liar.range = liar.ranges, good_range
            seen.host.reset_backoff()
            await asyncio.sleep(0.1)
            assert (liar.ranges, seen.addresses, seen.host.error) == (before + 1, ["10.0.0.1:80"], None)

    body()


@virtual_time
async def test_who_was_told_waits_as_at_first_again() -> None:
    liar = Liar()
    liar.range = refusing(StatusCode.INTERNAL, "?")
    async with followed(liar) as (seen, _):
        await asyncio.sleep(120.0)  # 5 to 15 s by now
        before = liar.ranges
        seen.host.reset_backoff()
        await asyncio.sleep(5.0)
        assert liar.ranges - before >= 3


@virtual_time
async def test_a_channel_that_was_given_is_told_too() -> None:
    slow, liar = lbkit.BackoffPolicy(initial_s=1000.0, maximum_s=1000.0), Liar()
    async with followed(liar, backoff=slow) as (seen, channel):
        await seen.shows("10.0.0.1:80")
        (address,) = channel.network.addresses
        channel.network.refuse(address)
        channel.network.cut()
        await asyncio.sleep(60.0)
        dials = len(channel.network.dials)
        channel.network.admit(address)
        await asyncio.sleep(60.0)
        assert (seen.host.error is None, len(channel.network.dials)) == (False, dials)
        seen.host.reset_backoff()
        await asyncio.sleep(3.0)
        assert (seen.host.error, len(channel.network.dials)) == (None, dials + 1)
        assert seen.answers == [["10.0.0.1:80"]]


@virtual_time
async def test_a_cluster_that_hangs_without_a_quorum_is_asked_for_what_may_be_stale() -> None:
    """As etcd does it: a linearizable Range waits for 7 s, a serializable one not at all."""
    liar = Liar()

    async def hanging(request: Any, context: lbkit.ServicerContext) -> Any:
        if not request.serializable:
            await asyncio.sleep(7.0)
            await context.abort(StatusCode.UNAVAILABLE, "etcdserver: request timed out")
        return GOOD

    liar.range = hanging
    async with followed(liar) as (seen, _):
        await asyncio.sleep(2.9)
        assert seen.answers == []
        await asyncio.sleep(0.2)
        assert seen.answers == [["10.0.0.1:80"]]
        assert seen.latest.source.endswith(", may be stale")
        assert "DEADLINE_EXCEEDED" in seen.errors[0]
        liar.range = good_range
        await asyncio.sleep(5.0)
        assert seen.latest.source.endswith(", revision 10")


@virtual_time
async def test_a_watch_that_says_nothing_is_asked_after_a_minute_and_left_ten_seconds_later() -> None:
    liar = Liar()
    asked: list[float] = []
    clock = asyncio.get_running_loop()
    began = clock.time()

    async def silent(
        requests: AsyncIterator[Any], context: lbkit.ServicerContext
    ) -> AsyncGenerator[Any, None]:
        yield CREATED
        await anext(requests)
        async for request in requests:
            assert request.WhichOneof("request_union") == "progress_request"
            asked.append(clock.time() - began)

    liar.watch = silent
    async with followed(liar) as (seen, _):
        await asyncio.sleep(69.0)
        assert asked == pytest.approx([60.0], abs=0.5)
        assert (liar.watches, seen.errors) == (1, [])
        await asyncio.sleep(2.0)
        assert liar.watches == 2
        assert "fallen silent" in seen.errors[0]
        assert seen.answers == [["10.0.0.1:80"]]


@virtual_time
async def test_a_watch_that_answers_is_kept() -> None:
    liar = Liar()

    async def alive(
        requests: AsyncIterator[Any], context: lbkit.ServicerContext
    ) -> AsyncGenerator[Any, None]:
        async for request in requests:
            progress = request.WhichOneof("request_union") == "progress_request"
            yield etcd.WatchResponse(header=CREATED.header, watch_id=-1) if progress else CREATED

    liar.watch = alive
    async with followed(liar) as (seen, _):
        await asyncio.sleep(3600.0)
        assert (liar.ranges, liar.watches, seen.errors) == (1, 1, [])


@virtual_time
async def test_a_watch_that_is_compacted_again_and_again_is_reported_once_and_opened_more_and_more_rarely() -> (
    None
):
    liar = Liar()
    liar.watch = saying(etcd.WatchResponse(header=CREATED.header, canceled=True, compact_revision=9))
    async with followed(liar) as (seen, _):
        await asyncio.sleep(0.04)
        assert (liar.watches, seen.errors) == (1, [])
        await asyncio.sleep(120.0)
        assert 120 / 7.5 <= liar.watches <= 120 / 2.5 + 8
        assert len(seen.errors) == 1
        assert "what happened before revision 9 was compacted; the list is read again" in seen.errors[0]
        liar.watch = liar.good_watch
        await asyncio.sleep(20.0)
        assert (seen.answers, seen.host.error) == ([["10.0.0.1:80"]], None)
