"""How etcd targets are written."""

from __future__ import annotations

import pytest

import lbkit
from lbkit.errors import TargetError
from lbkit_resolvers.etcd import EtcdResolver
from lbkit_resolvers.etcd.codecs.kratos import KratosCodec
from lbkit_resolvers.etcd.codecs.naming import NamingCodec
from lbkit_resolvers.etcd.target import EtcdTarget
from tests.support.etcd_following import target


def read(text: str, **options: object) -> EtcdTarget:
    return EtcdTarget.read(target(text), **options)  # type: ignore[arg-type]


def test_hosts_have_the_port_of_etcd_where_they_have_none() -> None:
    assert read("etcd://h1,h2:1234,[::1],[::2]:99/svc/foo").hosts == (
        "h1:2379",
        "h2:1234",
        "[::1]:2379",
        "[::2]:99",
    )


def test_no_host_is_this_machine() -> None:
    found = read("etcd:///svc/foo")
    assert (found.hosts, found.name, found.user, found.tls) == (("127.0.0.1:2379",), "svc/foo", "", None)


def test_a_host_named_twice_is_one_member() -> None:
    assert read("etcd://h,h:2379/x").hosts == ("h:2379",)


@pytest.mark.parametrize("name", ["svc/foo", "svc/foo/"])
def test_keys_begin_with_the_name_and_a_slash(name: str) -> None:
    assert read(f"etcd://h/{name}").prefix == b"svc/foo/"


def test_a_leading_slash_of_the_keys_is_written_twice() -> None:
    assert read("etcd://h//services/foo").prefix == b"/services/foo/"


def test_the_namespace_goes_in_front_of_the_name() -> None:
    assert read("etcd://h/foo?namespace=/prod/").prefix == b"/prod/foo/"
    assert read("etcd://h/foo?codec=kratos").prefix == b"/microservices/foo/"
    assert read("etcd://h/foo?codec=kratos&namespace=apps").prefix == b"apps/foo/"


def test_the_codec_is_etcds_own_unless_said() -> None:
    assert isinstance(read("etcd://h/foo").codec, NamingCodec)
    assert isinstance(read("etcd://h/foo?codec=kratos").codec, KratosCodec)


def test_user_and_password_are_taken_out_of_their_escapes() -> None:
    found = read("etcd://ann:p%40ss%3A%2F@h1,h2/foo")
    assert (found.user, found.password, found.hosts) == ("ann", "p@ss:/", ("h1:2379", "h2:2379"))


def test_credentials_and_tls_given_in_code_come_first() -> None:
    tls = lbkit.tls(server_name="etcd.example")
    found = read("etcd://ann:x@h/foo?ca=/nowhere", user="bob", password="y", tls=tls)
    assert (found.user, found.password, found.tls) == ("bob", "y", tls)


def test_no_password_is_shown() -> None:
    assert "secret" not in repr(read("etcd://ann:secret@h/foo"))


def test_files_turn_tls_on() -> None:
    assert read("etcd://h/foo?ca=/etc/ca.pem&cert=/c&key=/k&server-name=e.example").tls == lbkit.tls(
        ca="/etc/ca.pem", cert="/c", key="/k", server_name="e.example"
    )
    assert read("etcd://h/foo?tls=on").tls == lbkit.tls()
    assert read("etcd://h/foo?tls=off").tls is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("etcd://h/", "has no name to look for; write one, like etcd://h/greeter"),
        ("etcd://h1,h2", "has no name"),
        ("etcd://h/%00", "has no name"),
        ("etcd://ann:secret@h/foo?codec=krato", "Did you mean 'kratos'?"),
        ("etcd://h/foo?namespace=%0a", "control characters"),
        ("etcd://h:0/foo", "'h:0' is no host with a port"),
        ("etcd://h:99999/foo", "no valid port"),
        ("etcd://h,,i/foo", "no valid host"),
        ("etcd://2001:db8::1/foo", "in brackets"),
        ("etcd://ann@h/foo", "write user:password@"),
        ("etcd://:secret@h/foo", "write user:password@"),
        ("etcd://h/foo?tls=yes", "tls=yes is not known"),
        ("etcd://h/foo?tls=off&ca=/x", "ca= is of no use without TLS"),
        ("etcd://h/foo?server-name=x", "server-name= is of no use without TLS"),
        ("etcd://h/foo?key=/x", "without cert="),
        ("etcd://ann:secret@h/foo?codec=etcd&codec=etcd", "twice"),
        ("etcd://ann:secret@h/foo?codec", "malformed query"),
    ],
)
def test_what_makes_no_sense_is_said(text: str, complaint: str) -> None:
    with pytest.raises(TargetError) as caught:
        EtcdResolver(target(text))
    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("user", ["", "ann:secret@"])
def test_an_unknown_parameter_gets_the_nearest(user: str) -> None:
    with pytest.raises(TargetError, match="Did you mean 'codec'") as caught:
        lbkit.Channel(f"etcd://{user}h/foo?codek=etcd")
    assert "secret" not in str(caught.value)


def test_a_channel_can_be_made_without_an_event_loop() -> None:
    assert lbkit.Channel("etcd://h1,h2/svc/foo").authority == "svc%2Ffoo"
