"""Figures D1 to D7: what the loss of a registry, and a registry in a hurry, do to the calls of its clients."""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

import lbkit
from lbkit.address import Endpoint
from lbkit.balancer import Subchannel
from lbkit.callinfo import CallInfo
from lbkit.picking import Pick, Picker
from lbkit.protos import etcd as messages
from lbkit.resolution import Resolution, Verdict
from tests.bench.processes import cpu_seconds
from tests.faults.fleet import ROOT, Fleet
from tests.faults.load import Load, kinds, milliseconds, tell
from tests.faults.uids import check
from tests.support.consul_server import consul
from tests.support.etcd_server import Etcd, etcd, etcd_cluster, free_ports
from tests.support.servers import all_connected, until
from tests.support.tied import tied

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]

RATE = 300
OUTAGE_S = 20.0
SEEN_WITHIN_S = 3.0
PUTS = 100
CHANGES = 20
MANY = 1000
UPDATES_PER_S = 20


class First(Picker):
    """Picks one and the same."""

    def __init__(self, ready: Sequence[Subchannel]) -> None:
        self._ready = ready[0]

    def pick(self, call: CallInfo) -> Pick:
        return self._ready.picked


@lbkit.balancer("tests_noting")
class Noting(lbkit.EndpointBalancer):
    """Notes when lists and pickers come, on the event loop's clock."""

    lists: list[tuple[float, tuple[Endpoint, ...]]]
    pickers: list[float]
    fresh: asyncio.Event

    @classmethod
    def forget(cls) -> None:
        """Begin anew."""
        cls.lists, cls.pickers, cls.fresh = [], [], asyncio.Event()

    def update(self, resolution: Resolution) -> Verdict:
        self.lists.append((self.controller.clock.time(), resolution.endpoints))
        return super().update(resolution)

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        self.pickers.append(self.controller.clock.time())
        self.fresh.set()
        return First(ready)


def record(address: str, weight: int = 1) -> bytes:
    """A record as etcd's own naming package writes it."""
    return f'{{"Op":0,"Addr":"{address}","Metadata":{{"weight":{weight}}}}}'.encode()


@asynccontextmanager
async def writer(node: Etcd) -> AsyncGenerator[lbkit.Channel, None]:
    """A channel to etcd itself, to write with."""
    async with lbkit.Channel(f"static:///{node.address}") as channel:
        yield channel


async def put(channel: lbkit.Channel, key: str, value: bytes) -> None:
    """Write one key."""
    await channel.stub(messages, "KV").Put(messages.PutRequest(key=key.encode(), value=value), timeout=10.0)


async def listed(channel: lbkit.Channel, prefix: str) -> set[str]:
    """The names of all keys that etcd has now."""
    request = messages.RangeRequest(
        key=prefix.encode(), range_end=prefix[:-1].encode() + b"0", keys_only=True
    )
    answer = await channel.stub(messages, "KV").Range(request, timeout=10.0)
    return {pair.key.decode().removeprefix(prefix) for pair in answer.kvs}


def change_unseen(node: Etcd, key: str, value: str) -> None:
    """Change what etcd has while nobody can see it: on another port, where no client looks."""
    address, node.address = node.address, f"127.0.0.1:{free_ports(1)[0]}"
    try:
        node.restart()
        node.ctl("put", key, value)
        node.end()
    finally:
        node.address = address


