"""What a real Consul does and what the fake does are the same, as far as resolvers and registrars look."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import lbkit
from lbkit.errors import RegistrationError, ResolverError
from lbkit.registration import RegistrationState
from lbkit.testing import FakeConsul, check_resolver, fake_consul
from lbkit_resolvers.consul import ConsulRegistrar, ConsulResolver
from tests.support.consul_server import Consul, consul
from tests.support.fakes import FakeSink
from tests.support.servers import PATIENCE_S, naming, serving, shares, unary, until

REAL = pytest.mark.interop


class Agent:
    """The fake, or a real one: asked over HTTP, as everybody asks."""

    def __init__(self, running: FakeConsul | Consul, session: aiohttp.ClientSession) -> None:
        self.running = running
        self.address = running.address
        self._session = session

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, str], Any]:
        """Return the status, the headers of Consul, and the body, parsed if that is JSON."""
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, f"http://{self.address}/v1{path}", data=data) as answer:
            text = await answer.text()
            headers = {name: value for name, value in answer.headers.items() if name.startswith("X-Consul")}
            return answer.status, headers, json.loads(text) if text.lstrip()[:1] in {"[", "{", '"'} else text

    async def put(self, service: str, address: str, *, id: str = "", **fields: Any) -> str:
        host, port = address.rsplit(":", 1)
        body = {"ID": id or f"{service}-{address}", "Name": service, "Address": host, "Port": int(port)}
        status, _, said = await self.ask("PUT", "/agent/service/register", {**body, **fields})
        assert status == 200, said
        return str(body["ID"])

    async def remove(self, id: str) -> None:
        assert (await self.ask("PUT", f"/agent/service/deregister/{id}"))[0] == 200

    async def check(self, verb: str, id: str) -> None:
        status, _, said = await self.ask("PUT", f"/agent/check/{verb}/{id}")
        assert status == 200, said

    async def ids(self, service: str, query: str = "passing=1") -> list[str]:
        status, _, entries = await self.ask("GET", f"/health/service/{service}?{query}")
        assert status == 200
        return sorted(entry["Service"]["ID"] for entry in entries)


@pytest.fixture(params=["fake", pytest.param("real", marks=REAL)])
async def agent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Agent, None]:
    async with aiohttp.ClientSession() as session:
        if request.param == "fake":
            async with fake_consul() as fake:
                yield Agent(fake, session)
            return
        # The real one is ended by a thread, as the event loop must not wait for a process.
        running = consul(tmp_path)
        yield Agent(await asyncio.to_thread(running.__enter__), session)
        await asyncio.to_thread(running.__exit__, None, None, None)


class LiveSink(FakeSink):
    """A sink in real time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = asyncio.get_running_loop()


@asynccontextmanager
async def following(resolver: lbkit.Resolver) -> AsyncGenerator[LiveSink, None]:
    sink = LiveSink()
    task = asyncio.create_task(resolver.run(sink))
    try:
        yield sink
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def resolver(agent: Agent, query: str = "") -> ConsulResolver:
    return ConsulResolver(f"consul://{agent.address}/greeter{query}")


async def answered(sink: LiveSink, *addresses: str) -> lbkit.Resolution:
    await until(lambda: sink.addresses and sink.addresses[-1] == [*addresses])
    return sink.answers[-1]


# The HTTP API


async def test_there_is_a_leader(agent: Agent) -> None:
    status, _, leader = await agent.ask("GET", "/status/leader")
    assert (status, ":" in leader) == (200, True)


async def test_unknown_service_is_an_empty_list_with_an_index(agent: Agent) -> None:
    status, headers, entries = await agent.ask("GET", "/health/service/nobody")
    assert (status, entries) == (200, [])
    assert int(headers["X-Consul-Index"]) >= 1
    assert (headers["X-Consul-Knownleader"], headers["X-Consul-Lastcontact"]) == ("true", "0")


