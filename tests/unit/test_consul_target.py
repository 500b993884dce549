"""How consul: targets are read, and that no secret of theirs is ever shown."""

from __future__ import annotations

import re

import pytest

import lbkit
from lbkit.errors import TargetError
from lbkit.registrar import make_registrar
from lbkit.resolver import make_resolver
from lbkit.target import Target
from lbkit_resolvers.consul import ConsulRegistrar, ConsulResolver, reach
from lbkit_resolvers.consul.target import (
    OF_REGISTRARS,
    OF_RESOLVERS,
    AgentAddress,
    Query,
    agent_address,
    query_of,
    readable,
    record_of,
)


def resolver_target(text: str) -> Target:
    return readable(Target.parse(text, {"consul"}), OF_RESOLVERS, "resolver")


def address(text: str) -> AgentAddress:
    return agent_address(resolver_target(text), own_client=False)


def query(text: str) -> Query:
    return query_of(resolver_target(f"consul:///greeter?{text}" if text else "consul:///greeter"))


def test_agent_of_this_machine_is_asked_where_there_is_no_host() -> None:
    found = address("consul:///greeter")
    assert (found.host, found.port, found.tls, found.cert) == ("127.0.0.1", 8500, False, None)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("consul://agent.test/greeter", "agent.test", 8500),
        ("consul://agent.test:80/greeter", "agent.test", 80),
        ("consul://[::1]/greeter", "[::1]", 8500),
        ("consul://[::1]:80/greeter", "[::1]", 80),
    ],
)
def test_port_is_8500_unless_given(text: str, host: str, port: int) -> None:
    assert address(text)[:2] == (host, port)


@pytest.mark.parametrize("place", ["a:", "a:0", "a:65536", "a:x", "::1", ":80", "a:123456"])
def test_wrong_place_says_what_to_write(place: str) -> None:
    with pytest.raises(TargetError, match=r"is no address of an agent; write consul://host:8500/service"):
        address(f"consul://{place}/greeter")


def test_user_and_password_are_decoded() -> None:
    found = address("consul://an%40n:p%3Aw@agent.test/greeter")
    assert (found.user, found.password, found.host) == ("an@n", "p:w", "agent.test")


def test_empty_user_is_an_error() -> None:
    with pytest.raises(TargetError, match="has no user before the @"):
        address("consul://:pw@agent.test/greeter")


def test_parameters_that_are_not_given_have_their_documented_values() -> None:
    assert query("") == Query((), "true", 60.0, "", 0, 2.0, "", "stale", 10.0, 30.0)
    assert address("consul:///greeter").timeout_s == 10.0


def test_every_name_of_grpc_consul_resolver_is_accepted() -> None:
    text = "tag=v1&healthy=true&wait=14s&near=_agent&limit=3&timeout=5s&max-backoff=1s&token=t&dc=dc2"
    assert query(f"{text}&insecure=false&allow-stale=false&require-consistent=true") == Query(
        ("v1",), "true", 14.0, "_agent", 3, 1.0, "dc2", "consistent", 10.0, 30.0
    )


@pytest.mark.parametrize(
    ("text", "consistency"),
    [
        ("allow-stale=true", "stale"),
        ("allow-stale=false", ""),
        ("require-consistent=true", "consistent"),
        ("require-consistent=false", "stale"),
    ],
)
def test_consistency_is_one_of_three(text: str, consistency: str) -> None:
    assert query(text).consistency == consistency


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("helthy=true", "Did you mean 'healthy'"),
        ("healthy=yes", "healthy=yes is not known. Known: true, warning, false"),
        ("wait=11m", "wait=11m is more than the 10 m that Consul waits"),
        ("wait=5", "wait=5 is no duration"),
        ("limit=-1", "limit=-1 is no number from 0 to 10000"),
        ("limit=99999", "limit=99999 is no number from 0 to 10000"),
        ("tag=a,,b", "tag=a,,b has an empty tag; write tag=a,b"),
        ("allow-stale=true&require-consistent=true", "choose one"),
        ("allow-stale=1", "Known: true, false"),
    ],
)
def test_wrong_parameter_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(TargetError, match=re.escape(says)):
        query(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("insecure=true", "insecure= says how to use TLS; add tls=true"),
        ("ca=ca.pem", "ca= says how to use TLS; add tls=true"),
        ("tls=true&insecure=true&ca=ca.pem", "insecure=true checks no certificate and sends none"),
        ("tls=true&insecure=true&cert=a.pem", "insecure=true checks no certificate and sends none"),
        ("tls=true&key=key.pem", "has key= without cert="),
    ],
)
def test_tls_parameters_that_contradict_each_other_are_errors(text: str, says: str) -> None:
    with pytest.raises(TargetError, match=re.escape(says)):
        address(f"consul:///greeter?{text}")


