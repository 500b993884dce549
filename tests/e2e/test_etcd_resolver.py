"""The etcd resolver against a real etcd, and against the registry that lbkit brings."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import lbkit
from lbkit.protos import etcd as messages
from lbkit.testing import check_resolver, registry
from lbkit_resolvers.etcd import EtcdResolver, client, resolver, watching
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.target import EtcdTarget
from tests.support.etcd_following import PATIENCE_S, following, kratos, naming, store, target
from tests.support.etcd_server import Etcd, etcd
from tests.support.servers import Item, failure, fleet, unary


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    """One etcd for the tests that do not harm it; each has a name of its own."""
    with etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest_asyncio.fixture(params=["etcd", "embedded"])
async def address(request: pytest.FixtureRequest) -> AsyncGenerator[str, None]:
    """Where a registry listens: the real one, or ours."""
    if request.param == "etcd":
        yield request.getfixturevalue("node").address
    else:
        async with registry() as ours:
            yield ours.address


async def test_calls_are_balanced_over_what_is_listed(address: str) -> None:
    async with fleet(2) as backends, store(address) as hand:
        await hand.put("calls/a", naming(backends[0].address))
        async with lbkit.Channel(f"etcd://{address}/calls") as channel:
            call = unary(channel)
            assert (await call(Item(), timeout=PATIENCE_S)).text == "backend 0"
            await hand.put("calls/b", naming(backends[1].address))
            names: set[str] = set()
            async with asyncio.timeout(PATIENCE_S):
                while names != {"backend 0", "backend 1"}:
                    names.add((await call(Item(), timeout=PATIENCE_S)).text)


async def test_a_list_is_read_and_changes_follow(address: str) -> None:
    async with store(address) as hand:
        await hand.put("follow/a", naming("10.0.0.1:80"))
        await hand.put("followed/x", naming("10.9.9.9:80"))  # a neighbour
        async with following(f"etcd://{address}/follow") as seen:
            await seen.shows("10.0.0.1:80")
            await hand.put("follow/b", naming("10.0.0.2:80", weight=3, zone="eu", version="v2"))
            await seen.shows("10.0.0.1:80", "10.0.0.2:80")
            added = seen.latest.endpoints[1]
            assert (added.weight, added.zone, added.metadata) == (3, "eu", {"version": "v2"})
            revision = await hand.delete("follow/a")
            await seen.shows("10.0.0.2:80")
            assert seen.latest.source == f"etcd {address}, revision {revision}"
            assert seen.errors == []


async def test_an_empty_prefix_is_an_answer_and_so_is_one_that_becomes_empty(address: str) -> None:
    async with store(address) as hand, following(f"etcd://{address}/empty") as seen:
        await seen.shows()
        await hand.put("empty/a", naming("10.0.0.1:80"))
        await seen.shows("10.0.0.1:80")
        await hand.delete("empty/a")
        await seen.shows()
        assert seen.errors == []


async def test_calls_fail_at_once_when_nobody_is_listed(address: str) -> None:
    async with lbkit.Channel(f"etcd://{address}/nobody") as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert error.code() is lbkit.StatusCode.UNAVAILABLE
    assert "no endpoints" in error.details()


async def test_nothing_is_missed_between_the_list_and_the_watch(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def list_and_change(asked: Any, prefix: bytes, listing: Any, **options: Any) -> None:
        await watching.read_list(asked, prefix, listing, **options)
        await hand.put("gap/b", naming("10.0.0.2:80"))
        await hand.delete("gap/a")

    monkeypatch.setattr(resolver, "read_list", list_and_change)
    async with store(address) as hand:
        await hand.put("gap/a", naming("10.0.0.1:80"))
        async with following(f"etcd://{address}/gap") as seen:
            await seen.shows("10.0.0.2:80")
            assert (seen.answers[0], seen.errors) == (["10.0.0.1:80"], [])


async def test_the_codecs_of_kratos_and_go_zero(address: str) -> None:
    async with store(address) as hand:
        await hand.put(
            "/microservices/foo/i1", kratos("foo", "i1", "http://10.0.0.1:8000", "grpc://10.0.0.1:9000")
        )
        await hand.put("/microservices/foo/bar/i2", kratos("foo/bar", "i2", "grpc://10.0.0.2:9000"))
        async with following(f"etcd://{address}/foo?codec=kratos") as seen:
            await seen.shows("10.0.0.1:9000")
        await hand.put("user.rpc/7587870122130471683", "10.0.0.1:8080")
        await hand.put("user.rpc/7587870122130471699", "10.0.0.2:8080")
        async with following(f"etcd://{address}/user.rpc?codec=gozero") as seen:
            await seen.shows("10.0.0.1:8080", "10.0.0.2:8080")


async def test_malformed_records_are_named_and_the_rest_is_used(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with store(address) as hand:
        await hand.put("bad/good", naming("10.0.0.1:80"))
        await hand.put("bad/garbage", b"\x00\x01garbage")
        await hand.put("bad/port", naming("10.0.0.2:70000"))
        await hand.put("bad/long", naming("10.0.0.3:80", text="x" * 70_000))
        async with following(f"etcd://{address}/bad") as seen:
            await seen.shows("10.0.0.1:80")
            await hand.put("bad/port", naming("10.0.0.2:7000"))
            await seen.shows("10.0.0.1:80", "10.0.0.2:7000")
    said = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert [next(key for key in ("garbage", "port", "long") if f"bad/{key}" in each) for each in said] == [
        "garbage", "long", "port",
    ]  # fmt: skip
    assert all(each.isprintable() for each in said)


async def test_a_list_without_one_good_record_does_not_replace_a_good_list(address: str) -> None:
    async with store(address) as hand, following(f"etcd://{address}/wrong") as seen:
        await seen.shows()
        await hand.put("wrong/a", naming("10.0.0.1:80"))
        await seen.shows("10.0.0.1:80")
        await hand.put("wrong/a", "10.0.0.1:80")  # of another codec
        await seen.until(lambda: seen.errors)
        assert "none of 1 records can be used; wrong/a: no JSON" in seen.errors[0]
        assert seen.addresses == ["10.0.0.1:80"]
        await hand.put("wrong/a", naming("10.0.0.2:80"))
        await seen.shows("10.0.0.2:80")


async def test_a_transaction_is_one_update(address: str) -> None:
    async with store(address) as hand, following(f"etcd://{address}/txn") as seen:
        await seen.shows()
        await hand.put_all((f"txn/{n:03}", naming(f"10.0.0.{n}:80")) for n in range(128))
        await seen.until(lambda: len(seen.addresses or ()) == 128)
        assert [len(answer) for answer in seen.answers] == [0, 128]


async def test_a_storm_of_expiring_leases_is_few_updates(address: str) -> None:
    async with store(address) as hand:
        leases = [await hand.grant(60) for _ in range(50)]
        for n, lease in enumerate(leases):
            await hand.put(f"storm/{n:02}", naming(f"10.0.0.{n}:80"), lease)
        async with following(f"etcd://{address}/storm") as seen:
            await seen.until(lambda: len(seen.addresses or ()) == 50)
            began = asyncio.get_running_loop().time()
            await asyncio.gather(*(hand.revoke(lease) for lease in leases))
            await seen.shows()
            took = asyncio.get_running_loop().time() - began
            assert len(seen.updates) - 1 <= 2 + took / 0.05


async def test_a_lease_that_expires_takes_its_backend_with_it(address: str) -> None:
    async with store(address) as hand, following(f"etcd://{address}/expiry") as seen:
        await hand.put("expiry/b", naming("10.0.0.2:80"))
        await hand.put("expiry/a", naming("10.0.0.1:80"), await hand.grant(3))
        await seen.until(lambda: ["10.0.0.1:80", "10.0.0.2:80"] in seen.answers)
        await seen.shows("10.0.0.2:80")
        assert seen.errors == []


async def test_a_record_written_again_as_it_was_is_no_update(address: str) -> None:
    async with store(address) as hand, following(f"etcd://{address}/same") as seen:
        await hand.put("same/a", naming("10.0.0.1:80"))
        await seen.shows("10.0.0.1:80")
        count = len(seen.updates)
        for _ in range(5):
            await hand.put("same/a", naming("10.0.0.1:80"))
        await hand.put("same/b", naming("10.0.0.2:80"))
        await seen.shows("10.0.0.1:80", "10.0.0.2:80")
        assert len(seen.updates) == count + 1


async def test_two_records_of_one_address_are_one_backend(address: str) -> None:
    async with store(address) as hand:
        await hand.put("twice/111", "10.0.0.1:80")
        await hand.put("twice/222", "10.0.0.1:80")
        async with following(f"etcd://{address}/twice?codec=gozero") as seen:
            await seen.shows("10.0.0.1:80")
            await hand.delete("twice/111")
            await hand.put("twice/333", "10.0.0.2:80")
            await seen.shows("10.0.0.1:80", "10.0.0.2:80")
            assert [] not in seen.answers


async def test_a_thousand_endpoints_one_by_one_are_at_most_twenty_updates_a_second(address: str) -> None:
    async with store(address) as hand, following(f"etcd://{address}/many") as seen:
        await seen.shows()
        began = asyncio.get_running_loop().time()
        for n in range(1000):
            await hand.put(f"many/{n:04}", naming(f"10.0.{n // 250}.{n % 250}:80"))
        await seen.until(lambda: len(seen.addresses or ()) == 1000)
        assert seen.addresses == [f"10.0.{n // 250}.{n % 250}:80" for n in range(1000)]
        took = asyncio.get_running_loop().time() - began
        assert 2 <= len(seen.updates) - 1 <= 2 + took / 0.05


async def test_a_compacted_revision_is_listed_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = 0

    async def compacting(asked: Any, prefix: bytes, listing: Any, **options: Any) -> None:
        nonlocal lists
        await watching.read_list(asked, prefix, listing, **options)
        lists += 1
        if lists == 1:  # behind the back of who is about to watch from the next revision on
            await hand.put("compacted/b", naming("10.0.0.2:80"))
            await hand.delete("compacted/a")
            await hand.compact(await hand.put("compacted/c", naming("10.0.0.3:80")))

    monkeypatch.setattr(resolver, "read_list", compacting)
    async with store(address) as hand:
        await hand.put("compacted/a", naming("10.0.0.1:80"))
        async with following(f"etcd://{address}/compacted") as seen:
            await seen.shows("10.0.0.2:80", "10.0.0.3:80")
            assert (seen.answers[0], lists, seen.errors) == (["10.0.0.1:80"], 2, [])
            await hand.put("compacted/a", naming("10.0.0.1:80"))
            await seen.shows("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")


async def test_a_watch_of_a_compacted_revision_says_so(address: str) -> None:
    async with store(address) as hand:
        await hand.compact(await hand.put("old/a", "x"))
        with pytest.raises(EtcdError) as caught:
            await watching.watch(hand.client, b"old/", 0, lambda events, revision: None)
        assert caught.value.kind is Kind.GONE
        assert "compacted" in str(caught.value)


async def test_a_quiet_watch_is_asked_whether_it_is_alive(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(watching, "ANSWER_S", PATIENCE_S)
    beats: list[Any] = []
    plain = watching._Beat.run

    async def run(self: Any) -> None:
        beats.append(self)
        await plain(self)

    monkeypatch.setattr(watching._Beat, "run", run)
    async with following(f"etcd://{address}/quiet") as seen:
        await seen.until(lambda: beats and beats[0].heard > 1)  # `created`, and progress
        assert (len(beats), seen.errors) == (1, [])


async def test_lists_longer_than_a_page_are_read_as_of_one_revision(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PAGE", 7)
    async with store(address) as hand:
        await hand.put_all((f"pages/{n:02}", naming(f"10.0.0.{n}:80")) for n in range(50))
        asked: list[messages.RangeRequest] = []
        plain = EtcdClient.call

        async def call(self: EtcdClient, service: str, method: str, request: Any, **options: Any) -> Any:
            if method == "Range":
                asked.append(request)
                if len(asked) == 3:  # a change in between belongs to the watch
                    await plain(
                        hand.client, "KV", "DeleteRange", messages.DeleteRangeRequest(key=b"pages/00")
                    )
            return await plain(self, service, method, request, **options)

        monkeypatch.setattr(EtcdClient, "call", call)
        async with following(f"etcd://{address}/pages") as seen:
            await seen.until(lambda: seen.addresses == [f"10.0.0.{n}:80" for n in range(1, 50)])
            assert len(seen.answers[0]) == 50
            assert len(asked) == 8
            assert len({request.revision for request in asked[1:]}) == 1


async def test_the_contract_of_resolvers_is_kept(address: str) -> None:
    async with store(address) as hand:
        await hand.put("contract/a", naming("10.0.0.1:80", weight=2))
        await hand.put("contract/b", naming("10.0.0.2:80"))
        await check_resolver(
            f"etcd://{address}/contract", expect=[lbkit.Endpoint("10.0.0.1:80", weight=2), "10.0.0.2:80"]
        )


async def test_a_channel_that_is_given_is_used_and_stays_open(address: str) -> None:
    async with store(address) as hand, lbkit.Channel(f"passthrough:///{address}") as channel:
        await hand.put("given/a", naming("10.0.0.1:80"))
        for _ in range(2):
            async with following(EtcdResolver(target("etcd:///given"), channel=channel)) as seen:
                await seen.shows("10.0.0.1:80")
                assert seen.latest.source.startswith(f"etcd passthrough:///{address}, revision ")
        assert channel.get_state() is lbkit.ConnectivityState.READY


async def test_a_resolver_made_in_code_serves_a_channel(address: str) -> None:
    async with fleet(1) as backends, store(address) as hand:
        await hand.put("code/a", naming(backends[0].address))
        made = EtcdResolver(target(f"etcd://{address}/code"))
        async with lbkit.Channel("etcd:///code", resolver=made) as channel:
            assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "backend 0"


# What only a store of its own can stand


async def test_a_store_that_is_down_at_first_is_reported_and_then_read(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        async with store(node.address) as hand:
            await hand.put("later/a", naming("10.0.0.1:80"))
        await asyncio.to_thread(node.end)
        async with following(f"etcd://{node.address}/later") as seen:
            await seen.until(lambda: seen.errors)
            assert "is etcd running there" in seen.errors[0]
            await asyncio.to_thread(node.restart)
            await seen.shows("10.0.0.1:80")


async def test_a_killed_store_changes_nothing_until_it_is_back(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        async with store(node.address) as hand, following(f"etcd://{node.address}/kill") as seen:
            await hand.put("kill/1", naming("10.0.0.1:80"))
            await seen.shows("10.0.0.1:80")
            for n in range(2, 5):
                await asyncio.to_thread(node.end)
                await seen.until(lambda: seen.errors)
                seen.errors.clear()
                await asyncio.sleep(0.5)  # several attempts
                assert seen.addresses == [f"10.0.0.{each}:80" for each in range(1, n)]
                await asyncio.to_thread(node.restart)
                await hand.put(f"kill/{n}", naming(f"10.0.0.{n}:80"))
                await seen.shows(*(f"10.0.0.{each}:80" for each in range(1, n + 1)))
                assert len(seen.errors) <= 3, "once for each kind, not for each attempt"


async def test_a_store_restored_from_a_backup_is_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with etcd(tmp_path) as node:
        async with store(node.address) as hand, following(f"etcd://{node.address}/restored") as seen:
            backup = tmp_path / "backup"
            await hand.put("restored/a", naming("10.0.0.1:80"))
            await asyncio.to_thread(node.ctl, "snapshot", "save", str(backup))
            for n in range(20):
                await hand.put("restored/b", naming(f"10.0.0.2{n}:80"))
            await seen.until(lambda: "10.0.0.219:80" in (seen.addresses or ()))
            await asyncio.to_thread(node.end)
            restore(node, backup)
            await asyncio.to_thread(node.restart)
            await seen.shows("10.0.0.1:80")
            await hand.put("restored/c", naming("10.0.0.3:80"))
            await seen.shows("10.0.0.1:80", "10.0.0.3:80")
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "went back from" in said or "another cluster" in said


def restore(node: Etcd, backup: Path) -> None:
    """Replace the data of a node that is not running by a snapshot."""
    node.data.rename(node.data.with_suffix(".old"))
    peers = next(value for option, value in zip(node.options, node.options[1:], strict=False) if option == "--initial-cluster")  # fmt: skip
    node.ctl(
        "snapshot", "restore", str(backup), "--data-dir", str(node.data), "--name", node.name,
        "--initial-cluster", peers, "--initial-advertise-peer-urls", node.peer,
    )  # fmt: skip


async def test_an_empty_store_in_place_of_the_old_one_empties_the_list(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        async with store(node.address) as hand, following(f"etcd://{node.address}/new") as seen:
            await hand.put("new/a", naming("10.0.0.1:80"))
            await seen.shows("10.0.0.1:80")
            await asyncio.to_thread(node.end)
            node.data.rename(node.data.with_suffix(".old"))
            await asyncio.to_thread(node.restart)
            await seen.shows()
            await hand.put("new/b", naming("10.0.0.2:80"))
            await seen.shows("10.0.0.2:80")


async def test_of_more_than_ten_thousand_endpoints_the_first_are_used(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        async with store(node.address) as hand:
            everything = [
                (f"big/{n:05}", naming(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}:80"))
                for n in range(10_050)
            ]
            for start in range(0, len(everything), 128):
                await hand.put_all(everything[start : start + 128])
            async with following(f"etcd://{node.address}/big") as seen:
                await seen.until(lambda: seen.updates)
                assert seen.addresses == [
                    f"10.{n // 65536}.{n // 256 % 256}.{n % 256}:80" for n in range(10_000)
                ]


async def test_a_page_larger_than_a_response_may_be_is_read_in_smaller_ones(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "x" * 60_000
    async with store(address) as hand:
        for n in range(60):
            await hand.put(f"long/{n:02}", naming(f"10.0.0.{n}:80", text=text))
        monkeypatch.setattr(client, "MAX_MESSAGE_BYTES", 1024 * 1024)
        async with following(f"etcd://{address}/long") as seen:
            await seen.until(lambda: seen.updates)
            assert len(seen.addresses or ()) == 60
            assert {len(each.metadata["text"]) for each in seen.latest.endpoints} == {60_000}
            assert seen.errors == []


async def test_random_changes_end_in_what_a_range_shows(tmp_path: Path) -> None:
    """0 missed updates over restarts and compactions, compared with a Range at the end."""
    dice = random.Random(5)
    with etcd(tmp_path) as node:
        async with store(node.address) as hand, following(f"etcd://{node.address}/chaos") as seen:
            for number in range(300):
                key = f"chaos/{dice.randrange(30):02}"
                if dice.random() < 0.3:
                    revision = await hand.delete(key)
                else:
                    revision = await hand.put(key, naming(f"10.0.{number % 250}.{dice.randrange(250)}:80"))
                if dice.random() < 0.05:
                    await hand.compact(revision)
                if number in {100, 200}:
                    await asyncio.to_thread(node.end)
                    await asyncio.to_thread(node.restart)
            found = await hand.call("KV", "Range", messages.RangeRequest(key=b"chaos/", range_end=b"chaos0"))
            codec = EtcdTarget.read(target("etcd:///chaos")).codec
            await seen.until(
                lambda: seen.addresses == [str(codec.decode(kv.key, kv.value)) for kv in found.kvs]
            )
