from __future__ import annotations

import pytest

from lbkit.errors import AddressError, TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import make_resolver
from tests.support.fakes import FakeSink


async def answer(target: str) -> Resolution:
    """Run to the end, and return the one answer."""
    sink = FakeSink()
    await make_resolver(target).run(sink)
    (found,) = sink.answers
    return found


async def addresses(target: str) -> list[str]:
    return [str(endpoint) for endpoint in (await answer(target)).endpoints]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("static:///a:1", ["a:1"]),
        ("static:///a:1,b:2,[::1]:5", ["a:1", "b:2", "[::1]:5"]),
        ("static:a:1,b:2", ["a:1", "b:2"]),
        ("static:///unix:/run/a.sock,b:2", ["unix:/run/a.sock", "b:2"]),
        ("static:///unix-abstract:a,b:2", ["unix-abstract:a", "b:2"]),
        ("static:///a:1?weight=3,b%3A2", ["a:1", "b:2"]),
        ("ipv4:1.2.3.4:80,1.2.3.5:81", ["1.2.3.4:80", "1.2.3.5:81"]),
        ("ipv4:///1.2.3.4:80", ["1.2.3.4:80"]),
        ("ipv4:1.2.3.4,1.2.3.5:81", ["1.2.3.4:443", "1.2.3.5:81"]),
        ("ipv6:[::1]:80,[2001:db8::1]:81", ["[::1]:80", "[2001:db8::1]:81"]),
        ("ipv6:[::1],2001:db8::1", ["[::1]:443", "[2001:db8::1]:443"]),
        ("ipv6:[fe80::1%25eth0]:80", ["[fe80::1%eth0]:80"]),
    ],
)
async def test_gives_one_answer_and_returns(target: str, expected: list[str]) -> None:
    assert await addresses(target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("static:///a:1?weight=3,b:2", [("a:1", 3, ""), ("b:2", 1, "")]),
        ("static:///a:1,b:2?weight=0.5&zone=eu", [("a:1", 1, ""), ("b:2", 0.5, "eu")]),
        (
            "static:///a:1?zone=eu,b:2?zone=us%2Cwest,c:3",
            [("a:1", 1, "eu"), ("b:2", 1, "us,west"), ("c:3", 1, "")],
        ),
        ("static:///[::1]:1?weight=2,unix:/a?weight=3", [("[::1]:1", 2, ""), ("unix:/a", 3, "")]),
    ],
)
async def test_parameters_belong_to_the_address_before_them(
    target: str, expected: list[tuple[str, float, str]]
) -> None:
    found = (await answer(target)).endpoints
    assert [(str(each), each.weight, each.zone) for each in found] == expected


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        ("static:///", "names no address; write static:///host:port,host:port"),
        ("static:", "names no address"),
        ("static:///a:1,", "has nothing between two commas, or at the end, of 'a:1,'"),
        ("static:///a:1,,b:2", "has nothing between two commas"),
        ("static:///,", "has nothing between two commas"),
        ("static:///a:1?weight=1,", "has nothing between two commas"),
        ("static:///a:1,%20b:2", "' b:2' has no valid host"),
        ("static:///a:1,b", "target 'static:///a:1,b': 'b' has no valid port"),
        ("static:///a:1?weight=2,b", "'b' has no valid port"),
        ("static:///::1:5", "in brackets"),
        ("static://a:1,b:2", "takes three slashes: static:///a:1,b:2"),
        (
            "static:///a:1?wieght=2,b:2",
            "gives a:1 the parameter 'wieght'. Did you mean 'weight'? Known: weight, zone",
        ),
        ("static:///a:1,b:2?x=1", "gives b:2 the parameter 'x'. Known: weight, zone"),
        ("static:///a:1?weight=2&weight=3", "gives a parameter twice"),
        ("static:///a:1?weight", "malformed query"),
        ("static:///a:1?weight=much", "gives a:1 weight=much, which is no number"),
        ("static:///a:1,b:2?weight=0", "b:2: weight must be positive and finite"),
        ("static:///a:1?weight=nan", "weight must be positive and finite"),
        ("static:///a:1?weight=inf", "weight must be positive and finite"),
        ("ipv4:", "names no address; write ipv4:10.0.0.1:50051,10.0.0.2:50051"),
        ("ipv4:1.2.3.4:80,", "has nothing between two commas"),
        ("ipv4:localhost:80", "'localhost' is no IPv4 address; for names use dns:///localhost:80"),
        ("ipv4:1.2.3:80", "'1.2.3' is no IPv4 address"),
        ("ipv4:1.2.3.4:", "no valid port"),
        ("ipv4:[::1]:80", "no IPv4 address"),
        ("ipv4:1.2.3.4:80?weight=2", "resolver 'ipv4' has no parameter 'weight'"),
        ("ipv6:1.2.3.4:80", "'1.2.3.4' is no IPv6 address"),
        ("ipv6:[zz]:80", "no IPv6 address"),
        ("ipv6:", "names no address"),
    ],
)
def test_bad_target_says_the_cure_when_it_is_made(target: str, cure: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_resolver(target)
    assert isinstance(caught.value, TargetError | AddressError)
    assert cure in str(caught.value)
    assert target in str(caught.value)


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("static:///a:1,b:2", "a:1"),
        ("static:///unix:/run/a.sock,b:2", "localhost"),
        ("ipv4:1.2.3.4,1.2.3.5:80", "1.2.3.4:443"),
        ("ipv6:[::1]:80", "[::1]:80"),
        ("ipv6:[fe80::1%25eth0]:80", "[fe80::1%25eth0]:80"),
    ],
)
def test_authority_is_the_first_address(target: str, authority: str) -> None:
    assert make_resolver(target).authority == authority