async def test_d1_registry_killed_for_20_s_fails_no_call(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with etcd(tmp_path) as node:
        target = f"etcd://{node.address}/fleet"
        async with Fleet(3, tmp_path, register=target) as fleet, lbkit.Channel(target) as channel:
            watcher = await asyncio.create_subprocess_exec(
                *tied([sys.executable, "-m", "lbkit", "watch", target]),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                await all_connected(channel, 3)
                assert watcher.stdout is not None
                await watcher.stdout.readline()
                load = Load(channel)
                async with load.at(RATE):
                    await asyncio.sleep(2.0)
                    node.end(signal.SIGKILL)
                    before = cpu_seconds([watcher.pid]) or 0.0
                    await asyncio.sleep(OUTAGE_S)
                    used = (cpu_seconds([watcher.pid]) or 0.0) - before
                    # Another address of a backend that is there, so that calls to it succeed.
                    also = f"127.0.0.2:{fleet.backends[0].node.ports[0]}"
                    await asyncio.to_thread(change_unseen, node, "fleet/another", record(also).decode())
                    await asyncio.to_thread(node.restart)
                    back = loop.time()
                    await until(lambda: any(str(each.endpoint) == also for each in channel.subchannels()))
                    seen_s = loop.time() - back
                    await asyncio.sleep(2.0)
                    still = {str(each.endpoint) for each in channel.subchannels()}
            finally:
                watcher.kill()
                await watcher.communicate()
            found = check(load.ledger, fleet.entries())
            tell(
                f"D1 etcd killed for {OUTAGE_S:g} s",
                len(load.calls),
                len(load.failed()),
                milliseconds(call.took for call in load.calls),
                f"a change made meanwhile seen {seen_s:.2f} s after its return",
                f"an idle watcher used {used / OUTAGE_S:.2%} of a CPU",
                f"{found}",
                f"{kinds(load.failed())}",
            )
            assert not load.failed()
            assert seen_s < SEEN_WITHIN_S
            assert used / OUTAGE_S < 0.01
            assert still >= {backend.address for backend in fleet.backends}


async def test_d2_put_reaches_the_picker(tmp_path: Path) -> None:
    Noting.forget()
    loop = asyncio.get_running_loop()
    server = lbkit.Server()
    port = server.bind("127.0.0.1:0")
    with etcd(tmp_path) as node:
        async with (
            server.serving(),
            writer(node) as registry,
            lbkit.Channel(f"etcd://{node.address}/one", balancer="tests_noting") as channel,
        ):
            await put(registry, "one/a", record(f"127.0.0.1:{port}"))
            await channel.ready(10.0)
            took = []
            for number in range(PUTS):
                await asyncio.sleep(0.1)  # longer than answers are held back for each other
                Noting.fresh.clear()
                began = loop.time()
                await put(registry, "one/a", record(f"127.0.0.1:{port}", weight=number + 2))
                async with asyncio.timeout(5.0):
                    await Noting.fresh.wait()
                took.append(Noting.pickers[-1] - began)
    tell("D2 put to picker", PUTS, 0, milliseconds(took))
    assert statistics.median(took) < 0.05


async def test_d3_endpoints_added_one_by_one_make_20_updates_a_second(tmp_path: Path) -> None:
    Noting.forget()
    loop = asyncio.get_running_loop()
    server = lbkit.Server()
    port = server.bind("0.0.0.0:0")
    with etcd(tmp_path) as node:
        async with (
            server.serving(),
            writer(node) as registry,
            lbkit.Channel(f"etcd://{node.address}/many", balancer="tests_noting") as channel,
        ):
            await put(registry, "many/0", record(f"127.0.1.0:{port}"))
            await channel.ready(10.0)
            began = loop.time()
            for number in range(1, MANY):
                await put(
                    registry, f"many/{number}", record(f"127.0.{1 + number // 250}.{number % 250}:{port}")
                )
            took = loop.time() - began
            await until(lambda: len(Noting.lists[-1][1]) == MANY)
            keys = await listed(registry, "many/")
            last = {str(endpoint) for endpoint in Noting.lists[-1][1]}
    # Counted over each second, wherever it begins.
    times = [at for at, _ in Noting.lists]
    most = max(sum(at <= other < at + 1 for other in times) for at in times)
    tell(
        f"D3 {MANY} endpoints, one by one",
        MANY,
        0,
        f"in {took:.1f} s",
        f"{len(times)} updates, {most} in the busiest second",
        f"{len(Noting.pickers)} pickers",
    )
    assert most <= UPDATES_PER_S + 1  # 20 intervals have 21 ends
    assert len(keys) == MANY
    assert last == {f"127.0.{1 + n // 250}.{n % 250}:{port}" for n in range(MANY)}


async def test_d4_compaction_restart_and_loss_of_the_leader_miss_no_update(tmp_path: Path) -> None:
    Noting.forget()
    with etcd_cluster(tmp_path, 3) as nodes:
        hosts = ",".join(node.address for node in nodes)
        async with lbkit.Channel(f"etcd://{hosts}/churn", balancer="tests_noting") as channel:
            done: Counter[str] = Counter()
            over = asyncio.Event()

            async def churn(registry: lbkit.Channel) -> None:
                """Write and remove all the time, again where it failed."""
                number = 0
                stub = registry.stub(messages, "KV")
                while not over.is_set():
                    number += 1
                    key, gone = f"churn/{number}".encode(), f"churn/{number - 5}".encode()
                    value = record(f"127.0.0.1:{1 + number % 65000}")
                    requests = (
                        (stub.Put, messages.PutRequest(key=key, value=value)),
                        (stub.DeleteRange, messages.DeleteRangeRequest(key=gone)),
                    )
                    for method, request in requests:
                        while True:
                            try:
                                await method(request, timeout=2.0, wait_for_ready=True)
                                break
                            except lbkit.RpcError as error:
                                done[f"{error.code().name}"] += 1
                                await asyncio.sleep(0.05)
                    done["writes"] += 2

            async with lbkit.Channel(f"static:///{hosts}") as registry:
                await put(registry, "churn/0", record("127.0.0.1:1"))
                channel.get_state(try_to_connect=True)
                writing = asyncio.create_task(churn(registry))
                await until(lambda: len(Noting.lists) > 5)
                revision = max(int(node_revision(node)) for node in nodes)
                nodes[0].ctl("compact", str(revision))
                for node in nodes:  # one of them leads: each in turn is killed, missed, and started again
                    await asyncio.to_thread(node.end)
                    await asyncio.sleep(2.0)
                    await asyncio.to_thread(node.restart)
                    await asyncio.sleep(1.0)
                nodes[0].ctl("compact", str(max(int(node_revision(node)) for node in nodes)))
                before = len(Noting.lists)
                await until(lambda: len(Noting.lists) > before + 3)
                over.set()
                await writing
                keys = await listed(registry, "churn/")
                want = {f"127.0.0.1:{1 + int(key) % 65000}" for key in keys}
                await until(lambda: {str(each) for each in Noting.lists[-1][1]} == want)
    tell(
        "D4 compaction, three restarts and changes of leader",
        done["writes"],
        0,
        f"{len(Noting.lists)} updates, the last equals a Range at the end",
        f"{dict(done)}",
    )
    assert not any(not endpoints for _, endpoints in Noting.lists), "no trouble ever emptied the list"


def node_revision(node: Etcd) -> str:
    """The revision that a node is at."""
    return node.ctl("endpoint", "status", "-w", "fields").partition('"Revision" : ')[2].partition("\n")[0]


async def test_d5_cold_start_without_the_registry_serves_the_first_call(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with etcd(tmp_path) as node:
        async with Fleet(2, tmp_path) as fleet:
            for backend in fleet.backends:
                node.ctl("put", f"cold/{backend.address}", record(backend.address).decode())
            file = tmp_path / "last-good.json"
            target = f"last-good:///?file={quote(str(file))}&of=etcd://{node.address}/cold"
            async with lbkit.Channel(target) as channel:
                await all_connected(channel, 2)
                await until(file.exists)
            node.end(signal.SIGKILL)
            began = loop.time()
            async with lbkit.Channel(target) as channel:
                load = Load(channel)
                await load.call()
                took = loop.time() - began
            tell(
                "D5 cold start, etcd down, last-good file",
                1,
                len(load.failed()),
                f"first answer after {took:.2f} s",
            )
            assert not load.failed()


async def test_d6_rolling_restart_of_registered_backends_fails_no_call(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        target = f"etcd://{node.address}/rolling"
        async with Fleet(4, tmp_path, register=target) as fleet, lbkit.Channel(target) as channel:
            await all_connected(channel, 4)
            load = Load(channel)
            async with load.at(RATE):
                await asyncio.sleep(1.0)
                for backend in fleet.backends:
                    await backend.restart()
                    await all_connected(channel, 4)
                await asyncio.sleep(1.0)
            found = check(load.ledger, fleet.entries())
            tell(
                "D6 rolling restart of all 4 registered",
                len(load.calls),
                len(load.failed()),
                milliseconds(call.took for call in load.calls),
                f"{found}",
                f"{kinds(load.failed())}",
            )
            assert not load.failed()
            assert found.good
            assert {call.backend for call in load.calls} == {backend.name for backend in fleet.backends}


async def test_d7_change_in_consul_reaches_the_picker(tmp_path: Path) -> None:
    Noting.forget()
    loop = asyncio.get_running_loop()
    server = lbkit.Server()
    port = server.bind("127.0.0.1:0")
    with consul(tmp_path) as agent:

        def weigh(weight: int) -> None:
            agent.put("one", f"127.0.0.1:{port}", Weights={"Passing": weight, "Warning": 1})

        await asyncio.to_thread(weigh, 1)
        async with (
            server.serving(),
            lbkit.Channel(f"consul://{agent.address}/one", balancer="tests_noting") as channel,
        ):
            await channel.ready(10.0)
            took = []
            for number in range(CHANGES):
                # What Consul is asked at most: more often than that, changes wait for each other.
                await asyncio.sleep(1.1)
                Noting.fresh.clear()
                began = loop.time()
                await asyncio.to_thread(weigh, number + 2)
                async with asyncio.timeout(5.0):
                    await Noting.fresh.wait()
                took.append(Noting.pickers[-1] - began)
    tell("D7 change in Consul to picker", CHANGES, 0, milliseconds(took))
    assert statistics.median(took) < 0.1
