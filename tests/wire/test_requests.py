"""Request heads: built by the client, read or refused by the server."""

from __future__ import annotations

import pytest

from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.hpack_encoder import Encoder
from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault
from lbkit.wire.requests import RequestHead, RequestRefused, is_grpc, request_prefix

PREFIX = request_prefix(path="/pkg.Service/Method", authority="greeter:80", scheme="http", user_agent="me/1")
FIELDS = PREFIX.fields


def with_field(name: bytes, value: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The usual fields with one replaced."""
    return tuple((key, value if key == name else old) for key, old in FIELDS)


def refused(fields: tuple[tuple[bytes, bytes], ...]) -> tuple[int, StatusCode, str]:
    with pytest.raises(RequestRefused) as caught:
        RequestHead(fields)
    return caught.value.http_status, caught.value.code, caught.value.details


def faulty(*extra: tuple[bytes, bytes]) -> tuple[StatusCode, str]:
    with pytest.raises(WireFault) as caught:
        RequestHead((*FIELDS, *extra))
    assert not isinstance(caught.value, RequestRefused)
    return caught.value.code, caught.value.details


def test_prefix_is_in_the_order_of_the_specification() -> None:
    assert FIELDS == (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/pkg.Service/Method"),
        (b":authority", b"greeter:80"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"me/1"),
        (b"grpc-accept-encoding", b"identity"),
    )


def test_prefix_says_which_codec_and_which_encodings() -> None:
    prefix = request_prefix(
        path="/a", authority="b", scheme="http", user_agent="c", accept=b"identity,gzip", subtype="json"
    )
    assert prefix.fields[-3] == (b"content-type", b"application/grpc+json")
    assert prefix.fields[-1] == (b"grpc-accept-encoding", b"identity,gzip")


def test_what_a_client_builds_a_server_reads() -> None:
    block = Encoder().encode(PREFIX, [(b"grpc-timeout", b"250m"), (b"x-a", b"1"), (b"x-b-bin", b"Mg")])
    head = RequestHead(Decoder().decode(block))
    assert head.path == b"/pkg.Service/Method"
    assert head.timeout_s == 0.25
    assert head.metadata() == (("user-agent", "me/1"), ("x-a", "1"), ("x-b-bin", b"2"))


def test_no_timeout_is_none() -> None:
    assert RequestHead(FIELDS).timeout_s is None


def test_metadata_is_decoded_once() -> None:
    head = RequestHead((*FIELDS, (b"x-a", b"1")))
    assert head.metadata() is head.metadata()


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"post", b""])
def test_other_methods_get_405(method: bytes) -> None:
    http, code, details = refused(with_field(b":method", method))
    assert (http, code) == (405, StatusCode.INTERNAL)
    assert method.decode() in details


def test_refused_method_is_told_the_right_one() -> None:
    """RFC 9110 15.5.6."""
    with pytest.raises(RequestRefused) as caught:
        RequestHead(with_field(b":method", b"HEAD"))
    assert caught.value.fields == ((b"allow", b"POST"),)
    assert caught.value.to_head


@pytest.mark.parametrize(
    "kind",
    [
        b"text/html",
        b"application/grpcfoo",
        b"application/grpc+",
        b"application/grpc+bson",
        b"application/json",
    ],
)
def test_other_content_types_get_415(kind: bytes) -> None:
    http, code, details = refused(with_field(b"content-type", kind))
    assert (http, code) == (415, StatusCode.UNKNOWN)
    assert kind.decode() in details
    assert "application/grpc+json" in details


def test_raw_is_no_content_type() -> None:
    """Those bytes are somebody else's protobuf."""
    assert refused(with_field(b"content-type", b"application/grpc+raw"))[0] == 415


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        (b"application/grpc", ""),
        (b"application/grpc;charset=utf-8", ""),
        (b"application/grpc+proto", "proto"),
        (b"application/grpc+json", "json"),
        (b"application/grpc+json;charset=utf-8", "json"),
    ],
)
def test_content_type_names_the_codec(kind: bytes, subtype: str) -> None:
    assert is_grpc(kind)
    assert RequestHead(with_field(b"content-type", kind)).subtype == subtype


def test_missing_content_type_gets_415() -> None:
    assert refused(tuple(field for field in FIELDS if field[0] != b"content-type"))[0] == 415


@pytest.mark.parametrize(
    "kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8"]
)
def test_protobuf_content_types_are_served(kind: bytes) -> None:
    assert is_grpc(kind)
    assert RequestHead(with_field(b"content-type", kind)).path == b"/pkg.Service/Method"


def test_missing_te_is_served() -> None:
    assert RequestHead(tuple(field for field in FIELDS if field[0] != b"te")).path == b"/pkg.Service/Method"


@pytest.mark.parametrize("value", [b"1x", b"", b"123456789S"])
def test_malformed_timeout_gets_400(value: bytes) -> None:
    http, code, details = refused((*FIELDS, (b"grpc-timeout", value)))
    assert (http, code) == (400, StatusCode.INTERNAL)
    assert f"malformed grpc-timeout {value!r}" in details


def test_what_is_no_grpc_is_refused_for_that_first() -> None:
    fields = (*with_field(b"content-type", b"text/html"), (b"grpc-timeout", b"1x"), (b"grpc-encoding", b"br"))
    assert refused(fields)[0] == 415


def test_two_hosts_get_400() -> None:
    host = (b"host", b"greeter:80")
    assert refused((*FIELDS, host, host)) == (400, StatusCode.INTERNAL, "2 host headers")


def test_one_host_is_passed_over() -> None:
    """``:authority`` counts, whatever ``host`` says (gRFC A41)."""
    head = RequestHead((*FIELDS, (b"host", b"another:80")))
    assert head.metadata() == (("user-agent", "me/1"),)


def test_bad_base64_is_internal() -> None:
    assert faulty((b"x-bin", b"!"))[0] is StatusCode.INTERNAL


@pytest.mark.parametrize("encoding", [b"snappy", b""])
def test_unknown_encoding_is_unimplemented_and_says_what_is_known(encoding: bytes) -> None:
    with pytest.raises(RequestRefused, match="is not known here") as caught:
        RequestHead((*FIELDS, (b"grpc-encoding", encoding)))
    assert (caught.value.http_status, caught.value.code) == (200, StatusCode.UNIMPLEMENTED)
    ((name, known),) = caught.value.fields
    assert name == b"grpc-accept-encoding"
    assert known.startswith(b"identity,deflate,gzip")
    assert caught.value.from_grpc


def test_identity_encoding_is_none() -> None:
    head = RequestHead((*FIELDS, (b"grpc-encoding", b"identity")))
    assert head.path == b"/pkg.Service/Method"
    assert head.encoding is None


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_known_encoding_is_that_of_the_requests(encoding: bytes) -> None:
    assert RequestHead((*FIELDS, (b"grpc-encoding", encoding))).encoding == encoding
