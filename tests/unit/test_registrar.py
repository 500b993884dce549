"""What an instance says of a server, and how a registrar is found for a target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import pytest

import lbkit
from lbkit import Address, AddressError, Endpoint, Instance, Registrar, RegistrationError, Target, TargetError
from lbkit.registrar import make_registrar, registry


class Silent(Registrar):
    parameters: ClassVar[frozenset[str] | None] = frozenset({"ttl"})

    async def register(self, instance: Instance) -> None: ...

    async def keep(self, instance: Instance) -> None: ...

    async def deregister(self, instance: Instance) -> None: ...


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dict(registry._registered)
    yield
    registry._registered = before


# Instances


def test_the_address_is_the_id_of_an_instance_without_one() -> None:
    assert Instance("10.0.0.7:50051").id == "10.0.0.7:50051"
    assert Instance("10.0.0.7:50051", id="greeter-0").id == "greeter-0"


def test_an_address_may_be_left_open() -> None:
    assert (Instance().address, Instance().id) == ("", "")


def test_an_address_found_out_later_becomes_the_id_too() -> None:
    whole = Instance("0.0.0.0:0", weight=3, zone="a", metadata={"version": "7"}).at("10.0.0.7:50051")
    assert whole == Instance("10.0.0.7:50051", weight=3, zone="a", metadata={"version": "7"})
    assert whole.id == "10.0.0.7:50051"


def test_an_id_of_its_own_stays() -> None:
    assert Instance(id="greeter-0").at("10.0.0.7:50051", secure=True).id == "greeter-0"
    assert Instance(id="greeter-0").at("10.0.0.7:50051", secure=True).secure


def test_resolvers_make_an_endpoint_of_it() -> None:
    instance = Instance(Address("::1", 1), weight=3, zone="a", metadata={"version": "7"})
    assert instance.endpoint == Endpoint("[::1]:1", weight=3.0, zone="a", metadata={"version": "7"})


def test_instances_are_compared_by_all_they_say() -> None:
    same = Instance("a:1", weight=1), Instance("a:1", weight=1.0)
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    for other in (Instance("a:1", weight=2), Instance("a:1", id="b"), Instance("a:1", secure=True), "a:1"):
        assert Instance("a:1") != other


def test_instances_never_change() -> None:
    instance = Instance("a:1", metadata={"version": "7"})
    with pytest.raises(AttributeError, match="immutable"):
        instance.weight = 2.0
    with pytest.raises(TypeError):
        cast("dict[str, str]", instance.metadata)["version"] = "8"


@pytest.mark.parametrize(
    "options",
    [{"address": "nowhere"}, {"address": "a:1", "weight": 0}, {"address": "a:1", "weight": float("nan")}],
)
def test_an_instance_that_is_no_endpoint_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AddressError):
        Instance(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "a\nb"}, "id must be text without control characters"),
        ({"zone": "\0"}, "zone must be text"),
        ({"metadata": {"version": 7}}, "metadata 'version' must be text"),
        ({"metadata": {"a": "\x1b[2J"}}, "metadata 'a' must be text"),
        ({"metadata": {"\t": "a"}}, "a name in metadata"),
        ({"metadata": {"weight": "3"}}, "write weight="),
        ({"metadata": {"zone": "a"}}, "write zone="),
        ({"metadata": {"secure": "true"}}, "write secure="),
    ],
)
def test_what_readers_would_pass_over_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RegistrationError, match=said):
        Instance("a:1", **options)


# Registrars


def test_a_target_finds_its_registrar_by_the_scheme() -> None:
    lbkit.registrar("silent")(Silent)
    made = make_registrar("silent://10.0.0.1:99/greeter?ttl=5s")
    assert type(made) is Silent
    assert made.target == Target.parse("silent://10.0.0.1:99/greeter?ttl=5s", registry)


def test_a_mistyped_parameter_is_answered_with_the_nearest() -> None:
    lbkit.registrar("silent")(Silent)
    with pytest.raises(TargetError, match=r"registrar 'silent' has no parameter 'tll'\. Did you mean 'ttl'"):
        make_registrar("silent:///greeter?tll=5s")


def test_a_mistyped_scheme_is_answered_with_the_nearest() -> None:
    lbkit.registrar("silent")(Silent)
    with pytest.raises(lbkit.UnknownPluginError, match="Did you mean 'silent'"):
        make_registrar("silnet://10.0.0.1:99/greeter")


@pytest.mark.parametrize("text", ["greeter", "10.0.0.1:2379", "silent:greeter"])
def test_a_target_without_a_registry_says_how_one_is_written(text: str) -> None:
    lbkit.registrar("silent")(Silent)
    with pytest.raises(TargetError, match="names no registry; write scheme://where/name"):
        make_registrar(text)


def test_a_registrar_may_read_its_query_itself() -> None:
    class Own(Silent):
        parameters = None

    lbkit.registrar("own")(Own)
    assert make_registrar("own:///x?whatever").target.query == "whatever"


def test_only_registrars_are_registered() -> None:
    with pytest.raises(TypeError, match=r"must derive from lbkit\.Registrar"):
        lbkit.registrar("none")(dict)


async def test_closing_nothing_is_the_default() -> None:
    await Silent(Target.parse("silent:///x", {"silent"})).close()
