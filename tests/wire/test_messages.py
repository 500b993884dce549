"""Length-prefixed messages: one per direction of a unary call."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.http2 import frames
from lbkit.http2.engine import _DIRECT
from lbkit.limits import Limits
from lbkit.status import StatusCode
from lbkit.wire import messages
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import OneMessage, frame_message, send_message, whole_message
from tests.support.wire import Scripted


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
    assert refused() == (StatusCode.INTERNAL, "no message where there must be one")
    assert refused(b"") == (StatusCode.INTERNAL, "no message where there must be one")


@pytest.mark.parametrize("violation", [StatusCode.INTERNAL, StatusCode.UNIMPLEMENTED])
def test_wrong_number_of_messages_has_the_code_of_the_side(violation: StatusCode) -> None:
    """The specification has UNIMPLEMENTED, which on the client would be taken for the server's word."""
    with pytest.raises(WireFault, match="no message") as none:
        OneMessage(1000, violation).finish()
    with pytest.raises(WireFault, match="more than one message") as two:
        OneMessage(1000, violation).feed(frame_message(b"abc") * 2)
    assert none.value.code is two.value.code is violation


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00\x00\x00\x02a", b"\x02\x00\x00\x00\x00"])
def test_message_that_is_bad_by_itself_is_internal_on_both_sides(data: bytes) -> None:
    message = OneMessage(1000, StatusCode.UNIMPLEMENTED)
    with pytest.raises(WireFault) as caught:  # noqa: PT012  # either of the two may find out
        message.feed(data)
        message.finish()
    assert caught.value.code is StatusCode.INTERNAL


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


# Large messages

KIB = 1024
LARGE = bytes(range(256)) * 4 * 100


def large(size: int = len(LARGE)) -> OneMessage:
    """A message whose prefix has come."""
    message = OneMessage(1 << 24)
    assert message.feed(frame_message(bytes(size))[:5])
    return message


@pytest.mark.parametrize("size", [1, 5, 6, 1000, 40_000, 200_000])
def test_large_message_comes_in_any_pieces(size: int) -> None:
    framed = frame_message(LARGE)
    pieces = [framed[at : at + size] for at in range(0, len(framed), size)]
    message = OneMessage(len(LARGE))
    assert [message.feed(piece) for piece in pieces].count(True) == 1
    assert message.finish() == LARGE


def test_large_message_is_received_in_place_or_not_as_it_comes() -> None:
    message = large()
    room = message.room(1000)
    room[:] = LARGE[:1000]
    del room  # as long as somebody holds it, the buffer cannot grow
    message.filled(1000)
    assert message.missing == len(LARGE) - 1000
    message.feed(LARGE[1000:60_000])
    message.room(len(LARGE) - 60_000)[:] = LARGE[60_000:]
    assert message.missing == len(LARGE) - 60_000
    message.filled(len(LARGE) - 60_000)
    assert message.missing == 0
    assert message.finish() == LARGE


def test_second_message_behind_a_large_one_is_refused() -> None:
    message = large()
    message.feed(LARGE)
    with pytest.raises(WireFault, match="more than one message"):
        message.feed(b"\x00")


def test_large_message_cut_short_is_refused() -> None:
    message = large()
    message.feed(LARGE[:-1])
    with pytest.raises(WireFault, match="in the middle of a message"):
        message.finish()


def test_whatever_the_engine_receives_in_place_has_room() -> None:
    """It asks for the shortest rest of a frame that is worth it, and the message may end with that."""
    message = large(_DIRECT)
    message.room(_DIRECT)[:] = LARGE[:_DIRECT]
    message.filled(_DIRECT)
    assert message.finish() == LARGE[:_DIRECT]


def test_memory_is_taken_as_data_comes() -> None:
    """R18: until then the length of a message is a claim."""
    messages._kept.clear()
    message = large(1 << 24)
    assert message._buffer is not None
    assert len(message._buffer) <= 64 * KIB
    message.feed(bytes(100 * KIB))
    assert len(message._buffer) <= 256 * KIB


def test_buffers_of_large_messages_are_used_again_and_are_few() -> None:
    messages._kept.clear()
    at_once = [large() for _ in range(10)]
    for message in at_once:
        message.feed(LARGE)
        assert message.finish() == LARGE
    assert len(messages._kept) == messages._KEPT
    kept = messages._kept[-1]
    again = large(50_000)
    assert again._buffer is kept
    again.feed(b"y" * 50_000)
    assert again.finish() == b"y" * 50_000  # and nothing of what had been there


def test_buffers_of_the_largest_messages_are_not_kept() -> None:
    messages._kept.clear()
    message = large(3 << 20)
    message.feed(bytes(3 << 20))
    assert len(message.finish()) == 3 << 20
    assert messages._kept == []


@pytest.mark.parametrize(("size", "frames_sent"), [(0, 1), (100, 1), (32 * KIB - 1, 3), (32 * KIB, 3)])
def test_message_is_sent_behind_its_prefix(size: int, frames_sent: int) -> None:
    """A large one is not copied for that: its prefix goes first."""
    end = Scripted(client=True, limits=Limits())
    stream = end.open()
    end.engine.take()
    assert send_message(end.engine, stream, LARGE[:size], True)
    sent = end.sent_kinds(frames.DATA)
    assert b"".join(each.payload for each in sent) == frame_message(LARGE[:size])
    assert len(sent) == frames_sent
    assert [each.flags for each in sent] == [0] * (frames_sent - 1) + [frames.END_STREAM]


def test_message_that_waits_for_window_says_so() -> None:
    end = Scripted(client=True, limits=Limits())
    stream = end.open()
    assert not send_message(end.engine, stream, LARGE, True)
    assert stream.pending is not None
