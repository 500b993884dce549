"""A stream of messages: wherever its bytes are cut, the same messages come out, and the same fault."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.status import StatusCode
from lbkit.wire import messages
from lbkit.wire.deframer import Deframer
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import LARGE_BYTES, frame_message

LIMIT = 100
LARGE = bytes(range(256)) * 400

payloads = st.lists(st.binary(max_size=LIMIT), max_size=8)
cuts = st.lists(st.integers(0, 900), max_size=12)
# What must not be in a stream, with the code that it ends with.
bad_ends = st.sampled_from(
    [
        (b"\x01\x00\x00\x00\x01a", StatusCode.INTERNAL),
        (b"\xff\x00\x00\x00\x00", StatusCode.INTERNAL),
        (b"\x00\x00\x00\x00\x65", StatusCode.RESOURCE_EXHAUSTED),
        (b"\x00\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
        (b"\x00", StatusCode.INTERNAL),
        (b"\x00\x00\x00\x00", StatusCode.INTERNAL),
        (b"\x00\x00\x00\x00\x03", StatusCode.INTERNAL),
        (b"\x00\x00\x00\x00\x03ab", StatusCode.INTERNAL),
    ]
)


def framed(payloads: list[bytes]) -> bytes:
    return b"".join(frame_message(payload) for payload in payloads)


def split(data: bytes, at: list[int]) -> list[bytes]:
    """Cut bytes into pieces; some may be empty."""
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def deframer(limit: int = LIMIT) -> tuple[Deframer, deque[bytes]]:
    into: deque[bytes] = deque()
    return Deframer(limit, into), into


def fed(*pieces: bytes, limit: int = LIMIT) -> tuple[Deframer, list[bytes]]:
    """What came of these pieces, none of which is bad."""
    cutter, into = deframer(limit)
    for piece in pieces:
        cutter.feed(piece)
    return cutter, list(into)


@given(payloads, cuts)
def test_any_split_gives_the_same_messages(sent: list[bytes], at: list[int]) -> None:
    cutter, got = fed(*split(framed(sent), at))
    cutter.finish()
    assert got == sent
    assert cutter.missing == 0


@given(payloads)
def test_a_byte_at_a_time_gives_each_message_with_its_last_byte(sent: list[bytes]) -> None:
    cutter, into = deframer()
    for payload in sent:
        *but_last, last = [bytes((byte,)) for byte in frame_message(payload)]
        for byte in but_last:
            cutter.feed(byte)
        assert not into
        cutter.feed(last)
        assert into.popleft() == payload


@given(payloads, bad_ends, cuts)
def test_messages_before_a_fault_are_delivered(
    sent: list[bytes], bad: tuple[bytes, StatusCode], at: list[int]
) -> None:
    data, code = bad
    cutter, into = deframer()
    with pytest.raises(WireFault) as caught:  # noqa: PT012  # any piece may be the one, or the end
        for piece in split(framed(sent) + data, at):
            cutter.feed(piece)
        cutter.finish()
    assert caught.value.code is code
    assert list(into) == sent


@pytest.mark.parametrize("before", [b"", frame_message(b"abc")], ids=["first", "second"])
@pytest.mark.parametrize("size", [LIMIT + 1, 2**32 - 1])
def test_limit_is_judged_from_the_prefix(before: bytes, size: int) -> None:
    """R18: nothing of such a message is collected."""
    cutter, _ = deframer()
    prefix = b"\x00" + size.to_bytes(4, "big")
    cutter.feed(before + prefix[:4])
    with pytest.raises(WireFault, match=f"{size} bytes is larger than the limit of {LIMIT}") as caught:
        cutter.feed(prefix[4:])
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_message_above_the_limit_that_is_all_there_is_refused_too() -> None:
    cutter, into = deframer()
    with pytest.raises(WireFault, match="larger than the limit"):
        cutter.feed(frame_message(b"abc") + frame_message(bytes(LIMIT + 1)))
    assert list(into) == [b"abc"]


def test_message_of_exactly_the_limit_passes() -> None:
    assert fed(frame_message(bytes(LIMIT)))[1] == [bytes(LIMIT)]


@pytest.mark.parametrize("flag", [1, 2, 255])
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_flag_without_an_encoding_is_refused(flag: int, cut: int) -> None:
    """R20, R21: with the whole prefix, wherever that is cut."""
    message = bytes((flag,)) + frame_message(b"abc")[1:]
    cutter, into = deframer()
    with pytest.raises(WireFault, match=f"flag {flag}") as caught:  # noqa: PT012  # the first piece may do
        cutter.feed(message[:cut])
        cutter.feed(message[cut:])
    assert caught.value.code is StatusCode.INTERNAL
    assert not into


@pytest.mark.parametrize("rest", [1, 4, 5, 7])
def test_end_in_the_middle_of_a_message_is_internal(rest: int) -> None:
    cutter, got = fed(frame_message(b"first") + frame_message(b"abc")[:rest])
    assert got == [b"first"]
    with pytest.raises(WireFault, match="in the middle of a message") as caught:
        cutter.finish()
    assert caught.value.code is StatusCode.INTERNAL


def test_stream_without_messages_is_a_stream() -> None:
    cutter, got = fed(b"")
    cutter.finish()
    assert got == []


def test_what_is_missing_is_known_behind_the_prefix() -> None:
    """The window is opened for the rest of the message that somebody waits for, and for no other."""
    cutter, into = deframer()
    message = frame_message(bytes(50))
    cutter.feed(message[:4])
    assert cutter.missing == 0
    cutter.feed(message[4:5])
    assert cutter.missing == 50
    cutter.feed(message[5:20])
    assert cutter.missing == 35
    cutter.feed(message[20:] + message[:3])
    assert (cutter.missing, len(into)) == (0, 1)


# Large messages are received in place


def large_begun(size: int = len(LARGE)) -> tuple[Deframer, deque[bytes]]:
    """A large message whose prefix has come behind a small one."""
    cutter, into = deframer(1 << 24)
    cutter.feed(frame_message(b"small") + frame_message(bytes(size))[:5])
    assert into.popleft() == b"small"
    return cutter, into


def test_large_message_is_received_in_place() -> None:
    cutter, into = large_begun()
    for at in range(0, len(LARGE), 16_384):
        piece = LARGE[at : at + 16_384]
        room = cutter.room(len(piece))
        assert room is not None
        room[:] = piece
        del room  # as long as somebody holds it, the buffer cannot grow
        assert not into
        cutter.filled(len(piece))
    assert into.popleft() == LARGE
    cutter.finish()
    assert cutter.missing == 0


@given(st.lists(st.booleans(), min_size=1, max_size=10))
def test_large_message_comes_in_place_or_not_in_any_order(in_place: list[bool]) -> None:
    cutter, into = large_begun()
    size = len(LARGE) // len(in_place)
    for at, direct in enumerate(in_place):
        piece = LARGE[at * size :] if at == len(in_place) - 1 else LARGE[at * size : (at + 1) * size]
        if direct:
            room = cutter.room(len(piece))
            assert room is not None
            room[:] = piece
            del room
            cutter.filled(len(piece))
        else:
            cutter.feed(piece)
    assert list(into) == [LARGE]
    cutter.feed(frame_message(b"next"))
    assert into[-1] == b"next"


def test_only_large_messages_have_room() -> None:
    cutter, _ = deframer(1 << 24)
    assert cutter.room(10) is None
    cutter.feed(frame_message(bytes(LARGE_BYTES - 1))[:5])
    assert cutter.room(10) is None


@pytest.mark.parametrize("size", [5, 1000, 40_000, 150_000])
def test_large_messages_between_small_ones_come_in_any_pieces(size: int) -> None:
    sent = [b"a", LARGE, b"", LARGE[:LARGE_BYTES], b"b" * 100]
    data = framed(sent)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    cutter, got = fed(*pieces, limit=len(LARGE))
    cutter.finish()
    assert got == sent


def test_large_message_cut_short_is_internal() -> None:
    cutter, into = large_begun()
    cutter.feed(LARGE[:-1])
    with pytest.raises(WireFault, match="in the middle of a message"):
        cutter.finish()
    assert not into


def test_memory_of_a_large_message_is_taken_as_it_comes() -> None:
    """R18: until then its length is a claim."""
    messages._kept.clear()
    cutter, _ = large_begun(1 << 24)
    assert cutter._partial is not None
    assert cutter._partial._buffer is not None
    assert len(cutter._partial._buffer) <= 2 * LARGE_BYTES
