"""Registries that change and fail at random: an error never replaces a good list, and an authoritative answer does.

Each source is followed by four resolvers at once: as it is, and under ``guard``, ``last-good`` and ``fallback``. Each of
their lists must be what the registry held at some moment since the one before, and after the last fault all must show
what it holds then. ``CHAOS_SEED=1234`` repeats a script of ``make soak``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lbkit.address import Endpoint
from lbkit.protos import etcd as etcd_pb
from lbkit.resolution import Resolution
from lbkit.resolver import make_resolver
from lbkit.testing import fake_consul, fake_dns, fake_kubernetes, registry
from lbkit.testing.embedded import EmbeddedRegistry
from lbkit.testing.fake_consul import FakeConsul
from lbkit.testing.fake_dns import FakeDns
from lbkit.testing.fake_kubernetes import FakeKubernetes
from lbkit_resolvers.etcd.errors import EtcdError
from tests.faults.discovery import (
    BACKUP,
    FLEET,
    OUTAGE_S,
    SETTLED_S,
    Chaos,
    Fits,
    Gate,
    Recorder,
    Source,
    faults_of,
    same,
    same_and_more,
    same_or_backup,
)
from tests.support.consul_server import Consul, consul
from tests.support.etcd_following import Store, naming, store
from tests.support.etcd_server import Etcd, etcd
from tests.support.servers import until

SERVICE = "greeter"
PORT = 50051
LARGE_SLICES, SMALL_SLICES = 3, 60
MOST_CHANGES = 100  # in a transaction; etcd allows 128
JUNK = f"{SERVICE}/junk"


class Gated(Source):
    """A registry behind a gate."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate
        self.faults |= faults_of(gate)

    async def down(self) -> None:
        self.gate.refuse()

    async def heal(self) -> None:
        await self.gate.admit()


class EtcdSource(Gated):
    """A real etcd."""

    fleets = (FLEET, 600)  # more than one page

    def __init__(self, gate: Gate, node: Etcd, keys: Store) -> None:
        super().__init__(gate)
        self.node = node
        self.store = keys
        self.faults |= {"kill": self.kill, "compact": self.compact, "junk": self.junk}

    def target(self) -> str:
        return f"etcd://{self.gate.address}/{SERVICE}"

    async def change(self, changes: Mapping[str, int | None]) -> None:
        """Change all in one transaction, of which nobody may see a part; or in several, if it is too much for one."""
        items = iter(changes.items())
        while some := dict(islice(items, MOST_CHANGES)):
            self.truth.become(some)
            await self._commit({
                f"{SERVICE}/{address}": None if mark is None else naming(address, weight=mark)
                for address, mark in some.items()
            })  # fmt: skip

    async def write(self, address: str, mark: int | None) -> None:
        await self.change({address: mark})

    async def kill(self) -> None:
        self.writable = False
        await asyncio.to_thread(self.node.end)

    async def compact(self) -> None:
        """Forget what happened, with everybody cut off who could have seen it."""
        if self.writable:
            await self.store.compact(await self.store.put("elsewhere", b""))
            self.gate.reset()

    async def junk(self) -> None:
        if self.writable:
            await self._commit({JUNK: b'{"Op":0,"Addr":"nowhere'})

    async def heal(self) -> None:
        if not self.writable:
            await asyncio.to_thread(self.node.restart)
            self.writable = True
        await self._commit({JUNK: None})
        await super().heal()

    async def _commit(self, values: Mapping[str, bytes | None]) -> None:
        puts = [
            etcd_pb.RequestOp(request_put=etcd_pb.PutRequest(key=key.encode(), value=value))
            for key, value in values.items()
            if value is not None
        ]
        deletes = [
            etcd_pb.RequestOp(request_delete_range=etcd_pb.DeleteRangeRequest(key=key.encode()))
            for key, value in values.items()
            if value is None
        ]
        while True:
            try:
                await self.store.call("KV", "Txn", etcd_pb.TxnRequest(success=puts + deletes))
            except EtcdError:  # it was just restarted; what was done before that may be done again
                await asyncio.sleep(0.02)
            else:
                return


