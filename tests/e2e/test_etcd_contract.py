"""KV and Lease: what the embedded registry answers, and a real etcd as well."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from lbkit.protos import etcd as pb
from lbkit.testing import registry
from tests.support.etcd_contract import (
    ALL,
    Client,
    compact,
    compare,
    create,
    delete,
    get,
    grant,
    keys,
    op,
    put,
    revoke,
    ttl,
    txn,
)
from tests.support.etcd_server import Etcd, etcd
from tests.support.servers import failure

COMPACTED = "OUT_OF_RANGE etcdserver: mvcc: required revision has been compacted"
FUTURE = "OUT_OF_RANGE etcdserver: mvcc: required revision is a future revision"
NO_KEY = "INVALID_ARGUMENT etcdserver: key is not provided"
NO_LEASE = "NOT_FOUND etcdserver: requested lease not found"
DUPLICATE = "INVALID_ARGUMENT etcdserver: duplicate key given in txn request"
TOO_MANY = "INVALID_ARGUMENT etcdserver: too many operations in txn request"
TOO_LARGE = "INVALID_ARGUMENT etcdserver: request is too large"

EQUAL, GREATER, LESS, NOT_EQUAL = 0, 1, 2, 3
ASCEND, DESCEND = 1, 2
KEY, VERSION, CREATE, MOD, VALUE = 0, 1, 2, 3, 4


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    with etcd(Path(tmp_path_factory.mktemp("etcd"))) as node:
        yield node


@pytest.fixture(params=["embedded", pytest.param("etcd", marks=pytest.mark.interop)])
async def client(request: pytest.FixtureRequest) -> AsyncGenerator[Client, None]:
    if request.param == "embedded":
        async with registry() as embedded, Client(embedded.address) as connected:
            yield connected
    else:
        async with Client(request.getfixturevalue("real").address) as connected:
            await connected.clear()
            yield connected


# Revisions and versions


async def test_every_change_is_one_revision(client: Client) -> None:
    base = await client.revision()
    first = await client.do(put(key=b"a", value=b"1"))
    second = await client.do(put(key=b"a", value=b"2", prev_kv=True))
    assert (first.header.revision, second.header.revision) == (base + 1, base + 2)
    assert not first.HasField("prev_kv")
    assert (second.prev_kv.value, second.prev_kv.version) == (b"1", 1)
    (kv,) = (await client.do(get(key=b"a"))).kvs
    assert (kv.create_revision, kv.mod_revision, kv.version, kv.value) == (base + 1, base + 2, 2, b"2")


async def test_a_key_that_is_made_again_starts_anew(client: Client) -> None:
    await client.set(a="1")
    gone = await client.do(delete(key=b"a"))
    again = await client.set(a="2")
    assert gone.deleted == 1
    (kv,) = (await client.do(get(key=b"a"))).kvs
    assert (kv.create_revision, kv.version) == (again, 1)


async def test_what_changes_nothing_is_no_revision(client: Client) -> None:
    base = await client.set(a="1")
    for request in (get(key=b"a"), delete(key=b"none"), txn(success=[op(get(key=b"a"))]), txn()):
        answer = await client.do(request)
        assert answer.header.revision == base
    assert await client.revision() == base


async def test_a_header_names_cluster_member_and_term(client: Client) -> None:
    header = (await client.do(get(key=b"a"))).header
    assert header.cluster_id
    assert header.member_id
    assert header.raft_term >= 2


# Ranges


async def test_ranges_end_before_their_end(client: Client) -> None:
    await client.set(a="1", b="2", ba="3", c="4")
    for key, end, found in (
        (b"b", b"", ["b"]),
        (b"b", b"c", ["b", "ba"]),
        (b"b", ALL, ["b", "ba", "c"]),
        (ALL, ALL, ["a", "b", "ba", "c"]),
        (b"c", b"b", []),
        (b"b", b"b", []),
    ):
        answer = await client.do(get(key=key, range_end=end))
        assert (keys(answer), answer.count, answer.more) == (found, len(found), False)


async def test_limit_says_how_many_there_are_and_that_there_are_more(client: Client) -> None:
    await client.set(a="1", b="2", c="3")
    answer = await client.do(get(key=b"a", range_end=ALL, limit=2))
    assert (keys(answer), answer.count, answer.more) == (["a", "b"], 3, True)
    answer = await client.do(get(key=b"a", range_end=ALL, limit=3))
    assert (keys(answer), answer.more) == (["a", "b", "c"], False)


@pytest.mark.parametrize(
    ("target", "order", "found"),
    [
        (KEY, ASCEND, "abc"),
        (KEY, DESCEND, "cba"),
        (VERSION, ASCEND, "bca"),
        (CREATE, ASCEND, "cba"),
        (CREATE, DESCEND, "abc"),
        (MOD, ASCEND, "bac"),
        (MOD, DESCEND, "cab"),
        (VALUE, ASCEND, "acb"),
        (VALUE, 0, "acb"),  # no order is ascending
    ],
)
async def test_sort(client: Client, target: int, order: int, found: str) -> None:
    await client.set(c="2", b="3", a="1")
    await client.set(a="1")
    await client.set(a="1", c="2")
    answer = await client.do(get(key=b"a", range_end=ALL, sort_target=target, sort_order=order))
    assert "".join(keys(answer)) == found


async def test_without_an_order_the_limit_comes_before_sorting(client: Client) -> None:
    await client.set(d="1", c="2", b="3", a="4")
    answer = await client.do(get(key=b"a", range_end=ALL, sort_target=MOD, limit=1))
    assert keys(answer) == ["b"]  # of the two that it looked at
    answer = await client.do(get(key=b"a", range_end=ALL, sort_target=MOD, sort_order=ASCEND, limit=1))
    assert keys(answer) == ["d"]


async def test_between_revisions_the_limit_comes_after_sorting(client: Client) -> None:
    base = await client.set(d="1", c="2", b="3", a="4")
    answer = await client.do(get(key=b"a", range_end=ALL, sort_target=MOD, limit=1, max_create_revision=base))
    assert (keys(answer), answer.count, answer.more) == (["d"], 4, True)


async def test_keys_only_and_count_only(client: Client) -> None:
    base = await client.set(a="1", b="2")
    answer = await client.do(get(key=b"a", range_end=ALL, keys_only=True))
    assert [(kv.key, kv.value, kv.mod_revision) for kv in answer.kvs] == [
        (b"a", b"", base - 1),
        (b"b", b"", base),
    ]
    answer = await client.do(get(key=b"a", range_end=ALL, count_only=True, limit=1))
    assert (list(answer.kvs), answer.count, answer.more) == ([], 2, False)


async def test_ranges_between_revisions_count_all(client: Client) -> None:
    base = await client.revision()
    await client.set(a="1", b="2", c="3")
    await client.set(a="4")
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"min_mod_revision": base + 3}, ["a", "c"]),
        ({"max_mod_revision": base + 3}, ["b", "c"]),
        ({"min_create_revision": base + 1, "max_create_revision": base + 2}, ["a", "b"]),
    ]
    for bounds, found in cases:
        answer = await client.do(get(key=b"a", range_end=ALL, **bounds))
        assert (keys(answer), answer.count) == (found, 3)


@pytest.mark.parametrize("serializable", [False, True])
async def test_the_past_can_be_read(client: Client, serializable: bool) -> None:
    first = await client.set(a="1")
    last = await client.set(b="1", a="2")
    await client.do(delete(key=b"a"))
    answer = await client.do(get(key=b"a", range_end=ALL, revision=first, serializable=serializable))
    assert [(kv.key, kv.value) for kv in answer.kvs] == [(b"a", b"1")]
    assert answer.header.revision == last + 1
    answer = await client.do(get(key=b"a", range_end=ALL, revision=last, serializable=serializable))
    assert [(kv.key, kv.value) for kv in answer.kvs] == [(b"a", b"2"), (b"b", b"1")]
    assert keys(await client.do(get(key=b"a", range_end=ALL, revision=-1))) == ["b"]
    assert await client.refused(get(key=b"a", revision=last + 2)) == FUTURE


# Compaction


async def test_what_was_before_a_compaction_is_gone(client: Client) -> None:
    first = await client.set(a="1")
    second = await client.set(a="2")
    answer = await client.do(compact(revision=second, physical=True))
    assert answer.header.revision == second
    assert await client.refused(get(key=b"a", revision=first)) == COMPACTED
    assert (await client.do(get(key=b"a", revision=second))).kvs[0].value == b"2"
    assert await client.refused(compact(revision=second)) == COMPACTED
    assert await client.refused(compact(revision=second + 1)) == FUTURE
    assert await client.refused(txn(success=[op(get(key=b"a", revision=first))])) == COMPACTED
    assert await client.refused(txn(success=[op(get(key=b"a", revision=-1))])) == COMPACTED


async def test_a_key_deleted_before_a_compaction_stays_deleted(client: Client) -> None:
    await client.set(a="1", b="1")
    gone = (await client.do(delete(key=b"a"))).header.revision
    await client.do(compact(revision=gone))
    assert keys(await client.do(get(key=b"a", range_end=ALL, revision=gone))) == ["b"]
    await client.set(a="2")
    assert (await client.do(get(key=b"a"))).kvs[0].version == 1


# Puts and deletions


async def test_ignored_values_and_leases_stay(client: Client) -> None:
    await client.do(grant(ID=7, TTL=60))
    await client.do(put(key=b"a", value=b"1"))
    await client.do(put(key=b"a", lease=7, ignore_value=True))
    answer = await client.do(put(key=b"a", value=b"2", ignore_lease=True, prev_kv=True))
    assert (answer.prev_kv.value, answer.prev_kv.lease) == (b"1", 7)
    (kv,) = (await client.do(get(key=b"a"))).kvs
    assert (kv.value, kv.lease, kv.version) == (b"2", 7, 3)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get(), NO_KEY),
        (put(value=b"1"), NO_KEY),
        (delete(range_end=b"b"), NO_KEY),
        (put(key=b"a", value=b"1", ignore_value=True), "INVALID_ARGUMENT etcdserver: value is provided"),
        (put(key=b"a", lease=1, ignore_lease=True), "INVALID_ARGUMENT etcdserver: lease is provided"),
        (put(key=b"none", ignore_value=True), "INVALID_ARGUMENT etcdserver: key not found"),
        (put(key=b"none", ignore_lease=True), "INVALID_ARGUMENT etcdserver: key not found"),
        (put(key=b"a", lease=77), NO_LEASE),
        (put(key=b"a", value=bytes(3 * 2**19)), TOO_LARGE),
        (txn(success=[op(put(key=b"a", value=bytes(3 * 2**19)))]), TOO_LARGE),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else type(value).__name__,
)
async def test_refused(client: Client, request_: object, answer: str) -> None:
    base = await client.revision()
    assert await client.refused(request_) == answer
    assert await client.revision() == base


async def test_requests_over_two_mebibytes_are_refused_unread(client: Client) -> None:
    assert (await client.refused(put(key=b"a", value=bytes(2**21)))).startswith("RESOURCE_EXHAUSTED")
    await client.set(a="1")


async def test_a_range_is_deleted_in_one_revision(client: Client) -> None:
    base = await client.set(a="1", b="2", c="3")
    answer = await client.do(delete(key=b"a", range_end=b"c", prev_kv=True))
    assert (answer.deleted, answer.header.revision) == (2, base + 1)
    assert [(kv.key, kv.value) for kv in answer.prev_kvs] == [(b"a", b"1"), (b"b", b"2")]


# Transactions


async def test_a_transaction_is_one_revision_and_sees_what_it_does(client: Client) -> None:
    base = await client.set(a="1", b="1")
    answer = await client.do(
        txn(
            success=[
                op(get(key=b"a")),
                op(put(key=b"a", value=b"2", prev_kv=True)),
                op(get(key=b"a")),
                op(delete(key=b"b")),
                op(get(key=b"a", range_end=ALL, revision=base)),
            ]
        )
    )
    assert (answer.succeeded, answer.header.revision) == (True, base + 1)
    before, written, after, deleted, past = answer.responses
    assert (before.response_range.kvs[0].value, before.response_range.header.revision) == (b"1", base)
    assert (written.response_put.prev_kv.value, written.response_put.header.revision) == (b"1", base + 1)
    assert after.response_range.kvs[0].value == b"2"
    assert deleted.response_delete_range.deleted == 1
    assert keys(past.response_range) == ["a", "b"]
    assert await client.revision() == base + 1


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"target": 0, "version": 2, "result": EQUAL}, True),
        ({"target": 0, "version": 1, "result": GREATER}, True),
        ({"target": 0, "version": 2, "result": LESS}, False),
        ({"target": 0, "version": 2, "result": NOT_EQUAL}, False),
        ({"target": 1, "create_revision": 1, "result": GREATER}, True),
        ({"target": 1, "create_revision": 0, "result": EQUAL}, False),
        ({"target": 2, "mod_revision": 2**60, "result": LESS}, True),
        ({"target": 3, "value": b"2", "result": EQUAL}, True),
        ({"target": 3, "value": b"1", "result": GREATER}, True),
        ({"target": 3, "value": b"2", "result": NOT_EQUAL}, False),
        ({"target": 4, "lease": 0, "result": EQUAL}, True),
        ({"target": 4, "lease": 1, "result": LESS}, True),
    ],
)
async def test_comparisons(client: Client, condition: dict[str, Any], holds: bool) -> None:
    await client.set(a="1")
    await client.set(a="2")
    answer = await client.do(
        txn(
            compare=[compare(key=b"a", **condition)],
            success=[op(put(key=b"yes"))],
            failure=[op(put(key=b"no"))],
        )
    )
    assert answer.succeeded == holds
    assert keys(await client.do(get(key=b"b", range_end=ALL))) == ["yes" if holds else "no"]


async def test_a_key_that_is_not_there_compares_as_zero_but_has_no_value(client: Client) -> None:
    async def holds(**condition: Any) -> bool:
        answer = await client.do(txn(compare=[compare(key=b"none", **condition)]))
        return bool(answer.succeeded)

    assert await holds(target=0, version=0)
    assert await holds(target=1, create_revision=0)
    assert await holds(target=2, mod_revision=1, result=LESS)
    assert not await holds(target=3, value=b"")
    assert not await holds(target=3, value=b"1", result=NOT_EQUAL)
    assert await holds(target=3, value=b"", range_end=b"nonf", result=9) is False


async def test_comparisons_of_a_later_version_hold_if_they_are_not_for_order(client: Client) -> None:
    await client.set(a="1")
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"result": 9}, True),
        ({"result": -1}, True),
        ({"target": 9}, True),
        ({"target": -1, "result": LESS}, False),
    ]
    for condition, holds in cases:
        answer = await client.do(txn(compare=[compare(key=b"a", **condition)]))
        assert answer.succeeded == holds


async def test_a_comparison_of_a_range_holds_for_each_key_of_it(client: Client) -> None:
    await client.set(a="1", b="1")
    same = compare(key=b"a", range_end=b"c", target=3, value=b"1")
    assert (await client.do(txn(compare=[same]))).succeeded
    await client.set(b="2")
    assert not (await client.do(txn(compare=[same]))).succeeded
    new = compare(key=b"x", range_end=b"y", target=1, create_revision=0)
    assert (await client.do(txn(compare=[new]))).succeeded


async def test_a_transaction_in_a_transaction_compares_before_anything_is_done(client: Client) -> None:
    base = await client.revision()
    answer = await client.do(
        txn(
            success=[
                op(put(key=b"a", value=b"1")),
                op(
                    txn(
                        compare=[compare(key=b"a", target=0, version=1)],
                        success=[op(put(key=b"yes"))],
                        failure=[op(put(key=b"no")), op(get(key=b"a"))],
                    )
                ),
            ]
        )
    )
    assert answer.header.revision == base + 1
    inner = answer.responses[1].response_txn
    assert not inner.succeeded
    assert keys(inner.responses[1].response_range) == ["a"]
    assert keys(await client.do(get(key=b"a", range_end=ALL))) == ["a", "no"]


def puts(*names: bytes) -> list[pb.RequestOp]:
    return [op(put(key=name)) for name in names]


def deletes(key: bytes, end: bytes = b"") -> list[pb.RequestOp]:
    return [op(delete(key=key, range_end=end))]


def inner(then: list[pb.RequestOp], otherwise: list[pb.RequestOp] | None = None) -> list[pb.RequestOp]:
    return [op(txn(success=then, failure=otherwise or []))]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (txn(success=puts(b"a", b"a")), DUPLICATE),
        (txn(failure=puts(b"a", b"a")), DUPLICATE),
        (txn(success=puts(b"b") + deletes(b"a", b"c")), DUPLICATE),
        (txn(success=deletes(b"a") + puts(b"a")), DUPLICATE),
        (txn(success=puts(b"a") + inner(puts(b"a"))), DUPLICATE),
        (txn(success=inner(puts(b"a")) + inner([], puts(b"a"))), DUPLICATE),
        (txn(success=inner(deletes(b"a")) + inner(puts(b"a"))), DUPLICATE),
        (txn(success=puts(b"a") + inner(deletes(b"a"))), DUPLICATE),
        (txn(success=[pb.RequestOp()]), "INVALID_ARGUMENT etcdserver: key not found"),
        (txn(failure=puts(b"")), NO_KEY),
        (txn(failure=deletes(b"")), NO_KEY),
        (txn(failure=[op(get())]), NO_KEY),
        (txn(compare=[compare()]), NO_KEY),
        (txn(compare=[compare(key=b"a")] * 129), TOO_MANY),
        (txn(success=puts(*[b"%d" % n for n in range(129)])), TOO_MANY),
        (txn(success=puts(*[b"%d" % n for n in range(127)]) + inner(puts(b"x"))), TOO_MANY),
        (txn(success=[*puts(b"a"), op(put(key=b"b", lease=99))]), NO_LEASE),
        (txn(success=puts(b"a") + inner([op(put(key=b"b", lease=99))])), NO_LEASE),
        (txn(success=[*puts(b"a"), op(get(key=b"a", revision=2**60))]), FUTURE),
        (
            txn(success=[*puts(b"a"), op(put(key=b"b", ignore_value=True))]),
            "INVALID_ARGUMENT etcdserver: key not found",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
async def test_a_transaction_is_refused_whole(client: Client, request_: object, answer: str) -> None:
    base = await client.revision()
    assert await client.refused(request_) == answer
    assert await client.revision() == base


@pytest.mark.parametrize(
    "request_",
    [
        txn(success=deletes(b"q", b"r") + puts(b"r")),
        txn(success=deletes(b"a") + deletes(b"a")),
        txn(success=inner(puts(b"a"), puts(b"a"))),
        txn(success=inner(puts(b"a")) + inner(deletes(b"a"))),
        txn(success=deletes(b"a", ALL) + puts(b"q")),  # etcd does not see the overlap
        txn(success=puts(b"q") + inner(deletes(b"a", ALL))),
        txn(success=puts(*[b"%d" % n for n in range(126)]) + inner(puts(b"x"))),
        # The other way is taken.
        txn(failure=[op(put(key=b"a", lease=99)), op(get(key=b"a", revision=2**60))]),
        txn(compare=[compare(key=b"a", target=9)], success=puts(b"a"), failure=puts(b"a")),
    ],
)
async def test_what_overlaps_and_is_taken_all_the_same(client: Client, request_: object) -> None:
    await client.set(a="1", q="1")
    await client.do(request_)
    state = {kv.key: kv.version for kv in (await client.do(get(key=ALL, range_end=ALL))).kvs}
    past = await client.do(get(key=ALL, range_end=ALL, revision=await client.revision()))
    assert state == {kv.key: kv.version for kv in past.kvs}


# Leases


async def test_keys_go_with_their_lease_in_one_revision(client: Client) -> None:
    lease = await client.do(grant(TTL=60))
    assert (lease.TTL, lease.error) == (60, "")
    assert lease.ID > 0
    for key in (b"b", b"a"):
        await client.do(put(key=key, lease=lease.ID))
    left = await client.do(ttl(ID=lease.ID, keys=True))
    assert (left.grantedTTL, sorted(left.keys)) == (60, [b"a", b"b"])
    assert 58 <= left.TTL <= 60
    base = await client.set(c="1")
    answer = await client.do(revoke(ID=lease.ID))
    assert answer.header.revision == base + 1
    assert keys(await client.do(get(key=b"a", range_end=ALL))) == ["c"]
    assert await client.refused(revoke(ID=lease.ID)) == NO_LEASE


async def test_a_lease_that_is_not_kept_alive_ends(client: Client) -> None:
    lease = (await client.do(grant(TTL=1))).ID
    written = (await client.do(put(key=b"a", lease=lease))).header.revision
    async with client.watch(create(b"a", start_revision=written + 1)) as watching:
        await watching.created()
        assert await watching.events(1) == [f"DELETE a @{written + 1}"]
    left = await client.do(ttl(ID=lease, keys=True))
    assert (left.ID, left.TTL, left.grantedTTL) == (lease, -1, 0)


async def test_keep_alive_gives_the_whole_time_and_zero_for_who_is_gone(client: Client) -> None:
    lease = (await client.do(grant(TTL=60))).ID
    call = client.lease.LeaseKeepAlive()
    for number, left in ((lease, 60), (4711, 0), (0, 0), (lease, 60)):
        await call.write(pb.LeaseKeepAliveRequest(ID=number))
        answer = await call.read()
        assert (number, left) == (answer.ID, answer.TTL)
        assert answer.header.revision
    await call.done_writing()
    assert (await call.code()).name == "OK"


async def test_a_key_leaves_its_lease_when_it_is_put_without(client: Client) -> None:
    first, second = (await client.do(grant(TTL=60))).ID, (await client.do(grant(TTL=60))).ID
    for key in (b"a", b"b", b"c"):
        await client.do(put(key=key, lease=first))
    await client.set(a="1")
    await client.do(put(key=b"b", lease=second))
    assert list((await client.do(ttl(ID=first, keys=True))).keys) == [b"c"]
    await client.do(delete(key=b"c"))
    await client.do(revoke(ID=first))
    assert keys(await client.do(get(key=b"a", range_end=ALL))) == ["a", "b"]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (grant(ID=5, TTL=60), "FAILED_PRECONDITION etcdserver: lease already exists"),
        (grant(ID=6, TTL=9_000_000_001), "OUT_OF_RANGE etcdserver: too large lease TTL"),
        (revoke(ID=0), NO_LEASE),
    ],
)
async def test_leases_that_are_refused(client: Client, request_: object, answer: str) -> None:
    await client.do(grant(ID=5, TTL=60))
    assert await client.refused(request_) == answer


@pytest.mark.parametrize(("asked", "granted"), [(0, 1), (-5, 1), (1, 1), (9_000_000_000, 9_000_000_000)])
async def test_short_leases_are_granted_the_shortest(client: Client, asked: int, granted: int) -> None:
    lease = await client.do(grant(TTL=asked))
    assert granted == lease.TTL


async def test_leases_are_listed(client: Client) -> None:
    await client.do(grant(ID=5, TTL=60))
    await client.do(grant(ID=-7, TTL=50))
    answer = await client.lease.LeaseLeases(pb.LeaseLeasesRequest())
    assert {lease.ID for lease in answer.leases} == {5, -7}


# The rest


async def test_members_and_status(client: Client) -> None:
    members = await client.cluster.MemberList(pb.MemberListRequest(linearizable=True))
    (member,) = members.members
    assert members.header.member_id == member.ID
    assert list(member.clientURLs) == [f"http://{client.address}"]
    await client.set(a="1")
    status = await client.maintenance.Status(pb.StatusRequest())
    assert status.version.startswith("3.5.")
    assert status.leader == status.header.member_id
    assert status.dbSize > 0
    assert not list((await client.maintenance.Alarm(pb.AlarmRequest())).alarms)


async def test_there_is_no_authentication(client: Client) -> None:
    error = await failure(client.auth.Authenticate(pb.AuthenticateRequest(name="root", password="x")))
    assert error.code().name == "FAILED_PRECONDITION"
    assert error.details() == "etcdserver: authentication is not enabled"
