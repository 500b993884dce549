"""What the fake API server keeps, and whom it tells."""

from __future__ import annotations

from typing import Any

import pytest

from lbkit.testing import FakeKubernetes
from lbkit.testing.fake_kubernetes.documents import table
from lbkit.testing.fake_kubernetes.store import Change, Refusal, Selector, Store


def manifest(
    name: str = "a", namespace: str | None = None, family: str = "IPv4", **labels: str
) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels, **({"namespace": namespace} if namespace else {})}
    return {"metadata": metadata, "addressType": family, "endpoints": [{"addresses": ["10.0.0.1"]}]}


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
def store(changes: list[Change]) -> Store:
    return Store(changes.append)


@pytest.mark.parametrize(
    ("selector", "taken"),
    [
        ("", True),
        ("app=greeter", True),
        ("app==greeter", True),
        ("app=other", False),
        ("app!=other", True),
        ("app!=greeter", False),
        ("app", True),
        ("!app", False),
        ("tier", False),
        ("!tier", True),
        ("app in (greeter, other)", True),
        ("app notin (greeter, other)", False),
        ("app notin (other)", True),
        ("app in (a,b),zone=z", False),
        ("zone=z,app in (greeter,b)", True),
    ],
)
def test_label_selector(store: Store, selector: str, taken: bool) -> None:
    store.put(manifest(app="greeter", zone="z"), "default")
    assert len(store.page(Selector(labels=selector))[0]) == taken


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("metadata.name=a", 1),
        ("metadata.name==a,metadata.namespace=shop", 0),
        ("metadata.namespace=default", 2),
    ],
)
def test_field_selector(store: Store, selector: str, count: int) -> None:
    store.put(manifest("a"), "default")
    store.put(manifest("b"), "default")
    assert len(store.page(Selector(fields=selector))[0]) == count


@pytest.mark.parametrize("selector", ["status.phase=Running", "name=a", "metadata.name", "metadata.uid=1"])
def test_unknown_field_is_refused(selector: str) -> None:
    with pytest.raises(Refusal, match="field label not supported") as caught:
        Selector(fields=selector)
    assert caught.value.status == 400


def test_every_change_has_a_version_and_an_equal_write_is_none(store: Store, changes: list[Change]) -> None:
    first = store.put(manifest(), "default")
    again = store.put(manifest(), "default")
    assert first == again
    changed = store.put(manifest(family="IPv4", app="x"), "default")
    store.delete("default", "a")
    assert [change.version for change in changes] == [1001, 1002, 1003]
    assert first["metadata"]["uid"] == changed["metadata"]["uid"]
    assert (first["metadata"]["generation"], changed["metadata"]["generation"]) == (1, 2)
    assert changed["metadata"]["resourceVersion"] == "1002"


def test_watch_hears_what_its_selector_takes(store: Store, changes: list[Change]) -> None:
    selector = Selector("default", "app=greeter")
    for each in (
        manifest(app="greeter"),
        manifest(app="greeter", more="x"),
        manifest(app="other"),
        manifest(app="x"),
    ):
        store.put(each, "default")
    store.put(manifest("b", "shop", app="greeter"), "default")
    events = [selector.event(change) for change in changes]
    assert [event and event[0] for event in events] == ["ADDED", "MODIFIED", "DELETED", None, None]
    assert events[2] is not None
    assert events[2][1]["metadata"]["resourceVersion"] == "1003"


def test_pages_are_of_one_moment(store: Store) -> None:
    for name in "abcde":
        store.put(manifest(name), "default")
    items, metadata = store.page(Selector(), 2)
    store.delete("default", "e")
    names = [each["metadata"]["name"] for each in items]
    while "continue" in metadata:
        items, metadata = store.page(Selector(), 2, metadata["continue"])
        names += [each["metadata"]["name"] for each in items]
    assert names == [*"abcde"]
    assert metadata["resourceVersion"] == "1005"


def test_compacted_versions_and_pages_have_expired(store: Store) -> None:
    for name in "abc":
        store.put(manifest(name), "default")
    _, metadata = store.page(Selector(), 2)
    assert [change.version for change in store.since(1001)] == [1002, 1003]
    store.compact()
    with pytest.raises(Refusal, match=r"too old resource version: 1003 \(1004\)") as caught:
        store.since(1003)
    assert (caught.value.status, caught.value.reason) == (410, "Expired")
    assert store.since(1004) == []
    with pytest.raises(Refusal, match="continue parameter is too old"):
        store.page(Selector(), 2, metadata["continue"])


@pytest.mark.parametrize(
    ("about", "create", "status"),
    [
        ({"addressType": "IPv4"}, None, 422),
        ({"metadata": {"name": "x"}}, None, 422),
        ({"metadata": {"name": "x"}, "addressType": "IPv5"}, None, 422),
        ({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [{}] * 1001}, None, 422),
        ({"metadata": [], "addressType": "IPv4"}, None, 422),
        ({**manifest("x"), "endpoints": "x"}, None, 422),
        ({**manifest("x"), "endpoints": ["x"]}, None, 422),
        (manifest("a", family="IPv6"), None, 422),
        (manifest("a"), True, 409),
        (manifest("x"), False, 404),
        ({**manifest("a"), "metadata": {"name": "a", "resourceVersion": "1"}}, None, 409),
    ],
)
def test_what_a_real_server_does_not_take_is_refused(
    store: Store, about: dict[str, Any], create: bool | None, status: int
) -> None:
    store.put(manifest("a"), "default")
    with pytest.raises(Refusal) as caught:
        store.put(about, "default", create=create)
    assert caught.value.status == status


def test_backends_become_slices_as_a_controller_makes_them() -> None:
    cluster = FakeKubernetes()
    cluster.set("greeter", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:2", "[::1]:1", draining=["10.0.0.2:1"], not_ready=["10.0.0.1:1"])  # fmt: skip
    slices = {each["metadata"]["name"]: each for each in cluster.slices("greeter")}
    assert [*slices] == ["greeter-ipv4-1", "greeter-ipv4-2", "greeter-ipv6-1"]
    assert [each["conditions"] for each in slices["greeter-ipv4-1"]["endpoints"]] == [
        {"ready": False, "serving": False, "terminating": False},
        {"ready": False, "serving": True, "terminating": True},
    ]
    cluster.set("greeter", "10.0.0.3:2")
    assert [each["metadata"]["name"] for each in cluster.slices("greeter")] == ["greeter-ipv4-2"]
    cluster.set("greeter")
    assert not cluster.slices("greeter")


def test_mistakes_of_a_test_are_told() -> None:
    cluster = FakeKubernetes()
    with pytest.raises(ValueError, match="has no valid port"):
        cluster.set("greeter", "10.0.0.1")
    with pytest.raises(ValueError, match="addressType"):
        cluster.apply({"metadata": {"name": "a"}})
    with pytest.raises(LookupError, match='"a" not found'):
        cluster.delete("a")


def test_table_cells_are_those_that_kubectl_prints(store: Store) -> None:
    long = manifest("a")
    long["endpoints"] = [{"addresses": [f"10.0.0.{n}"]} for n in range(5)]
    long["ports"] = [{"port": 80}, {"name": "all"}]
    store.put(long, "default")
    store.put({**manifest("b"), "endpoints": None}, "default")
    items, metadata = store.page(Selector())
    items[0]["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    first, second = (row["cells"] for row in table(items, metadata)["rows"])
    assert first[:4] == ["a", "IPv4", "80,*", "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more..."]
    assert first[4].endswith("m")
    assert second[:4] == ["b", "IPv4", "<unset>", "<unset>"]
    assert second[4].endswith("s")