def test_tls_is_verified_unless_told_otherwise() -> None:
    assert address("consul:///g?tls=true").verify is True
    assert address("consul:///g?tls=true&ca=ca.pem").verify == "ca.pem"
    assert address("consul:///g?tls=true&insecure=true").verify is False
    assert address("consul:///g?tls=true&cert=both.pem").cert == ("both.pem", "both.pem")
    assert address("consul:///g?tls=true&cert=c.pem&key=k.pem").cert == ("c.pem", "k.pem")


@pytest.mark.parametrize("text", ["consul://127.0.0.1:8500", "consul://127.0.0.1:8500/", "consul:///a%0Ab"])
def test_target_without_a_service_is_an_error(text: str) -> None:
    with pytest.raises(TargetError, match="names no service; write consul://host:8500/service"):
        resolver_target(text)


def test_registrar_reads_its_own_parameters() -> None:
    target = Target.parse("consul:///g?ttl=9s&deregister-after=2m&tag=a,b&format=kratos", {"consul"})
    assert record_of(readable(target, OF_REGISTRARS, "registrar")) == (9.0, 120.0, ("a", "b"), True)


@pytest.mark.parametrize("text", ["ttl=500ms", "deregister-after=30s", "format=zookeeper", "near=_agent"])
def test_registrar_refuses_what_makes_no_sense(text: str) -> None:
    with pytest.raises(TargetError):
        ConsulRegistrar(f"consul:///greeter?{text}")


@pytest.mark.parametrize("make", [make_resolver, make_registrar], ids=["resolver", "registrar"])
@pytest.mark.parametrize(
    "query_text",
    [
        "token=SECRET&timeout=5",
        "token=SECRET&unknown=1",
        "tokne=SECRET",
        "%74oken=SECRET&timeout=5",
        "token=SECRET&token=SECRET",
    ],
)
def test_no_error_shows_the_password_or_the_token(make: object, query_text: str) -> None:
    assert callable(make)
    with pytest.raises(TargetError) as caught:
        make(f"consul://ann:SECRET@127.0.0.1:8500/greeter?{query_text}")
    assert "SECRET" not in str(caught.value)
    assert "consul://ann:***@127.0.0.1:8500/greeter" in str(caught.value)


@pytest.mark.parametrize("make", [ConsulResolver, ConsulRegistrar])
def test_token_with_a_line_break_is_an_error(make: type) -> None:
    with pytest.raises(
        TargetError, match=r"token= holds control characters, as a line break.*leave them out"
    ) as caught:
        make("consul:///greeter?token=SECRET%0A")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("make", [ConsulResolver, ConsulRegistrar])
def test_target_that_is_kept_shows_no_secret(make: type) -> None:
    made = make("consul://ann:SECRET@127.0.0.1:8500/greeter?token=SECRET")
    assert "SECRET" not in f"{made.target!r} {made.target}"
    assert str(made.target) == "consul://ann:***@127.0.0.1:8500/greeter?token=***"


async def test_channel_shows_no_secret() -> None:
    async with lbkit.Channel("consul://ann:SECRET@127.0.0.1:8500/greeter?token=SECRET") as channel:
        assert "SECRET" not in f"{channel!r} {channel.target}"


def test_servers_see_the_service_as_authority() -> None:
    assert ConsulResolver("consul://127.0.0.1:8500/greeter?tag=a").authority == "greeter"


def test_client_of_the_user_knows_where_the_agent_is() -> None:
    ConsulResolver("consul:///greeter?token=t&timeout=5s", client=object())
    for text in ("consul://127.0.0.1:8500/greeter", "consul:///greeter?tls=true"):
        with pytest.raises(
            TargetError, match=r"with client= that says where the agent is.*consul:///greeter"
        ):
            ConsulResolver(text, client=object())


@pytest.mark.parametrize("make", [ConsulResolver, ConsulRegistrar])
def test_missing_packages_are_named_with_what_to_install(make: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape("pip install 'lbkit[consul]'")):
        make("consul:///greeter")
    make("consul:///greeter", client=object())  # which somebody has got from somewhere


def test_channel_says_so_before_its_first_call() -> None:
    with pytest.raises(lbkit.TargetError, match="Did you mean 'healthy'"):
        lbkit.Channel("consul://127.0.0.1:8500/greeter?helthy=true")
