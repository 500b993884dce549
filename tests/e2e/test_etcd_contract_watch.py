"""Watch: what the embedded registry tells, and a real etcd as well."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from lbkit.protos import etcd as pb
from lbkit.testing import registry
from tests.support.etcd_contract import (
    ALL,
    Client,
    ask_progress,
    cancel,
    compact,
    create,
    delete,
    grant,
    op,
    put,
    revoke,
    txn,
)
from tests.support.etcd_server import Etcd, etcd

NOPUT, NODELETE = 0, 1


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    with etcd(
        Path(tmp_path_factory.mktemp("etcd")), "--experimental-watch-progress-notify-interval", "200ms"
    ) as node:
        yield node


@pytest.fixture(params=["embedded", pytest.param("etcd", marks=pytest.mark.interop)])
async def client(request: pytest.FixtureRequest) -> AsyncGenerator[Client, None]:
    if request.param == "embedded":
        async with registry(progress_interval=0.2) as embedded, Client(embedded.address) as connected:
            yield connected
    else:
        async with Client(request.getfixturevalue("real").address) as connected:
            await connected.clear()
            yield connected


async def test_changes_come_with_what_was_before(client: Client) -> None:
    async with client.watch(create(b"a", b"b", prev_kv=True)) as watching:
        (answer,) = await watching.created()
        base = await client.revision()
        assert (answer.watch_id, answer.canceled, answer.header.revision) == (0, False, base)
        await client.set(a="1", b="not watched")
        await client.set(a="2")
        await client.do(delete(key=b"a"))
        assert await watching.events(3) == [
            f"PUT a=1 @{base + 1}",
            f"PUT a=2 @{base + 3} [1]",
            f"DELETE a @{base + 4} [2]",
        ]


async def test_without_prev_kv_there_is_none(client: Client) -> None:
    async with client.watch(create(b"a")) as watching:
        await watching.created()
        base = await client.set(a="1")
        await client.set(a="2")
        await client.do(delete(key=b"a"))
        assert await watching.events(3) == [
            f"PUT a=1 @{base}",
            f"PUT a=2 @{base + 1}",
            f"DELETE a @{base + 2}",
        ]


async def test_the_past_is_told_first(client: Client) -> None:
    base = await client.set(a="1")
    await client.set(a="2")
    await client.do(delete(key=b"a"))
    async with client.watch(create(b"a", start_revision=base + 1, prev_kv=True)) as watching:
        await watching.created()
        await client.set(a="3")
        assert await watching.events(3) == [
            f"PUT a=2 @{base + 1} [1]",
            f"DELETE a @{base + 2} [2]",
            f"PUT a=3 @{base + 3}",
        ]


async def test_a_watch_of_the_future_waits_for_it(client: Client) -> None:
    base = await client.set(a="1")
    async with client.watch(create(b"a", start_revision=base + 3)) as watching:
        await watching.created()
        for value in ("2", "3", "4"):
            await client.set(a=value)
        assert await watching.events(1) == [f"PUT a=4 @{base + 3}"]


async def test_a_revision_is_never_divided(client: Client) -> None:
    async with client.watch(create(b"a", b"z", prev_kv=True)) as watching:
        await watching.created()
        base = await client.set(c="0")
        assert await watching.events(1) == [f"PUT c=0 @{base}"]
        await client.do(
            txn(success=[op(put(key=b"b", value=b"1")), op(put(key=b"a", value=b"2")), op(delete(key=b"c"))])
        )
        response = await watching.next()
        assert response.header.revision == base + 1
        assert [event.kv.key for event in response.events] == [b"b", b"a", b"c"]
        assert {event.kv.mod_revision for event in response.events} == {base + 1}


async def test_a_lease_that_ends_deletes_its_keys_in_their_order(client: Client) -> None:
    async with client.watch(create(b"a", b"z", prev_kv=True)) as watching:
        await watching.created()
        await client.do(grant(ID=5, TTL=60))
        base = await client.revision()
        for key in (b"c", b"a", b"b"):
            await client.do(put(key=key, value=b"1", lease=5))
        await watching.events(3)
        await client.do(revoke(ID=5))
        assert await watching.events(3) == [f"DELETE {key} @{base + 4} [1]" for key in "abc"]


async def test_the_same_when_its_time_is_up(client: Client) -> None:
    async with client.watch(create(b"a", b"z")) as watching:
        await watching.created()
        await client.do(grant(ID=5, TTL=1))
        base = await client.revision() + 2
        for key in (b"b", b"a"):
            await client.do(put(key=key, lease=5))
        await watching.events(2)
        assert await watching.events(2) == [f"DELETE a @{base + 1}", f"DELETE b @{base + 1}"]


async def test_several_watches_share_a_stream(client: Client) -> None:
    requests = create(b"a", watch_id=7), create(b"a"), create(b"b"), create(b"b", watch_id=1), create(b"b")
    async with client.watch(*requests) as watching:
        answers = await watching.created(5)
        refused = [answer for answer in answers if answer.canceled]
        assert [answer.watch_id for answer in answers] == [7, 0, 1, -1, 2]
        assert [answer.cancel_reason for answer in refused] == [
            "mvcc: duplicate watch ID provided on the WatchStream"
        ]
        await client.set(a="1")
        assert {(await watching.next()).watch_id for _ in range(2)} == {7, 0}
        await watching.send(cancel(99))  # nobody minds
        await watching.send(cancel(7))
        ended = await watching.next()
        assert (ended.watch_id, ended.canceled, ended.created, ended.cancel_reason) == (7, True, False, "")
        await client.set(a="2")
        assert (await watching.next()).watch_id == 0


@pytest.mark.parametrize(("key", "end"), [(b"b", b"a"), (b"b", b"b")])
async def test_a_range_with_nothing_in_it_is_refused(client: Client, key: bytes, end: bytes) -> None:
    async with client.watch(create(key, end)) as watching:
        (answer,) = await watching.created()
    assert (answer.watch_id, answer.canceled) == (-1, True)
    assert answer.cancel_reason == "mvcc: watcher range is empty"


@pytest.mark.parametrize(("key", "end"), [(ALL, ALL), (b"", ALL)])
async def test_everything_can_be_watched(client: Client, key: bytes, end: bytes) -> None:
    async with client.watch(create(key, end)) as watching:
        await watching.created()
        base = await client.set(a="1", z="2")
        assert await watching.events(2) == [f"PUT a=1 @{base - 1}", f"PUT z=2 @{base}"]


async def test_filters_leave_out_puts_or_deletions(client: Client) -> None:
    requests = create(b"a", filters=[NOPUT]), create(b"a", filters=[NODELETE])
    async with client.watch(*requests, create(b"a", filters=[NOPUT, NODELETE])) as watching:
        await watching.created(3)
        await client.set(a="1")
        await client.do(delete(key=b"a"))
        told = {}
        for _ in range(2):
            response = await watching.next()
            told[response.watch_id] = [event.type for event in response.events]
        assert told == {0: [pb.Event.DELETE], 1: [pb.Event.PUT]}


async def test_who_asks_is_told_how_far_the_stream_is(client: Client) -> None:
    async with client.watch(create(b"a")) as watching:
        await watching.created()
        base = await client.set(b="not watched")
        await watching.send(ask_progress())
        answer = await watching.next()
        assert (answer.watch_id, answer.header.revision, list(answer.events)) == (-1, base, [])


async def test_who_wants_it_is_told_now_and_then(client: Client) -> None:
    async with client.watch(create(b"b"), create(b"a", progress_notify=True)) as watching:
        await watching.created(2)
        base = await client.set(c="not watched")
        response = await watching.next()
        while response.header.revision < base:
            response = await watching.next()
        assert (response.watch_id, response.header.revision, list(response.events)) == (1, base, [])


async def test_a_watch_of_what_was_compacted_is_cancelled_with_what_is_left(client: Client) -> None:
    base = await client.set(a="1")
    await client.set(a="2", b="1")
    await client.do(compact(revision=base + 1))
    async with client.watch(create(b"a", start_revision=base)) as watching:
        (answer,) = await watching.created()
        assert not answer.canceled
        ended = await watching.next()
        assert (ended.canceled, ended.compact_revision, ended.watch_id) == (True, base + 1, 0)
        assert (ended.created, ended.cancel_reason, ended.header.revision) == (False, "", 0)
        await watching.send(create(b"a", start_revision=base + 1, prev_kv=True))
        await watching.created()
        assert await watching.events(1) == [f"PUT a=2 @{base + 1}"]  # what it was is gone


async def test_a_deletion_after_the_compacted_revision_is_told(client: Client) -> None:
    base = await client.set(a="1")
    await client.do(delete(key=b"a"))
    await client.do(compact(revision=base))
    async with client.watch(create(b"a", start_revision=base)) as watching:
        await watching.created()
        assert await watching.events(2) == [f"PUT a=1 @{base}", f"DELETE a @{base + 1}"]


async def test_a_large_response_comes_in_parts_to_who_takes_them(client: Client) -> None:
    base = await client.revision()
    for number in range(4):
        await client.do(put(key=b"a%d" % number, value=bytes(700_000)))
    async with client.watch(create(b"a", b"b", start_revision=base + 1, fragment=True)) as watching:
        await watching.created()
        responses = [await watching.next(), await watching.next()]
    assert [response.fragment for response in responses] == [True, False]
    assert [event.kv.key for response in responses for event in response.events] == [
        b"a0",
        b"a1",
        b"a2",
        b"a3",
    ]


async def test_a_long_past_is_told_whole_and_in_order(client: Client) -> None:
    base = await client.set(a="0")
    for number in range(20):
        await client.do(
            txn(success=[op(put(key=b"a%03d" % (100 * number + n), value=b"1")) for n in range(100)])
        )
    for number in range(1100):
        await client.do(put(key=b"a", value=b"%d" % number))
    async with client.watch(create(b"a", b"b", start_revision=base)) as watching:
        await watching.created()
        told = await watching.events(1 + 2000 + 1100)
    revisions = [int(event.rpartition("@")[2]) for event in told]
    assert revisions == sorted(revisions)
    assert len(told) == 1 + 2000 + 1100
    assert revisions[-1] == base + 20 + 1100


async def test_watches_go_on_when_the_client_asks_for_no_more(client: Client) -> None:
    async with client.watch(create(b"a")) as watching:
        await watching.created()
        await watching.call.done_writing()
        base = await client.set(a="1")
        assert await watching.events(1) == [f"PUT a=1 @{base}"]


async def test_a_request_for_nothing_is_ignored(client: Client) -> None:
    async with client.watch(pb.WatchRequest(), create(b"a")) as watching:
        await watching.created()