class EmbeddedSource(Gated):
    """The registry of ``lbkit.testing``."""

    fleets = (FLEET, 600)

    def __init__(self, gate: Gate, server: EmbeddedRegistry) -> None:
        super().__init__(gate)
        self.registry = server
        self.stopped = self.forgetting = False
        self.faults |= {
            "stop": self.stop,
            "forget": self.forget,
            "lose leader": server.lose_leader,
            "compact": self.compact,
            "junk": lambda: self._put(JUNK, "{"),
        }

    def target(self) -> str:
        return f"etcd://{self.gate.address}/{SERVICE}"

    async def write(self, address: str, mark: int | None) -> None:
        if mark is None:
            self.registry.remove(SERVICE, address)
        else:
            self.registry.add(SERVICE, address, {"weight": mark})

    async def stop(self) -> None:
        self.stopped = True
        await self.registry.stop()

    async def forget(self) -> None:
        self.forgetting = True
        await self.stop()

    def compact(self) -> None:
        self.registry.compact()
        self.gate.reset()

    async def heal(self) -> None:
        if self.stopped:
            lost = dict(self.truth.now)
            if self.forgetting:  # whoever asks first is told that there is nothing, and that counts
                self.truth.become(dict.fromkeys(lost))
            await self.registry.start(forget=self.forgetting)
            if self.forgetting:
                await self.change(lost)
            self.stopped = self.forgetting = False
        self.registry.find_leader()
        self.registry.delete(JUNK)
        await super().heal()

    def _put(self, key: str, value: str) -> None:
        self.registry.put(key, value)


class ConsulSource(Gated):
    """A real Consul. What is registered goes straight into its catalogue: agents pass it on in any order."""

    def __init__(self, gate: Gate, agent: Consul) -> None:
        super().__init__(gate)
        self.agent = agent
        self.faults |= {"kill": self.kill, "junk": self.junk}

    def target(self) -> str:
        return f"consul://{self.gate.address}/{SERVICE}?empty-guard=4s&max-backoff=1s"

    async def write(self, address: str, mark: int | None) -> None:
        host, port = address.split(":")
        if mark is None:
            await self._tell("deregister", {"ServiceID": address})
            return
        weights = {"Passing": mark, "Warning": 1}
        service = {"ID": address, "Service": SERVICE, "Address": host, "Port": int(port), "Weights": weights}
        await self._tell("register", {"Address": "127.0.0.1", "Service": service})

    async def kill(self) -> None:
        self.writable = False
        await asyncio.to_thread(self.agent.end)

    async def junk(self) -> None:
        if self.writable:
            service = {"ID": "junk", "Service": SERVICE, "Address": "127.0.0.1", "Port": 0}
            await self._tell("register", {"Address": "127.0.0.1", "Service": service})

    async def heal(self) -> None:
        if self.writable:
            await self._tell("deregister", {"ServiceID": "junk"})
        else:
            await asyncio.to_thread(self.agent.restart)
            self.writable = True
            await self.restore()
        await super().heal()

    async def _tell(self, verb: str, body: Mapping[str, Any]) -> None:
        path, about = f"/v1/catalog/{verb}", {"Node": "elsewhere", **body}
        await asyncio.to_thread(self.agent.api, "PUT", path, about)


