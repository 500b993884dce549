"""What is made of the instances that Consul tells of, good, odd and broken ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lbkit.errors import ResolverError
from lbkit_resolvers.consul.nodes import OWNER, Nodes, endpoint_of_entry, nodes_of
from lbkit_resolvers.records import RecordError


def entry(address: object = "10.0.0.1", port: object = 80, *states: str, **service: Any) -> dict[str, Any]:
    node = {"Node": "n1", "Address": "10.9.9.9", "Datacenter": "dc1", "Meta": service.pop("NodeMeta", {})}
    return {
        "Node": node,
        "Service": {"ID": "g-1", "Service": "g", "Tags": [], "Address": address, "Port": port, **service},
        "Checks": [{"Status": state} for state in ("passing", *states)],
    }


async def read(*entries: object, sort: bool = True) -> Nodes:
    return await nodes_of(json.dumps(entries), sort=sort)


def addresses(nodes: Nodes) -> list[str]:
    return [str(endpoint) for endpoint in nodes.endpoints]


async def test_instances_are_sorted_by_address_unless_their_order_means_something() -> None:
    entries = [entry("10.0.0.2"), entry("10.0.0.1"), entry("10.0.0.1", 79)]
    assert addresses(await read(*entries)) == ["10.0.0.1:79", "10.0.0.1:80", "10.0.0.2:80"]
    assert addresses(await read(*entries, sort=False)) == ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.1:79"]


async def test_node_has_the_address_if_the_service_has_none() -> None:
    assert addresses(await read(entry(""))) == ["10.9.9.9:80"]
    assert addresses(await read(entry("::1"))) == ["[::1]:80"]


@pytest.mark.parametrize("body", ["[]", " [ \n] "])
async def test_no_instance_is_an_answer(body: str) -> None:
    assert await nodes_of(body, sort=True) == ((), {})


@pytest.mark.parametrize("indent", [None, 4])
async def test_list_is_read_however_it_is_laid_out(indent: int | None) -> None:
    body = json.dumps([entry("10.0.0.1"), entry("10.0.0.2")], indent=indent)
    assert addresses(await nodes_of(f"\n{body}\n", sort=True)) == ["10.0.0.1:80", "10.0.0.2:80"]


@pytest.mark.parametrize(
    ("states", "weight", "draining"),
    [
        ([], 5.0, False),
        (["passing"], 5.0, False),
        (["warning"], 2.0, False),
        (["critical"], 5.0, True),
        (["warning", "critical"], 5.0, True),
        (["maintenance"], 5.0, True),
    ],
)
def test_weight_follows_the_state_of_the_checks(states: list[str], weight: float, draining: bool) -> None:
    made = endpoint_of_entry(entry("10.0.0.1", 80, *states, Weights={"Passing": 5, "Warning": 2}))
    assert (made.weight, made.draining) == (weight, draining)


def test_weight_of_0_while_it_warns_means_only_if_there_is_nobody_else() -> None:
    made = endpoint_of_entry(entry("10.0.0.1", 80, "warning", Weights={"Passing": 5, "Warning": 0}))
    assert (made.weight, made.draining) == (1.0, True)


def test_weight_and_zone_of_the_metadata_come_first() -> None:
    made = endpoint_of_entry(
        entry(
            Meta={"weight": "2.5", "zone": "eu-1"},
            NodeMeta={"zone": "eu-2", "rack": "r1"},
            Weights={"Passing": 5},
        )
    )
    assert (made.weight, made.zone, dict(made.metadata)) == (
        2.5,
        "eu-1",
        {"node": "n1", "datacenter": "dc1", "node.rack": "r1"},
    )


def test_node_gives_the_zone_if_the_service_does_not() -> None:
    assert endpoint_of_entry(entry(NodeMeta={"zone": "eu-2"})).zone == "eu-2"


def test_tags_and_metadata_become_attributes() -> None:
    made = endpoint_of_entry(
        entry(
            Tags=["a", "version=7"],
            Meta={"team": "blue", OWNER: "f00"},
            NodeMeta={"consul-network-segment": ""},
        )
    )
    assert dict(made.metadata) == {
        "node": "n1",
        "datacenter": "dc1",
        "tags": "a,version=7",
        "version": "7",
        "team": "blue",
    }


@pytest.mark.parametrize(
    "tagged",
    [
        {"Address": "grpc://10.0.0.7:9000?isSecure=false", "Port": 9000},
        {"Address": "10.0.0.7", "Port": 9000},
    ],
)
def test_address_that_is_tagged_grpc_comes_first(tagged: dict[str, Any]) -> None:
    others = {"lan_ipv4": {"Address": "10.0.0.1", "Port": 8000}, "http": {"Address": "http://a:1", "Port": 1}}
    made = endpoint_of_entry(entry(TaggedAddresses={**others, "grpc": tagged}))
    assert str(made) == "10.0.0.7:9000"
    assert str(endpoint_of_entry(entry(TaggedAddresses=others))) == "10.0.0.1:80"


async def test_same_address_under_two_ids_is_one_backend_the_healthier_one() -> None:
    for pair in ([entry("10.0.0.1", 80, "critical"), entry()], [entry(), entry("10.0.0.1", 80, "critical")]):
        (made,) = (await read(*pair)).endpoints
        assert not made.draining


BROKEN: list[tuple[object, str]] = [
    (7, "the entry is no object"),
    (None, "the entry is no object"),
    ({"Service": {}}, "Node is no object"),
    (entry(port=0), "has port 0"),
    (entry(port=65536), "no valid port"),
    (entry(port=-1), "no valid port"),
    (entry(port="80"), "its port is 80, which is no number"),
    (entry(port=True), "its port is True, which is no number"),
    (entry(port=None), "its port is None"),
    (entry(address="10.0.0.1\n"), "no valid host"),
    (entry(address="a b"), "no valid host"),
    (entry(address=7), "neither Service.Address nor Node.Address"),
    (entry(Meta={"a": "b\x00"}), "holds control characters"),
    (entry(Meta={"weight": "-1"}), "weight must be a number above 0"),
    (entry(Meta=["a"]), "Service.Meta is no object"),
    (entry(Tags="a"), "Service.Tags is no list"),
    (entry(Weights={"Passing": -1}), "is no weight"),
    (entry(Weights={"Passing": "heavy"}), "is no weight"),
    (entry(Meta={"a": "b" * 70_000}), "longer than 65536 characters"),
    (entry(TaggedAddresses={"grpc": {"Address": "grpc://[:1", "Port": 1}}), "is no URL"),
    (entry(TaggedAddresses={"grpc": {"Address": "grpc://", "Port": 1}}), "says where it is"),
    ({**entry(), "Checks": {}}, "Checks is no list"),
]


@pytest.mark.parametrize(("broken", "says"), BROKEN, ids=[says for _, says in BROKEN])
async def test_broken_entry_spoils_only_itself(broken: object, says: str) -> None:
    with pytest.raises(RecordError):
        endpoint_of_entry(broken)
    good = entry("10.0.0.5", ID="g-5")
    nodes = await read(broken, good)
    assert addresses(nodes) == ["10.0.0.5:80"]
    ((key, problem),) = nodes.problems.items()
    assert says in problem
    assert key in {"g-1", "entry 1"}


def test_check_that_is_none_counts_as_critical() -> None:
    assert endpoint_of_entry({**entry(), "Checks": [7]}).draining


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "no list in JSON"),
        ("<html>", "no list in JSON"),
        ('[{"Node": {', "no list in JSON"),
        ("[7", "no list in JSON"),
        ("[7,]", "no list in JSON"),
        ("[7] 8", "no list in JSON"),
        ("[7 8]", "no list in JSON"),
        ("[" * 100_000, "no list in JSON"),
        ("{}", "no list in JSON"),
        ("null", "no list in JSON"),
        ("[7]", "none of the 1 instances can be used, like entry 1"),
    ],
)
async def test_answer_that_makes_no_sense_is_an_error_and_no_empty_list(body: str, says: str) -> None:
    with pytest.raises(ResolverError, match=says):
        await nodes_of(body, sort=True)


async def test_list_that_is_far_too_long_is_not_read_to_its_end() -> None:
    body = "[" + "7," * 100_001 + "no JSON"
    with pytest.raises(ResolverError, match="the answer has more than 100000 instances; tag= asks for fewer"):
        await nodes_of(body, sort=True)


async def test_hostile_number_of_instances_is_cut_and_said() -> None:
    nodes = await read(*(entry(f"10.{n >> 8}.{n & 255}.1", ID=str(n)) for n in range(10_050)))
    assert len(nodes.endpoints) == 10_000
    assert nodes.problems == {"all": "10050 instances are more than the 10000 that lbkit uses"}
