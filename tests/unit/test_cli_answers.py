"""What `lbkit resolve` and `lbkit watch` print of answers, and what they never print."""

from __future__ import annotations

import json

import pytest

from lbkit.address import Endpoint
from lbkit.callinfo import CallInfo
from lbkit.cli import answers
from lbkit.masking import masked
from lbkit.resolution import UNCONFIGURED, CallConfig, Resolution

ANN = Endpoint("10.0.0.1:50051")
BOB = Endpoint("10.0.0.2:50051", weight=2, zone="eu-1", metadata={"version": "7", "note": "two words"})
CAT = Endpoint("10.0.0.3:50051", draining=True, hash_key="cat")


class Select:
    def select(self, call: CallInfo) -> CallConfig:
        return CallConfig(UNCONFIGURED)


def lines(before: Resolution, after: Resolution) -> list[str]:
    return answers.difference_lines(answers.difference(before, after), after)


def test_line_has_all_that_is_known() -> None:
    assert answers.listed(ANN) == "10.0.0.1:50051"
    assert answers.listed(BOB) == "10.0.0.2:50051  weight 2  zone eu-1  note=two words  version=7"
    assert answers.listed(CAT) == "10.0.0.3:50051  hash key cat  draining"
    assert answers.listed(Endpoint(["10.0.0.1:1", "[::1]:1"])) == "10.0.0.1:1+[::1]:1"


def test_heading_counts_and_names_the_source() -> None:
    assert answers.heading(Resolution(())) == "0 endpoints"
    assert answers.heading(Resolution((ANN,), source="etcd 10.0.0.9:2379, revision 42")) == (
        "1 endpoint, from etcd 10.0.0.9:2379, revision 42"
    )


def test_control_characters_reach_no_terminal() -> None:
    nasty = Endpoint("10.0.0.1:1", zone="\x1b[2J", metadata={"a\n": "\r", "empty": ""})
    shown = answers.listed(nasty)
    assert shown.isprintable()
    assert r"zone '\x1b[2J'" in shown
    assert "empty=''" in shown
    assert answers.heading(Resolution((), source="\x07")).isprintable()
    assert all(line.isprintable() for line in answers.other_lines(Resolution((), "\x1b{", {"\x1b": "\x1b"})))


def test_difference_is_by_backend() -> None:
    heavier = Endpoint("10.0.0.2:50051", weight=3, metadata={"version": "8"}, draining=True)
    assert lines(Resolution((ANN, BOB)), Resolution((heavier, CAT))) == [
        "1 added, 1 removed, 1 changed; 2 endpoints",
        "+ 10.0.0.3:50051  hash key cat  draining",
        "- 10.0.0.1:50051",
        "~ 10.0.0.2:50051  weight 2 -> 3  zone eu-1 -> none  note two words -> none  version 7 -> 8  draining no -> yes",
    ]


def test_weight_that_is_not_said_is_one() -> None:
    assert answers.changes(ANN, Endpoint("10.0.0.1:50051", weight=4)) == "10.0.0.1:50051  weight 1 -> 4"


def test_order_of_addresses_is_a_change() -> None:
    """It is the same backend, and another address is tried first."""
    before, after = Endpoint(["10.0.0.1:1", "10.0.0.2:1"]), Endpoint(["10.0.0.2:1", "10.0.0.1:1"])
    text = lines(Resolution((before,)), Resolution((after,)))[1]
    assert text.endswith("addresses 10.0.0.1:1+10.0.0.2:1 -> 10.0.0.2:1+10.0.0.1:1")


def test_backend_that_stands_twice_is_one() -> None:
    double = Resolution((ANN, Endpoint("10.0.0.1:50051", weight=9)))
    change = answers.difference(Resolution((ANN,)), double)
    assert (change.added, change.removed, change.changed) == ([], [], [])


def test_what_is_not_about_endpoints_is_told() -> None:
    after = Resolution((ANN,), '{"methodConfig": []}', {"cluster": "a"}, Select())
    assert lines(Resolution((ANN,)), after) == [
        "another service config, other attributes, another call selector; 1 endpoint",
        "attribute cluster: a",
        "call selector: Select",
        'service config: {"methodConfig": []}',
    ]


@pytest.mark.parametrize("config", ['{"methodConfig": 7}', {"methodConfig": 7}])
def test_bad_service_config_is_told(config: str | dict[str, int]) -> None:
    *_, text, why = answers.other_lines(Resolution((ANN,), config))
    assert text == 'service config: {"methodConfig": 7}'
    assert why.startswith("which channels refuse: ")
    assert "methodConfig" in answers.as_json(Resolution((ANN,), config))["service_config_error"]


def test_service_config_that_is_no_json_is_shown_as_it_is() -> None:
    assert answers.other_lines(Resolution((), "{oops"))[0] == "service config: {oops"
    assert answers.as_json(Resolution((), "{oops"))["service_config"] == "{oops"


def test_json_has_every_field() -> None:
    fields = answers.as_json(Resolution((BOB,), "{}", {"cluster": 7}, source="here"))
    assert json.loads(json.dumps(fields)) == {
        "source": "here",
        "endpoints": [
            {
                "addresses": ["10.0.0.2:50051"],
                "weight": 2,
                "zone": "eu-1",
                "hash_key": "",
                "draining": False,
                "metadata": {"version": "7", "note": "two words"},
            }
        ],
        "attributes": {"cluster": "7"},
        "service_config": {},
    }


def test_json_of_a_change_has_both_sides() -> None:
    after = Resolution((Endpoint("10.0.0.1:50051", zone="us"), CAT), source="there")
    fields = answers.difference_json(answers.difference(Resolution((ANN, BOB)), after), after)
    assert fields["endpoints"] == 2
    assert fields["source"] == "there"
    assert [each["addresses"] for each in fields["added"]] == [["10.0.0.3:50051"]]
    assert [each["addresses"] for each in fields["removed"]] == [["10.0.0.2:50051"]]
    ((change),) = fields["changed"]
    assert (change["before"]["zone"], change["after"]["zone"]) == ("", "us")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("etcd://root:hunter2@10.0.0.1:2379/a", "etcd://root:***@10.0.0.1:2379/a"),
        ("consul://h:8500/a?token=hunter2&dc=x", "consul://h:8500/a?token=***&dc=x"),
        ("resolver of 'etcd://root:hunter2@h/a': no", "resolver of 'etcd://root:***@h/a': no"),
        ("no 'consul://h/a?dc=x&acl-token=hunter2'", "no 'consul://h/a?dc=x&acl-token=***'"),
        (
            "filter:///?of=etcd://root:hunter2@h/a?token=hunter2",
            "filter:///?of=etcd://root:***@h/a?token=***",
        ),
        (
            "fallback:///?a=etcd%3A%2F%2Froot%3Ahunter2%40h%2Fa%3Ftoken%3Dhunter2%26x%3D1&b=static:///h:1",
            "fallback:///?a=etcd%3A%2F%2Froot%3A***%40h%2Fa%3Ftoken%3D***%26x%3D1&b=static:///h:1",
        ),
        (
            "guard:///?of=a%253A%252F%252Froot%253Ahunter%2525402%2540h",
            "guard:///?of=a%253A%252F%252Froot%253A***%2540h",
        ),
        ("etcd://:hunter2@h/a", "etcd://:***@h/a"),
        ("etcd://root:hunter%402@h/a", "etcd://root:***@h/a"),
        ("dns://10.0.0.1:53/a@b", "dns://10.0.0.1:53/a@b"),
        ("static:///10.0.0.1:50051,10.0.0.2:50051", "static:///10.0.0.1:50051,10.0.0.2:50051"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
