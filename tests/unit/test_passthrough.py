"""The schemes with one address: passthrough, unix, unix-abstract."""

from __future__ import annotations

import pytest

from lbkit.address import Address
from lbkit.errors import AddressError, TargetError
from lbkit.resolver import make_resolver
from tests.support.fakes import FakeSink


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("passthrough:///backend.example:50051", Address("backend.example", 50051)),
        ("passthrough:backend:80", Address("backend", 80)),
        ("passthrough:///[::1]:80", Address("::1", 80)),
        ("passthrough:///unix:/run/a.sock", Address("/run/a.sock", None)),
        ("unix:run/a.sock", Address("run/a.sock", None)),
        ("unix:/run/a.sock", Address("/run/a.sock", None)),
        ("unix:///run/a.sock", Address("/run/a.sock", None)),
        ("unix:////run/a.sock", Address("/run/a.sock", None)),
        ("unix:///run/a%20b%3F.sock", Address("/run/a b?.sock", None)),
        ("unix-abstract:name", Address("\0name", None)),
        ("unix-abstract:a/b", Address("\0a/b", None)),
    ],
)
async def test_one_address_is_given_as_it_is(target: str, expected: Address) -> None:
    sink = FakeSink()
    await make_resolver(target).run(sink)
    (answer,) = sink.answers
    assert [endpoint.addresses for endpoint in answer.endpoints] == [(expected,)]


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("passthrough:///backend.example:50051", "backend.example:50051"),
        ("passthrough:///[::1]:80", "[::1]:80"),
        ("passthrough:///bäckend:80", "b%C3%A4ckend:80"),
        ("unix:/run/a.sock", "localhost"),
        ("unix-abstract:name", "localhost"),
    ],
)
def test_authority_is_the_address_or_localhost(target: str, authority: str) -> None:
    assert make_resolver(target).authority == authority


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        ("passthrough://backend:80", "takes three slashes: passthrough:///backend:80"),
        ("passthrough:///backend", "'backend' has no valid port"),
        ("passthrough:///", "has no valid port"),
        ("passthrough:///a:1?x=1", "resolver 'passthrough' has no parameter 'x'"),
        ("unix:", "has no path; write unix:/run/app.sock"),
        ("unix://run/a.sock", "has two slashes; write unix:run/a.sock"),
        ("unix://run/a.sock", "or unix:///run/a.sock"),
        ("unix-abstract:", "has no name; write unix-abstract:name"),
        ("unix-abstract:a%00b", "has no name"),
        ("unix-abstract://a/b", "has two slashes; write unix-abstract:a/b"),
        ("unix:/a?x=1", "resolver 'unix' has no parameter 'x'"),
    ],
)
def test_bad_target_says_the_cure(target: str, cure: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_resolver(target)
    assert isinstance(caught.value, TargetError | AddressError)
    assert cure in str(caught.value)
    assert target in str(caught.value)
