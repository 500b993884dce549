from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.errors import TargetError
from lbkit.resolver import make_resolver
from lbkit.target import Target
from lbkit_resolvers.dns import DnsResolver
from lbkit_resolvers.dns.target import split_host, split_servers


def parse(text: str) -> Target:
    return Target.parse(text, {"dns"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dns:///backend.example:50051", ("backend.example", 50051)),
        ("dns:backend:50051", ("backend", 50051)),
        ("backend:50051", ("backend", 50051)),
        ("localhost", ("localhost", 443)),
        ("dns:///backend.example.", ("backend.example.", 443)),
        (":80", ("localhost", 80)),
        ("dns:///:80", ("localhost", 80)),
        ("10.0.0.1", ("10.0.0.1", 443)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("dns:///::1", ("::1", 443)),
        ("dns:///[::1]", ("::1", 443)),
        ("dns:///[::1]:80", ("::1", 80)),
        ("dns:///fe80::1%25eth0", ("fe80::1%eth0", 443)),
        ("dns:///my_service:80", ("my_service", 80)),
        ("dns:///bäckend:80", ("bäckend", 80)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert split_host(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("dns:///", "names no host; write dns:///host:port"),
        ("dns:", "names no host"),
        ("dns://backend:80", "names no host; the name comes behind a third slash: dns:///backend:80"),
        ("backend:", "ends in a colon: write the port behind it, or leave it out for port 443"),
        (":", "ends in a colon"),
        ("dns:///[::1]:", "ends in a colon"),
        ("backend:http", "no valid port"),
        ("backend:65536", "no valid port"),
        ("backend:0", "a port of 1 to 65535"),
        ("dns:///backend/x:1", "no valid host"),
        ("dns:///a:b:1", "'a:b:1' has no valid host"),
        ("dns:///::1:2:3:4:5:6:7:8:9", "put an IPv6 address in brackets"),
        ("dns:///[zz]:80", "no IPv6 address"),
        ("dns:///[10.0.0.1]:80", "no IPv6 address"),
        ("a..b:80", "a part of 'a..b' is empty or longer than 63 characters"),
        (f"{'a' * 64}.b:80", "longer than 63"),
        ("dns:///unix:80", "needs a host and a port"),
    ],
)
def test_bad_host_says_the_cure(text: str, cure: str) -> None:
    with pytest.raises(TargetError) as caught:
        split_host(parse(text))
    assert cure in str(caught.value)
    assert text in str(caught.value)


@settings(deadline=None)
@given(st.text())
def test_any_path_gives_a_host_and_port_or_a_target_error(path: str) -> None:
    try:
        host, port = split_host(Target("dns:///x", "dns", "", path, ""))
    except TargetError:
        return
    assert host
    assert 0 < port < 65536


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("8.8.8.8", ("8.8.8.8", 53)),
        ("8.8.8.8:5353", ("8.8.8.8", 5353)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
        ("::1", ("::1", 53)),
    ],
)
def test_name_server(authority: str, expected: tuple[str, int]) -> None:
    assert split_servers(parse(f"dns://{authority}/backend")) == (expected,)


def test_several_name_servers() -> None:
    assert split_servers(parse("dns://10.0.0.53,10.0.0.54:5353,[::1]:53,::2/backend")) == (
        ("10.0.0.53", 53),
        ("10.0.0.54", 5353),
        ("::1", 53),
        ("::2", 53),
    )


@pytest.mark.parametrize(
    "authority", ["resolver.example", "8.8.8.8:", "8.8.8.8:dns", "8.8.8.8:0", "[8.8.8.8]:53", ":53"]
)
def test_name_server_must_be_an_ip_address(authority: str) -> None:
    with pytest.raises(TargetError, match=r"must be an IP address.* write dns:///backend$"):
        split_servers(parse(f"dns://{authority}/backend"))


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        (
            "backend:80?refresh=30",
            "refresh=30 is no duration; write a number and ms, s or m, like refresh=30s",
        ),
        ("backend:80?refresh=", "is no duration"),
        ("backend:80?refresh=s", "is no duration"),
        ("backend:80?refresh=-3s", "is no duration"),
        ("backend:80?refresh=1.2.3s", "is no duration"),
        ("backend:80?refresh=never", "is no duration"),
        ("backend:80?refresh=999ms", "is not between 1 s and a day"),
        ("backend:80?refresh=2000m", "is not between 1 s and a day"),
        ("backend:80?family=ipv4", "family=ipv4 is not known. Known: any, 4, 6"),
        ("backend:80?search=onn", "search=onn is not known. Did you mean 'on'? Known: off, on"),
        ("backend:80?refesh=3s", "has no parameter 'refesh'. Did you mean 'refresh'?"),
        ("[::1]:80?family=4", "has an IPv6 address, and family=4"),
        ("127.0.0.1?family=6", "has an IPv4 address, and family=6"),
        ("backend?srv=grpc", "srv=grpc names no service; write srv=_grpc._tcp"),
        ("backend?srv=_grpc.tcp", "names no service"),
        ("backend?srv=_._tcp", "names no service"),
        ("backend?srv=", "names no service"),
        ("backend:80?srv=_grpc._tcp", "the ports come with srv=_grpc._tcp; write a name, and no port"),
        ("10.0.0.1?srv=_grpc._tcp", "write a name, and no port"),
        ("dns://localhost/backend", "must be an IP address"),
        ("dns://10.0.0.53,ns.example/backend", "the name server 'ns.example' must be an IP address"),
        ("dns://10.0.0.53,/backend", "the name server '' must be an IP address"),
        ("backend?priority=all", "priority= is about SRV records; write srv=_grpc._tcp too"),
        ("backend?srv=_grpc._tcp&priority=first", "priority=first is not known. Known: best, all"),
        ("backend?txt=yes", "txt=yes is not known. Known: off, on"),
        ("backend?hold=60", "write a number and ms, s or m, like hold=30s"),
        ("backend?hold=1441m", "is not between 0 s and a day"),
        ("backend?hodl=60s", "has no parameter 'hodl'. Did you mean 'hold'?"),
    ],
)
def test_bad_parameter_says_the_cure(target: str, cure: str) -> None:
    with pytest.raises(TargetError) as caught:
        make_resolver(target)
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    "target", ["backend:80", "dns:///backend:80", "10.0.0.1", "dns://127.0.0.1/backend?refresh=500m"]
)
def test_default_scheme_is_dns(target: str) -> None:
    assert isinstance(make_resolver(target), DnsResolver)


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("backend:50051", "backend:50051"),
        ("dns:///backend", "backend"),
        ("dns://127.0.0.1/backend:80", "backend:80"),
        (":80", "localhost:80"),
        ("dns:///[::1]:80", "[::1]:80"),
        ("dns:///::1", "[::1]"),
        ("dns:///bäckend:80?refresh=off", "b%C3%A4ckend:80"),
    ],
)
def test_authority_is_what_the_target_says(target: str, authority: str) -> None:
    assert make_resolver(target).authority == authority