async def test_entry_has_what_endpoints_are_made_of(agent: Agent) -> None:
    check = {"CheckID": "mine", "TTL": "60s", "Status": "warning"}
    await agent.put(
        "greeter",
        "10.0.0.1:80",
        Tags=["a"],
        Meta={"zone": "eu"},
        Weights={"Passing": 5, "Warning": 2},
        Check=check,
    )
    _, _, (entry,) = await agent.ask("GET", "/health/service/greeter")
    service = entry["Service"]
    assert {"ID": "greeter-10.0.0.1:80", "Service": "greeter", "Address": "10.0.0.1", "Port": 80}.items() <= (
        service.items()
    )
    assert (service["Tags"], service["Meta"], service["Weights"]) == (
        ["a"],
        {"zone": "eu"},
        {"Passing": 5, "Warning": 2},
    )
    assert {"Node", "Address", "Datacenter", "Meta"} <= entry["Node"].keys()
    assert {each["CheckID"]: each["Status"] for each in entry["Checks"]} == {
        "serfHealth": "passing",
        "mine": "warning",
    }


async def test_blocking_query_returns_with_the_change(agent: Agent) -> None:
    await agent.put("greeter", "10.0.0.1:80")
    _, headers, _ = await agent.ask("GET", "/health/service/greeter")
    index = headers["X-Consul-Index"]
    await agent.put("another", "10.0.0.8:80")
    _, headers, _ = await agent.ask("GET", "/health/service/another")
    query = asyncio.create_task(agent.ask("GET", f"/health/service/greeter?index={index}&wait=30s"))
    another = f"/health/service/another?index={headers['X-Consul-Index']}&wait=30s"
    witness = asyncio.create_task(agent.ask("GET", another))  # of what wakes such queries
    await agent.put("another", "10.0.0.9:80")
    _, _, entries = await witness
    assert len(entries) == 2
    assert not query.done()  # for it was none of this service's changes
    await agent.put("greeter", "10.0.0.2:80")
    status, headers, entries = await query
    assert (status, len(entries)) == (200, 2)  # it did not come back earlier with one
    assert int(headers["X-Consul-Index"]) > int(index)


async def test_blocking_query_ends_after_its_wait_with_the_same(agent: Agent) -> None:
    await agent.put("greeter", "10.0.0.1:80")
    _, headers, entries = await agent.ask("GET", "/health/service/greeter")
    began = time.monotonic()
    answer = await agent.ask("GET", f"/health/service/greeter?index={headers['X-Consul-Index']}&wait=300ms")
    assert 0.29 <= time.monotonic() - began < 0.3 * 17 / 16 + PATIENCE_S
    assert answer == (200, headers, entries)


async def test_index_of_the_future_is_answered_with_the_lower_one(agent: Agent) -> None:
    await agent.put("greeter", "10.0.0.1:80")
    status, headers, _ = await agent.ask("GET", "/health/service/greeter?index=999999&wait=200ms")
    assert (status, int(headers["X-Consul-Index"]) < 999999) == (200, True)


async def test_unknown_datacenter_is_a_500_with_an_index_that_means_nothing(agent: Agent) -> None:
    status, headers, said = await agent.ask("GET", "/health/service/greeter?dc=mars")
    assert (status, said) == (500, "No path to datacenter")
    assert (headers["X-Consul-Index"], headers["X-Consul-Knownleader"]) == ("1", "false")


async def test_tags_and_health_choose(agent: Agent) -> None:
    await agent.put("greeter", "10.0.0.1:80", id="a", Tags=["x", "y"])
    await agent.put("greeter", "10.0.0.2:80", id="b", Tags=["x"])
    await agent.put("greeter", "10.0.0.3:80", id="c", Check={"TTL": "60s"})  # critical until it is heard
    assert await agent.ids("greeter", "passing=1") == ["a", "b"]
    assert await agent.ids("greeter", "tag=x&tag=y") == ["a"]
    assert await agent.ids("greeter", "") == ["a", "b", "c"]
    await agent.check("warn", "service:c")
    assert await agent.ids("greeter", "passing=1") == ["a", "b"]
    await agent.check("pass", "service:c")
    assert await agent.ids("greeter", "passing=1") == ["a", "b", "c"]
    await agent.check("fail", "service:c")
    assert await agent.ids("greeter", "passing=1") == ["a", "b"]


async def test_ttl_that_runs_out_is_critical_at_once(agent: Agent) -> None:
    await agent.put("greeter", "10.0.0.1:80", Check={"TTL": "500ms", "Status": "passing"})
    assert await agent.ids("greeter", "") == ["greeter-10.0.0.1:80"]
    async with asyncio.timeout(PATIENCE_S):
        while await agent.ids("greeter"):
            pass


