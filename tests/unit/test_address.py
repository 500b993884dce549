from __future__ import annotations

import copy
import pickle
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lbkit.address import Address, Endpoint
from lbkit.errors import AddressError

NAMES = st.text(string.ascii_letters + string.digits + "-._", min_size=1).filter(
    lambda name: name not in {"unix", "unix-abstract"}
)
PORTS = st.integers(0, 65535)


@settings(deadline=None)
@given(NAMES | st.ip_addresses().map(str), PORTS)
def test_text_of_an_address_parses_to_itself(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.parse(str(address)) == address


@settings(deadline=None)
@given(st.sampled_from(["", "/", "//", "///"]), st.text(st.characters(exclude_categories=["C"]), min_size=1))
@example("/", "/")
def test_text_of_a_unix_address_parses_to_itself(slashes: str, path: str) -> None:
    for address in (Address(slashes + path, None), Address("\0" + slashes + path, None)):
        assert Address.parse(str(address)) == address


@settings(deadline=None)
@given(st.text())
def test_parse_raises_address_error_only(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("unix:/run/a.sock", Address("/run/a.sock", None)),
        ("unix:///run/a.sock", Address("/run/a.sock", None)),
        ("unix:a.sock", Address("a.sock", None)),
        ("unix-abstract:name", Address("\0name", None)),
        ("unix-abstract:///name", Address("\0/name", None)),
        ("unix-abstract:80", Address("\x0080", None)),
        ("unix.example:80", Address("unix.example", 80)),
        ("unix-abstract.example:80", Address("unix-abstract.example", 80)),
    ],
)
def test_forms_of_an_address(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "no valid port"),
        ("localhost", "no valid port"),
        ("localhost:", "no valid port"),
        ("localhost:http", "no valid port"),
        ("localhost:65536", "no valid port"),
        ("localhost:-1", "no valid port"),
        ("localhost:+1", "no valid port"),
        ("localhost:१", "no valid port"),
        ("::1:50051", "in brackets"),
        (":50051", "no valid host"),
        ("[]:50051", "no IPv6 address"),
        ("[zz]:5", "no IPv6 address"),
        ("a]:1", "no valid host"),
        ("a/b:1", "no valid host"),
        ("user@h:1", "no valid host"),
        ("unix:a\0b", "has no path"),
        ("a b:1", "no valid host"),
        ("a\n:1", "no valid host"),
        ("unix:", "has no path"),
        ("unix://", "has no path"),
        ("unix://run/a.sock", "has two slashes"),
        ("unix-abstract:", "has no name; write unix-abstract:name"),
        ("unix-abstract:a\0b", "has no name"),
        ("unix-abstract", "no valid port"),
    ],
)
def test_bad_address_says_the_cure(text: str, cure: str) -> None:
    with pytest.raises(AddressError, match=cure):
        Address.parse(text)


def test_address_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="write host:port"):
        Address.parse("localhost")


A, B = Address("a", 1), Address("b", 1)


def test_identity_of_one_address_is_the_address() -> None:
    assert Endpoint([A]).identity == A
    assert Endpoint([A, A]).identity == A


def test_identity_ignores_order_and_attributes() -> None:
    one = Endpoint([A, B], weight=2, zone="z", hash_key="k", metadata={"m": "1"})
    two = Endpoint([B, A])
    assert one.identity == two.identity
    assert hash(one) == hash(two)
    assert one != two


def test_equality_compares_everything() -> None:
    def make(
        weight: float = 1, zone: str = "", hash_key: str = "", note: str = "", draining: bool = False
    ) -> Endpoint:
        return Endpoint(
            [A], weight=weight, zone=zone, hash_key=hash_key, metadata={"note": note}, draining=draining
        )

    assert make() == make()
    assert make() != make(weight=2)
    assert make() != make(zone="z")
    assert make() != make(hash_key="k")
    assert make() != make(note="n")
    assert make() != make(draining=True)
    assert Endpoint([A, B]) != Endpoint([B, A])
    assert make() != A


def test_endpoint_is_immutable() -> None:
    endpoint = Endpoint("a:1")
    with pytest.raises(AttributeError, match="make a new one instead of setting 'weight'"):
        endpoint.weight = 2.0


def test_endpoint_needs_an_address() -> None:
    with pytest.raises(AddressError, match="at least one address"):
        Endpoint([])


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weight_must_be_positive(weight: float) -> None:
    with pytest.raises(AddressError, match="a:1: weight must be positive and finite"):
        Endpoint([A], weight=weight)


def test_endpoint_as_text() -> None:
    assert str(Endpoint([A, B])) == "a:1+b:1"
    assert repr(Endpoint([A])) == "Endpoint(a:1)"
    assert repr(Endpoint([A], weight=2.5, zone="eu")) == "Endpoint(a:1, weight=2.5, zone='eu')"
    assert repr(Endpoint([A], draining=True)) == "Endpoint(a:1, draining)"


def test_endpoint_takes_text_and_addresses() -> None:
    assert Endpoint("a:1") == Endpoint(A) == Endpoint(["a:1"]) == Endpoint([A])
    with pytest.raises(AddressError, match="no valid port"):
        Endpoint("a")


def test_endpoint_keeps_a_copy_of_its_metadata_and_can_be_pickled() -> None:
    metadata = {"version": "1"}
    endpoint = Endpoint("a:1", weight=2, zone="z", hash_key="k", metadata=metadata, draining=True)
    metadata["version"] = "2"
    assert endpoint.metadata == {"version": "1"}
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint == copy.deepcopy(endpoint)
