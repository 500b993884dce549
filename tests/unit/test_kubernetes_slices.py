"""What many EndpointSlices, good and bad, say together."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.address import Endpoint
from lbkit_resolvers.kubernetes import slices as module
from lbkit_resolvers.kubernetes.slices import Answer, Slices

GRPC = {"name": "grpc", "port": 50051, "protocol": "TCP"}


def endpoint(*addresses: str, uid: str = "", **more: Any) -> dict[str, Any]:
    reference = {"targetRef": {"kind": "Pod", "name": f"pod-{uid}", "uid": uid}} if uid else {}
    return {"addresses": [*addresses], **reference, **more}


def conditions(**given: bool | None) -> dict[str, Any]:
    return {"conditions": given}


def slice_of(*endpoints: Any, family: Any = "IPv4", ports: Any = (GRPC,)) -> dict[str, Any]:
    listed = ports if isinstance(ports, str) or ports is None else [*ports]
    return {"metadata": {"name": "x"}, "addressType": family, "ports": listed, "endpoints": [*endpoints]}


def answer(*slices: dict[str, Any], port: str = "") -> Answer:
    known = Slices(port)
    for number, each in enumerate(slices):
        known.put(f"s{number}", each)
    return known.answer()


def texts(found: Answer) -> list[str]:
    return [str(each) for each in found.endpoints]


def test_all_slices_count_whatever_their_order() -> None:
    one, two = slice_of(endpoint("10.0.0.2"), endpoint("10.0.0.1")), slice_of(endpoint("10.0.0.3"))
    first, second = answer(one, two), answer(two, one)
    assert texts(first) == ["10.0.0.1:50051", "10.0.0.2:50051", "10.0.0.3:50051"]
    assert first.endpoints == second.endpoints
    assert not first.problems


def test_changed_slice_replaces_only_itself_and_a_deleted_one_only_itself() -> None:
    known = Slices("")
    known.put("a", slice_of(endpoint("10.0.0.1"), endpoint("10.0.0.2")))
    known.put("b", slice_of(endpoint("10.0.0.3")))
    known.put("a", slice_of(endpoint("10.0.0.2")))
    assert texts(known.answer()) == ["10.0.0.2:50051", "10.0.0.3:50051"]
    known.remove("b")
    known.remove("never there")
    assert texts(known.answer()) == ["10.0.0.2:50051"]


def test_new_list_replaces_everything_when_it_is_read_to_its_end() -> None:
    known = Slices("")
    known.put("a", slice_of(endpoint("10.0.0.1")))
    steps = known.replacing([("b", slice_of(endpoint("10.0.0.2"))), ("c", slice_of(endpoint("10.0.0.3")))])
    next(steps)
    assert texts(known.answer()) == ["10.0.0.1:50051"]
    assert len(list(steps)) == 1
    assert texts(known.answer()) == ["10.0.0.2:50051", "10.0.0.3:50051"]
    assert len(known) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "ready"),
        ({"conditions": None}, "ready"),
        (conditions(), "ready"),
        (conditions(ready=None), "ready"),
        (conditions(ready=True, serving=True, terminating=False), "ready"),
        (conditions(ready=True), "ready"),
        (conditions(ready=False), "out"),
        (conditions(ready=False, serving=False), "out"),
        (conditions(ready=False, serving=True, terminating=False), "out"),
        (conditions(ready=False, serving=True, terminating=True), "draining"),
        (conditions(ready=False, serving=False, terminating=True), "out"),
        (conditions(ready=False, terminating=True), "out"),  # serving unknown: as ready
        (conditions(terminating=True), "draining"),
        (conditions(ready=True, serving=False, terminating=True), "draining"),  # publishNotReadyAddresses
    ],
)
def test_conditions(given: dict[str, Any], expected: str) -> None:
    found = answer(slice_of(endpoint("10.0.0.1", **given)))
    assert expected == (
        "out" if not found.endpoints else "draining" if found.endpoints[0].draining else "ready"
    )
    assert not found.unusable


def test_no_endpoints_at_all_is_an_answer() -> None:
    assert answer() == Answer((), {}, "")
    assert answer(slice_of(ports=None)) == Answer((), {}, "")
    assert answer({"metadata": {}, "addressType": "IPv4", "ports": None, "endpoints": None}) == Answer(
        (), {}, ""
    )


def test_endpoint_that_stands_in_two_slices_is_one_and_ready_if_it_is_so_in_one() -> None:
    old = slice_of(endpoint("10.0.0.1", uid="u", **conditions(ready=False, serving=True, terminating=True)))
    new = slice_of(endpoint("10.0.0.1", uid="u"))
    for order in ((old, new), (new, old)):
        found = answer(*order)
        assert texts(found) == ["10.0.0.1:50051"]
        assert not found.endpoints[0].draining
    without = slice_of(endpoint("10.0.0.1"))
    assert texts(answer(without, without)) == ["10.0.0.1:50051"]


def test_addresses_of_one_endpoint_are_interchangeable_addresses_of_one_backend() -> None:
    found = answer(slice_of(endpoint("10.0.0.1", "10.0.0.2")))
    assert found.endpoints == (Endpoint(["10.0.0.1:50051", "10.0.0.2:50051"]),)


def test_pod_with_both_families_is_one_endpoint() -> None:
    v6 = slice_of(endpoint("2001:db8::1", uid="a", zone="z"), endpoint("2001:db8::2", uid="b"), family="IPv6")
    v4 = slice_of(endpoint("10.0.0.1", uid="a", zone="z"), endpoint("10.0.0.2", uid="b"))
    for order in ((v4, v6), (v6, v4)):
        found = answer(*order)
        assert texts(found) == ["10.0.0.1:50051+[2001:db8::1]:50051", "10.0.0.2:50051+[2001:db8::2]:50051"]
        assert found.endpoints[0].zone == "z"


def test_address_of_a_stopping_pod_that_a_new_one_got_belongs_to_the_new_one() -> None:
    stopping = conditions(ready=False, serving=True, terminating=True)
    old = endpoint("10.0.0.1", "10.0.0.2", uid="old", zone="a", nodeName="n", **stopping)
    found = answer(slice_of(old, endpoint("10.0.0.1", uid="new")))
    assert [(str(each), each.draining) for each in found.endpoints] == [
        ("10.0.0.1:50051", False),
        ("10.0.0.2:50051", True),
    ]
    assert (found.endpoints[1].zone, found.endpoints[1].metadata["pod"]) == ("a", "pod-old")
    gone = answer(slice_of(endpoint("10.0.0.1", uid="old", **stopping), endpoint("10.0.0.1", uid="new")))
    assert [each.metadata["pod"] for each in gone.endpoints] == ["pod-new"]


def test_what_is_known_about_an_endpoint_becomes_attributes() -> None:
    found = answer(
        slice_of(
            endpoint(
                "10.0.0.1",
                uid="u",
                zone="eu-1a",
                nodeName="node-7",
                hostname="greeter-0",
                hints={"forZones": [{"name": "eu-1a"}, {"name": "eu-1b"}]},
            )
        )
    )
    (one,) = found.endpoints
    assert one.zone == "eu-1a"
    assert dict(one.metadata) == {
        "nodeName": "node-7",
        "hostname": "greeter-0",
        "pod": "pod-u",
        "forZones": "eu-1a,eu-1b",
    }


def test_port_by_name_is_that_of_each_slice() -> None:
    old = slice_of(endpoint("10.0.0.1"), ports=[{"name": "metrics", "port": 9090}, GRPC])
    new = slice_of(endpoint("10.0.0.2"), ports=[{**GRPC, "port": 6000}, {"name": "metrics", "port": 9090}])
    assert texts(answer(old, new, port="grpc")) == ["10.0.0.1:50051", "10.0.0.2:6000"]


@pytest.mark.parametrize(
    ("ports", "port", "expected"),
    [
        ([{"port": 80}], "", "10.0.0.1:80"),
        ([{"name": "", "port": 80}], "", "10.0.0.1:80"),
        ([{"name": "a", "port": 80}, {"name": "b", "port": 81}], "", "10.0.0.1:80"),
        ([{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 81}], "", "10.0.0.1:81"),
        ([{"name": "a", "port": 80}], "9000", "10.0.0.1:9000"),
        (None, "9000", "10.0.0.1:9000"),
    ],
)
def test_port_is_the_number_or_the_first_tcp_port(ports: Any, port: str, expected: str) -> None:
    assert texts(answer(slice_of(endpoint("10.0.0.1"), ports=ports), port=port)) == [expected]


@pytest.mark.parametrize(
    ("ports", "port", "why"),
    [
        ([GRPC], "grcp", "it has no port named 'grcp'. Did you mean 'grpc'? Known: grpc"),
        ([{"name": "grpc", "port": 53, "protocol": "UDP"}], "grpc", "it has no TCP port"),
        (None, "", "it has no TCP port; write the port's number into the target"),
        ([{"name": "grpc", "port": None}], "", "its port must be 1 to 65535, not None"),
        ([{"name": "grpc", "port": 0}], "", "not 0"),
        ([{"name": "grpc", "port": 65536}], "", "not 65536"),
        ([{"name": "grpc", "port": True}], "", "not True"),
        ([{"name": "grpc", "port": "80"}], "", "not '80'"),
        ([7, {"protocol": []}], "", "it has no TCP port"),
        ("grpc", "", "ports must be a list, not 'grpc'"),
    ],
)
def test_slice_without_the_port_is_passed_over_and_alone_is_no_answer(
    ports: Any, port: str, why: str
) -> None:
    bad = slice_of(endpoint("10.0.0.1"), ports=ports)
    alone = answer(bad, port=port)
    assert not alone.endpoints
    assert why in alone.problems["s0"]
    assert alone.unusable.startswith("nothing in 1 EndpointSlices can be used: s0: ")
    good = slice_of(endpoint("10.0.0.2"), ports=[{**GRPC, "name": port}])
    beside = answer(bad, good, port=port)
    assert texts(beside) == ["10.0.0.2:50051"]
    assert not beside.unusable


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("text", "an endpoint must be an object, not 'text'"),
        (None, "an endpoint must be an object"),
        ({}, "it has no address"),
        ({"addresses": None}, "it has no address"),
        ({"addresses": "10.0.0.9"}, "addresses must be a list"),
        (endpoint("10.0.0.9", 7), "7 is no IPv4 address"),  # type: ignore[arg-type]
        (endpoint("greeter.example"), "greeter.example is no IPv4 address"),
        (endpoint("::1"), "::1 is no IPv4 address"),
        (endpoint("10.0.0.9\n"), "is no IPv4 address"),
        (endpoint("10.0.0.9", zone="a\x1b[2J"), "attribute zone holds control characters"),
        (endpoint("10.0.0.9", uid="\n"), "attribute pod holds control characters"),
    ],
)
def test_bad_endpoint_spoils_only_itself(bad: Any, why: str) -> None:
    found = answer(slice_of(endpoint("10.0.0.1"), bad, endpoint("10.0.0.2")))
    assert texts(found) == ["10.0.0.1:50051", "10.0.0.2:50051"]
    assert why in found.problems["s0, endpoint 1"]
    assert found.problems["s0, endpoint 1"].isprintable()


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("FQDN", "it holds names, no addresses; use a dns:/// target"),
        ("IPv5", "addressType must be IPv4 or IPv6, not 'IPv5'"),
        (None, "not None"),
        ([], "not []"),
    ],
)
def test_slice_of_another_family_is_passed_over(family: Any, why: str) -> None:
    found = answer(slice_of(endpoint("greeter.example"), family=family), slice_of(endpoint("10.0.0.1")))
    assert texts(found) == ["10.0.0.1:50051"]
    assert why in found.problems["s0"]


def test_slice_that_becomes_unreadable_keeps_what_it_said() -> None:
    known = Slices("")
    known.put("a", slice_of(endpoint("10.0.0.1")))
    for _ in range(2):
        known.put("a", {**slice_of(), "endpoints": "oops"})
        assert texts(known.answer()) == ["10.0.0.1:50051"]
        assert known.answer().problems == {"a": "endpoints must be a list, not 'oops'"}
    list(known.replacing([("a", {**slice_of(), "endpoints": "oops"})]))
    assert texts(known.answer()) == ["10.0.0.1:50051"]


def test_ten_thousand_endpoints_are_taken_and_those_that_follow_reported() -> None:
    slices = [slice_of(*(endpoint(f"10.{s}.{n}.1") for n in range(101))) for s in range(100)]
    found = answer(*slices)
    assert len(found.endpoints) == 10_000
    assert found.problems == {"endpoints": "there are 10100; lbkit takes the first 10000"}


def test_hostile_slice_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENDPOINTS", 3)
    found = answer(slice_of(*(endpoint(f"10.0.0.{n}") for n in range(9))))
    assert len(found.endpoints) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WHOLE = slice_of(
    endpoint("10.0.0.1", uid="a", zone="z", hints={"forZones": [{"name": "z"}]}, **conditions(ready=True)),
    endpoint("10.0.0.2"),
)


@settings(max_examples=400)
@given(st.data())
def test_anything_instead_of_any_part_of_a_slice_gives_an_answer(data: st.DataObject) -> None:
    about = copy.deepcopy(WHOLE)
    node: Any = about
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(JSON)
            break
        node = node[key]
    found = answer(about, port="grpc")
    identities = [each.identity for each in found.endpoints]
    assert len(set(identities)) == len(identities)
    assert json.dumps(dict(found.problems)).isprintable()
