"""The resolver and the registrar on clients that the user has already: asyncio, blocking, and of the older package."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

import consul  # type: ignore[import-untyped]  # it has no stubs
import consul.aio  # type: ignore[import-untyped]  # see above
import pytest
from aiohttp import web

import lbkit
from lbkit.testing import FakeConsul, fake_consul
from lbkit_resolvers.consul import ConsulRegistrar, ConsulResolver
from lbkit_resolvers.consul.agent import AgentError
from lbkit_resolvers.consul.reach import agent_of_client
from tests.e2e.test_consul_faults import Host
from tests.support.servers import PATIENCE_S, naming, serving, shares, unary, until


@pytest.fixture
async def fake() -> AsyncGenerator[FakeConsul, None]:
    async with fake_consul() as running:
        running.put("greeter", "10.0.0.1:80")
        yield running


def place(fake: FakeConsul) -> dict[str, Any]:
    host, port = fake.address.split(":")
    return {"host": host, "port": int(port)}


def asyncio_client(fake: FakeConsul, **options: Any) -> consul.aio.Consul:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of aiohttp's, about py-consul
        return consul.aio.Consul(**place(fake), verify=False, **options)


class _Response(NamedTuple):
    code: int
    headers: Any
    body: str


class _Adapter:
    """What ``requests`` has below its sessions; ``silent`` agents are waited for without end, as there."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.timeouts: list[float | None] = []

    def send(self, request: tuple[str, str, str], **options: Any) -> _Response:
        self.timeouts.append(options["timeout"])
        verb, uri, data = request
        connection = http.client.HTTPConnection(self.address, timeout=options["timeout"])
        try:
            connection.request(verb, uri, body=data)
            answer = connection.getresponse()
            return _Response(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()


class _Session:
    def __init__(self, address: str) -> None:
        self.adapters: dict[str, Any] = {"http://": _Adapter(address)}


class OldHttp:
    """As in python-consul 1.1.0: no headers can be given, and no time-out is."""

    def __init__(self, address: str) -> None:
        self.base_uri = f"http://{address}"
        self.session = _Session(address)

    def _send(self, verb: str, callback: Any, path: str, params: Any, data: str) -> Any:
        uri = f"{path}?{urlencode(params)}" if params else path
        return callback(self.session.adapters["http://"].send((verb, uri, data), timeout=None))

    def get(self, callback: Any, path: str, params: Any = None) -> Any:
        return self._send("GET", callback, path, params, "")

    def put(self, callback: Any, path: str, params: Any = None, data: str = "") -> Any:
        return self._send("PUT", callback, path, params, data)


class OldConsul:
    """As python-consul 1.1.0's ``Consul``."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.http = OldHttp(address)
        self.token = token


def client_of(kind: str, fake: FakeConsul) -> Any:
    if kind == "asyncio":
        return asyncio_client(fake)
    return consul.Consul(**place(fake)) if kind == "blocking" else OldConsul(fake.address)


async def closed(client: Any) -> None:
    """Close what the user has to close."""
    if isinstance(client, consul.aio.Consul):
        await client.close()
    elif not isinstance(client, OldConsul):
        client.http.session.close()


async def threads_ended() -> None:
    await until(lambda: not any(thread.name == "lbkit-consul" for thread in threading.enumerate()))


KINDS = ["asyncio", "blocking", "python-consul"]


@pytest.mark.parametrize("kind", KINDS)
async def test_channel_follows_the_agent_of_any_client(fake: FakeConsul, kind: str) -> None:
    client = client_of(kind, fake)
    async with serving(naming("one")) as one, serving(naming("two")) as two:
        fake.put("served", one.address)
        resolver = ConsulResolver("consul:///served?wait=1s", client=client)
        async with lbkit.Channel("consul:///served", resolver=resolver) as channel:
            call = unary(channel)
            assert await shares(call, 5) == {"one": 5}
            fake.put("served", two.address)
            fake.remove(f"served-{one.address}")
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 5)).keys() != {"two"}:
                    pass
    await threads_ended()
    await closed(client)


@pytest.mark.parametrize("kind", KINDS)
async def test_registration_uses_the_agent_of_any_client(fake: FakeConsul, kind: str) -> None:
    client = client_of(kind, fake)
    registrar = ConsulRegistrar("consul:///served?ttl=1s", client=client)
    async with lbkit.Registration(registrar, lbkit.Instance("10.0.0.9:80")) as registered:
        await registered.registered(PATIENCE_S)
        await until(lambda: any("/check/pass/" in request.path for request in fake.requests))
        assert fake.service("served-10.0.0.9:80") is not None
    assert fake.service("served-10.0.0.9:80") is None
    await threads_ended()
    await closed(client)


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_of_the_agent_is_told_and_survived(
    fake: FakeConsul, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(kind, fake)
    async with Host(ConsulResolver("consul:///greeter?wait=500ms", client=client)) as host:
        await host.has("10.0.0.1:80")
        fake.fault = 500
        await until(lambda: "says 500: as the test wants it" in caplog.text)
        fake.fault = "reset"
        await until(lambda: "cannot be asked: " in caplog.text)
        fake.fault = None
        fake.put("greeter", "10.0.0.2:80")
        await host.has("10.0.0.1:80", "10.0.0.2:80")
    await threads_ended()
    await closed(client)


async def test_headers_are_seen_through_every_client(fake: FakeConsul) -> None:
    for kind in KINDS:
        client = client_of(kind, fake)
        agent = agent_of_client(client, "")
        answer = await agent.get("/v1/health/service/greeter", timeout_s=PATIENCE_S)
        assert {"x-consul-index", "x-consul-knownleader", "x-consul-lastcontact"} <= answer.headers.keys()
        await agent.close()
        await closed(client)
    await threads_ended()


async def test_clients_of_the_user_wait_for_short_times_only(fake: FakeConsul) -> None:
    for kind in KINDS:
        client = client_of(kind, fake)
        fake.requests.clear()
        async with Host(ConsulResolver("consul:///greeter?wait=10m", client=client)) as host:
            await host.has("10.0.0.1:80")
            await until(lambda: len(fake.requests) > 1)
            assert fake.requests[1].get("wait") == "30000ms"
            fake.put("greeter", "10.0.0.1:80")  # ends the query of the thread
        await threads_ended()
        await closed(client)


async def test_time_out_of_an_asyncio_client_shortens_the_wait(fake: FakeConsul) -> None:
    client = asyncio_client(fake, connections_timeout=10)
    async with Host(ConsulResolver("consul:///greeter", client=client)) as host:
        await host.has("10.0.0.1:80")
        await until(lambda: len(fake.requests) > 1)
        assert fake.requests[1].get("wait") == "8000ms"
    await client.close()


async def test_request_without_a_time_out_gets_ours_in_our_thread_only(fake: FakeConsul) -> None:
    client = OldConsul(fake.address)
    adapter = client.http.session.adapters["http://"]
    async with Host(ConsulResolver("consul:///greeter?wait=800ms&timeout=9s", client=client)) as host:
        await host.has("10.0.0.1:80")
        await until(lambda: len(adapter.timeouts) > 1)
    await threads_ended()
    assert adapter.timeouts[:2] == [9.0, 0.8 * 17 / 16 + 9.0]
    await asyncio.to_thread(client.http.get, lambda response: response, "/v1/status/leader")
    assert adapter.timeouts[-1] is None  # the user's own request, as it was


async def test_silent_agent_does_not_hold_the_thread_for_ever(
    fake: FakeConsul, caplog: pytest.LogCaptureFixture
) -> None:
    client = OldConsul(fake.address)
    async with Host(ConsulResolver("consul:///greeter?wait=200ms&timeout=300ms", client=client)) as host:
        await host.has("10.0.0.1:80")
        fake.fault = "silence"
        caplog.clear()
        await until(lambda: "consul" in caplog.text)  # it gave up
        fake.fault = None
        fake.put("greeter", "10.0.0.2:80")
        await host.has("10.0.0.1:80", "10.0.0.2:80")
    await threads_ended()


async def test_token_of_the_client_or_of_the_target_is_sent_and_hidden(fake: FakeConsul) -> None:
    fake.token = "SECRET"
    client = asyncio_client(fake, token="SECRET")
    async with Host(ConsulResolver("consul:///greeter", client=client)) as host:
        await host.has("10.0.0.1:80")
    async with Host(ConsulResolver("consul:///greeter?token=OTHER", client=client)) as host:
        await until(lambda: host.errors)
    assert "says 403" in str(host.errors[0])
    await client.close()


async def test_token_in_an_address_is_hidden_in_errors() -> None:
    client = OldConsul("127.0.0.1:1", token="SECRET")  # the older package sends it in the query

    def broken(callback: Any, path: str, params: Any = None) -> Any:
        raise OSError(f"cannot connect to {path}?{urlencode(params)}")

    client.http.get = broken  # type: ignore[method-assign]
    cut = ("SECRET" * 9, "path" * 27)  # the text of the error would end within the token
    for secret, path in (("SECRET", ""), ("SE+CR/ET=", ""), cut):
        client.token = secret
        async with Host(ConsulResolver(f"consul:///greeter{path}", client=client)) as host:
            await until(lambda: host.errors)
        assert "token=***" in str(host.errors[0])
        assert "ET" not in str(host.errors[0])
    await threads_ended()


async def test_users_client_stays_open(fake: FakeConsul) -> None:
    client = asyncio_client(fake)
    for _ in range(2):
        async with Host(ConsulResolver("consul:///greeter", client=client)) as host:
            await host.has("10.0.0.1:80")
    _, nodes = await client.health.service("greeter")
    assert len(nodes) == 1
    await client.close()


async def test_loop_is_not_held_up_by_a_blocking_client(fake: FakeConsul) -> None:
    client = OldConsul(fake.address)
    send = client.http.get

    def slow(callback: Any, path: str, params: Any = None) -> Any:
        time.sleep(0.3)
        return send(callback, path, params)

    client.http.get = slow  # type: ignore[method-assign]
    async with Host(ConsulResolver("consul:///greeter?wait=100ms", client=client)) as host:
        turns = 0
        while not host.lists:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 50
    await threads_ended()


async def test_query_that_nobody_waits_for_any_more_is_not_sent(fake: FakeConsul) -> None:
    agent = agent_of_client(OldConsul(fake.address), "")
    fake.fault = "silence"
    queries = [
        asyncio.create_task(agent.get(f"/v1/health/service/{name}", timeout_s=2.0)) for name in ("one", "two")
    ]
    await until(lambda: fake.requests)
    queries[1].cancel()
    with pytest.raises(AgentError, match=r"said nothing for 2 s|cannot be asked: .*timed out"):
        await queries[0]
    await agent.close()
    await threads_ended()
    assert [request.path for request in fake.requests] == ["/v1/health/service/one"]


async def test_client_that_is_no_session_of_requests_is_bounded_all_the_same() -> None:
    class Http:
        base_uri = "http://somewhere:8500"

        def get(self, callback: Any, path: str, params: Any = None) -> Any:
            time.sleep(0.5)

    class Client:
        http = Http()

    agent = agent_of_client(Client(), "")
    with pytest.raises(AgentError, match=r"consul somewhere:8500 said nothing for 0\.1 s"):
        await agent.get("/v1/status/leader", timeout_s=0.1)
    await agent.close()
    await threads_ended()


async def test_query_whose_connection_broke_is_not_sent_again_with_its_index(fake: FakeConsul) -> None:
    async with Host(fake.target("greeter")) as host:
        await host.has("10.0.0.1:80")
        await until(lambda: len(fake.requests) == 2)
        fake.restart()
        fake.put("greeter", "10.0.0.2:80")
        await host.has("10.0.0.2:80")
    assert [request.get("index") is None for request in fake.requests[:3]] == [True, False, True]


async def test_nothing_is_left_of_what_was_never_used(fake: FakeConsul) -> None:
    await agent_of_client(OldConsul(fake.address), "").close()
    await ConsulRegistrar(fake.target("greeter")).close()


async def test_package_without_an_asyncio_client_is_named(
    fake: FakeConsul, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "consul.aio", None)
    monkeypatch.delitem(sys.modules, "lbkit_resolvers.consul.limits", raising=False)
    async with Host(fake.target("greeter")) as host:
        await until(lambda: host.errors)
    assert "has no asyncio client" in str(host.errors[0])
    assert "pip install 'lbkit[consul]'" in str(host.errors[0])


@asynccontextmanager
async def answering(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncGenerator[str, None]:
    """An agent with answers of the test's own; gives the target of a service there."""
    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"consul://{host}:{port}/greeter"
    finally:
        await runner.cleanup()


async def test_answer_without_end_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[int] = []

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 2**20)
            sent.append(2**20)

    async with answering(endless) as target, Host(f"{target}?max-backoff=60s") as host:
        await until(lambda: host.errors)
    assert "its answer is longer than 64 MiB; tag= asks for fewer instances" in str(host.errors[0])
    assert 64 * 2**20 <= sum(sent) < 80 * 2**20


async def test_large_answer_is_taken() -> None:
    def entry(number: int) -> dict[str, Any]:
        service = {"ID": str(number), "Address": f"10.0.{number >> 8}.{number & 255}", "Port": 80}
        return {"Node": {"Node": "n"}, "Service": service, "Checks": [], "Padding": "x" * 60_000}

    body = json.dumps([entry(number) for number in range(300)])
    assert len(body) > 16 * 2**20  # 10 000 instances are less

    async def large(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=body, headers={"X-Consul-Index": "7"})

    async with answering(large) as target, Host(target) as host:
        await until(lambda: host.lists)
    assert len(host.lists[0]) == 300


async def test_token_goes_nowhere_else_and_nothing_is_compressed(fake: FakeConsul) -> None:
    seen: list[Mapping[str, str]] = []

    async def moved(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers)
        raise web.HTTPFound(f"http://{fake.address}{request.rel_url}")

    async with answering(moved) as target, Host(f"{target}?token=SECRET") as host:
        await until(lambda: host.errors)
    assert "says 302: " in str(host.errors[0])
    assert fake.requests == []
    assert (seen[0]["X-Consul-Token"], seen[0]["Accept-Encoding"]) == ("SECRET", "identity")
