"""Servers in etcd, the real one and the embedded: records that others can read, that outlive what they must, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import Instance, Registration, RegistrationError, RegistrationState, TargetError
from lbkit.protos import etcd as pb
from lbkit.registrar import make_registrar
from lbkit.testing import registry
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.registrar import EtcdRegistrar
from lbkit_resolvers.etcd.target import EtcdTarget
from tests.support.etcd_server import Etcd, etcd, etcd_cluster, etcdctl, free_ports
from tests.support.protos import kinds_pb2
from tests.support.servers import Backend

INSTANCE = Instance("10.0.0.7:50051")
KEY = "svc/greeter/10.0.0.7:50051"
RECORD = b'{"Op":0,"Addr":"10.0.0.7:50051","Metadata":null}'
PATIENT_S = 30.0

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One etcd for the tests that leave it as it is."""
    with etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


class Node:
    """An etcd, or what speaks like one."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ctl(self, *arguments: str) -> str:
        return etcdctl(self.address, *arguments)


@pytest.fixture(params=["embedded", "etcd"])
async def node(request: pytest.FixtureRequest) -> AsyncGenerator[Node, None]:
    """One of each kind, with nothing in it."""
    if request.param == "embedded":
        async with registry() as embedded:
            yield Node(embedded.address)
        return
    found = Node(request.getfixturevalue("real").address)
    yield found
    await ctl(found, "del", "", "--from-key")


def target(node: Node | Etcd, name: str = "svc/greeter", more: str = "ttl=2s") -> str:
    return f"etcd://{node.address}/{name}?{more}"


async def ctl(node: Node | Etcd, *arguments: str) -> str:
    return await asyncio.to_thread(node.ctl, *arguments)


async def records(node: Node | Etcd, prefix: str = "svc/") -> dict[str, tuple[bytes, int]]:
    """Values and leases by key."""
    answer: dict[str, Any] = json.loads(await ctl(node, "get", "--prefix", prefix, "-w", "json"))
    return {
        base64.b64decode(kv["key"]).decode(): (base64.b64decode(kv["value"]), kv.get("lease", 0))
        for kv in answer.get("kvs", [])
    }


async def leases(node: Node) -> list[int]:
    return [int(each["id"]) for each in json.loads(await ctl(node, "lease", "list", "-w", "json"))["leases"]]


async def until(condition: Callable[[], object]) -> None:
    """Wait for what etcd, its clients and leases take their time for."""
    async with asyncio.timeout(PATIENT_S):
        while not condition():  # noqa: ASYNC110 -- it sets no event
            await asyncio.sleep(0.005)


async def listed(node: Node | Etcd, *keys: str) -> None:
    """Wait until those and no others are there."""
    async with asyncio.timeout(PATIENT_S):
        while {*await records(node)} != {*keys}:  # noqa: ASYNC110 -- etcdctl takes its time
            await asyncio.sleep(0.05)


# What is written


@pytest.mark.parametrize(
    ("codec", "instance", "key", "value"),
    [
        # As endpoints.Manager.AddEndpoint of etcd's clientv3 writes it.
        ("etcd", INSTANCE, KEY, RECORD),
        (
            "etcd",
            Instance("10.0.0.7:50051", id="greeter-0", weight=3, zone="a", metadata={"version": "7"}),
            "svc/greeter/greeter-0",
            b'{"Op":0,"Addr":"10.0.0.7:50051","Metadata":{"version":"7","weight":3,"zone":"a"}}',
        ),
        # As the Register of go-kratos' contrib/registry/etcd writes it.
        (
            "kratos",
            Instance("10.0.0.7:50051", id="b7", weight=3, metadata={"version": "v1"}),
            "/microservices/svc/greeter/b7",
            (
                b'{"id":"b7","name":"svc/greeter","version":"v1","metadata":{"weight":"300"},'
                b'"endpoints":["grpc://10.0.0.7:50051"]}'
            ),
        ),
        # As the Publisher of go-zero's core/discov writes it.
        ("gozero", INSTANCE, "svc/greeter/{lease}", b"10.0.0.7:50051"),
    ],
)
async def test_records_are_written_as_their_readers_expect(
    node: Node, codec: str, instance: Instance, key: str, value: bytes
) -> None:
    async with Registration(target(node, more=f"codec={codec}&ttl=5s"), instance) as one:
        await one.registered(PATIENT_S)
        (lease,) = await leases(node)
        key = key.format(lease=lease)
        assert await records(node, key[:4]) == {key: (value, lease)}
        where = EtcdTarget.read(one.registrar.target)
        assert where.codec.decode(key.encode(), value, where.name).addresses == instance.endpoint.addresses
        left = json.loads(await ctl(node, "lease", "timetolive", f"{lease:x}", "-w", "json"))
        assert left["granted-ttl"] == 5
    assert await records(node, key[:4]) == {}
    assert await leases(node) == []


async def test_a_channel_finds_servers_and_loses_no_call_when_one_stops(node: Node) -> None:
    backends = [await Backend().start() for _ in range(3)]
    for backend in backends:
        one = await backend.server.register(target(node), propagation=0.3)
        await one.registered(PATIENT_S)
    stopped = asyncio.Event()
    async with lbkit.Channel(target(node, more="")) as channel:
        call = channel.stub(kinds_pb2, "Kinds").UnaryUnary

        async def load() -> None:
            while not stopped.is_set():
                await call(kinds_pb2.Item(), timeout=PATIENT_S)

        loading = asyncio.ensure_future(load())
        await until(lambda: all(backend.calls for backend in backends))
        await backends[0].server.stop(5.0)
        await until(lambda: len(channel.subchannels()) == 2)
        stopped.set()
        await loading
    await asyncio.gather(*(backend.server.stop(None) for backend in backends))


# What goes wrong


async def renewed(one: Registration, later_s: float = 0.0) -> None:
    """Wait until the lease lasts longer than now, by more than so much."""
    registrar = one.registrar
    assert isinstance(registrar, EtcdRegistrar)
    ends_s = registrar._until_s + later_s
    await until(lambda: registrar._until_s > ends_s)


async def test_the_lease_is_kept_alive(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    async with Registration(target(node, more="ttl=3s"), INSTANCE) as one:
        await one.registered(PATIENT_S)
        (before,) = await leases(node)
        await renewed(one, 5.0)  # more than its time, and what etcd takes to notice
        assert await leases(node) == [before]
        assert await records(node) == {KEY: (RECORD, before)}
    assert "is not registered" not in caplog.text


PROGRAM = """
import asyncio, os, sys, time
import lbkit

