"""The etcd resolver and three members: one stops, dies, freezes, loses its leader, or all of them do."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lbkit.protos import etcd as messages
from lbkit_resolvers.etcd import EtcdResolver, client
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.listing import Listing
from lbkit_resolvers.etcd.target import EtcdTarget
from lbkit_resolvers.etcd.watching import read_list
from tests.support.etcd_following import PATIENCE_S, Following, following, naming, store, target
from tests.support.etcd_server import Etcd, etcd_cluster, etcdctl


@pytest.fixture
def nodes(tmp_path: Path) -> Generator[list[Etcd], None, None]:
    with etcd_cluster(tmp_path, 3, "--grpc-keepalive-min-time", "100ms") as running:
        yield running


def hosts(nodes: list[Etcd]) -> str:
    return ",".join(node.address for node in nodes)


def watched(seen: Following, nodes: list[Etcd]) -> Etcd:
    """The member that the watch is on."""
    member = seen.latest.source.split()[1].rstrip(",")
    (found,) = [node for node in nodes if node.address == member]
    return found


async def somehow(nodes: list[Etcd], method: str, request: Any) -> Any:
    """Make a call to KV while members come and go: again and again, as it changes nothing to do it twice."""
    async with store(hosts(nodes)) as hand, asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await hand.client.call("KV", method, request)
            except EtcdError:
                hand.client.next_member()
                await asyncio.sleep(0.05)


async def put_somehow(nodes: list[Etcd], key: str, value: bytes) -> int:
    """Put a key; return the revision."""
    answer = await somehow(nodes, "Put", messages.PutRequest(key=key.encode(), value=value))
    return int(answer.header.revision)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_member_that_ends_is_left_at_once(nodes: list[Etcd], how: signal.Signals) -> None:
    async with following(f"etcd://{hosts(nodes)}/ends") as seen:
        await put_somehow(nodes, "ends/a", naming("10.0.0.1:80"))
        await seen.shows("10.0.0.1:80")
        left = watched(seen, nodes)
        assert left.process is not None
        left.process.send_signal(how)
        await seen.until(lambda: left.address not in seen.latest.source)
        rest = [node for node in nodes if node is not left]
        await put_somehow(rest, "ends/b", naming("10.0.0.2:80"))
        await seen.shows("10.0.0.1:80", "10.0.0.2:80")
        assert len(seen.errors) <= 2


async def test_a_rolling_restart_misses_nothing(nodes: list[Etcd]) -> None:
    dice = random.Random(3)
    async with following(f"etcd://{hosts(nodes)}/roll") as seen:
        await seen.shows()
        rolling = asyncio.create_task(roll(nodes))
        number = 0
        while not rolling.done() or number < 60:
            number += 1
            key = f"roll/{dice.randrange(12):02}"
            revision = await put_somehow(nodes, key, naming(f"10.0.{number % 250}.1:80"))
            if number % 20 == 0:
                await compact(nodes, revision)
        await rolling
        found = await somehow(nodes, "Range", messages.RangeRequest(key=b"roll/", range_end=b"roll0"))
        codec = EtcdTarget.read(target("etcd:///roll")).codec
        final = [str(codec.decode(value.key, value.value)) for value in found.kvs]
        await seen.until(lambda: seen.addresses == list(dict.fromkeys(final)))
        assert [] not in seen.answers[2:]


async def compact(nodes: list[Etcd], revision: int) -> None:
    """Forget what was before; who has done so already says no."""
    async with store(hosts(nodes)) as hand:
        with suppress(EtcdError):
            await hand.client.call("KV", "Compact", messages.CompactionRequest(revision=revision))


async def roll(nodes: list[Etcd]) -> None:
    for node in nodes:
        await asyncio.to_thread(node.end, signal.SIGTERM)
        await asyncio.to_thread(node.restart)


async def test_a_change_of_leader_is_not_noticed(nodes: list[Etcd]) -> None:
    async with following(f"etcd://{hosts(nodes)}/leader") as seen:
        await seen.shows()
        for n in range(3):
            await asyncio.to_thread(move_leader, nodes)
            await put_somehow(nodes, f"leader/{n}", naming(f"10.0.0.{n}:80"))
            await seen.shows(*(f"10.0.0.{each}:80" for each in range(n + 1)))
        assert seen.answers.count([]) == 1


def move_leader(nodes: list[Etcd]) -> None:
    """Make another member the leader, or see another one become it."""

    def leader() -> tuple[int, int]:
        """The leader's id, and another member's."""
        members = json.loads(etcdctl(hosts(nodes), "endpoint", "status", "-w", "json"))
        found: int = members[0]["Status"]["leader"]
        ids = [member["Status"]["header"]["member_id"] for member in members]
        return found, next(each for each in ids if each != found)

    before, other = leader()
    until = time.monotonic() + PATIENCE_S
    while (now := leader()[0]) in {0, before}:
        assert time.monotonic() < until, f"{now:x} leads still"
        with suppress(AssertionError):  # an election of their own comes in between
            etcdctl(hosts(nodes), "move-leader", f"{other:x}")


async def test_a_member_cut_off_from_the_others_is_left(nodes: list[Etcd]) -> None:
    """The other two are frozen: to the one that is left it is as if it had lost them."""
    async with following(f"etcd://{hosts(nodes)}/minority") as seen:
        await put_somehow(nodes, "minority/a", naming("10.0.0.1:80"))
        await seen.shows("10.0.0.1:80")
        alone = watched(seen, nodes)
        others = [node for node in nodes if node is not alone]
        try:
            for node in others:
                assert node.process is not None
                node.process.send_signal(signal.SIGSTOP)
            await seen.until(lambda: any("no leader" in error for error in seen.errors))
            assert seen.addresses == ["10.0.0.1:80"]
        finally:
            for node in others:
                assert node.process is not None
                node.process.send_signal(signal.SIGCONT)
        await put_somehow(nodes, "minority/b", naming("10.0.0.2:80"))
        await seen.shows("10.0.0.1:80", "10.0.0.2:80")


async def test_a_frozen_member_is_left(nodes: list[Etcd], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "KEEPALIVE_S", 0.5)
    monkeypatch.setattr(client, "KEEPALIVE_TIMEOUT_S", 0.5)
    async with following(f"etcd://{hosts(nodes)}/frozen") as seen:
        await put_somehow(nodes, "frozen/a", naming("10.0.0.1:80"))
        await seen.shows("10.0.0.1:80")
        frozen = watched(seen, nodes)
        assert frozen.process is not None
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            await put_somehow(
                [node for node in nodes if node is not frozen], "frozen/b", naming("10.0.0.2:80")
            )
            await seen.shows("10.0.0.1:80", "10.0.0.2:80")
            assert watched(seen, nodes) is not frozen
        finally:
            frozen.process.send_signal(signal.SIGCONT)


async def test_a_cold_start_without_a_quorum_takes_a_list_that_may_be_stale(nodes: list[Etcd]) -> None:
    await put_somehow(nodes, "cold/a", naming("10.0.0.1:80"))
    async with following(f"etcd://{nodes[0].address}/cold") as warm:
        await warm.shows("10.0.0.1:80")  # it has got here
    for node in nodes[1:]:
        await asyncio.to_thread(node.end)
    await until_leaderless(nodes[0])
    async with following(f"etcd://{hosts(nodes)}/cold") as seen:
        await seen.shows("10.0.0.1:80")
        assert seen.latest.source.endswith(", may be stale")
        await seen.until(lambda: any("no leader" in error for error in seen.errors))
        await asyncio.to_thread(nodes[1].restart)
        await put_somehow(nodes[:2], "cold/b", naming("10.0.0.2:80"))
        await seen.shows("10.0.0.1:80", "10.0.0.2:80")
        assert not seen.latest.source.endswith("stale")


async def until_leaderless(node: Etcd) -> None:
    """Wait until the member says so."""
    where = EtcdTarget.read(target(f"etcd://{node.address}/any"))
    asked = EtcdClient(where)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await read_list(asked, where.prefix, Listing(where.name, where.codec))
                except EtcdError as error:
                    if error.kind is Kind.LEADERLESS:
                        return
                await asyncio.sleep(0.05)
    finally:
        await asked.close()


async def test_members_that_are_down_are_passed_over_within_a_call(nodes: list[Etcd]) -> None:
    await asyncio.to_thread(nodes[0].end)
    for node in nodes[1:]:
        await put_somehow([node], "any/a", b"")  # they have agreed on a leader
    for seed in range(4):
        where = EtcdTarget.read(target(f"etcd://{hosts(nodes)}/any"))
        asked = EtcdClient(where, random=random.Random(seed))
        try:
            await asked.call("KV", "Range", messages.RangeRequest(key=b"x"))
            assert asked.member != nodes[0].address
        finally:
            await asked.close()


async def test_clients_spread_over_the_members() -> None:
    resolver = EtcdResolver(target("etcd://h1,h2,h3/x"))
    firsts = {EtcdClient(resolver._where, random=random.Random(seed)).member for seed in range(20)}
    assert firsts == {"h1:2379", "h2:2379", "h3:2379"}
