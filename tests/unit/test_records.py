from __future__ import annotations

import logging
from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit_resolvers.records import Complaints, RecordError, endpoint_of, shown


def test_weight_and_zone_go_where_policies_look_and_the_rest_is_metadata() -> None:
    attributes = {"weight": 3, "zone": "a", "version": "7", "canary": True, "nested": {"x": 1}, "none": None}
    assert endpoint_of("10.0.0.1:80", attributes) == Endpoint(
        "10.0.0.1:80", weight=3, zone="a", metadata={"version": "7", "canary": "true"}
    )


def test_draining_and_several_addresses_are_passed_on() -> None:
    assert endpoint_of(["10.0.0.1:80", "[::1]:80"], draining=True) == Endpoint(
        ["10.0.0.1:80", "[::1]:80"], draining=True
    )


@pytest.mark.parametrize(
    ("address", "attributes", "reason"),
    [
        ("10.0.0.1", {}, "no valid port"),
        ("10.0.0.1:65536", {}, "no valid port"),
        ("10.0.0.1:0", {}, "port 0"),
        ("", {}, "no valid port"),
        ("a\nb:80", {}, "no valid host"),
        ("10.0.0.1:80", {"weight": "heavy"}, "weight must be a number above 0, not heavy"),
        ("10.0.0.1:80", {"weight": -1}, "above 0"),
        ("10.0.0.1:80", {"weight": "nan"}, "above 0"),
        ("10.0.0.1:80", {"weight": "inf"}, "above 0"),
        ("10.0.0.1:80", {"zone": "eu\r\n"}, "control characters"),
        ("10.0.0.1:80", {"no\x00te": "x"}, "control characters"),
    ],
)
def test_record_that_makes_no_sense_is_refused_with_its_reason(
    address: str, attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RecordError, match=reason) as caught:
        endpoint_of(address, attributes)
    assert str(caught.value).isprintable()


def test_text_of_strangers_is_short_and_printable() -> None:
    assert shown("plain") == "plain"
    assert shown(b"\xff\x00") == r"'\\xff\x00'"
    assert shown("x" * 1000) == f"{'x' * 80}... (1000 characters)"
    assert shown("\n" * 100) == "'" + "\\n" * 39 + "\\... (100 characters)"


def test_complaints_come_once_and_again_when_the_reason_changes(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints("etcd:///greeter")
    with caplog.at_level(logging.WARNING):
        complaints.take({"a": "no port"})
        complaints.take({"a": "no port"})
        complaints.take({"a": "no host"})
        complaints.take({})
        complaints.take({"a": "no host"})
    assert [record.getMessage() for record in caplog.records] == [
        "etcd:///greeter: passed over a: no port",
        "etcd:///greeter: passed over a: no host",
        "etcd:///greeter: passed over a: no host",
    ]


def test_many_complaints_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Complaints("etcd:///greeter").take({f"k{n}": "no port" for n in range(100)})
    assert len(caplog.records) == 11
    assert caplog.records[-1].getMessage() == "etcd:///greeter: and 90 more records"
