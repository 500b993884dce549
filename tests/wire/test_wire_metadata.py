"""Metadata as header fields."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.errors import MetadataError
from lbkit.metadata import Metadata
from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault
from lbkit.wire.metadata import decode_metadata, encode_metadata

keys = st.text(string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=20).map(
    lambda key: "x-" + key
)
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(str.strip)
text_pairs = st.tuples(keys.filter(lambda key: not key.endswith("-bin")), texts)
binary_pairs = st.tuples(keys.map(lambda key: key + "-bin"), st.binary(max_size=40))


@given(st.lists(st.one_of(text_pairs, binary_pairs), max_size=10))
def test_metadata_is_read_back_in_order(pairs: list[tuple[str, str | bytes]]) -> None:
    assert decode_metadata(encode_metadata(pairs)) == tuple(pairs)


def test_blanks_around_a_value_are_left_out() -> None:
    """RFC 9113 8.2.1 wants none there, and some peers would refuse the call for them."""
    assert encode_metadata([("x-a", "  a b "), ("x-b", " ")]) == [(b"x-a", b"a b"), (b"x-b", b"")]


def test_repeated_keys_keep_all_their_values() -> None:
    found = decode_metadata(encode_metadata([("x-a", "1"), ("x-b", "2"), ("x-a", "3")]))
    assert found.get_all("x-a") == ["1", "3"]
    assert found["x-a"] == "1"


@pytest.mark.parametrize(
    "given_as", [{"x-a": "1", "x-b-bin": b"2"}, Metadata((("x-a", "1"), ("x-b-bin", b"2")))]
)
def test_mappings_and_metadata_are_taken_too(given_as: Any) -> None:
    assert encode_metadata(given_as) == [(b"x-a", b"1"), (b"x-b-bin", b"Mg")]


def test_ascii_bytes_are_taken_as_text() -> None:
    assert encode_metadata([("x-a", b"1")]) == [(b"x-a", b"1")]


@pytest.mark.parametrize(
    ("payload", "unpadded", "padded"),
    [(b"a", b"YQ", b"YQ=="), (b"ab", b"YWI", b"YWI="), (b"abc", b"YWJj", b"YWJj")],
)
def test_binary_values_go_unpadded_and_come_either_way(
    payload: bytes, unpadded: bytes, padded: bytes
) -> None:
    assert encode_metadata([("x-bin", payload)]) == [(b"x-bin", unpadded)]
    assert decode_metadata([(b"x-bin", unpadded)])["x-bin"] == payload
    assert decode_metadata([(b"x-bin", padded)])["x-bin"] == payload


def test_binary_lists_are_split_at_commas() -> None:
    found = decode_metadata([(b"x-bin", b"YQ==,YWI, YWJj"), (b"x-bin", b"")])
    assert found.get_all("x-bin") == [b"a", b"ab", b"abc", b""]


@pytest.mark.parametrize("value", [b"!", b"Y", b"YQ===Y", b"YQ-_", b"Y\xffQ="])
def test_value_that_is_not_base64_is_refused(value: bytes) -> None:
    with pytest.raises(WireFault, match="'x-bin' is not base64") as caught:
        decode_metadata([(b"x-bin", value)])
    assert caught.value.code is StatusCode.INTERNAL


def test_high_bytes_are_shown_one_character_a_byte() -> None:
    assert decode_metadata([(b"x-a", b"caf\xc3\xa9")])["x-a"] == "caf\xc3\xa9"


def test_protocol_fields_are_not_shown() -> None:
    fields = [
        (b":path", b"/a/b"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-timeout", b"1S"),
        (b"grpc-status", b"0"),
        (b"grpc-message", b"m"),
        (b"grpc-encoding", b"identity"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"user-agent", b"somebody"),
        (b"x-a", b"1"),
    ]
    assert decode_metadata(fields) == (("user-agent", "somebody"), ("x-a", "1"))


@pytest.mark.parametrize(
    "key", ["", "X-Upper", "x y", ":path", "x:y", "caf\xe9", "x\n", "x/y", b"x-bytes", None, 7]
)
def test_key_with_other_characters_is_refused(key: Any) -> None:
    with pytest.raises(MetadataError, match="use lower-case letters"):
        encode_metadata([(key, "v")])


@pytest.mark.parametrize(
    "key",
    ["grpc-timeout", "grpc-anything", "te", "content-type", "user-agent", "host", "connection", "upgrade"],
)
def test_protocols_own_key_is_refused(key: str) -> None:
    with pytest.raises(MetadataError, match="belongs to the protocol"):
        encode_metadata([(key, "v")])


@pytest.mark.parametrize("key", ["grpc-status-details-bin", "grpc-trace-bin", "grpc-retry-pushback-ms"])
def test_protocols_keys_that_applications_use_are_sent(key: str) -> None:
    assert encode_metadata([(key, b"1" if key.endswith("-bin") else "1")])[0][0] == key.encode()


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", "caf\xe9", "\t", b"\xff", b"a\nb"])
def test_value_that_is_not_printable_ascii_is_refused_with_the_cure(value: Any) -> None:
    with pytest.raises(MetadataError, match="name the key x-a-bin to send bytes"):
        encode_metadata([("x-a", value)])


@pytest.mark.parametrize("value", [7, None, ["v"]])
def test_value_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(MetadataError, match="must be str or bytes"):
        encode_metadata([("x-a", value)])


def test_text_under_a_binary_key_is_refused() -> None:
    with pytest.raises(MetadataError, match="takes bytes"):
        encode_metadata([("x-bin", "text")])


@pytest.mark.parametrize("metadata", [7, ["abc"], [("only-key",)], [("a", "b", "c")]])
def test_what_is_no_pairs_is_refused(metadata: Any) -> None:
    with pytest.raises(MetadataError, match="must be pairs"):
        encode_metadata(metadata)


def test_checked_keys_are_bounded() -> None:
    from lbkit.wire import metadata

    for number in range(3000):
        encode_metadata([(f"x-flood-{number}", "v")])
    assert len(metadata._keys) <= metadata._KEYS_MAX
