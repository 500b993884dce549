"""Length-prefixed messages: one per direction of a unary call."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import OneMessage, frame_message, whole_message


def feed(*pieces: bytes, limit: int = 1000) -> OneMessage:
    message = OneMessage(limit)
    for piece in pieces:
        message.feed(piece)
    return message


def refused(*pieces: bytes, limit: int = 1000) -> tuple[StatusCode, str]:
    with pytest.raises(WireFault) as caught:
        feed(*pieces, limit=limit).finish()
    return caught.value.code, caught.value.details


@given(st.binary(max_size=200))
def test_framed_message_is_read_back(payload: bytes) -> None:
    framed = frame_message(payload)
    assert framed[:5] == b"\x00" + len(payload).to_bytes(4, "big")
    assert whole_message(framed) == payload
    assert feed(framed).finish() == payload


@given(st.binary(max_size=100), st.lists(st.integers(0, 105), max_size=10))
def test_any_split_gives_the_same_message(payload: bytes, at: list[int]) -> None:
    framed = frame_message(payload)
    edges = [0, *sorted(min(edge, len(framed)) for edge in at), len(framed)]
    pieces = [framed[a:b] for a, b in pairwise(edges)]
    assert feed(*pieces).finish() == payload


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x00\x00\x00", b"\x00\x00\x00\x00\x02a", b"\x00\x00\x00\x00\x01ab", b"\x01\x00\x00\x00\x01a"],
)
def test_short_way_takes_exactly_one_plain_message(data: bytes) -> None:
    assert whole_message(data) is None


def test_no_message_at_all_is_refused() -> None:
    assert refused() == (StatusCode.INTERNAL, "no message in a unary call")
    assert refused(b"") == (StatusCode.INTERNAL, "no message in a unary call")


@pytest.mark.parametrize("size", [1, 4, 5, 7])
def test_message_cut_short_is_refused(size: int) -> None:
    code, details = refused(frame_message(b"abc")[:size])
    assert code is StatusCode.INTERNAL
    assert "in the middle of a message" in details


def test_second_message_is_refused_when_its_first_byte_comes() -> None:
    message = feed(frame_message(b"abc"))
    with pytest.raises(WireFault, match="more than one message"):
        message.feed(b"\x00")


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_flag_without_an_encoding_is_refused(flag: int) -> None:
    code, details = refused(bytes((flag,)) + frame_message(b"abc")[1:])
    assert code is StatusCode.INTERNAL
    assert f"flag {flag}" in details


@pytest.mark.parametrize("size", [1001, 2**32 - 1])
def test_too_large_message_is_refused_from_its_prefix(size: int) -> None:
    code, details = refused(b"\x00" + size.to_bytes(4, "big"))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert str(size) in details
    assert "1000" in details


def test_message_of_exactly_the_limit_passes() -> None:
    assert feed(frame_message(b"x" * 1000), limit=1000).finish() == b"x" * 1000
