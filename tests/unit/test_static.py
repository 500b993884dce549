from __future__ import annotations

import pytest

from lbkit.errors import AddressError, TargetError
from lbkit.resolver import make_resolver
from tests.support.fakes import FakeSink


async def addresses(target: str) -> list[list[str]]:
    sink = FakeSink()
    await make_resolver(target).run(sink)
    return sink.addresses


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("static:///a:1", ["a:1"]),
        ("static:///a:1,b:2,[::1]:5", ["a:1", "b:2", "[::1]:5"]),
        ("static:a:1,b:2", ["a:1", "b:2"]),
        ("static:///unix:/run/a.sock,b:2", ["unix:/run/a.sock", "b:2"]),
    ],
)
async def test_gives_one_answer_and_returns(target: str, expected: list[str]) -> None:
    assert await addresses(target) == [expected]


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        ("static:///", "names no address; write static:///host:port,host:port"),
        ("static:", "names no address"),
        ("static:///a:1,", "has nothing between two commas, or at the end, of 'a:1,'"),
        ("static:///a:1,,b:2", "has nothing between two commas"),
        ("static:///,", "has nothing between two commas"),
        ("static:///a:1,%20b:2", "' b:2' has no valid host"),
        ("static:///a:1,b", "target 'static:///a:1,b': 'b' has no valid port"),
        ("static:///::1:5", "in brackets"),
        ("static://a:1,b:2", "takes three slashes: static:///a:1,b:2"),
        ("static:///a:1?weight=2,b:2?weight=3", "takes no parameters yet, not even a weight per address"),
    ],
)
def test_bad_target_says_the_cure_when_it_is_made(target: str, cure: str) -> None:
    with pytest.raises(ValueError, match=cure.replace("?", r"\?")) as caught:
        make_resolver(target)
    assert isinstance(caught.value, TargetError | AddressError)
    assert target in str(caught.value)