async def main():
    async with lbkit.Registration(sys.argv[1], lbkit.Instance("10.0.0.7:50051")) as one:
        await one.registered(20.0)
        if sys.argv[2] == "fork" and not os.fork():
            time.sleep(60.0)
            os._exit(0)
        print("registered", flush=True)
        await asyncio.sleep(60.0)

asyncio.run(main())
"""


@pytest.mark.parametrize("fork", ["", "fork"])
async def test_the_record_of_a_killed_process_expires(node: Node, fork: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, target(node), fork, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"registered\n"
        assert KEY in await records(node)
        process.kill()  # a child that it forked lives on, with copies of its sockets
        await listed(node)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads, and forks
async def test_the_child_of_a_fork_leaves_the_parents_record_alone(node: Node) -> None:
    async with Registration(target(node, more="ttl=5s"), INSTANCE) as one:
        await one.registered(PATIENT_S)
        child = os.fork()
        if not child:
            try:
                asyncio.run(one.close())
            finally:
                os._exit(one.state is not RegistrationState.CLOSED)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0
        await renewed(one)
        assert KEY in await records(node)
        assert one.state is RegistrationState.REGISTERED


async def test_a_server_serves_while_etcd_is_down_and_is_registered_when_it_is_up(tmp_path: Path) -> None:
    down = f"127.0.0.1:{free_ports(1)[0]}"
    backend = Backend()
    await backend.start()
    one = await backend.server.register(f"etcd://{down}/svc/greeter?ttl=2s")
    async with lbkit.Channel(f"static:///{backend.address}") as channel:
        assert (await channel.stub(kinds_pb2, "Kinds").UnaryUnary(kinds_pb2.Item(text="up"))).text == "up"
    await until(lambda: one.error is not None)
    with pytest.raises(RegistrationError, match=f"etcd {down}: .*refused.*is etcd running there"):
        await one.registered(0.1)
    node = Etcd("late", tmp_path, int(down.rpartition(":")[2]), free_ports(1)[0], ())
    node.options += ["--initial-cluster", f"late={node.peer}"]
    try:
        node.start()
        await one.registered(PATIENT_S)
        await asyncio.to_thread(node.ready)
        assert list(await records(node)) == [f"svc/greeter/{backend.address}"]
        await backend.server.stop(None)
        assert await records(node) == {}
    finally:
        await backend.server.stop(None)
        node.end()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_restarted_etcd_has_the_record_again(tmp_path: Path, how: signal.Signals) -> None:
    with etcd(tmp_path) as node:
        async with Registration(target(node), INSTANCE) as one:
            await one.registered(PATIENT_S)
            await asyncio.to_thread(node.end, how)
            await until(lambda: one.state is RegistrationState.LOST)
            assert "could not be renewed" in str(one.error)
            await asyncio.to_thread(node.restart)
            await one.registered(PATIENT_S)
            assert KEY in await records(node)
        assert await records(node) == {}


async def test_an_etcd_that_forgot_everything_has_the_record_again(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        async with Registration(target(node), INSTANCE) as one:
            await one.registered(PATIENT_S)
            await asyncio.to_thread(node.end)
            shutil.rmtree(node.data)
            await asyncio.to_thread(node.restart)
            await listed(node, KEY)


async def test_a_frozen_etcd_is_waited_for(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        assert node.process is not None
        async with Registration(target(node), INSTANCE) as one:
            await one.registered(PATIENT_S)
            node.process.send_signal(signal.SIGSTOP)
            await until(lambda: one.state is RegistrationState.LOST)
            node.process.send_signal(signal.SIGCONT)
            await one.registered(PATIENT_S)
            assert KEY in await records(node)


async def test_a_revoked_lease_is_replaced(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    async with Registration(target(node), INSTANCE) as one:
        await one.registered(PATIENT_S)
        (lease,) = await leases(node)
        await ctl(node, "lease", "revoke", f"{lease:x}")
        await until(lambda: one.state is RegistrationState.LOST)
        await one.registered(PATIENT_S)
        assert KEY in await records(node)
    assert f"the lease {lease:x} has expired, or was revoked" in caplog.text


async def test_a_record_deleted_by_hand_comes_back(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    async with Registration(target(node), INSTANCE) as one:
        await one.registered(PATIENT_S)
        before = await records(node)
        await ctl(node, "del", KEY)
        await until(lambda: one.state is RegistrationState.LOST)
        await one.registered(PATIENT_S)
        assert await records(node) == before
    assert f"somebody deleted the record '{KEY}'" in caplog.text


async def test_a_member_of_a_cluster_may_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with etcd_cluster(tmp_path, 3) as nodes:
        where = ",".join(node.address for node in nodes)
        async with Registration(f"etcd://{where}/svc/greeter?ttl=10s", INSTANCE) as one:
            await one.registered(PATIENT_S)
            assert isinstance(one.registrar, EtcdRegistrar)
            in_use = one.registrar._client.member
            (asked,) = [node for node in nodes if node.address == in_use]
            others = [node for node in nodes if node is not asked]
            lease = (await records(others[0]))[KEY][1]
            await asyncio.to_thread(asked.end)
            client = one.registrar._client
            await until(lambda: client.member != in_use)
            await renewed(one)  # by another member
            assert await records(others[0]) == {KEY: (RECORD, lease)}
        assert await records(others[1]) == {}
    assert "is not registered" not in caplog.text


async def test_a_cluster_without_a_majority_costs_the_registration_until_it_has_one(tmp_path: Path) -> None:
    with etcd_cluster(tmp_path, 3) as nodes:
        where = ",".join(node.address for node in nodes)
        async with Registration(f"etcd://{where}/svc/greeter?ttl=2s", INSTANCE) as one:
            await one.registered(PATIENT_S)
            for node in nodes[1:]:
                await asyncio.to_thread(node.end)
            await until(lambda: one.state is RegistrationState.LOST)
            for node in nodes[1:]:
                node.start()
            await one.registered(PATIENT_S)
            assert KEY in await records(nodes[0])


# Ids and ghosts


async def ghost(node: Node) -> int:
    """What a process that was killed has left behind."""
    said = await ctl(node, "lease", "grant", "60", "-w", "json")
    lease = int(json.loads(said)["ID"])
    await ctl(node, "put", KEY, "what was here before", "--lease", f"{lease:x}")
    return lease


async def test_an_id_wins_over_its_ghost(node: Node) -> None:
    old = await ghost(node)
    async with Registration(target(node), INSTANCE) as one:
        await one.registered(PATIENT_S)
        await ctl(node, "lease", "revoke", f"{old:x}")
        value, lease = (await records(node))[KEY]
        assert value == RECORD
        assert lease != old


async def test_who_was_replaced_stays_away_and_takes_nothing_back(node: Node) -> None:
    old = Registration(target(node), INSTANCE)
    async with old:
        await old.registered(PATIENT_S)
        async with Registration(target(node), INSTANCE) as new:
            await new.registered(PATIENT_S)
            after = await records(node)
            await until(lambda: old.state is RegistrationState.LOST)
            assert "the id '10.0.0.7:50051' was taken over by another process" in str(old.error)
            await old.close()
            assert await records(node) == after
            assert new.state is RegistrationState.REGISTERED
        assert await records(node) == {}


async def test_who_was_replaced_looks_now_and_then_whether_the_id_is_free(node: Node) -> None:
    registrar = make_registrar(target(node, more="ttl=60s"))
    await registrar.register(INSTANCE)
    other = await ghost(node)
    try:
        for _ in range(2):
            with pytest.raises(RegistrationError, match=f"is on the lease {other:x}") as caught:
                await registrar.register(INSTANCE)
            assert caught.value.wait_s == 30.0
        await ctl(node, "put", KEY, "by hand")
        with pytest.raises(RegistrationError, match="is on no lease"):
            await registrar.register(INSTANCE)
        await ctl(node, "del", KEY)
        await registrar.register(INSTANCE)
        assert (await records(node))[KEY][0] == RECORD
    finally:
        await registrar.deregister(INSTANCE)
        await registrar.close()
        await ctl(node, "lease", "revoke", f"{other:x}")


async def test_a_record_that_changes_between_look_and_put_is_not_overwritten(node: Node) -> None:
    registrar = make_registrar(target(node, more="ttl=60s"))
    assert isinstance(registrar, EtcdRegistrar)
    try:
        await registrar.register(INSTANCE)
        seen = await registrar._look(INSTANCE)
        await ctl(node, "put", KEY, "by hand")
        with pytest.raises(RegistrationError, match="taken over"):
            await registrar._put(INSTANCE, seen)
        await ctl(node, "del", KEY)
        with pytest.raises(RegistrationError, match="changes just now"):
            await registrar._put(INSTANCE, seen)
    finally:
        await registrar.deregister(INSTANCE)
        await registrar.close()


async def test_a_lease_whose_grant_was_not_heard_of_is_used(node: Node) -> None:
    number = random.Random(7).getrandbits(62) + 1
    client = EtcdClient(EtcdTarget.read(make_registrar(target(node, more="ttl=60s")).target))
    await client.call("Lease", "LeaseGrant", pb.LeaseGrantRequest(TTL=60, ID=number))
    await client.close()
    registrar = EtcdRegistrar(make_registrar(target(node, more="ttl=60s")).target, random=random.Random(7))
    await registrar.register(INSTANCE)
    assert (await records(node))[KEY] == (RECORD, number)
    await registrar.deregister(INSTANCE)
    await registrar.deregister(INSTANCE)  # nothing is there any more
    await registrar.close()
    assert await leases(node) == []


async def test_taking_back_what_expired_is_no_error(node: Node) -> None:
    registrar = make_registrar(target(node, more="ttl=60s"))
    await registrar.register(INSTANCE)
    (lease,) = await leases(node)
    await ctl(node, "lease", "revoke", f"{lease:x}")
    await registrar.deregister(INSTANCE)
    await registrar.close()


async def test_a_user_without_the_right_is_told_so_and_tries_slowly(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        for line in (
            "user add root:root",
            "role add root",
            "user grant-role root root",
            "user add ann:secret",
            "role add reader",
            "role grant-permission --prefix=true reader read svc/",
            "user grant-role ann reader",
            "auth enable",
        ):
            await ctl(node, *line.split())
        for user, said in (("ann:secret", "permission denied"), ("ann:wrong", "authentication failed")):
            registrar = make_registrar(f"etcd://{user}@{node.address}/svc/greeter")
            with pytest.raises(RegistrationError, match=said) as caught:
                await registrar.register(INSTANCE)
            assert caught.value.wait_s == 30.0
            await registrar.close()
        async with Registration(f"etcd://root:root@{node.address}/svc/greeter?ttl=3s", INSTANCE) as one:
            await one.registered(PATIENT_S)
            await renewed(one)
            assert one.state is RegistrationState.REGISTERED


# Targets


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("etcd://127.0.0.1/svc?ttl=1s", "not between 2 s and a day"),
        ("etcd://127.0.0.1/svc?ttl=15", "write a number and ms, s or m"),
        ("etcd://127.0.0.1/svc?tll=15s", "Did you mean 'ttl'"),
        ("etcd://127.0.0.1/svc?codec=krato", "Did you mean 'kratos'"),
        ("etcd://127.0.0.1/", "has no name"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused_at_once(text: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        Registration(text, INSTANCE)
