"""``lbkit.testing.registry()``: what tests may do to it, and what it stands."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

import lbkit
from lbkit.protos import etcd as pb
from lbkit.registry import Registry
from lbkit.registry.refusals import Refusal
from lbkit.testing import memory_channel, registry, virtual_time
from tests.support.etcd_contract import (
    ALL,
    Client,
    create,
    get,
    grant,
    keys,
    op,
    put,
    revoke,
    ttl,
    txn,
)
from tests.support.servers import failure, until

HASLEADER = (("hasleader", "true"),)


async def test_its_address_and_its_targets() -> None:
    async with registry() as embedded:
        assert embedded.target("greeter") == f"etcd://{embedded.address}/greeter"
        assert embedded.target("greeter", scheme="kratos") == f"kratos://{embedded.address}/greeter"
        async with Client(embedded.address) as client:
            answer = await client.cluster.MemberList(pb.MemberListRequest())
        assert list(answer.members[0].clientURLs) == [f"http://{embedded.address}"]


async def test_an_order_that_there_is_not_is_refused() -> None:
    """A real etcd 3.5 takes an unknown order, and crashes at an unknown target."""
    async with registry() as embedded, Client(embedded.address) as client:
        for request in (get(key=b"a", sort_order=3), get(key=b"a", sort_target=5)):
            assert await client.refused(request) == "INVALID_ARGUMENT etcdserver: invalid sort option"


async def test_keys_are_put_and_deleted_from_inside() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        async with client.watch(create(ALL, ALL)) as watching:
            await watching.created()
            assert embedded.put("a/1", "x") == embedded.revision == 2
            embedded.put(b"a/2", b"y")
            assert embedded.items("a/") == embedded.items() == {b"a/1": b"x", b"a/2": b"y"}
            assert (embedded.get("a/1"), embedded.get("a/3")) == (b"x", None)
            assert (embedded.delete("a/1"), embedded.delete("a/1")) == (1, 0)
            embedded.put("b", "z")
            assert embedded.delete("a/", prefix=True) == 1
            assert embedded.delete("", prefix=True) == 1
            assert len(await watching.events(6)) == 6
        with pytest.raises(Refusal, match="key is not provided"):
            embedded.put("", "")
        with pytest.raises(Refusal, match="requested lease not found"):
            embedded.put("a", "", lease=5)


async def test_keys_that_end_with_ff_have_a_prefix_too() -> None:
    async with registry() as embedded:
        for key in (b"a\xff", b"a\xff1", b"b", b"\xff\xff"):
            embedded.put(key, b"")
        assert embedded.items(b"a\xff").keys() == {b"a\xff", b"a\xff1"}
        assert embedded.items(b"\xff").keys() == {b"\xff\xff"}


async def test_backends_are_listed_as_etcds_naming_package_does() -> None:
    async with registry() as embedded:
        embedded.add("greeter", "127.0.0.1:50051", {"weight": 3})
        embedded.add("greeter", "127.0.0.1:50052")
        record = embedded.get("greeter/127.0.0.1:50051")
        assert record is not None
        assert json.loads(record) == {"Op": 0, "Addr": "127.0.0.1:50051", "Metadata": {"weight": 3}}
        embedded.remove("greeter", "127.0.0.1:50051")
        assert list(embedded.items("greeter/")) == [b"greeter/127.0.0.1:50052"]


# Outages


async def test_an_outage_keeps_the_port_and_what_is_in_it() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        base = await client.set(a="1")
        async with client.watch(create(b"a")) as watching:
            await watching.created()
            await embedded.stop()
            with pytest.raises(lbkit.RpcError) as caught:
                await watching.next()
            assert caught.value.code() is lbkit.StatusCode.UNAVAILABLE
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(embedded.address.rpartition(":")[2]))
        embedded.put("a", "2")  # somebody else did, meanwhile
        await embedded.start()
        answer = await client.kv.Range(get(key=b"a"), wait_for_ready=True)
        assert (answer.kvs[0].value, answer.header.revision) == (b"2", base + 1)
        async with client.watch(create(b"a", start_revision=base + 1)) as watching:
            await watching.created()
            assert await watching.events(1) == [f"PUT a=2 @{base + 1}"]


async def test_nobody_else_gets_the_port_while_it_is_down() -> None:
    async with registry() as embedded:
        await embedded.stop()
        await embedded.stop()  # harmless
        port = int(embedded.address.rpartition(":")[2])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        await embedded.start()
        with pytest.raises(RuntimeError, match="the registry is up"):
            await embedded.start()


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with registry() as embedded:
        port = int(embedded.address.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with registry(port=port):
                pass


async def test_a_registry_made_anew_begins_at_the_first_revision() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        await client.set(a="1", b="2")
        await embedded.stop()
        await embedded.start(forget=True)
        answer = await client.kv.Range(get(key=ALL, range_end=ALL), wait_for_ready=True)
        assert (keys(answer), answer.header.revision) == ([], 1)
        await client.set(a="1")
        assert embedded.revision == 2


async def test_cut_connections_are_made_again() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        async with client.watch(create(b"a")) as watching:
            await watching.created()
            assert embedded.cut() == 1
            with pytest.raises(lbkit.RpcError):
                await watching.next()
        embedded.put("a", "1")
        answer = await client.kv.Range(get(key=b"a"), wait_for_ready=True)
        assert keys(answer) == ["a"]
        await embedded.stop()
        assert embedded.cut() == 0


async def test_without_a_leader_writes_and_watches_that_ask_for_one_are_unavailable() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        await client.set(a="1")
        lease = (await client.do(grant(TTL=60))).ID
        keeping = client.lease.LeaseKeepAlive()
        await keeping.write(pb.LeaseKeepAliveRequest(ID=lease))
        await keeping.read()
        async with (
            client.watch(create(b"a"), metadata=HASLEADER) as asking,
            client.watch(create(b"a")) as indifferent,
        ):
            await asking.created()
            await indifferent.created()
            embedded.lose_leader()
            with pytest.raises(lbkit.RpcError, match="etcdserver: no leader"):
                await asking.next()
            with pytest.raises(lbkit.RpcError, match="etcdserver: no leader"):
                async with client.watch(create(b"a"), metadata=HASLEADER) as late:
                    await late.created()
            await keeping.write(pb.LeaseKeepAliveRequest(ID=lease))
            with pytest.raises(lbkit.RpcError, match="etcdserver: no leader"):
                await keeping.read()
            for request in (
                put(key=b"a"),
                get(key=b"a"),
                grant(TTL=5),
                revoke(ID=lease),
                ttl(ID=lease),
                txn(),
            ):
                assert await client.refused(request) == "UNAVAILABLE etcdserver: no leader"
            assert keys(await client.do(get(key=b"a", serializable=True))) == ["a"]
            serializable = get(key=b"a", serializable=True)
            assert (await failure(client.kv.Range(serializable, metadata=HASLEADER))).details() == (
                "etcdserver: no leader"
            )
            status = await client.maintenance.Status(pb.StatusRequest())
            assert (status.leader, list(status.errors)) == (0, ["etcdserver: no leader"])
            term = status.raftTerm
            embedded.find_leader()
            base = await client.set(a="2")
            assert await indifferent.events(1) == [f"PUT a=2 @{base}"]
            status = await client.maintenance.Status(pb.StatusRequest())
            assert (status.raftTerm, list(status.errors)) == (term + 1, [])


async def test_compaction_and_expiry_on_demand() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        lease = (await client.do(grant(TTL=60))).ID
        assert embedded.leases == [lease]
        async with client.watch(create(b"a")) as watching:
            await watching.created()
            assert embedded.watches == 1
            base = embedded.put("a", "1", lease=lease)
            embedded.expire(lease)
            assert await watching.events(2) == [f"PUT a=1 @{base}", f"DELETE a @{base + 1}"]
        assert embedded.leases == []
        embedded.compact()
        async with client.watch(create(b"a", start_revision=base)) as watching:
            await watching.created()
            assert (await watching.next()).compact_revision == base + 1
        await until(lambda: embedded.watches == 0)


# Time


def member() -> tuple[Registry, lbkit.Server]:
    """A registry whose time is the test's loop's, and its server."""
    made = Registry()
    made.open()
    return made, made.make_server()


@virtual_time
async def test_a_lease_ends_at_most_a_tenth_of_a_second_late() -> None:
    made, server = member()
    async with memory_channel(server) as channel:
        loop = asyncio.get_running_loop()
        lease: Any = channel.stub(pb, "Lease")
        kv: Any = channel.stub(pb, "KV")
        for number, seconds in ((1, 3600), (2, 10), (3, 10)):
            await lease.LeaseGrant(grant(ID=number, TTL=seconds))
            await kv.Put(put(key=b"%d" % number, lease=number))
        begin = loop.time()
        call = lease.LeaseKeepAlive()
        for _ in range(5):
            await asyncio.sleep(5)
            await call.write(pb.LeaseKeepAliveRequest(ID=3))
            assert (await call.read()).TTL == 10
        assert keys(await kv.Range(get(key=ALL, range_end=ALL))) == ["1", "3"]
        await call.done_writing()
        assert (await lease.LeaseTimeToLive(ttl(ID=3))).TTL == 10
        await asyncio.sleep(9.9)
        assert (await lease.LeaseTimeToLive(ttl(ID=3))).TTL == 0
        await asyncio.sleep(0.3)
        assert keys(await kv.Range(get(key=ALL, range_end=ALL))) == ["1"]
        await asyncio.sleep(3600 - (loop.time() - begin) - 1)
        assert keys(await kv.Range(get(key=ALL, range_end=ALL))) == ["1"]
        await asyncio.sleep(1.2)
        assert keys(await kv.Range(get(key=ALL, range_end=ALL))) == []
        assert len(made.leases) == 0
        made.close()


@virtual_time
async def test_leases_wait_while_the_registry_is_down_and_have_their_whole_time_afterwards() -> None:
    made, server = member()
    async with memory_channel(server) as channel:
        lease: Any = channel.stub(pb, "Lease")
        cluster: Any = channel.stub(pb, "Cluster")
        members = (await cluster.MemberList(pb.MemberListRequest())).members
        assert [list(each.clientURLs) for each in members] == [[]]  # it does not know where it is
        await lease.LeaseGrant(grant(ID=1, TTL=10))
        made.close()
        await asyncio.sleep(3600)
        assert len(made.leases) == 1
        made.open()
        await asyncio.sleep(9)
        assert len(made.leases) == 1
        made.lose_leader()
        await asyncio.sleep(3600)
        made.find_leader()
        await asyncio.sleep(9)
        assert len(made.leases) == 1
        await asyncio.sleep(1.2)
        assert len(made.leases) == 0
        made.close()


@virtual_time
async def test_clients_may_send_a_ping_every_ten_seconds() -> None:
    made, server = member()
    async with memory_channel(server, keepalive=10.0) as channel:
        call: Any = channel.stub(pb, "Watch").Watch()
        await call.write(create(b"a"))
        await call.read()
        await asyncio.sleep(3600)
        await channel.stub(pb, "KV").Put(put(key=b"a"))
        assert [event.kv.key for event in (await call.read()).events] == [b"a"]
        call.cancel()
        made.close()


@virtual_time
async def test_leases_before_it_is_opened_are_refused_with_the_cure() -> None:
    made = Registry()
    with pytest.raises(RuntimeError, match=r"call its open\(\)"):
        made.grant(grant(TTL=5))


# Bad clients


async def test_who_asks_for_watches_without_end_and_reads_nothing_is_not_waited_for() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        async with client.watch() as watching:
            asked = 0

            async def flood() -> None:
                nonlocal asked
                while asked < 20_000:
                    await watching.send(create(b"k" * 1000))
                    asked += 1

            flooding = asyncio.create_task(flood())
            await until(lambda: embedded.watches == 1000)
            (served,) = embedded.registry.watchings
            assert served.waiting <= 100
            await client.set(a="1")  # others are served
            for _ in range(1000):
                assert not (await watching.created())[0].canceled
            (answer,) = await watching.created()
            assert answer.cancel_reason == "lbkit registry: a stream may have 1000 watches; open another one"
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
        await until(lambda: not embedded.registry.watchings)


@virtual_time
async def test_thousands_of_leases_end_with_their_keys() -> None:
    made, server = member()
    async with memory_channel(server) as channel:
        lease: Any = channel.stub(pb, "Lease")
        kv: Any = channel.stub(pb, "KV")
        numbers = range(1, 3001)
        await asyncio.gather(*[lease.LeaseGrant(grant(ID=number, TTL=10)) for number in numbers])
        await asyncio.gather(*[kv.Put(put(key=b"%d" % number, lease=number)) for number in numbers])
        await asyncio.sleep(9)
        assert len(made.leases) == 3000
        await asyncio.sleep(1.2)
        assert (len(made.leases), made.store.size) == (0, 0)
        made.close()


@pytest.mark.parametrize("path", ["Watch/Watch", "Lease/LeaseKeepAlive"])
async def test_a_stream_of_what_is_no_request_ends(path: str) -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        call: Any = client.channel.stream_stream(f"/etcdserverpb.{path}")()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(lbkit.RpcError, match="cannot be parsed"):
            await call.read()
        await until(lambda: not embedded.registry.watchings)


def enclosed(tag: bytes, inner: bytes) -> bytes:
    """A protobuf field with a message in it."""
    size = len(inner)
    length = b""
    while size > 127:
        length += bytes((size & 127 | 128,))
        size >>= 7
    return tag + length + bytes((size,)) + inner


async def test_a_transaction_too_deep_to_read_is_refused() -> None:
    async with registry() as embedded, Client(embedded.address) as client:
        request = txn(success=[op(put(key=b"a"))])
        for _ in range(40):
            request = txn(success=[op(request)])
        await client.do(request)
        assert embedded.get("a") == b""
        deep = b""
        for _ in range(5000):
            deep = enclosed(b"\x12", enclosed(b"\x22", deep))  # TxnRequest.success, RequestOp.request_txn
        call: Any = client.channel.unary_unary("/etcdserverpb.KV/Txn")
        assert (await failure(call(deep))).code() is lbkit.StatusCode.INTERNAL
        await client.set(b="1")
