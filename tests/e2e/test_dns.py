"""Look-ups against name servers that answer well, badly, or not at all; and channels that live on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

import lbkit
from lbkit.errors import ResolverError
from lbkit.target import Target
from lbkit.testing import FakeDns, fake_dns
from lbkit_resolvers.dns import DnsResolver, System
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.dns.lookup import NameServers
from tests.support.fakes import FakeSink
from tests.support.servers import (
    PATIENCE_S,
    Backend,
    Item,
    all_connected,
    all_serving,
    failure,
    fleet,
    naming,
    serving,
    shares,
    unary,
    until,
)

NAME = "backend.example"
TRY_S, WHOLE_S = 0.3, 1.2  # of name servers that say nothing
PATIENT = System(try_s=20.0, again_s=0.01, whole_s=60.0, grace_s=20.0)  # with others, on a busy machine


class Machine:
    """A machine whose resolv.conf names servers on loopback, all on one port."""

    def __init__(self, folder: Path, port: int) -> None:
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.system = PATIENT._replace(hosts=str(self.hosts), resolv_conf=str(self.resolv_conf), port=port)

    def ask_servers(self, *addresses: str, more: str = "") -> None:
        """Write resolv.conf."""
        self.resolv_conf.write_text("".join(f"nameserver {each}\n" for each in addresses) + more)

    def resolver(self, target: str) -> DnsResolver:
        return DnsResolver(Target.parse(target, {"dns"}), system=self.system)

    def name_servers(self, *, search: bool = False) -> NameServers:
        return NameServers(
            port=self.system.port,
            resolv_conf=self.system.resolv_conf,
            search=search,
            try_s=self.system.try_s,
            again_s=self.system.again_s,
            whole_s=self.system.whole_s,
        )


@pytest.fixture
async def server() -> AsyncGenerator[FakeDns, None]:
    async with fake_dns() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path, server: FakeDns) -> Machine:
    """A machine that asks the server."""
    made = Machine(tmp_path, server.port)
    made.ask_servers("127.0.0.1")
    return made


def kinds(server: FakeDns, transport: str = "udp") -> list[str]:
    """The record types that it was asked for over this transport."""
    return [kind for _, kind, how in server.asked if how == transport]


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


async def test_every_address_of_both_families_is_an_endpoint(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.2", "10.0.0.1")
    server.set(NAME, "AAAA", "2001:db8::1")
    assert await first_answer(machine.resolver(f"{NAME}:80")) == [
        "10.0.0.1:80",
        "[2001:db8::1]:80",
        "10.0.0.2:80",
    ]
    assert sorted(server.asked) == [(NAME, "A", "udp"), (NAME, "AAAA", "udp")]  # and no TXT or SRV


@pytest.mark.parametrize(
    ("family", "asked", "expected"),
    [("any", ["A", "AAAA"], ["[2001:db8::1]:80"]), ("6", ["AAAA"], ["[2001:db8::1]:80"]), ("4", ["A"], [])],
)
async def test_name_with_ipv6_only(
    machine: Machine, server: FakeDns, family: str, asked: list[str], expected: list[str]
) -> None:
    server.set(NAME, "AAAA", "2001:db8::1")
    assert await first_answer(machine.resolver(f"{NAME}:80?family={family}")) == expected
    assert sorted(kinds(server)) == asked


async def test_equal_set_in_another_order_is_an_equal_answer(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    async with following(machine.resolver(NAME)) as sink:
        await until(lambda: sink.waits)
        server.set(NAME, "A", "10.0.0.3", "10.0.0.1", "10.0.0.2")
        sink.ask()
        await until(lambda: len(sink.waits) == 2)
    assert sink.answers[0] == sink.answers[1]


async def test_name_that_is_none_says_who_said_so(machine: Machine, server: FakeDns) -> None:
    error = await first_error(machine.resolver(f"{NAME}:80"))
    assert error == (
        f"there is no name '{NAME}' in DNS (asked 127.0.0.1:{server.port}); check its spelling; "
        "search domains are tried only with ?search=on"
    )


async def test_name_without_addresses_is_an_empty_answer(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A")
    assert await first_answer(machine.resolver(NAME)) == []


async def test_name_that_vanishes_keeps_its_list(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    async with following(machine.resolver(NAME)) as sink:
        await until(lambda: sink.waits)
        server.remove(NAME)
        sink.ask()
        await until(lambda: len(sink.waits) == 2)
    assert [type(error) for error in sink.errors] == [NoSuchNameError]
    assert sink.addresses == [["10.0.0.1:443"]]


@pytest.mark.parametrize(("said", "asked"), [("SERVFAIL", 2), ("REFUSED", 1)])
async def test_failure_is_told_with_server_and_cure(
    machine: Machine, server: FakeDns, said: str, asked: int
) -> None:
    server.fail(said)
    error = await first_error(machine.resolver(f"{NAME}:80?family=4"))
    assert error == (
        f"look-up of A '{NAME}' failed: 127.0.0.1:{server.port} said {said} (asked 127.0.0.1:{server.port}); "
        f"check that the name server works, or choose another: dns://10.0.0.53/{NAME}"
    )
    assert len(server.asked) == asked


async def test_servfail_is_asked_again_before_it_counts(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    server.fail("SERVFAIL", times=2)  # each family gets one
    assert await first_answer(machine.resolver(f"{NAME}:80")) == ["10.0.0.1:80"]
    assert len(server.asked) == 4


async def test_list_stays_while_name_servers_fail(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    async with following(machine.resolver(NAME)) as sink:
        await until(lambda: sink.waits)
        server.fail("SERVFAIL")
        sink.ask()
        await until(lambda: sink.errors)
    assert sink.addresses == [["10.0.0.1:443"]]


@pytest.mark.parametrize("fault", ["silence", "garbage", "forged"])
async def test_server_that_makes_no_sense_is_given_up(machine: Machine, server: FakeDns, fault: str) -> None:
    machine.system = machine.system._replace(try_s=TRY_S, whole_s=WHOLE_S)
    server.fail(fault)
    began = time.monotonic()
    error = await first_error(machine.resolver(f"{NAME}?family=4"))
    assert time.monotonic() - began >= WHOLE_S - 0.05
    assert f"127.0.0.1:{server.port} did not answer in time" in error


async def test_forged_answer_does_not_hide_the_true_one(machine: Machine, server: FakeDns) -> None:
    machine.system = machine.system._replace(try_s=TRY_S)
    server.set(NAME, "A", "10.0.0.1")
    server.fail("forged", times=1)
    assert await first_answer(machine.resolver(f"{NAME}?family=4")) == ["10.0.0.1:443"]


async def test_truncated_answer_comes_over_tcp(machine: Machine, server: FakeDns) -> None:
    many = [f"10.0.{number}.1" for number in range(200)]
    server.set(NAME, "A", *many)
    assert len(await first_answer(machine.resolver(NAME))) == 200
    assert kinds(server, "tcp") == ["A"]


async def test_answer_that_is_said_to_be_truncated_comes_over_tcp(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    server.fail("truncated")
    assert await first_answer(machine.resolver(f"{NAME}?family=4")) == ["10.0.0.1:443"]
    assert [how for _, _, how in server.asked] == ["udp", "tcp"]


async def test_garbage_over_tcp_is_told_with_its_server(machine: Machine, server: FakeDns) -> None:
    server.fail("truncated", over="udp")
    server.fail("garbage", over="tcp")
    error = await first_error(machine.resolver(f"{NAME}?family=4"))
    assert f"failed: 127.0.0.1:{server.port}: " in error


async def test_shortest_ttl_on_the_way_counts(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "CNAME", "other.example.", ttl=7)
    server.set("other.example", "A", "10.0.0.1", ttl=300)
    assert await machine.name_servers().ask(NAME, "A") == Found(("10.0.0.1",), 7.0, server.address)
    async with following(machine.resolver(f"{NAME}?refresh=ttl&family=4")) as sink:
        sink.random = random.Random(1)
        await until(lambda: sink.waits)
    refresh = sink.waits[0][1]
    assert refresh is not None
    assert 6.3 <= refresh <= 7.7


async def test_silence_about_ipv6_does_not_hold_up_ipv4(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    server.fail("silence", NAME, "AAAA")
    machine.system = machine.system._replace(grace_s=0.1)  # not the 60 s that a look-up may take here
    assert await first_answer(machine.resolver(NAME)) == ["10.0.0.1:443"]


async def test_service_records_give_hosts_and_ports(machine: Machine, server: FakeDns) -> None:
    server.set(f"_grpc._tcp.{NAME}", "SRV", "10 30 50051 a.example.", "10 70 50052 b.example.")
    server.set("a.example", "A", "10.0.0.1")
    server.set("b.example", "AAAA", "2001:db8::1")
    assert await first_answer(machine.resolver(f"{NAME}?srv=_grpc._tcp")) == [
        "10.0.0.1:50051",
        "[2001:db8::1]:50052",
    ]


async def test_one_address_of_each_family_is_one_backend(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    server.set(NAME, "AAAA", "2001:db8::1")
    assert await first_answer(machine.resolver(f"{NAME}:80")) == ["10.0.0.1:80+[2001:db8::1]:80"]


CONFIG = '"grpc_config=" "[{\\"serviceConfig\\": {\\"methodConfig\\": []}}]"'  # in two strings


async def test_service_config_is_looked_up_where_that_is_asked_for(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    server.set(f"_grpc_config.{NAME}", "TXT", CONFIG)
    async with following(machine.resolver(f"{NAME}?txt=on")) as sink:
        await until(lambda: sink.answers)
    assert sink.answers[0].service_config == {"methodConfig": []}
    async with following(machine.resolver(NAME)) as sink:
        await until(lambda: sink.answers)
    assert sink.answers[0].service_config is None
    assert kinds(server).count("TXT") == 1


@pytest.mark.parametrize("fault", ["SERVFAIL", "REFUSED", "NXDOMAIN", "silence", "garbage"])
async def test_trouble_with_the_service_config_is_none_of_the_addresses(
    machine: Machine, server: FakeDns, fault: str
) -> None:
    machine.system = machine.system._replace(grace_s=0.1)
    server.set(NAME, "A", "10.0.0.1")
    server.fail(fault, f"_grpc_config.{NAME}")
    assert await first_answer(machine.resolver(f"{NAME}?txt=on&family=4")) == ["10.0.0.1:443"]


async def test_bytes_that_are_no_text_are_told(
    machine: Machine, server: FakeDns, caplog: pytest.LogCaptureFixture
) -> None:
    server.set(NAME, "A", "10.0.0.1")
    server.set(f"_grpc_config.{NAME}", "TXT", r'"grpc_config=[\"\255\"]"')
    assert await first_answer(machine.resolver(f"{NAME}?txt=on&family=4")) == ["10.0.0.1:443"]
    assert "is no JSON: Invalid \\escape" in caplog.text


# Which servers are asked


async def test_server_that_answers_is_asked_first_from_then_on(machine: Machine, server: FakeDns) -> None:
    server.fail("silence")
    async with fake_dns("127.0.0.2", server.port) as second:
        second.set(NAME, "A", "10.0.0.1")
        machine.ask_servers("127.0.0.1", "127.0.0.2")
        machine.system = machine.system._replace(try_s=TRY_S)
        servers = machine.name_servers()
        await servers.ask(NAME, "A")
        assert servers._resolver is not None
        servers._resolver.timeout = machine.system.whole_s  # from now on it must not fail for being slow
        asked = len(server.asked)
        for _ in range(3):
            assert (await servers.ask(NAME, "A")).records == ("10.0.0.1",)
        assert len(server.asked) == asked


@pytest.mark.parametrize("fault", ["SERVFAIL", "REFUSED"])
async def test_next_server_is_asked_at_once_when_one_fails(
    machine: Machine, server: FakeDns, fault: str
) -> None:
    server.fail(fault)
    async with fake_dns("127.0.0.2", server.port) as second:
        second.set(NAME, "A", "10.0.0.1")
        machine.ask_servers("127.0.0.1", "127.0.0.2")
        assert (await machine.name_servers().ask(NAME, "A")).records == ("10.0.0.1",)


async def test_server_whose_port_is_closed_is_passed_over(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    machine.ask_servers("127.0.0.3", "127.0.0.1")
    machine.system = machine.system._replace(try_s=TRY_S)
    servers = machine.name_servers()
    assert (await servers.ask(NAME, "A")).records == ("10.0.0.1",)
    assert servers._resolver is not None
    assert [str(each) for each in servers._resolver.nameservers] == [
        f"Do53:127.0.0.{number}@{server.port}" for number in (1, 3)
    ]


async def test_change_of_resolv_conf_counts_at_the_next_look_up(machine: Machine, server: FakeDns) -> None:
    server.set(NAME, "A", "10.0.0.1")
    async with fake_dns("127.0.0.2", server.port) as second:
        second.set(NAME, "A", "10.0.0.2")
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


async def test_server_of_the_target_is_asked_instead(machine: Machine, server: FakeDns) -> None:
    machine.ask_servers("127.0.0.9")
    server.set(NAME, "A", "10.0.0.1")
    assert await first_answer(machine.resolver(server.target(f"{NAME}:80"))) == ["10.0.0.1:80"]


async def test_servers_of_the_target_stand_in_for_each_other(server: FakeDns) -> None:
    async with fake_dns() as second:
        second.set(NAME, "A", "10.0.0.1")
        server.fail("SERVFAIL")
        target = f"dns://{server.address},{second.address}/{NAME}?family=4"
        async with following(DnsResolver(Target.parse(target, {"dns"}), system=PATIENT)) as sink:
            await until(lambda: sink.answers)
            sink.ask()
            await until(lambda: len(sink.waits) == 2)
    assert sink.addresses == [["10.0.0.1:443"]] * 2
    assert sink.answers[0].source == f"dns {second.address}, TTL 300 s"
    assert (len(server.asked), len(second.asked)) == (1, 2)  # who answered is asked first from then on


async def test_failure_names_all_servers_that_were_asked(server: FakeDns) -> None:
    async with fake_dns() as second:
        server.fail("REFUSED")
        second.fail("REFUSED")
        target = Target.parse(f"dns://{server.address},{second.address}/{NAME}?family=4", {"dns"})
        error = await first_error(DnsResolver(target, system=PATIENT))
    assert f"{server.address} said REFUSED, {second.address} said REFUSED" in error
    assert f"(asked {server.address}, {second.address})" in error


async def test_search_domains_are_tried_only_when_asked_for(machine: Machine, server: FakeDns) -> None:
    machine.ask_servers("127.0.0.1", more="search other.example default.svc.example\noptions ndots:5\n")
    server.set("backend.default.svc.example", "A", "10.0.0.1")
    assert await first_answer(machine.resolver("backend?search=on")) == ["10.0.0.1:443"]
    assert "there is no name 'backend' in DNS" in await first_error(machine.resolver("backend"))


async def test_search_domains_are_not_tried_for_the_hosts_of_a_service(
    machine: Machine, server: FakeDns
) -> None:
    machine.ask_servers("127.0.0.1", more="search svc.example\noptions ndots:5\n")
    server.set("_grpc._tcp.backend.svc.example", "SRV", "1 1 80 a.example.")
    server.set("a.example", "A", "10.0.0.1")
    server.set("a.example.svc.example", "A", "10.9.9.9")
    assert await first_answer(machine.resolver("backend?search=on&srv=_grpc._tcp")) == ["10.0.0.1:80"]
    assert "a.example.svc.example" not in {question.name for question in server.asked}


async def test_name_that_dns_cannot_write_is_an_error_with_its_reason(machine: Machine) -> None:
    name = ".".join(["a" * 60] * 5)  # each part is short enough, all of it is not
    assert f"look-up of A '{name}' failed: " in await first_error(machine.resolver(f"{name}?family=4"))


# Channels


@asynccontextmanager
async def serving_beside(one: Backend) -> AsyncGenerator[None, None]:
    """Run a backend named "two", on the port of another and the next address."""
    two = await Backend(naming("two")).start(f"127.0.0.2:{one.port}")
    try:
        yield
    finally:
        await two.server.stop(None)


def resolved_by(server: FakeDns, name: str, port: int) -> str:
    return server.target(f"{name}:{port}?refresh=1s&family=4")


async def test_channel_follows_the_records(server: FakeDns) -> None:
    async with serving(naming("one")) as one, serving_beside(one):
        server.set("greeter.test", "A", "127.0.0.1")
        async with lbkit.Channel(resolved_by(server, "greeter.test", one.port)) as channel:
            call = unary(channel)
            assert await shares(call, 4) == {"one": 4}
            server.set("greeter.test", "A", "127.0.0.1", "127.0.0.2")
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"one", "two"}:
                    pass
            server.fail("SERVFAIL")  # which changes nothing
            asked = len(server.asked)
            await until(lambda: len(server.asked) > asked)
            assert (await shares(call, 10)).keys() == {"one", "two"}
            server.heal()
            server.set("greeter.test", "A", "127.0.0.2")
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"two"}:
                    pass


async def test_scaled_up_replica_gets_calls_without_a_broken_connection(server: FakeDns) -> None:
    connections: set[str] = set()

    async def note(request: Item, context: lbkit.ServicerContext) -> Item:
        connections.add(context.peer())
        return Item(text="one")

    async with serving(note) as one, serving_beside(one):
        server.set("greeter.test", "A", "127.0.0.1")
        async with lbkit.Channel(resolved_by(server, "greeter.test", one.port)) as channel:
            assert await shares(unary(channel), 4) == {"one": 4}
            before = channel.subchannels()
            server.set("greeter.test", "A", "127.0.0.1", "127.0.0.2")  # and nobody tells the channel
            await all_serving(channel, 2)
            assert set(before) < set(channel.subchannels())
    assert len(connections) == 1


async def test_service_records_bring_ports_and_weights_to_a_channel(server: FakeDns) -> None:
    async with fleet(3) as backends:
        server.set(
            "_grpc._tcp.greeter.test",
            "SRV",
            *(
                f"{priority} {weight} {backend.port} localhost.greeter.test."
                for backend, priority, weight in zip(backends, (10, 10, 20), (1, 3, 1), strict=True)
            ),
        )
        server.set("localhost.greeter.test", "A", "127.0.0.1")
        target = server.target("greeter.test?srv=_grpc._tcp")
        async with lbkit.Channel(target, balancer="weighted_round_robin") as channel:
            await all_connected(channel, 2)
            assert await shares(unary(channel), 40) == {"backend 0": 10, "backend 1": 30}
        async with lbkit.Channel(f"{target}&priority=all") as channel:
            await all_connected(channel, 3)
            assert await shares(unary(channel), 30) == {f"backend {number}": 10 for number in range(3)}


async def test_service_config_of_dns_applies_to_calls(server: FakeDns) -> None:
    async def hang(request: Item, context: lbkit.ServicerContext) -> Item:
        await asyncio.Event().wait()
        return request

    async with serving(hang) as backend:
        server.set("greeter.test", "A", "127.0.0.1")
        config = {"methodConfig": [{"name": [{}], "timeout": "0.05s"}]}
        text = json.dumps([{"clientLanguage": ["python"], "serviceConfig": config}]).replace('"', r"\"")
        server.set("_grpc_config.greeter.test", "TXT", f'"grpc_config={text}"')
        async with lbkit.Channel(server.target(f"greeter.test:{backend.port}?txt=on")) as channel:
            error = await failure(unary(channel)(Item()))
    assert error.code() is lbkit.StatusCode.DEADLINE_EXCEEDED


async def test_backend_that_is_missing_for_a_moment_keeps_its_connection(server: FakeDns) -> None:
    async with serving(naming("one")) as one, serving_beside(one):
        server.set("greeter.test", "A", "127.0.0.1", "127.0.0.2")
        target = server.target(f"greeter.test:{one.port}?refresh=1s&hold=60s&family=4")
        async with lbkit.Channel(target) as channel:
            await all_connected(channel, 2)
            before = channel.subchannels()
            server.set("greeter.test", "A", "127.0.0.2")
            asked = len(server.asked)
            await until(lambda: len(server.asked) >= asked + 2)
            assert await shares(unary(channel), 10) == {"one": 5, "two": 5}
            assert channel.subchannels() == before


async def test_call_fails_with_what_the_name_server_said(server: FakeDns) -> None:
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


async def test_closing_a_channel_during_a_look_up_leaves_nothing(server: FakeDns) -> None:
    server.fail("silence")
    async with lbkit.Channel(resolved_by(server, "greeter.test", 80)) as channel:
        channel.get_state(try_to_connect=True)
        await until(lambda: server.asked)