async def test_agent_tells_of_its_own_services_until_they_are_gone(agent: Agent) -> None:
    assert (await agent.ask("GET", "/agent/service/a"))[0] == 404
    await agent.put("greeter", "10.0.0.1:80", id="a", Meta={"k": "v"})
    status, _, found = await agent.ask("GET", "/agent/service/a")
    assert (status, found["ID"], found["Service"], found["Meta"]) == (200, "a", "greeter", {"k": "v"})
    await agent.remove("a")
    assert (await agent.ask("GET", "/agent/service/a"))[0] == 404


async def test_heartbeat_of_nobody_is_an_error(agent: Agent) -> None:
    status, _, _ = await agent.ask("PUT", "/agent/check/pass/service:nobody")
    assert status in {404, 500}  # which it is depends on the version


WRONG_QUERIES = [
    "greeter?index=x",
    "greeter?index=7&wait=soon",
    "greeter?index=7&wait=5parsecs",
    "greeter?passing=x",
    "greeter?stale&consistent",
    "",
]


async def test_wrong_queries_are_refused(agent: Agent) -> None:
    asked = [(query, await agent.ask("GET", f"/health/service/{query}")) for query in WRONG_QUERIES]
    assert [query for query, (status, _, _) in asked if status == 400] == WRONG_QUERIES


async def test_names_and_tags_have_no_capital_letters(agent: Agent) -> None:
    await agent.put("Greeter", "10.0.0.1:80", id="a", Tags=["Blue"])
    for service in ("greeter?tag=blue", "GREETER?tag=BLUE", "greeter?passing=false", "greeter?dc="):
        name, _, query = service.partition("?")
        assert await agent.ids(name, query) == ["a"]


WRONG_REGISTRATIONS: list[dict[str, object]] = [
    {"Name": ""},
    {"Port": "80"},
    {"Tags": "blue"},
    {"Tags": [7]},
    {"Address": "0.0.0.0"},
    {"Address": "::"},
    {"Meta": {"build.sha": "f00"}},
    {"Meta": {"a": 1}},
    {"Meta": {"a" * 129: "b"}},
    {"Meta": {"a": "b" * 513}},
    {"Meta": {str(number): "" for number in range(65)}},
    {"Weights": {"Passing": 0, "Warning": 0}},
    {"Weights": {"Passing": 1, "Warning": -1}},
    {"Weights": {"Passing": 65536, "Warning": 1}},
    {"Weights": {"Passing": "1", "Warning": 1}},
    {"Check": {"TTL": "soon"}},
    {"Check": {"TTL": "20s", "Status": "odd"}},
    {"Check": {"TTL": "20s", "DeregisterCriticalServiceAfter": "x"}},
    {"Checks": ["no object"]},
]


async def test_wrong_registrations_are_refused(agent: Agent) -> None:
    fields = {"ID": "a", "Name": "greeter", "Address": "10.0.0.1", "Port": 80}
    asked = [
        (wrong, await agent.ask("PUT", "/agent/service/register", {**fields, **wrong}))
        for wrong in WRONG_REGISTRATIONS
    ]
    assert [wrong for wrong, (status, _, _) in asked if status == 400] == WRONG_REGISTRATIONS
    assert (await agent.ask("PUT", "/agent/service/register", "no object"))[0] == 400
    assert await agent.ids("greeter", "") == []


async def test_largest_registration_is_taken(agent: Agent) -> None:
    meta = {f"{number:_<128}": "v" * 512 for number in range(64)}
    weights = {"Passing": 65535, "Warning": 0}
    check = {"TTL": "1m30s", "Status": "warning", "DeregisterCriticalServiceAfter": "1h30m"}
    await agent.put("greeter", "10.0.0.1:80", Meta=meta, Weights=weights, Check=check)
    _, _, found = await agent.ask("GET", "/agent/service/greeter-10.0.0.1:80")
    assert (found["Meta"], found["Weights"]) == (meta, weights)


# The resolver


