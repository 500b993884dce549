"""How SRV records become endpoints."""

from __future__ import annotations

import asyncio
import logging
from itertools import permutations
from math import inf

import pytest

from lbkit.address import Endpoint
from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.dns.services import Service
from lbkit_resolvers.static import ip_version

NAME = "_grpc._tcp.backend.example"


class Names:
    """What name servers say; names that are not here do not exist."""

    def __init__(self, *services: str, **hosts: str | Exception) -> None:
        self.services = services
        self.hosts: dict[str, str | Exception] = dict(hosts)
        self.ttl_s = 300.0
        self.asked: list[str] = []

    async def ask(self, name: str, kind: str) -> Found:
        self.asked.append(name)
        await asyncio.sleep(0)
        if kind == "SRV":
            assert name == NAME
            return Found(self.services, 120.0)
        assert name.endswith("."), "no search domain is for it"
        said = self.hosts.get(name.removesuffix("."), NoSuchNameError(f"no {name}"))
        if isinstance(said, Exception):
            raise said
        version = {"A": 4, "AAAA": 6}[kind]
        return Found(tuple(each for each in said.split() if ip_version(each) == version), self.ttl_s)


def service() -> Service:
    return Service(NAME, (4, 6), 2.0)


async def endpoints(names: Names, asking: Service | None = None) -> list[tuple[str, float]]:
    found = await (asking or service()).look_up(names.ask, 0.0)
    return [(str(each), each.weight) for each in found.endpoints]


async def test_hosts_ports_and_weights_come_from_the_records() -> None:
    names = Names("10 30 50051 a.", "10 70 50052 b.", a="10.0.0.1", b="10.0.0.2")
    assert await endpoints(names) == [("10.0.0.1:50051", 30), ("10.0.0.2:50052", 70)]


async def test_order_of_the_records_does_not_matter() -> None:
    names = Names("10 70 2 b.", "10 30 1 a.", a="10.0.0.1", b="10.0.0.2")
    other = Names("10 30 1 a.", "10 70 2 b.", a="10.0.0.1", b="10.0.0.2")
    assert await endpoints(names) == await endpoints(other)


async def test_addresses_of_a_host_divide_its_weight() -> None:
    names = Names("10 30 1 a.", "10 0 1 b.", a="10.0.0.1 10.0.0.2 10.0.0.3", b="10.0.0.4")
    assert await endpoints(names) == [
        ("10.0.0.4:1", 1),
        *((f"10.0.0.{number}:1", 10) for number in (1, 2, 3)),
    ]


async def test_one_address_of_each_family_is_one_backend() -> None:
    names = Names("10 30 1 a.", "10 30 1 b.", a="10.0.0.1 2001:db8::1", b="10.0.0.2 10.0.0.3 2001:db8::2")
    assert await endpoints(names) == [
        ("10.0.0.1:1+[2001:db8::1]:1", 30),
        ("10.0.0.2:1", 10),
        ("[2001:db8::2]:1", 10),
        ("10.0.0.3:1", 10),
    ]


async def test_priority_is_an_attribute() -> None:
    found = await service().look_up(Names("10 30 1 a.", a="10.0.0.1").ask, 0.0)
    assert found.endpoints == (Endpoint("10.0.0.1:1", weight=30, metadata={"priority": "10"}),)


async def test_every_priority_counts_where_that_is_asked_for() -> None:
    names = Names("20 5 2 b.", "10 1 1 a.", "30 1 3 c.", a="10.0.0.1", b="10.0.0.2")
    found = await Service(NAME, (4, 6), 2.0, every_priority=True).look_up(names.ask, 0.0)
    assert [(str(each), each.weight, each.metadata["priority"]) for each in found.endpoints] == [
        ("10.0.0.1:1", 1, "10"),
        ("10.0.0.2:2", 5, "20"),
    ]


