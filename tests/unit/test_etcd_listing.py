"""What is known of the keys under a prefix."""

from __future__ import annotations

import pytest

from lbkit.protos import etcd
from lbkit_resolvers.etcd import listing as listing_module
from lbkit_resolvers.etcd.codecs import CODECS
from lbkit_resolvers.etcd.errors import Kind, kind_of
from lbkit_resolvers.etcd.listing import Listing
from lbkit_resolvers.etcd.watching import end_of
from lbkit_resolvers.records import MAX_VALUE_BYTES
from tests.support.etcd_following import naming


def value(key: str, data: bytes, revision: int = 1) -> etcd.KeyValue:
    return etcd.KeyValue(key=key.encode(), value=data, mod_revision=revision)


def put(key: str, data: bytes, revision: int = 2) -> etcd.Event:
    return etcd.Event(type=etcd.Event.PUT, kv=value(key, data, revision))


def gone(key: str) -> etcd.Event:
    return etcd.Event(type=etcd.Event.DELETE, kv=etcd.KeyValue(key=key.encode()))


def listed(*values: etcd.KeyValue, codec: str = "etcd") -> Listing:
    found = Listing("s", CODECS[codec]())
    found.replace(1, 1, found.read(values))
    return found


def addresses(found: Listing) -> list[str]:
    return [str(endpoint) for endpoint in found.view().endpoints]


def test_endpoints_come_in_the_order_of_their_keys() -> None:
    found = listed(value("s/b", naming("h1:1")), value("s/a", naming("h2:2")))
    assert addresses(found) == ["h2:2", "h1:1"]


def test_events_change_the_list_and_its_revision() -> None:
    found = listed(value("s/a", naming("h:1")))
    assert found.apply([put("s/b", naming("h:2")), gone("s/a")], 9)
    assert (addresses(found), found.revision) == (["h:2"], 9)


@pytest.mark.parametrize("event", [put("s/a", naming("h:1"), 7), gone("s/never")])
def test_an_event_that_changes_nothing_is_no_news(event: etcd.Event) -> None:
    found = listed(value("s/a", naming("h:1")))
    assert not found.apply([event], 7)
    assert found.revision == 7


def test_a_changed_weight_is_news() -> None:
    assert listed(value("s/a", naming("h:1"))).apply([put("s/a", naming("h:1", weight=2))], 2)


def test_a_malformed_record_spoils_only_itself() -> None:
    found = listed(value("s/a", b"?"), value("s/b", naming("h:2")))
    assert addresses(found) == ["h:2"]
    assert found.view().problems == {"s/a": "no JSON: ?"}


def test_a_record_that_goes_bad_is_passed_over_and_one_that_gets_well_is_used() -> None:
    found = listed(value("s/a", naming("h:1")))
    assert found.apply([put("s/a", b"?")], 2)
    assert addresses(found) == []
    assert found.apply([put("s/a", naming("h:1"))], 3)
    assert (addresses(found), found.view().problems) == (["h:1"], {})


def test_the_newer_of_two_records_of_one_address_counts() -> None:
    found = listed(
        value("s/1", naming("h:1", weight=5), 8),
        value("s/2", naming("h:1", weight=1), 3),
        value("s/3", naming("h:2"), 1),
    )
    assert [(str(each), each.weight) for each in found.view().endpoints] == [("h:1", 5), ("h:2", 1)]
    assert found.apply([gone("s/1")], 9)
    assert [each.weight for each in found.view().endpoints] == [1, 1]


def test_a_record_that_becomes_the_newer_of_two_counts_though_it_says_what_it_said() -> None:
    found = listed(value("s/1", naming("h:1", weight=5), 3), value("s/2", naming("h:1", weight=1), 8))
    assert [each.weight for each in found.view().endpoints] == [1]
    assert found.apply([put("s/1", naming("h:1", weight=5), 9)], 9)
    assert [each.weight for each in found.view().endpoints] == [5]


def test_an_address_listed_under_two_leases_is_one_backend() -> None:
    found = listed(value("s/1", b"h:1"), value("s/2", b"h:1"), codec="gozero")
    assert addresses(found) == ["h:1"]


def test_a_value_that_is_too_long_is_passed_over_unread() -> None:
    fits = naming("h:1", text="x" * (MAX_VALUE_BYTES - 200))
    found = listed(value("s/a", fits), value("s/b", b" " * (MAX_VALUE_BYTES + 1)))
    assert addresses(found) == ["h:1"]
    assert found.view().problems == {"s/b": "65537 bytes are more than the 65536 that are read"}


def test_of_too_many_endpoints_the_first_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MAX_ENDPOINTS", 3)
    found = listed(*(value(f"s/{n}", naming(f"h:{n + 1}")) for n in range(5)))
    assert addresses(found) == ["h:1", "h:2", "h:3"]
    assert found.view().problems == {"what comes last": "5 endpoints are 2 more than lbkit takes"}
    assert found.apply([gone("s/0")], 2)
    assert addresses(found) == ["h:2", "h:3", "h:4"]


def test_keys_in_complaints_hold_no_control_characters() -> None:
    (key,) = listed(value("s/a\x1b[2J", b"?")).view().problems
    assert key.isprintable()


def test_the_range_of_a_prefix_ends_before_its_neighbours() -> None:
    assert b"svc/foo/zzz" < end_of(b"svc/foo/") <= b"svc/foobar"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("etcdserver: permission denied", Kind.DENIED),
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", Kind.DENIED),
        ("etcdserver: invalid auth token", Kind.STALE_TOKEN),
        ("etcdserver: revision of auth store is old", Kind.STALE_TOKEN),
        ("auth: revision in header is old", Kind.STALE_TOKEN),
        ("etcdserver: authentication failed, invalid user ID or password", Kind.WRONG_PASSWORD),
        ("etcdserver: user name is empty", Kind.NO_PASSWORD),
        ("etcdserver: no leader", Kind.LEADERLESS),
        ("etcdserver: request timed out, possibly due to previous leader failure", Kind.LEADERLESS),
        ("etcdserver: mvcc: required revision has been compacted", Kind.GONE),
        ("etcdserver: mvcc: required revision is a future revision", Kind.GONE),
        ("something new", Kind.USELESS),
    ],
)
def test_what_etcd_says_tells_what_to_do(text: str, kind: Kind) -> None:
    assert kind_of(text) is kind