async def test_resolver_follows_registrations(agent: Agent) -> None:
    async with following(resolver(agent)) as sink:
        await answered(sink)  # nobody yet, which is an answer
        first = await agent.put("greeter", "10.0.0.2:80")
        await answered(sink, "10.0.0.2:80")
        await agent.put("greeter", "10.0.0.1:80", Weights={"Passing": 3, "Warning": 1}, Meta={"zone": "eu"})
        answer = await answered(sink, "10.0.0.1:80", "10.0.0.2:80")
        await agent.remove(first)
        await answered(sink, "10.0.0.1:80")
    assert (answer.endpoints[0].weight, answer.endpoints[0].zone) == (3.0, "eu")
    assert answer.source.startswith(f"consul {agent.address}, index ")
    assert sink.errors == []


async def test_healthy_decides_about_those_that_warn_or_fail(agent: Agent) -> None:
    for number, state in enumerate(("passing", "warning", "critical"), 1):
        await agent.put(
            "greeter",
            f"10.0.0.{number}:80",
            Check={"TTL": "60s", "Status": state},
            Weights={"Passing": 9, "Warning": 2},
        )
    async with following(resolver(agent)) as sink:
        await answered(sink, "10.0.0.1:80")
    async with following(resolver(agent, "?healthy=warning")) as sink:
        answer = await answered(sink, "10.0.0.1:80", "10.0.0.2:80")
    assert [endpoint.weight for endpoint in answer.endpoints] == [9.0, 2.0]
    async with following(resolver(agent, "?healthy=false")) as sink:
        answer = await answered(sink, "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
    assert [endpoint.draining for endpoint in answer.endpoints] == [False, False, True]


async def test_tags_of_the_target_choose(agent: Agent) -> None:
    await agent.put("greeter", "10.0.0.1:80", Tags=["x", "y"])
    await agent.put("greeter", "10.0.0.2:80", Tags=["x"])
    async with following(resolver(agent, "?tag=x,y&near=_agent&dc=dc1&require-consistent=true")) as sink:
        await answered(sink, "10.0.0.1:80")


async def test_unknown_datacenter_is_an_error_that_says_so(agent: Agent) -> None:
    with pytest.raises(ResolverError, match="says 500: No path to datacenter"):
        await resolver(agent, "?dc=mars").run(LiveSink())


async def test_resolver_keeps_the_contract_of_resolvers(agent: Agent) -> None:
    await agent.put("greeter", "10.0.0.1:80")
    await check_resolver(f"consul://{agent.address}/greeter", expect=["10.0.0.1:80"])


def numbers(sink: LiveSink) -> list[str]:
    """The attribute of that name, of each endpoint of the last answer."""
    return [endpoint.metadata["number"] for endpoint in sink.answers[-1].endpoints]


async def test_first_change_arrives_within_a_fraction_of_a_second(agent: Agent) -> None:
    took: list[float] = []
    async with following(resolver(agent)) as sink:
        await answered(sink)
        for number in range(4):
            await asyncio.sleep(1.1)  # the quiet time before it
            began = time.perf_counter()
            await agent.put("greeter", "10.0.0.1:80", Meta={"number": str(number)})
            await until(lambda: numbers(sink)[-1:] == [str(number)])  # noqa: B023 -- it is over by the next round
            took.append(time.perf_counter() - began)
    print(f"a change took {sorted(took)[len(took) // 2] * 1000:.1f} ms from the agent to the sink")
    assert min(took) < 0.5


# The registrar


def registration(agent: Agent, instance: lbkit.Instance, query: str = "") -> lbkit.Registration:
    return lbkit.Registration(f"consul://{agent.address}/greeter{query}", instance)


async def test_registration_puts_a_record_and_takes_it_back(agent: Agent) -> None:
    instance = lbkit.Instance("10.0.0.1:80", weight=2.5, zone="eu", metadata={"version": "7"})
    async with following(resolver(agent)) as sink:
        async with registration(agent, instance, "?tag=blue") as registered:
            await registered.registered(PATIENCE_S)
            answer = await answered(sink, "10.0.0.1:80")
        await answered(sink)
    (endpoint,) = answer.endpoints
    assert (endpoint.weight, endpoint.zone) == (2.5, "eu")
    assert {"version": "7", "tags": "blue"}.items() <= endpoint.metadata.items()
    assert not any(key.startswith("lbkit") for key in endpoint.metadata)
    assert (await agent.ask("GET", "/agent/service/greeter-10.0.0.1:80"))[0] == 404


@pytest.mark.parametrize(("weight", "whole"), [(0.25, 1), (1e6, 65535), (7.0, 7)])
async def test_weight_that_consul_cannot_hold_is_kept_in_the_metadata(
    agent: Agent, weight: float, whole: int
) -> None:
    async with registration(agent, lbkit.Instance("10.0.0.1:80", weight=weight)) as registered:
        await registered.registered(PATIENCE_S)
        _, _, found = await agent.ask("GET", "/agent/service/greeter-10.0.0.1:80")
        assert found["Weights"]["Passing"] == whole
        async with following(resolver(agent)) as sink:
            (endpoint,) = (await answered(sink, "10.0.0.1:80")).endpoints
        assert endpoint.weight == weight


async def test_kratos_finds_its_fields(agent: Agent) -> None:
    instance = lbkit.Instance("10.0.0.1:80", metadata={"version": "v7"}, secure=True)
    async with registration(agent, instance, "?format=kratos") as registered:
        await registered.registered(PATIENCE_S)
        _, _, found = await agent.ask("GET", "/agent/service/greeter-10.0.0.1:80")
        assert found["Tags"] == ["version=v7"]
        assert found["TaggedAddresses"]["grpc"] == {"Address": "grpc://10.0.0.1:80?isSecure=true", "Port": 80}
        async with following(resolver(agent)) as sink:
            (endpoint,) = (await answered(sink, "10.0.0.1:80")).endpoints
        assert endpoint.metadata["version"] == "v7"


async def test_heartbeats_keep_it_passing(agent: Agent) -> None:
    async with registration(agent, lbkit.Instance("10.0.0.1:80"), "?ttl=3s") as registered:
        await registered.registered(PATIENCE_S)
        until_s = time.monotonic() + 3.5  # longer than it lives without
        while time.monotonic() < until_s:
            await asyncio.sleep(0.1)
            assert await agent.ids("greeter") == ["greeter-10.0.0.1:80"]


async def test_lost_record_is_put_again(agent: Agent) -> None:
    async with registration(agent, lbkit.Instance("10.0.0.1:80"), "?ttl=1s") as registered:
        await registered.registered(PATIENCE_S)
        await agent.remove("greeter-10.0.0.1:80")
        async with asyncio.timeout(PATIENCE_S):
            while not await agent.ids("greeter"):
                pass
        await until(lambda: registered.state is RegistrationState.REGISTERED)


async def test_same_id_wins_over_its_ghost_and_outlives_it(agent: Agent) -> None:
    old = registration(agent, lbkit.Instance("10.0.0.1:80", id="greeter-1"))
    old.start()
    await old.registered(PATIENCE_S)
    async with registration(agent, lbkit.Instance("10.0.0.2:80", id="greeter-1")) as new:
        await new.registered(PATIENCE_S)
        await old.close()  # takes nothing away that is not its own
        _, _, (entry,) = await agent.ask("GET", "/health/service/greeter")
        assert entry["Service"]["Address"] == "10.0.0.2"
    assert await agent.ids("greeter", "") == []


async def test_record_of_somebody_else_is_left_alone(agent: Agent) -> None:
    one = registration(agent, lbkit.Instance("10.0.0.1:80"))
    one.start()
    await one.registered(PATIENCE_S)
    await agent.put("greeter", "10.0.0.9:80", id="greeter-10.0.0.1:80")
    await one.close()
    assert await agent.ids("greeter", "") == ["greeter-10.0.0.1:80"]


@pytest.mark.parametrize("address", ["unix:/run/app.sock"])
async def test_address_that_consul_cannot_hold_is_an_error(agent: Agent, address: str) -> None:
    registrar = ConsulRegistrar(f"consul://{agent.address}/greeter")
    with pytest.raises(RegistrationError, match="Consul holds one host and port"):
        await registrar.register(lbkit.Instance(address))
    await registrar.close()


async def test_server_registers_itself_and_a_channel_finds_it(agent: Agent) -> None:
    target = f"consul://{agent.address}/greeter"
    async with serving(naming("one")) as one, serving(naming("two")) as two:
        entries: list[Callable[[], Any]] = []
        for backend in (one, two):
            entry = registration(agent, lbkit.Instance(backend.address))
            entry.start()
            await entry.registered(PATIENCE_S)
            entries.append(entry.close)
        async with lbkit.Channel(target) as channel:
            call = unary(channel)
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"one", "two"}:
                    pass
            await entries[0]()
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"two"}:
                    pass
        await entries[1]()