async def test_backend_that_is_named_twice_counts_once_in_whatever_order() -> None:
    records = ("20 7 1 a.", "10 2 1 A.", "10 3 1 b.", "10 4 2 c.")
    for some in permutations(records):
        names = Names(*some, a="10.0.0.1", b="10.0.0.1", c="10.0.0.3")
        assert await endpoints(names) == [("10.0.0.1:1", 2), ("10.0.0.3:2", 4)]


async def test_port_0_is_passed_over() -> None:
    names = Names("10 1 0 a.", "10 1 1 b.", a="10.0.0.1", b="10.0.0.2")
    assert await endpoints(names) == [("10.0.0.2:1", 1)]


async def test_trouble_with_the_best_hosts_is_no_reason_to_leave_a_list_for_the_next_priority() -> None:
    asking = service()
    names = Names("10 1 1 a.", "20 1 1 b.", a="10.0.0.1", b="10.0.0.2")
    assert await endpoints(names, asking) == [("10.0.0.1:1", 1)]
    names.services = ("5 1 1 new.", "10 1 1 newer.", "20 1 1 b.")
    names.hosts |= {"new": NoSuchNameError("no new"), "newer": ResolverError("no answer")}
    for _ in range(2):
        with pytest.raises(ResolverError, match="no answer"):
            await endpoints(names, asking)
    names.hosts["newer"] = NoSuchNameError("no newer")
    assert await endpoints(names, asking) == [("10.0.0.2:1", 1)]


async def test_trouble_with_the_best_hosts_does_not_freeze_the_list_that_there_is() -> None:
    asking = service()
    names = Names("10 1 1 new.", "20 1 1 b.", new=ResolverError("no answer"), b="10.0.0.2")
    for address in ("10.0.0.2", "10.0.0.3"):  # at the start it is better than nothing
        names.hosts["b"] = address
        assert await endpoints(names, asking) == [(f"{address}:1", 1)]
    names.services = ("10 1 1 new.", "20 1 1 b.", "30 1 1 c.")
    names.hosts |= {"b": "", "c": "10.0.0.4"}  # and this is worse than what there is
    with pytest.raises(ResolverError, match="no answer"):
        await endpoints(names, asking)
    names.hosts["new"] = "10.0.0.1"
    assert await endpoints(names, asking) == [("10.0.0.1:1", 1)]


async def test_any_priority_is_better_than_an_empty_list() -> None:
    asking = service()
    assert await endpoints(Names("10 1 1 a.", a="10.0.0.1"), asking) == [("10.0.0.1:1", 1)]
    assert await endpoints(Names(), asking) == []
    names = Names("10 1 1 a.", "20 1 1 b.", a=ResolverError("no answer"), b="10.0.0.2")
    assert await endpoints(names, asking) == [("10.0.0.2:1", 1)]


async def test_list_lacks_a_host_of_which_nothing_is_known() -> None:
    asking = service()
    names = Names("10 1 1 a.", "10 1 2 b.", a="10.0.0.1", b=ResolverError("SERVFAIL"))
    lacks: list[bool] = []
    for said in (ResolverError("SERVFAIL"), NoSuchNameError("no b"), "", ResolverError("now it is known")):
        names.hosts["b"] = said
        await endpoints(names, asking)
        lacks.append(asking.lacking)
    assert lacks == [True, False, False, False]


async def test_trouble_that_may_pass_is_told_rather_than_a_missing_name() -> None:
    with pytest.raises(ResolverError, match="SERVFAIL"):
        await endpoints(Names("10 1 1 a.", "20 1 2 b.", b=ResolverError("SERVFAIL")))


async def test_best_priority_that_has_addresses_counts() -> None:
    names = Names("10 1 1 a.", "20 1 2 b.", "30 1 3 c.", b="10.0.0.2", c="10.0.0.3")
    assert await endpoints(names) == [("10.0.0.2:2", 1)]
    assert "c." not in names.asked


async def test_host_of_a_dot_means_not_offered() -> None:
    assert await endpoints(Names("0 0 0 .")) == []