class FakeConsulSource(Gated):
    """The agent of ``lbkit.testing``."""

    def __init__(self, gate: Gate, fake: FakeConsul) -> None:
        super().__init__(gate)
        self.fake = fake
        for fault in (500, 429, "silence", "garbage", "half", "reset"):
            self.faults[str(fault)] = partial(setattr, fake, "fault", fault)
        self.faults |= {
            "restart": self.restart,
            "no leader": partial(setattr, fake, "leader", False),
            "old answers": partial(setattr, fake, "last_contact_s", 60.0),
            "no index": partial(setattr, fake, "send_index", False),
        }

    def target(self) -> str:
        return f"consul://{self.gate.address}/{SERVICE}?empty-guard=4s&max-backoff=1s"

    async def write(self, address: str, mark: int | None) -> None:
        if mark is None:
            self.fake.remove(f"{SERVICE}-{address}")
        else:
            self.fake.put(SERVICE, address, weights=(mark, 1))

    async def restart(self) -> None:
        self.fake.restart()
        await self.restore()

    async def heal(self) -> None:
        self.fake.fault = None
        self.fake.leader = self.fake.send_index = True
        self.fake.last_contact_s = 0.0
        await super().heal()


class KubernetesSource(Gated):
    """The API server of ``lbkit.testing``; the backends are spread over few large slices and many small ones."""

    growing = True
    calm_s = 1.1  # a watch was a good one if it lasted a second
    fleets = (FLEET, 250)  # in more slices than there are on a page

    def __init__(self, gate: Gate, cluster: FakeKubernetes, folder: Path) -> None:
        super().__init__(gate)
        self.cluster = cluster
        self.kubeconfig = folder / "kubeconfig"
        text = cluster.kubeconfig.read_text()
        self.kubeconfig.write_text(text.replace(cluster.url, f"http://{gate.address}"))
        for fault in (500, 503, 429, 410, "silence", "garbage", "hang up"):
            for verb in ("list", "watch"):
                self.faults[f"{fault} to {verb}"] = partial(cluster.fail, fault, verb)
        self.faults |= {
            "hold": cluster.hold,
            "compact": self.compact,
            "end watches": self._discarding(cluster.end_watches),
            "cut watches": self._discarding(partial(cluster.end_watches, "cut")),
            "expire watches": self._discarding(partial(cluster.end_watches, "expired")),
            "no events": partial(cluster.send, b'{"type":"MODIFIED","object":\xff}\n'),
            "half an event": partial(cluster.send, b'{"type":"MODIFIED","object":{"metadata":{"name":"gre'),
        }

    def target(self) -> str:
        return f"kubernetes:///{SERVICE}.default:grpc?kubeconfig={quote(str(self.kubeconfig))}"

    def mark_of(self, endpoint: Endpoint) -> int:
        return 2 if endpoint.draining else 1

    def mark(self, number: int) -> int:
        return 1 + number % 2

    async def write(self, address: str, mark: int | None) -> None:
        number = _slice_of(address)
        members = {host: mark for host, mark in self.truth.now.items() if _slice_of(host) == number}
        name = f"{SERVICE}-{number}"
        if not members:
            self.cluster.delete(name)
            return
        self.cluster.apply({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": PORT, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [host.partition(":")[0]],
                    "conditions": {"ready": mark == 1, "serving": True, "terminating": mark == 2},
                    "targetRef": {"kind": "Pod", "name": host, "uid": host},
                }
                for host, mark in members.items()
            ],
        })  # fmt: skip

    def compact(self) -> None:
        self.cluster.compact()
        self.gate.reset()

    async def heal(self) -> None:
        self.cluster.heal()
        await super().heal()

    @staticmethod
    def _discarding(function: Callable[[], object]) -> Callable[[], None]:
        def do() -> None:
            function()

        return do


def _slice_of(address: str) -> int:
    number = int(address.partition(":")[0].rpartition(".")[2])
    return number % LARGE_SLICES if number <= 125 else LARGE_SLICES + number % SMALL_SLICES


