"""The record formats: read as the systems that have them write them, and written as those read them."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit import Endpoint, Instance
from lbkit_resolvers.etcd.codecs import CODECS, Codec
from lbkit_resolvers.records import RecordError

NAMING, KRATOS, GOZERO = (CODECS[name]() for name in ("etcd", "kratos", "gozero"))
FULL = Instance(
    "10.0.0.1:9000", id="a-1", weight=3, zone="eu", metadata={"version": "v1", "tier": "gold"}, secure=True
)
PLAIN = Instance("[2001:db8::1]:9000")

# As go.etcd.io/etcd/client/v3/naming/endpoints marshals its Update: json.Marshal of {Op, Addr, Metadata}.
ETCD_RECORDS = [
    (b'{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}', Endpoint("10.0.0.1:80")),
    (b'{"Op":0,"Addr":"10.0.0.1:80","Metadata":{"weight":3,"zone":"a","version":"v2"}}',
     Endpoint("10.0.0.1:80", weight=3, zone="a", metadata={"version": "v2"})),
    (b'{"Op":1,"Addr":"10.0.0.1:80","Metadata":"free text"}', Endpoint("10.0.0.1:80")),
    (b'{"Addr":"host.example:80","Metadata":[1,2]}', Endpoint("host.example:80")),
    (b'{"Op":0,"Addr":"[::1]:80","Metadata":{"tags":["x"],"canary":true,"shard":7}}',
     Endpoint("[::1]:80", metadata={"canary": "true", "shard": "7"})),
]  # fmt: skip


@pytest.mark.parametrize(("value", "endpoint"), ETCD_RECORDS)
def test_records_of_etcds_own_library_are_read(value: bytes, endpoint: Endpoint) -> None:
    assert NAMING.decode(b"svc/foo/x", value) == endpoint


# As json.Marshal of Kratos' registry.ServiceInstance gives them.
KRATOS_RECORDS = [
    (b'{"id":"a","name":"foo","version":"v1.2","metadata":{},"endpoints":["http://10.0.0.1:8000","grpc://10.0.0.1:9000"]}',
     Endpoint("10.0.0.1:9000", metadata={"version": "v1.2"})),
    (b'{"id":"a","name":"foo","version":"","metadata":null,"endpoints":["grpc://10.0.0.1:9000?isSecure=false"]}',
     Endpoint("10.0.0.1:9000")),
    (b'{"id":"a","name":"foo","version":"","metadata":{"weight":"300","zone":"eu"},"endpoints":["grpcs://10.0.0.1:9000"]}',
     Endpoint("10.0.0.1:9000", weight=3, zone="eu", metadata={"secure": "true"})),
    (b'{"id":"a","name":"foo","version":"","metadata":{"k":"v"},"endpoints":["grpc://[::1]:9000?isSecure=true"]}',
     Endpoint("[::1]:9000", metadata={"k": "v", "secure": "true"})),
]  # fmt: skip


@pytest.mark.parametrize(("value", "endpoint"), KRATOS_RECORDS)
def test_records_of_kratos_are_read(value: bytes, endpoint: Endpoint) -> None:
    assert KRATOS.decode(b"/microservices/foo/a", value) == endpoint


def test_the_weight_of_a_kratos_instance_without_one_is_its_hundred() -> None:
    given = b'{"name":"foo","metadata":{"weight":"100"},"endpoints":["grpc://10.0.0.1:9000"]}'
    assert KRATOS.decode(b"/microservices/foo/a", given).weight == 1.0


def test_records_of_go_zero_are_read() -> None:
    assert GOZERO.decode(b"user.rpc/7587870122130471683", b"10.0.0.1:8080") == Endpoint("10.0.0.1:8080")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"Addr":' + b"9" * 10_000 + b"}", "no JSON"),
        (b"[]", "no JSON object"),
        (b'"10.0.0.1:80"', "no JSON object"),
        (b"{}", '"Addr"'),
        (b'{"Addr":null}', '"Addr"'),
        (b'{"Addr":7}', '"Addr"'),
        (b'{"addr":"10.0.0.1:80"}', '"Addr"'),
        (b'{"Addr":"10.0.0.1"}', "no valid port"),
        (b'{"Addr":"10.0.0.1:70000"}', "no valid port"),
        (b'{"Addr":"10.0.0.1:-1"}', "no valid port"),
        (b'{"Addr":"10.0.0.1:0"}', "port 0"),
        (b'{"Addr":"a\\u0000b:80"}', "no valid host"),
        (b'{"Addr":"a b:80"}', "no valid host"),
        (b'{"Addr":"10.0.0.1:80","Metadata":{"weight":0}}', "weight"),
        (b'{"Addr":"10.0.0.1:80","Metadata":{"weight":-3}}', "weight"),
        (b'{"Addr":"10.0.0.1:80","Metadata":{"weight":NaN}}', "weight"),
        (b'{"Addr":"10.0.0.1:80","Metadata":{"weight":1e999}}', "weight"),
        (b'{"Addr":"10.0.0.1:80","Metadata":{"zone":"a\\nb"}}', "control characters"),
        (b'{"Addr":"10.0.0.1:80","Metadata":{"a\\u001b[2J":"b"}}', "control characters"),
    ],
)
def test_a_malformed_record_is_refused_with_the_reason(value: bytes, complaint: str) -> None:
    with pytest.raises(RecordError) as caught:
        NAMING.decode(b"svc/foo/x", value)
    assert complaint in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (b'{"name":"foo"}', "no grpc:// endpoint"),
        (b'{"name":"foo","endpoints":[]}', "no grpc:// endpoint"),
        (b'{"name":"foo","endpoints":"grpc://10.0.0.1:1"}', "no grpc:// endpoint"),
        (b'{"name":"foo","endpoints":["http://10.0.0.1:8000",7]}', "no grpc:// endpoint"),
        (b'{"name":"foo","endpoints":["grpc://10.0.0.1"]}', "no valid port"),
        (b'{"name":"foo","endpoints":["grpc://[::1:80"]}', "is no URL"),
        (b'{"name":"foo","endpoints":["grpc://"]}', "no valid port"),
        (b'{"name":"foo","metadata":{"weight":"heavy"},"endpoints":["grpc://10.0.0.1:1"]}', "weight"),
        (b'{"name":"foo","metadata":{"weight":"1e309"},"endpoints":["grpc://10.0.0.1:1"]}', "weight"),
        (b'{"name":"foo/bar","endpoints":["grpc://10.0.0.1:1"]}', "of the service foo/bar"),
        (b"null", "no JSON object"),
    ],
)
def test_a_malformed_record_of_kratos_is_refused_with_the_reason(value: bytes, complaint: str) -> None:
    with pytest.raises(RecordError, match=complaint):
        KRATOS.decode(b"/microservices/foo/bar/x", value, "foo")


@pytest.mark.parametrize("value", [b"", b"10.0.0.1", b"\xff:80", b"10.0.0.1:80\n", b'{"Addr":"10.0.0.1:80"}'])
def test_a_malformed_record_of_go_zero_is_refused(value: bytes) -> None:
    with pytest.raises(RecordError):
        GOZERO.decode(b"foo/1", value)


def test_keys_are_where_each_system_looks_for_them() -> None:
    assert NAMING.key("svc/foo", FULL, 7) == b"svc/foo/a-1"
    assert KRATOS.key("foo", FULL, 7) == b"/microservices/foo/a-1"
    assert GOZERO.key("user.rpc", FULL, 7587870122130471683) == b"user.rpc/7587870122130471683"


def test_what_is_written_is_what_gos_readers_expect() -> None:
    assert NAMING.encode("foo", PLAIN) == b'{"Op":0,"Addr":"[2001:db8::1]:9000","Metadata":null}'
    assert json.loads(NAMING.encode("foo", FULL)) == {
        "Op": 0,
        "Addr": "10.0.0.1:9000",
        "Metadata": {"version": "v1", "tier": "gold", "weight": 3, "zone": "eu", "secure": True},
    }
    assert KRATOS.encode("foo", FULL) == (
        b'{"id":"a-1","name":"foo","version":"v1","metadata":{"tier":"gold","weight":"300","zone":"eu"},'
        b'"endpoints":["grpcs://10.0.0.1:9000"]}'
    )
    assert KRATOS.encode("foo", PLAIN) == (
        b'{"id":"[2001:db8::1]:9000","name":"foo","version":"","metadata":{},'
        b'"endpoints":["grpc://[2001:db8::1]:9000"]}'
    )
    assert GOZERO.encode("foo", FULL) == b"10.0.0.1:9000"


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("codec", ["etcd", "kratos"])
def test_what_is_written_is_read_again(codec: str, weight: float) -> None:
    chosen = CODECS[codec]()
    instance = Instance("10.0.0.1:80", id="é", weight=weight, zone="eu", metadata={"version": "v1"})
    assert chosen.decode(chosen.key("foo", instance, 1), chosen.encode("foo", instance)) == instance.endpoint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
URLS = st.builds(
    "{}://{}:{}{}".format, st.sampled_from(["grpc", "grpcs", "http"]), st.text(), st.integers(), st.text()
)
ADDRESSES = st.text() | st.builds("{}:{}".format, st.text(), st.integers()) | JSON
METADATA = st.dictionaries(st.sampled_from(["weight", "zone", "x"]) | st.text(), JSON, max_size=4) | JSON
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "Addr": ADDRESSES,
        "Metadata": METADATA,
        "metadata": METADATA,
        "name": st.just("foo") | JSON,
        "version": JSON,
        "endpoints": st.lists(URLS | JSON, max_size=3) | JSON,
    },
)


@given(value=st.binary() | st.builds(lambda record: json.dumps(record).encode(), RECORDS | JSON))
@pytest.mark.parametrize("codec", [NAMING, KRATOS, GOZERO])
def test_whatever_a_record_says_it_is_an_endpoint_or_an_error_with_a_reason(
    codec: Codec, value: bytes
) -> None:
    problem = ""
    with suppress(RecordError):
        try:
            endpoint = codec.decode(b"/microservices/foo/a", value, "foo")
        except RecordError as error:
            problem = str(error)
            raise
        assert all(address.port != 0 for address in endpoint.addresses)
        assert 0 < endpoint.weight < float("inf")
        assert all(text.isprintable() for pair in endpoint.metadata.items() for text in pair)
    assert problem.isprintable()