async def test_shortest_ttl_counts() -> None:
    names = Names("10 1 1 a.", a="10.0.0.1")
    assert (await service().look_up(names.ask, 0.0)).ttl_s == 120
    names.ttl_s = 7
    assert (await service().look_up(names.ask, 0.0)).ttl_s == 7


async def test_number_of_hosts_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    names = Names(
        *(f"1 1 {port} h{port}." for port in range(1, 101)), **{f"h{n}": "10.0.0.1" for n in range(101)}
    )
    asking = service()
    with caplog.at_level(logging.WARNING, logger="lbkit.resolver"):
        assert len(await endpoints(names, asking)) == 64
        assert len(await endpoints(names, asking)) == 64
        everything, names.services = names.services, names.services[:64]
        await endpoints(names, asking)
        names.services = everything
        await endpoints(names, asking)
    assert [record.message for record in caplog.records] == [
        f"{NAME}: 100 SRV records, of which the first 64 are used"
    ] * 2


async def test_host_that_fails_keeps_its_addresses() -> None:
    names = Names("10 1 1 a.", "10 1 2 b.", a="10.0.0.1", b="10.0.0.2")
    asking = service()
    before = await endpoints(names, asking)
    names.hosts["b"] = ResolverError("SERVFAIL")
    assert await endpoints(names, asking) == before
    del names.hosts["b"]
    assert await endpoints(names, asking) == before
    names.services = ("10 1 1 a.",)
    assert await endpoints(names, asking) == [("10.0.0.1:1", 1)]
    names.services = ("10 1 1 a.", "10 1 2 b.")  # it was gone: what was known of it is forgotten
    assert await endpoints(names, asking) == [("10.0.0.1:1", 1)]


async def test_host_that_never_answered_is_left_out() -> None:
    names = Names("10 1 1 a.", "10 1 2 b.", a="10.0.0.1", b=ResolverError("SERVFAIL"))
    assert await endpoints(names) == [("10.0.0.1:1", 1)]


async def test_failing_host_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    names = Names("10 1 1 a.", "10 1 2 b.", a="10.0.0.1", b=ResolverError("SERVFAIL"))
    asking = service()
    with caplog.at_level(logging.WARNING, logger="lbkit.resolver"):
        await endpoints(names, asking)
        await endpoints(names, asking)
        names.hosts["b"] = "10.0.0.2"
        await endpoints(names, asking)
        names.hosts["b"] = ResolverError("SERVFAIL")
        await endpoints(names, asking)
    assert [record.message for record in caplog.records] == [f"{NAME}: one host of it: SERVFAIL"] * 2


async def test_failure_of_all_hosts_is_a_failure() -> None:
    names = Names("10 1 1 a.", "20 1 2 b.", a=ResolverError("SERVFAIL"))
    with pytest.raises(ResolverError, match="SERVFAIL"):
        await endpoints(names)


async def test_hosts_without_addresses_are_an_empty_answer() -> None:
    assert await endpoints(Names("10 1 1 a.", a="")) == []


async def test_record_that_is_missing_is_held() -> None:
    names = Names("10 1 1 a.", "10 1 2 b.", a="10.0.0.1", b="10.0.0.2")
    asking = Service(NAME, (4, 6), 2.0, 60.0)

    async def at(now_s: float) -> list[str]:
        return [str(each) for each in (await asking.look_up(names.ask, now_s)).endpoints]

    both = ["10.0.0.1:1", "10.0.0.2:2"]
    assert await at(0) == both
    names.services = ("10 1 1 a.",)
    assert await at(30) == both
    assert asking.due_s == 90
    del names.hosts["b"]  # its host may be gone as well
    assert await at(89) == both
    assert await at(90) == both[:1]
    assert asking.due_s == inf
    names.hosts["a"] = "10.0.0.3"
    assert await at(100) == ["10.0.0.1:1", "10.0.0.3:1"]
    assert asking.due_s == 160
