"""What the dns resolver does with a name server, the same with the fake one of ``lbkit.testing`` as with real Knot DNS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from lbkit.errors import ResolverError
from lbkit.resolution import Resolution
from lbkit.target import Target
from lbkit.testing import FakeDns, fake_dns
from lbkit_resolvers.dns import DnsResolver, System
from lbkit_resolvers.dns.answers import NoSuchNameError
from tests.support.fakes import FakeSink
from tests.support.knot_server import BROKEN, ZONE, Knot, knot
from tests.support.servers import until

NAME = f"backend.{ZONE}"
CONFIG = (
    r'"grpc_config=" "[{\"clientLanguage\": [\"python\"]," " \"serviceConfig\": {\"methodConfig\": []}}]"'
)


PATIENT = System(try_s=20.0, again_s=0.01, whole_s=60.0, grace_s=20.0)  # on a busy machine


class Server(Protocol):
    """A name server whose zone can be changed."""

    address: str

    async def set(self, name: str, kind: str, *data: str, ttl: int = 300) -> None:
        """Set all records of one kind that a name has."""

    async def remove(self, name: str) -> None:
        """Forget a name."""


class Fake:
    """The fake one."""

    def __init__(self, server: FakeDns) -> None:
        self.address = server.address
        self._server = server
        server.fail("SERVFAIL", BROKEN)
        server.fail("REFUSED", "elsewhere.example")

    async def set(self, name: str, kind: str, *data: str, ttl: int = 300) -> None:
        self._server.set(name, kind, *data, ttl=ttl)

    async def remove(self, name: str) -> None:
        self._server.remove(name)


@pytest.fixture(params=["fake", pytest.param("knot", marks=pytest.mark.interop)])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Server, None]:
    if request.param == "fake":
        async with fake_dns() as running:
            yield Fake(running)
        return
    with contextlib.ExitStack() as stack:
        real: Knot = await asyncio.to_thread(stack.enter_context, knot(tmp_path))
        yield real


@asynccontextmanager
async def following(server: Server, name: str) -> AsyncGenerator[FakeSink, None]:
    """Run a resolver, with news of its own if it raises."""
    sink = FakeSink()
    resolver = DnsResolver(Target.parse(f"dns://{server.address}/{name}", {"dns"}), system=PATIENT)

    async def run() -> None:
        try:
            await resolver.run(sink)
        except ResolverError as error:
            sink.fail(error)

    task = asyncio.create_task(run())
    try:
        await until(lambda: sink.answers or sink.errors)
        yield sink
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def answer(server: Server, name: str) -> Resolution:
    async with following(server, name) as sink:
        assert not sink.errors
        return sink.answers[0]


async def addresses(server: Server, name: str) -> list[str]:
    return [str(endpoint) for endpoint in (await answer(server, name)).endpoints]


async def error(server: Server, name: str) -> Exception:
    async with following(server, name) as sink:
        assert not sink.answers
        return sink.errors[0]


async def test_addresses_of_both_families(server: Server) -> None:
    await server.set(NAME, "A", "10.0.0.2", "10.0.0.1")
    await server.set(NAME, "AAAA", "2001:db8::1")
    assert await addresses(server, f"{NAME}:80") == ["10.0.0.1:80", "[2001:db8::1]:80", "10.0.0.2:80"]
    await server.set(NAME, "A", "10.0.0.2")
    assert await addresses(server, f"{NAME}:80") == ["10.0.0.2:80+[2001:db8::1]:80"]


async def test_family_without_addresses(server: Server) -> None:
    await server.set(NAME, "AAAA", "2001:db8::1", "2001:db8::2")
    assert await addresses(server, f"{NAME}:80") == ["[2001:db8::1]:80", "[2001:db8::2]:80"]
    assert await addresses(server, f"{NAME}:80?family=4") == []


async def test_case_of_a_name_does_not_matter(server: Server) -> None:
    await server.set(NAME, "A", "10.0.0.1")
    assert await addresses(server, f"{NAME.upper()}.:80") == ["10.0.0.1:80"]


async def test_alias_with_a_shorter_life_than_its_addresses(server: Server) -> None:
    await server.set(f"alias.{ZONE}", "CNAME", f"{NAME}.", ttl=7)
    await server.set(NAME, "A", "10.0.0.1", ttl=300)
    found = await answer(server, f"alias.{ZONE}:80?family=4")
    assert [str(endpoint) for endpoint in found.endpoints] == ["10.0.0.1:80"]
    assert found.source == f"dns {server.address}, TTL 7 s"


async def test_service_records(server: Server) -> None:
    await server.set(f"_grpc._tcp.{NAME}", "SRV", f"10 30 50051 a.{ZONE}.", f"20 1 50052 b.{ZONE}.")
    await server.set(f"a.{ZONE}", "A", "10.0.0.1")
    await server.set(f"b.{ZONE}", "A", "10.0.0.2")
    (found,) = (await answer(server, f"{NAME}?srv=_grpc._tcp")).endpoints
    assert (str(found), found.weight, found.metadata) == ("10.0.0.1:50051", 30, {"priority": "10"})
    both = (await answer(server, f"{NAME}?srv=_grpc._tcp&priority=all")).endpoints
    assert [(str(each), each.metadata["priority"]) for each in both] == [
        ("10.0.0.1:50051", "10"),
        ("10.0.0.2:50052", "20"),
    ]
    assert await addresses(server, NAME) == []  # something is below it, so that it exists


async def test_service_that_is_not_offered(server: Server) -> None:
    await server.set(f"_grpc._tcp.{NAME}", "SRV", "0 0 0 .")
    assert await addresses(server, f"{NAME}?srv=_grpc._tcp") == []
    assert isinstance(await error(server, f"{NAME}?srv=_grpcs._tcp"), NoSuchNameError)


async def test_service_config(server: Server) -> None:
    await server.set(NAME, "A", "10.0.0.1")
    assert (await answer(server, f"{NAME}?txt=on")).service_config is None
    await server.set(f"_grpc_config.{NAME}", "TXT", '"v=spf1 -all"', CONFIG)
    assert (await answer(server, f"{NAME}?txt=on")).service_config == {"methodConfig": []}


async def test_name_that_is_none(server: Server) -> None:
    said = await error(server, f"nobody.{ZONE}")
    assert isinstance(said, NoSuchNameError)
    assert f"there is no name 'nobody.{ZONE}' in DNS (asked {server.address})" in str(said)


async def test_name_without_addresses(server: Server) -> None:
    await server.set(NAME, "TXT", '"no address"')
    assert await addresses(server, NAME) == []


@pytest.mark.parametrize(("name", "said"), [(BROKEN, "SERVFAIL"), ("elsewhere.example", "REFUSED")])
async def test_server_that_cannot_say(server: Server, name: str, said: str) -> None:
    assert f"{server.address} said {said}" in str(await error(server, name))


async def test_answer_that_is_too_long_for_udp_comes_over_tcp(server: Server) -> None:
    many = [f"10.0.{number}.1" for number in range(200)]
    await server.set(NAME, "A", *many)
    assert len(await addresses(server, f"{NAME}?family=4")) == 200


async def test_update_is_seen_by_the_next_look_up(server: Server) -> None:
    await server.set(NAME, "A", "10.0.0.1")
    async with following(server, f"{NAME}?family=4") as sink:
        for change in (["10.0.0.1", "10.0.0.2"], ["10.0.0.2"]):
            await server.set(NAME, "A", *change)
            sink.ask()
            await until(lambda: sink.addresses[-1] == [f"{address}:443" for address in change])  # noqa: B023 -- ends before the next
        await server.remove(NAME)
        sink.ask()
        await until(lambda: sink.errors)
    assert sink.addresses == [
        ["10.0.0.1:443"],
        ["10.0.0.1:443", "10.0.0.2:443"],
        ["10.0.0.2:443"],
    ]
    assert isinstance(sink.errors[0], NoSuchNameError)