class DnsSource(Source):
    """The name server of ``lbkit.testing``."""

    growing = True

    def __init__(self, dns: FakeDns) -> None:
        super().__init__()
        self.dns = dns
        for fault in ("SERVFAIL", "REFUSED", "NXDOMAIN", "silence", "garbage", "forged", "truncated"):
            for kind in ("", "A", "AAAA"):
                self.faults[f"{fault} {kind}"] = partial(dns.fail, fault, kind=kind)

    def target(self) -> str:
        return self.dns.target(f"{SERVICE}.test:{PORT}?refresh=1s")

    def mark(self, number: int) -> int:
        return 1

    async def write(self, address: str, mark: int | None) -> None:
        self.dns.set(f"{SERVICE}.test", "A", *(each.partition(":")[0] for each in self.truth.now))

    async def down(self) -> None:
        self.dns.fail("silence")

    async def heal(self) -> None:
        self.dns.heal()


class FileSource(Source):
    """A file, written by somebody who is not careful."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.fault = ""
        for fault in ("half", "empty", "garbage", "gone", "a bad entry", "a directory"):
            self.faults[fault] = partial(self.spoil, fault)

    def target(self) -> str:
        return f"file://{self.path}?poll=100ms"

    async def write(self, address: str, mark: int | None) -> None:
        items = [{"address": each, "weight": weight} for each, weight in self.truth.now.items()]
        whole = json.dumps({"endpoints": items}, indent=1).encode()
        if self.path.is_dir():
            self.path.rmdir()
        if self.fault in {"gone", "a directory"}:
            self.path.unlink(missing_ok=True)
            if self.fault == "a directory":
                self.path.mkdir()
            return
        data = {
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "garbage": b"\xff\x00" + whole,
            "a bad entry": whole.replace(b"127.", b"nowhere 127.", 1),
        }.get(self.fault, whole)
        if len(self.truth.versions) % 2:
            self.path.write_bytes(data)
        else:
            new = self.path.with_suffix(".new")
            new.write_bytes(data)
            new.replace(self.path)

    async def spoil(self, fault: str) -> None:
        self.fault = fault
        await self.write("", None)

    async def down(self) -> None:
        await self.spoil("gone")

    async def heal(self) -> None:
        await self.spoil("")


@asynccontextmanager
async def real_etcd(folder: Path) -> AsyncGenerator[Source, None]:
    with etcd(folder) as node:
        async with Gate(node.address) as gate, store(node.address) as keys:
            yield EtcdSource(gate, node, keys)


@asynccontextmanager
async def embedded(folder: Path) -> AsyncGenerator[Source, None]:
    async with registry() as server, Gate(server.address) as gate:
        yield EmbeddedSource(gate, server)


@asynccontextmanager
async def real_consul(folder: Path) -> AsyncGenerator[Source, None]:
    with consul(folder) as agent:
        async with Gate(agent.address) as gate:
            yield ConsulSource(gate, agent)


@asynccontextmanager
async def consul_of_tests(folder: Path) -> AsyncGenerator[Source, None]:
    async with fake_consul() as fake, Gate(fake.address) as gate:
        yield FakeConsulSource(gate, fake)


@asynccontextmanager
async def kubernetes(folder: Path) -> AsyncGenerator[Source, None]:
    async with fake_kubernetes() as cluster, Gate(cluster.url.removeprefix("http://")) as gate:
        yield KubernetesSource(gate, cluster, folder)


@asynccontextmanager
async def dns(folder: Path) -> AsyncGenerator[Source, None]:
    async with fake_dns() as server:
        yield DnsSource(server)


@asynccontextmanager
async def file(folder: Path) -> AsyncGenerator[Source, None]:
    yield FileSource(folder / "backends.json")


PATIENTLY_S = 30.0  # for the scripts that run beside other tests
Make = Callable[[Path], AbstractAsyncContextManager[Source]]
# Each with the seed of a short script that has something to it.
SEEDS: dict[Make, int] = {
    real_etcd: 3,
    embedded: 5,
    real_consul: 4,
    consul_of_tests: 4,
    kubernetes: 3,
    dns: 1,
    file: 2,
}
every_source = pytest.mark.parametrize("make", SEEDS, ids=lambda make: make.__name__)


@pytest.mark.parametrize(
    ("fits", "lists", "wrong"),
    [
        (same, ["ab", "a", "ac"], 0),
        (same, ["ab", "ac"], 0),  # what came together is told together
        (same, ["ab", ""], 1),
        (same, ["ab", "abc"], 1),  # parts of two moments
        (same, ["a", "ab"], 1),  # an older one
        (same, ["ac", "ad"], 1),
        (same, ["aa"], 1),
        (same_and_more, ["ab", "ab", "acb"], 0),
        (same_and_more, ["ab", "c"], 1),
        (same_and_more, ["acd"], 1),
        (same_or_backup, ["ab", BACKUP], 1),
    ],
)
async def test_a_list_that_was_never_the_truth_is_found_out(
    fits: Fits, lists: list[str], wrong: int, tmp_path: Path
) -> None:
    hosts = {name: f"127.0.0.{number}:1" for number, name in enumerate("abcd", 1)}
    source = FileSource(tmp_path / "backends.json")
    source.truth.become({hosts["a"]: 1, hosts["b"]: 1})
    source.truth.begin()
    source.truth.become({hosts["b"]: None})
    source.truth.become({hosts["c"]: 1})
    recorder = Recorder("any", make_resolver(source.target()), source, fits)
    for names in lists:
        addresses = [names] if names == BACKUP else [hosts[name] for name in names]
        recorder.update(Resolution(tuple(map(Endpoint, addresses))))
    assert len(recorder.violations) == wrong


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        # Between two queries: nobody notices, and the index is ahead of the agent's.
        (
            consul_of_tests,
            "restart",
        ),
        (kubernetes, "garble"),  # between two chunks of a watch
    ],
)
async def test_a_fault_that_nobody_is_told_of_is_noticed(make: Make, fault: str, tmp_path: Path) -> None:
    async with make(tmp_path) as source:
        for number in range(10):
            await source.change({"127.0.0.1:50051": source.mark(number + 1)})
        source.truth.begin()
        recorder = Recorder("plain", make_resolver(source.target()), source, same)
        recorder.start()
        try:
            await until(recorder.settled)
            await source.change({"127.0.0.2:50051": source.mark(1)})
            await until(recorder.settled)
            if (waiting := source.faults[fault]()) is not None:
                await waiting
            await source.heal()
            await source.change({"127.0.0.3:50051": source.mark(1)})
            await until(recorder.settled)
        finally:
            await recorder.close()
        assert not recorder.violations


async def run(
    make: Make, folder: Path, seed: int, seconds: float, outage_s: float, settled_s: float = SETTLED_S
) -> None:
    async with make(folder) as source:
        chaos = Chaos(source, folder, seed, settled_s)
        print(f"\nCHAOS_SEED={seed}")
        await chaos.run(seconds, outage_s)
        chaos.tell(make.__name__)


@every_source
async def test_no_error_replaces_a_list_and_the_truth_does(make: Make, tmp_path: Path) -> None:
    await run(make, tmp_path, seed=SEEDS[make], seconds=1.0, outage_s=0.0, settled_s=PATIENTLY_S)


@pytest.mark.soak
@pytest.mark.timeout(300)
@every_source
async def test_each_fault_by_itself_is_survived(make: Make, tmp_path: Path) -> None:
    async with make(tmp_path) as source:
        faults = sorted(source.faults)
    for number, fault in enumerate(faults):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with make(folder) as source:
            await Chaos(source, folder, number, PATIENTLY_S).one(fault)


@pytest.mark.soak
@pytest.mark.timeout(120)
@every_source
async def test_lists_are_right_through_many_faults_and_an_outage_costs_nothing(
    make: Make, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
    await run(make, tmp_path, seed, seconds=12.0, outage_s=OUTAGE_S)
