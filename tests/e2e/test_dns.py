"""Look-ups against name servers that answer well, badly, or not at all; and channels that live on them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

import lbkit
from lbkit.errors import ResolverError
from lbkit.resolver import Target
from lbkit_resolvers.dns import DnsResolver, System
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.dns.lookup import NameServers
from tests.support.dns import (
    EMPTY,
    NO_SUCH_NAME,
    REFUSED,
    SERVFAIL,
    NameServer,
    Reply,
    garbage,
    name_server,
    records,
    silence,
    truncated,
    wrong_id,
)
from tests.support.fakes import FakeSink
from tests.support.servers import PATIENCE_S, Backend, Item, naming, serving, shares, unary, until

NAME = "backend.example"
TRY_S, WHOLE_S = (
    0.3,
    1.2,
)  # of name servers that say nothing; others get as long as they need on a busy machine


class Machine:
    """A machine whose resolv.conf names servers on loopback, all on one port."""

    def __init__(self, folder: Path, port: int) -> None:
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.system = System(str(self.hosts), str(self.resolv_conf), port, 20.0, 60.0, 20.0)

    def ask_servers(self, *addresses: str, more: str = "") -> None:
        """Write resolv.conf."""
        self.resolv_conf.write_text("".join(f"nameserver {each}\n" for each in addresses) + more)

    def resolver(self, target: str) -> DnsResolver:
        return DnsResolver(Target.parse(target, {"dns"}), system=self.system)

    def name_servers(self, *, search: bool = False) -> NameServers:
        return NameServers(
            None,
            port=self.system.port,
            resolv_conf=self.system.resolv_conf,
            search=search,
            try_s=self.system.try_s,
            whole_s=self.system.whole_s,
        )


@pytest.fixture
async def server() -> AsyncGenerator[NameServer, None]:
    async with name_server() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path, server: NameServer) -> Machine:
    """A machine that asks the server."""
    made = Machine(tmp_path, server.port)
    made.ask_servers(server.address)
    return made


@asynccontextmanager
async def following(resolver: lbkit.Resolver) -> AsyncGenerator[FakeSink, None]:
    """Run a resolver, with news of its own if it raises."""
    sink = FakeSink()

    async def run() -> None:
        try:
            await resolver.run(sink)
        except ResolverError as error:
            sink.fail(error)

    task = asyncio.create_task(run())
    try:
        yield sink
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def first_answer(resolver: lbkit.Resolver) -> list[str]:
    async with following(resolver) as sink:
        await until(lambda: sink.answers or sink.errors)
        assert not sink.errors
        return sink.addresses[0]


async def first_error(resolver: lbkit.Resolver) -> str:
    async with following(resolver) as sink:
        await until(lambda: sink.answers or sink.errors)
        return str(sink.errors[0])


# What name servers may say


async def test_every_address_of_both_families_is_an_endpoint(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", records("10.0.0.2", "10.0.0.1"))
    server.say(NAME, "AAAA", records("2001:db8::1"))
    assert await first_answer(machine.resolver(f"{NAME}:80")) == [
        "10.0.0.1:80",
        "[2001:db8::1]:80",
        "10.0.0.2:80",
    ]
    assert sorted(server.asked) == [(NAME, "A", "udp"), (NAME, "AAAA", "udp")]  # and no TXT or SRV


@pytest.mark.parametrize(
    ("family", "kinds", "expected"),
    [("any", ["A", "AAAA"], ["[2001:db8::1]:80"]), ("6", ["AAAA"], ["[2001:db8::1]:80"]), ("4", ["A"], [])],
)
async def test_name_with_ipv6_only(
    machine: Machine, server: NameServer, family: str, kinds: list[str], expected: list[str]
) -> None:
    server.say(NAME, "AAAA", records("2001:db8::1"))
    assert await first_answer(machine.resolver(f"{NAME}:80?family={family}")) == expected
    assert sorted(server.kinds()) == kinds


async def test_equal_set_in_another_order_is_an_equal_answer(machine: Machine, server: NameServer) -> None:
    server.say(
        NAME, "A", records("10.0.0.1", "10.0.0.2", "10.0.0.3"), records("10.0.0.3", "10.0.0.1", "10.0.0.2")
    )
    async with following(machine.resolver(NAME)) as sink:
        await until(lambda: sink.waits)
        sink.ask()
        await until(lambda: len(sink.waits) == 2)
    assert sink.answers[0] == sink.answers[1]


async def test_name_that_is_none_says_who_said_so(machine: Machine, server: NameServer) -> None:
    error = await first_error(machine.resolver(f"{NAME}:80"))
    assert error == (
        f"there is no name '{NAME}' in DNS (asked 127.0.0.1:{server.port}); check its spelling; "
        "search domains are tried only with ?search=on"
    )


async def test_name_without_addresses_is_an_empty_answer(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", EMPTY)
    assert await first_answer(machine.resolver(NAME)) == []


async def test_name_that_vanishes_keeps_its_list(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", records("10.0.0.1"), NO_SUCH_NAME)
    server.say(NAME, "AAAA", EMPTY, NO_SUCH_NAME)
    async with following(machine.resolver(NAME)) as sink:
        await until(lambda: sink.waits)
        sink.ask()
        await until(lambda: len(sink.waits) == 2)
    assert [type(error) for error in sink.errors] == [NoSuchNameError]
    assert sink.addresses == [["10.0.0.1:443"]]


@pytest.mark.parametrize(("reply", "said"), [(SERVFAIL, "SERVFAIL"), (REFUSED, "REFUSED")])
async def test_refusal_is_told_at_once_with_server_and_cure(
    machine: Machine, server: NameServer, reply: Reply, said: str
) -> None:
    server.say(NAME, "A", reply)
    server.say(NAME, "AAAA", reply)
    error = await first_error(machine.resolver(f"{NAME}:80?family=4"))
    assert error == (
        f"look-up of A '{NAME}' failed: 127.0.0.1:{server.port} said {said} (asked 127.0.0.1:{server.port}); "
        f"check that the name server works, or choose another: dns://10.0.0.53/{NAME}"
    )
    assert len(server.asked) == 1


@pytest.mark.parametrize("reply", [silence, garbage, wrong_id])
async def test_server_that_makes_no_sense_is_given_up(
    machine: Machine, server: NameServer, reply: Reply
) -> None:
    machine.system = machine.system._replace(try_s=TRY_S, whole_s=WHOLE_S)
    server.say(NAME, "A", reply)
    began = time.monotonic()
    error = await first_error(machine.resolver(f"{NAME}?family=4"))
    assert time.monotonic() - began >= WHOLE_S - 0.05
    assert f"127.0.0.1:{server.port} did not answer in time" in error


async def test_forged_answer_does_not_hide_the_true_one(machine: Machine, server: NameServer) -> None:
    machine.system = machine.system._replace(try_s=TRY_S)
    server.say(NAME, "A", wrong_id, records("10.0.0.1"))
    assert await first_answer(machine.resolver(f"{NAME}?family=4")) == ["10.0.0.1:443"]


async def test_truncated_answer_comes_over_tcp(machine: Machine, server: NameServer) -> None:
    many = [f"10.0.{number}.1" for number in range(200)]
    server.say(NAME, "A", truncated(records(*many)))
    assert len(await first_answer(machine.resolver(NAME))) == 200
    assert server.kinds("tcp") == ["A"]


async def test_garbage_over_tcp_is_told_with_its_server(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", truncated(garbage))
    error = await first_error(machine.resolver(f"{NAME}?family=4"))
    assert f"failed: 127.0.0.1:{server.port}: " in error


async def test_shortest_ttl_on_the_way_counts(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", records("10.0.0.1", ttl=300, alias="other.example", alias_ttl=7))
    assert await machine.name_servers().ask(NAME, "A") == Found(("10.0.0.1",), 7.0)
    async with following(machine.resolver(f"{NAME}?refresh=ttl&family=4")) as sink:
        sink.random = random.Random(1)
        await until(lambda: sink.waits)
    refresh = sink.waits[0][1]
    assert refresh is not None
    assert 6.3 <= refresh <= 7.7


async def test_silence_about_ipv6_does_not_hold_up_ipv4(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", records("10.0.0.1"))
    server.say(NAME, "AAAA", silence)
    machine.system = machine.system._replace(grace_s=0.1)  # not the 60 s that a look-up may take here
    assert await first_answer(machine.resolver(NAME)) == ["10.0.0.1:443"]


async def test_service_records_give_hosts_and_ports(machine: Machine, server: NameServer) -> None:
    server.say(f"_grpc._tcp.{NAME}", "SRV", records("10 30 50051 a.example.", "10 70 50052 b.example."))
    server.say("a.example", "A", records("10.0.0.1"))
    server.say("b.example", "AAAA", records("2001:db8::1"))
    assert await first_answer(machine.resolver(f"{NAME}?srv=_grpc._tcp")) == [
        "10.0.0.1:50051",
        "[2001:db8::1]:50052",
    ]


# Which servers are asked


async def test_server_that_answers_is_asked_first_from_then_on(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", silence)
    async with name_server("127.0.0.2", server.port) as second:
        second.say(NAME, "A", records("10.0.0.1"))
        machine.ask_servers("127.0.0.1", "127.0.0.2")
        machine.system = machine.system._replace(try_s=TRY_S)
        servers = machine.name_servers()
        await servers.ask(NAME, "A")
        asked = len(server.asked)
        for _ in range(3):
            assert (await servers.ask(NAME, "A")).records == ("10.0.0.1",)
        assert len(server.asked) == asked


async def test_next_server_is_asked_when_one_fails(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", SERVFAIL)
    async with name_server("127.0.0.2", server.port) as second:
        second.say(NAME, "A", records("10.0.0.1"))
        machine.ask_servers("127.0.0.1", "127.0.0.2")
        assert (await machine.name_servers().ask(NAME, "A")).records == ("10.0.0.1",)


async def test_server_whose_port_is_closed_is_passed_over(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", records("10.0.0.1"))
    machine.ask_servers("127.0.0.3", "127.0.0.1")
    machine.system = machine.system._replace(try_s=TRY_S)
    servers = machine.name_servers()
    assert (await servers.ask(NAME, "A")).records == ("10.0.0.1",)
    assert servers._resolver is not None
    assert list(servers._resolver.nameservers) == ["127.0.0.1", "127.0.0.3"]


async def test_change_of_resolv_conf_counts_at_the_next_look_up(machine: Machine, server: NameServer) -> None:
    server.say(NAME, "A", records("10.0.0.1"))
    async with name_server("127.0.0.2", server.port) as second:
        second.say(NAME, "A", records("10.0.0.2"))
        async with following(machine.resolver(f"{NAME}?family=4")) as sink:
            await until(lambda: sink.waits)
            machine.ask_servers("127.0.0.2")
            sink.ask()
            await until(lambda: len(sink.waits) == 2)
            machine.resolv_conf.write_text("")  # half written
            sink.ask()
            await until(lambda: len(sink.waits) == 3)
            machine.resolv_conf.unlink()
            sink.ask()
            await until(lambda: len(sink.waits) == 4)
    assert sink.addresses == [["10.0.0.1:443"], *[["10.0.0.2:443"]] * 3]
    assert len(server.asked) == 1


async def test_missing_resolv_conf_says_what_to_write(machine: Machine) -> None:
    machine.resolv_conf.unlink()
    error = await first_error(machine.resolver(NAME))
    assert error.startswith(f"no name server to ask about '{NAME}': {machine.resolv_conf}: ")
    assert error.endswith(f"choose one: dns://10.0.0.53/{NAME}")


async def test_server_of_the_target_is_asked_instead(machine: Machine, server: NameServer) -> None:
    machine.ask_servers("127.0.0.9")
    server.say(NAME, "A", records("10.0.0.1"))
    assert await first_answer(machine.resolver(f"dns://127.0.0.1:{server.port}/{NAME}:80")) == ["10.0.0.1:80"]


async def test_search_domains_are_tried_only_when_asked_for(machine: Machine, server: NameServer) -> None:
    machine.ask_servers("127.0.0.1", more="search other.example default.svc.example\noptions ndots:5\n")
    server.say("backend.default.svc.example", "A", records("10.0.0.1"))
    assert await first_answer(machine.resolver("backend?search=on")) == ["10.0.0.1:443"]
    assert "there is no name 'backend' in DNS" in await first_error(machine.resolver("backend"))


async def test_name_that_dns_cannot_write_is_an_error_with_its_reason(machine: Machine) -> None:
    name = ".".join(["a" * 60] * 5)  # each part is short enough, all of it is not
    assert f"look-up of A '{name}' failed: " in await first_error(machine.resolver(f"{name}?family=4"))


# Channels


def resolved_by(server: NameServer, name: str, port: int) -> str:
    return f"dns://{server.address}:{server.port}/{name}:{port}?refresh=1s&family=4"


async def test_channel_follows_the_records(server: NameServer) -> None:
    async with serving(naming("one")) as one:
        two = await Backend(naming("two")).start(f"127.0.0.2:{one.port}")
        server.say("greeter.test", "A", records("127.0.0.1"))
        async with lbkit.Channel(resolved_by(server, "greeter.test", one.port)) as channel:
            call = unary(channel)
            assert await shares(call, 4) == {"one": 4}
            server.say("greeter.test", "A", records("127.0.0.1", "127.0.0.2"))
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"one", "two"}:
                    pass
            server.say("greeter.test", "A", SERVFAIL)  # which changes nothing
            asked = len(server.asked)
            await until(lambda: len(server.asked) > asked)
            assert (await shares(call, 10)).keys() == {"one", "two"}
            server.say("greeter.test", "A", records("127.0.0.2"))
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"two"}:
                    pass
        await two.server.stop(None)


async def test_call_fails_with_what_the_name_server_said(server: NameServer) -> None:
    async with lbkit.Channel(resolved_by(server, "nobody.test", 80)) as channel:
        with pytest.raises(lbkit.RpcError) as caught:
            await unary(channel)(Item(), timeout=PATIENCE_S)
    assert caught.value.code() is lbkit.StatusCode.UNAVAILABLE
    assert "there is no name 'nobody.test' in DNS" in caught.value.details()


async def test_text_without_a_scheme_reaches_localhost() -> None:
    async with serving(naming("here")) as backend:
        for target in (f"localhost:{backend.port}", f":{backend.port}", f"127.0.0.1:{backend.port}"):
            async with lbkit.Channel(target) as channel:
                assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "here"


async def test_passthrough_leaves_the_name_to_the_connector() -> None:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(serving(naming("here")))
        channel = await stack.enter_async_context(lbkit.Channel(f"passthrough:///localhost:{backend.port}"))
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "here"
        assert [str(each.endpoint) for each in channel.subchannels()] == [f"localhost:{backend.port}"]


async def test_closing_a_channel_during_a_look_up_leaves_nothing(server: NameServer) -> None:
    server.say("greeter.test", "A", silence)
    async with lbkit.Channel(resolved_by(server, "greeter.test", 80)) as channel:
        channel.get_state(try_to_connect=True)
        await until(lambda: server.asked)
