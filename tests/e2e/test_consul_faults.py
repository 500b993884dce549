"""Agents that fail, over real connections: the list stays, the reason is told, and nothing spins."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

import pytest

import lbkit
from lbkit.errors import RegistrationError
from lbkit.registration import RegistrationState
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolving import ResolverHost
from lbkit.testing import FakeConsul, check_resolver, fake_consul
from lbkit.testing.fake_consul import Fault
from lbkit_resolvers.consul import ConsulResolver
from tests.support.certificates import certificates
from tests.support.consul_server import Consul, consul
from tests.support.servers import PATIENCE_S, Item, naming, serving, shares, unary, until

REAL = pytest.mark.interop


@asynccontextmanager
async def agent(folder: Path, *options: str) -> AsyncGenerator[Consul, None]:
    """A real Consul."""
    running = consul(folder, *options)
    yield await asyncio.to_thread(running.__enter__)
    await asyncio.to_thread(running.__exit__, None, None, None)


class Host:
    """A resolver with what a channel does for it: it is started again after a failure."""

    def __init__(self, target: str | lbkit.Resolver) -> None:
        self.lists: list[list[str]] = []
        self.errors: list[Exception] = []
        resolver = ConsulResolver(target) if isinstance(target, str) else target
        self.host = ResolverHost(
            resolver,
            clock=asyncio.get_running_loop(),
            random=random.Random(1),
            update=self._update,
            fail=self.errors.append,
        )

    def _update(self, resolution: Resolution) -> Verdict:
        self.lists.append([str(endpoint) for endpoint in resolution.endpoints])
        return ACCEPTED

    async def has(self, *addresses: str) -> None:
        await until(lambda: self.lists and self.lists[-1] == [*addresses])

    async def failed(self) -> None:
        await until(lambda: self.errors)

    async def __aenter__(self) -> Self:
        self.host.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.host.close()


# The fake


@pytest.fixture
async def fake() -> AsyncGenerator[FakeConsul, None]:
    async with fake_consul() as running:
        running.put("greeter", "10.0.0.1:80")
        yield running


FAULTS: list[tuple[Fault, str]] = [
    (500, "says 500: as the test wants it"),
    (429, "says 429: as the test wants it"),
    ("garbage", "cannot be asked: 'utf-8' codec can't decode"),
    ("half", "cannot be asked: "),
    ("reset", "cannot be asked: "),
    ("silence", "said nothing for 0.3 s"),
]


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=[str(fault) for fault, _ in FAULTS])
async def test_failing_agent_changes_nothing_and_is_followed_again(
    fake: FakeConsul, fault: Fault, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Host(fake.target("greeter", "wait=1s&timeout=300ms&max-backoff=500ms")) as host:
        await host.has("10.0.0.1:80")
        await until(lambda: len(fake.requests) > 1)  # in a blocking query
        told = len(host.errors)
        fake.fault = fault
        fake.put("greeter", "10.0.0.2:80")
        asked = len(fake.requests)
        await until(lambda: len(fake.requests) >= asked + 3)
        assert host.lists == [["10.0.0.1:80"]]
        fake.fault = None
        await host.has("10.0.0.1:80", "10.0.0.2:80")
        assert len(host.errors) == told  # which is for who never had a list
    assert f"consul {fake.address}" in caplog.text
    assert says in caplog.text


async def test_resolver_keeps_the_contract_when_its_agent_fails(fake: FakeConsul) -> None:
    @contextmanager
    def failing() -> Iterator[None]:
        fake.fault = 500
        yield
        fake.fault = None

    await check_resolver(
        fake.target("greeter", "wait=1s"),
        expect=["10.0.0.1:80"],
        outage=failing,
        lookups=lambda: len(fake.requests),
    )


async def test_failing_agent_is_not_asked_in_a_spin(fake: FakeConsul) -> None:
    async with Host(fake.target("greeter", "max-backoff=500ms")) as host:
        await host.has("10.0.0.1:80")
        asked, began = len(fake.requests), asyncio.get_running_loop().time()
        fake.fault = "reset"
        await asyncio.sleep(1.5)
        took = asyncio.get_running_loop().time() - began
        # At first sooner, then every 0.5 s and a fifth.
        assert 2 <= len(fake.requests) - asked <= 3 + took / 0.4


async def test_call_fails_with_what_the_agent_said_if_there_never_was_a_list(fake: FakeConsul) -> None:
    fake.fault = 500
    async with lbkit.Channel(fake.target("greeter")) as channel:
        with pytest.raises(lbkit.RpcError) as caught:
            await unary(channel)(Item(), timeout=PATIENCE_S)
    assert caught.value.code() is lbkit.StatusCode.UNAVAILABLE
    assert f"consul {fake.address} says 500: as the test wants it" in caught.value.details()


async def test_no_leader_and_a_stale_answer_empty_nothing(fake: FakeConsul) -> None:
    async with Host(fake.target("greeter", "wait=1s")) as host:
        await host.has("10.0.0.1:80")
        fake.leader = False
        fake.last_contact_s = 60.0
        fake.remove("greeter-10.0.0.1:80")
        asked = len(fake.requests)
        await until(lambda: len(fake.requests) >= asked + 4)
        assert host.lists == [["10.0.0.1:80"]]
        fake.leader, fake.last_contact_s = True, 0.0
        fake.put("greeter", "10.0.0.2:80")
        await host.has("10.0.0.2:80")


async def test_token_is_sent_in_its_header_and_never_shown(
    fake: FakeConsul, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.token = "SECRET"
    async with Host(fake.target("greeter", "token=SECRET")) as host:
        await host.has("10.0.0.1:80")
    async with Host(fake.target("greeter", "token=WRONG")) as host:
        await until(lambda: host.errors)
    assert "says 403: Permission denied; the token may not do that" in str(host.errors[0])
    assert all(request.get("token") is None for request in fake.requests)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("lbkit")]
    assert not any("SECRET" in line or "WRONG" in line for line in [*lines, str(host.errors)])


async def test_token_of_the_environment_is_used(fake: FakeConsul, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.token = "SECRET"
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "SECRET")
    async with Host(fake.target("greeter")) as host:
        await host.has("10.0.0.1:80")


async def test_token_of_the_target_comes_before_that_of_the_environment(
    fake: FakeConsul, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.token = "SECRET"
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "WRONG")
    async with Host(fake.target("greeter", "token=SECRET")) as host:
        await host.has("10.0.0.1:80")


async def test_reset_backoff_ends_the_wait_behind_a_refused_token(fake: FakeConsul) -> None:
    async with serving(naming("one")) as one:
        fake.put("served", one.address)
        fake.token = "OTHER"
        async with lbkit.Channel(fake.target("served", "token=SECRET")) as channel:
            channel.get_state(try_to_connect=True)
            await until(lambda: "says 403" in str(channel.discovery().error))
            fake.token = "SECRET"  # it is known now
            began = asyncio.get_running_loop().time()
            channel.reset_backoff()
            call = unary(channel)(Item(), wait_for_ready=True, timeout=PATIENCE_S)
            assert (await call).text == "one"
            assert asyncio.get_running_loop().time() - began < 20.0  # not the 30 s, less a fifth
            assert channel.discovery().error is None


async def test_user_and_password_are_sent(fake: FakeConsul) -> None:
    target = fake.target("greeter").replace("consul://", "consul://ann:p%3Aw@")
    async with Host(target) as host:
        await host.has("10.0.0.1:80")
    assert fake.requests[0].headers["Authorization"] == "Basic YW5uOnA6dw=="


async def test_agent_with_tls_is_verified_with_the_given_authority() -> None:
    known = certificates()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(known.ca))
    context.load_cert_chain(known.cert, known.key)
    context.verify_mode = ssl.CERT_REQUIRED
    async with fake_consul(tls=context) as fake:
        fake.put("greeter", "10.0.0.1:80")
        cert = f"tls=true&cert={quote(str(known.client_cert))}&key={quote(str(known.client_key))}"
        ca = f"ca={quote(str(known.ca))}"
        async with Host(fake.target("greeter", f"{cert}&{ca}")) as host:
            await host.has("10.0.0.1:80")
        for query in (cert, f"tls=true&{ca}"):  # another authority; and no certificate
            async with Host(fake.target("greeter", query)) as host:
                await host.failed()
            assert f"consul {fake.address} cannot be asked: " in str(host.errors[0])
        async with Host(fake.target("greeter", "tls=true&cert=/nonexistent.pem")) as host:
            await until(lambda: host.errors)
        assert "the certificates for consul 127.0.0.1: " in str(host.errors[0])


async def test_insecure_asks_over_tls_whatever_the_certificate_says() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificates().expired)
    async with fake_consul(tls=context) as fake:
        fake.put("greeter", "10.0.0.1:80")
        async with Host(fake.target("greeter", "tls=true&insecure=true")) as host:
            await host.has("10.0.0.1:80")


async def test_restarted_agent_loses_no_call_while_its_services_register_again(fake: FakeConsul) -> None:
    async with serving(naming("one")) as one:
        target = fake.target("served")
        async with lbkit.Registration(f"{target}?ttl=6s", lbkit.Instance(one.address)) as registered:
            await registered.registered(PATIENCE_S)
            async with lbkit.Channel(target) as channel:
                call = unary(channel)
                assert await shares(call, 5) == {"one": 5}
                fake.restart()
                assert fake.service(f"served-{one.address}") is None
                while fake.service(f"served-{one.address}") is None:
                    assert await shares(call, 5) == {"one": 5}
                await until(lambda: registered.state is RegistrationState.REGISTERED)
                assert await shares(call, 5) == {"one": 5}


async def test_registration_tells_why_it_is_not_possible(fake: FakeConsul) -> None:
    fake.token = "SECRET"
    async with lbkit.Registration(
        fake.target("greeter", "token=WRONG"), lbkit.Instance("10.0.0.9:80")
    ) as registered:
        await until(lambda: registered.error)
        with pytest.raises(RegistrationError) as caught:
            await registered.registered(0.01)
    assert "says 403: Permission denied; the token may not do that" in str(caught.value)
    assert "WRONG" not in str(caught.value)


async def test_killed_server_is_not_handed_out_after_its_ttl(fake: FakeConsul) -> None:
    registered = lbkit.Registration(fake.target("served", "ttl=1s"), lbkit.Instance("10.0.0.9:80"))
    registered.start()
    async with Host(fake.target("served")) as host:
        await host.has("10.0.0.9:80")
        assert registered._task is not None
        registered._task.cancel()  # no heartbeat comes any more, and nobody deregisters
        await host.has()
    await registered.registrar.close()


# Real agents


@REAL
async def test_killed_agent_costs_no_call_and_is_found_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent(tmp_path) as real, serving(naming("one")) as one, serving(naming("two")) as two:
        await asyncio.to_thread(real.put, "greeter", one.address)
        async with lbkit.Channel(f"consul://{real.address}/greeter?max-backoff=500ms") as channel:
            call = unary(channel)
            assert await shares(call, 5) == {"one": 5}
            await asyncio.to_thread(real.end)
            assert await shares(call, 200) == {"one": 200}
            await asyncio.to_thread(real.start)  # it has forgotten everything
            ready = asyncio.create_task(asyncio.to_thread(real.ready))
            while not ready.done():
                assert await shares(call, 20) == {"one": 20}
            await until(
                lambda: "has no instance of 'greeter' any more, but may have lost them" in caplog.text
            )
            assert await shares(call, 20) == {"one": 20}
            await asyncio.to_thread(real.put, "greeter", two.address)
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"two"}:
                    pass


@REAL
async def test_agent_that_hangs_is_noticed_after_wait_and_time_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent(tmp_path) as real:
        await asyncio.to_thread(real.put, "greeter", "10.0.0.1:80")
        async with Host(f"consul://{real.address}/greeter?wait=400ms&timeout=600ms&max-backoff=1s") as host:
            await host.has("10.0.0.1:80")
            real.pause()
            await until(lambda: "said nothing for" in caplog.text)
            await asyncio.to_thread(real.end)
            await asyncio.to_thread(real.restart)
            await asyncio.to_thread(real.put, "greeter", "10.0.0.2:80")
            await host.has("10.0.0.2:80")
        assert host.lists == [["10.0.0.1:80"], ["10.0.0.2:80"]]


@REAL
async def test_fast_churn_ends_with_the_exact_list(tmp_path: Path) -> None:
    async with agent(tmp_path) as real, Host(f"consul://{real.address}/greeter") as host:
        await host.has()

        def churn() -> None:
            for number in range(1, 101):
                real.put("greeter", f"10.0.0.{number}:80")

        began = asyncio.get_running_loop().time()
        await asyncio.to_thread(churn)
        await until(lambda: len(host.lists[-1]) == 100)
        took = asyncio.get_running_loop().time() - began
        assert len(host.lists) <= took + 4
    assert set(host.lists[-1]) == {f"10.0.0.{number}:80" for number in range(1, 101)}


@REAL
async def test_acl_refuses_by_403_and_an_empty_list(tmp_path: Path) -> None:
    master = "5ca1ab1e-0000-0000-0000-000000000001"
    acl = f'acl {{ enabled = true  default_policy = "deny"  tokens {{ master = "{master}"  agent = "{master}" }} }}'
    real = Consul(tmp_path, "-hcl", acl)
    real.token = master
    try:
        await asyncio.to_thread(real.restart)
        await asyncio.to_thread(real.put, "greeter", "10.0.0.1:80")
        async with Host(f"consul://{real.address}/greeter?token={master}") as host:
            await host.has("10.0.0.1:80")
        async with Host(
            f"consul://{real.address}/greeter?token=00000000-dead-beef-0000-000000000000"
        ) as host:
            await until(lambda: host.errors)
            assert "says 403: ACL not found; the token may not do that" in str(host.errors[0])
        async with Host(f"consul://{real.address}/greeter") as host:
            await host.has()  # Consul does not tell those without a token that there is something
        async with lbkit.Registration(
            f"consul://{real.address}/greeter", lbkit.Instance("10.0.0.9:80")
        ) as registered:
            await until(lambda: registered.error)
            with pytest.raises(RegistrationError, match="says 403: "):
                await registered.registered(0.01)
        async with lbkit.Registration(
            f"consul://{real.address}/greeter?token={master}", lbkit.Instance("10.0.0.9:80")
        ) as registered:
            await registered.registered(PATIENCE_S)
    finally:
        await asyncio.to_thread(real.end)
