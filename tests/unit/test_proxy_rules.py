"""Which proxy there is, and what is reached without it."""

from __future__ import annotations

import base64

import pytest

from lbkit.address import Address
from lbkit.transport.proxy import Proxy, ProxyRules

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://proxy.example:3128", "proxy.example:3128"),
        ("proxy.example:3128", "proxy.example:3128"),
        ("http://proxy.example", "proxy.example:80"),
        ("http://proxy.example:3128/", "proxy.example:3128"),
        ("http://[2001:db8::1]:3128", "[2001:db8::1]:3128"),
    ],
)
def test_proxies_are_read_as_everybody_writes_them(text: str, address: str) -> None:
    assert Proxy.parse(text) == (Address.parse(address), "")


def test_user_and_password_are_sent_as_basic_credentials() -> None:
    _, authorization = Proxy.parse("http://ann:p%40ss%3Aword@proxy.example:3128")
    scheme, _, encoded = authorization.partition(" ")
    assert (scheme, base64.b64decode(encoded)) == ("Basic", b"ann:p@ss:word")
    assert base64.b64decode(Proxy.parse("http://ann@proxy.example").authorization[6:]) == b"ann:"


@pytest.mark.parametrize(
    "text",
    [
        "https://proxy.example:3128",
        "socks5://proxy.example:1080",
        "http://",
        "http://proxy.example:port",
        "http://proxy.example:99999",
        "http://ann:secret@pro xy:1",
        "http://[::1",
    ],
)
def test_what_is_no_proxy_is_an_error_without_the_password(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        Proxy.parse(text)
    assert "secret" not in str(raised.value)


def rules(**environment: str) -> ProxyRules | None:
    return ProxyRules.of_environment(environment)


def reached(address: str, **environment: str) -> str:
    found = rules(**environment)
    assert found is not None
    proxy = found.proxy_for(Address.parse(address))
    return "directly" if proxy is None else str(proxy.address)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"grpc_proxy": "a:1", "https_proxy": "b:2", "http_proxy": "c:3"}, "a:1"),
        ({"https_proxy": "b:2", "http_proxy": "c:3"}, "b:2"),
        ({"http_proxy": "c:3"}, "c:3"),
        ({"HTTPS_PROXY": "b:2"}, "b:2"),
        ({"GRPC_PROXY": "a:1", "http_proxy": "c:3"}, "a:1"),
        ({"HTTP_PROXY": "c:3"}, "c:3"),
        ({"https_proxy": " ", "http_proxy": "c:3"}, "c:3"),
    ],
)
def test_the_environment_is_read_in_the_order_of_grpc(environment: dict[str, str], expected: str) -> None:
    assert reached("backend.example:443", **environment) == expected


def test_without_a_variable_there_is_no_proxy() -> None:
    assert rules() is None
    assert rules(no_proxy="*") is None


def test_a_clients_header_is_no_proxy_of_a_web_server() -> None:
    """CVE-2016-5385: CGI puts headers into the environment."""
    assert rules(HTTP_PROXY="evil.example:1", REQUEST_METHOD="GET") is None


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ValueError, match=r"HTTPS_PROXY: the proxy must be http://host:port, not socks5://"):
        rules(HTTPS_PROXY="socks5://a:1")


@pytest.mark.parametrize(
    ("exceptions", "address", "proxied"),
    [
        ("", "backend.example:443", True),
        ("example", "backend.example:443", False),
        ("backend.example", "backend.example:443", False),
        (".backend.example", "backend.example:443", False),
        ("backend.example", "a.backend.example:443", False),
        ("*.backend.example", "a.backend.example:443", False),
        ("backend.example", "mybackend.example:443", True),
        ("BACKEND.example", "backend.EXAMPLE:443", False),
        ("backend.example", "backend.example.:443", False),
        ("other.example, backend.example", "backend.example:443", False),
        ("backend.example:443", "backend.example:443", False),
        ("backend.example:80", "backend.example:443", True),
        ("*", "backend.example:443", False),
        ("*", "10.1.2.3:443", False),
        ("10.1.2.3", "10.1.2.3:443", False),
        ("10.0.0.0/8", "10.1.2.3:443", False),
        ("10.0.0.0/8", "11.1.2.3:443", True),
        ("10.1.2.3:80", "10.1.2.3:443", True),
        ("10.0.0.0/8", "backend.example:443", True),
        ("2001:db8::/32", "[2001:db8::7]:443", False),
        ("2001:db8::7", "[2001:db8::7]:443", False),
        ("[2001:db8::7]:80", "[2001:db8::7]:443", True),
        ("[2001:db8::7]:443", "[2001:db8::7]:443", False),
        ("", "localhost:443", False),
        ("", "127.0.0.1:443", False),
        ("", "[::1]:443", False),
        ("", "unix:/run/app.sock", False),
        (",, ,", "backend.example:443", True),
        ("300.0.0.0/8", "10.1.2.3:443", True),
    ],
)
def test_exceptions_are_names_networks_and_this_machine(exceptions: str, address: str, proxied: bool) -> None:
    found = reached(address, https_proxy=PROXY, no_proxy=exceptions)
    assert found == ("proxy.example:3128" if proxied else "directly")


def test_grpcs_own_exceptions_come_first() -> None:
    environment = {"https_proxy": PROXY, "no_grpc_proxy": "a.example", "no_proxy": "b.example"}
    assert reached("a.example:1", **environment) == "directly"
    assert reached("b.example:1", **environment) == "proxy.example:3128"
    assert reached("c.example:1", https_proxy=PROXY, NO_PROXY="c.example") == "directly"


def test_a_proxy_that_the_program_names_is_for_everything_but_unix_sockets() -> None:
    everything = ProxyRules(Proxy.parse(PROXY))
    assert everything.proxy_for(Address.parse("127.0.0.1:1")) is not None
    assert everything.proxy_for(Address.parse("localhost:1")) is not None
    assert everything.proxy_for(Address.parse("unix:/run/app.sock")) is None
