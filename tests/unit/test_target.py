from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.address import Address
from lbkit.errors import TargetError, UnknownPluginError
from lbkit.resolver import FunctionResolver, Resolver, Sink, authority_of, make_resolver, registry
from lbkit.target import Target
from lbkit_resolvers.static import StaticResolver

SCHEMES = {"dns", "static", "etcd", "unix", "my_scheme"}


def parse(text: str) -> tuple[str, str, str, str]:
    target = Target.parse(text, SCHEMES)
    assert target.text == text == str(target)
    return target.scheme, target.authority, target.path, target.query


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("etcd://10.0.0.1:2379/greeter", ("etcd", "10.0.0.1:2379", "greeter", "")),
        ("etcd://10.0.0.1:2379/a/b?zone=eu", ("etcd", "10.0.0.1:2379", "a/b", "zone=eu")),
        ("static:///a:1,[::1]:2", ("static", "", "a:1,[::1]:2", "")),
        ("dns:///host:443", ("dns", "", "host:443", "")),
        ("dns:host:443", ("dns", "", "host:443", "")),
        ("dns://8.8.8.8/host", ("dns", "8.8.8.8", "host", "")),
        ("unix:/run/a.sock", ("unix", "", "run/a.sock", "")),
        ("unix:////run/a.sock", ("unix", "", "/run/a.sock", "")),
        ("my_scheme:///x", ("my_scheme", "", "x", "")),
    ],
)
def test_parts_of_a_target(text: str, parts: tuple[str, str, str, str]) -> None:
    assert parse(text) == parts


@pytest.mark.parametrize("text", ["localhost", "localhost:50051", "10.0.0.1:80", "[::1]:80", ":80", "a/b:1"])
def test_text_without_a_scheme_means_dns(text: str) -> None:
    assert parse(text) == ("dns", "", text, "")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:run/a.sock", "run/a.sock"),
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:///run/a.sock", "/run/a.sock"),
        ("unix:////run/a.sock", "/run/a.sock"),
        ("unix:///run/a%20b?x=/", "/run/a b"),
    ],
)
def test_file_path_is_absolute_if_a_slash_was_written(text: str, path: str) -> None:
    assert Target.parse(text, SCHEMES).file_path == path


@pytest.mark.parametrize(
    ("name", "authority"),
    [
        ("greeter", "greeter"),
        ("a/b", "a%2Fb"),
        ("host:80", "host:80"),
        (":80", "localhost:80"),
        ("", "localhost"),
        ("é%", "%C3%A9%25"),
        (Address("a", 1), "a:1"),
        (Address("::1", 1), "[::1]:1"),
        (Address("/run/a.sock", None), "localhost"),
        (Address("\0name", None), "localhost"),
    ],
)
def test_authority_of_names_and_addresses(name: str | Address, authority: str) -> None:
    assert authority_of(name) == authority


@settings(deadline=None)
@given(st.text())
def test_authority_is_always_printable_ascii(name: str) -> None:
    found = authority_of(name)
    assert found.isascii()
    assert found.isprintable()
    assert not set(found) & set(' /?#"\\<>^`{|}')


def test_authority_of_a_resolver_is_its_name() -> None:
    assert make_resolver("static:///a:1").authority == "a:1"
    assert (
        FunctionResolver(resolve, Target.parse("etcd://10.0.0.1/greeter", SCHEMES), None).authority
        == "greeter"
    )


async def resolve(target: Target) -> list[str]:
    return []


def test_unknown_scheme_with_two_slashes_is_a_scheme() -> None:
    assert parse("statik:///a:1")[0] == "statik"


def test_scheme_is_lower_case_whatever_is_written() -> None:
    assert parse("Static:///a:1")[0] == "static"


def test_path_is_decoded_and_query_is_not() -> None:
    assert parse("etcd:///a%2Fb%20c?x=%20") == ("etcd", "", "a/b c", "x=%20")


def test_hash_sign_is_part_of_the_path() -> None:
    assert parse("etcd:///a#b") == ("etcd", "", "a#b", "")


@pytest.mark.parametrize("text", ["", " ", "a b", " a:1", "a:1 ", "a\n:1", "dns:///a\x00", "\u2028"])
def test_blanks_and_control_characters_are_refused(text: str) -> None:
    with pytest.raises(TargetError, match="is empty or holds blanks or control characters"):
        parse(text)


@settings(deadline=None)
@given(st.text())
def test_parse_raises_target_error_only(text: str) -> None:
    try:
        target = Target.parse(text, SCHEMES)
    except TargetError:
        return
    assert target.scheme


def test_parameters_are_named_values() -> None:
    assert Target.parse("etcd:///x?a=1&b=%202&c=", SCHEMES).parameters() == {"a": "1", "b": " 2", "c": ""}
    assert Target.parse("etcd:///x", SCHEMES).parameters() == {}


@pytest.mark.parametrize(("query", "why"), [("a", "malformed query"), ("a=1&a=2", "gives a parameter twice")])
def test_bad_parameters_are_refused(query: str, why: str) -> None:
    with pytest.raises(TargetError, match=why):
        Target.parse(f"etcd:///x?{query}", SCHEMES).parameters()


def test_make_resolver_finds_the_one_of_the_scheme() -> None:
    assert isinstance(make_resolver("static:///a:1"), StaticResolver)


def test_make_resolver_says_the_nearest_scheme() -> None:
    with pytest.raises(UnknownPluginError, match="Did you mean 'static'"):
        make_resolver("statik:///a:1")


def test_make_resolver_says_what_to_write_without_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lbkit.resolver", "lbkit.target"):
        monkeypatch.setattr(sys.modules[module], "DEFAULT_SCHEME", "test-none")
    with pytest.raises(TargetError, match=r"needs the 'test-none' resolver, .*write static:///localhost:1$"):
        make_resolver("localhost:1")


def test_make_resolver_refuses_unknown_parameters() -> None:
    class Zoned(Resolver):
        parameters = frozenset({"zone", "tag"})

        async def run(self, sink: Sink) -> None:
            pass

    registry.register("test-zoned", Zoned)
    try:
        assert isinstance(make_resolver("test-zoned:///x?zone=eu"), Zoned)
        with pytest.raises(
            TargetError, match=r"no parameter 'zome'\. Did you mean 'zone'\? Known: tag, zone"
        ):
            make_resolver("test-zoned:///x?zome=eu")
    finally:
        del registry._registered["test-zoned"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("etcd://root:s3cret@10.0.0.1:2379/greeter", "etcd://root:***@10.0.0.1:2379/greeter"),
        ("etcd://root@10.0.0.1:2379/greeter", "etcd://root@10.0.0.1:2379/greeter"),
        (
            "consul://10.0.0.1/greeter?token=abc&near=_agent",
            "consul://10.0.0.1/greeter?token=***&near=_agent",
        ),
        (
            "fallback:///?a=consul%3A%2F%2Fme%3As3cret%40h%2Fg%3Ftoken%3Dabc&b=static%3A%2F%2F%2Fa%3A1",
            "fallback:///?a=consul%3A%2F%2Fme%3A***%40h%2Fg%3Ftoken%3D***&b=static%3A%2F%2F%2Fa%3A1",
        ),
        ("guard:///?least=3&of=etcd://me:s3cret@h/g", "guard:///?least=3&of=etcd://me:***@h/g"),
        ("static:///a:1", "static:///a:1"),
    ],
)
def test_secret_is_not_shown(text: str, shown: str) -> None:
    assert str(Target.parse(text, {"consul", "etcd", "fallback", "guard", "static"})) == shown
