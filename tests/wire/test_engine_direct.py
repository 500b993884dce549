"""Large messages received straight into their buffers, with window given ahead (``expect``, RFC 9113 6.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.stream import Stream
from lbkit.limits import Limits
from tests.support.wire import REQUEST, TRAILERS, Frame, Scripted, data_frame, reset_frame

KIB = 1024
FRAME = 100 * KIB  # of which more is still to come, when its header is read, than is worth a copy
LONG = bytes(range(256)) * 4 * 200  # two such frames, and more than the stream's window below
LIMITS = Limits(stream_window=65535, connection_window=256 * KIB, max_frame_size=FRAME + 256)
PIECES = (101, 500, 4000, 30_000)


def receiving(
    *, direct: bool = True, limits: Limits = LIMITS, greedy: bool = True
) -> tuple[Scripted, Stream]:
    """A server with a request whose sink has room for what it expects."""
    end = Scripted(client=False, limits=limits)
    end.greedy = greedy
    end.receive(end.headers(1))
    end.sinks[1].direct = direct
    end.events.clear()
    return end, end.opened[1]


def cut(data: bytes, size: int = FRAME) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def plain(data: bytes, *, end: bool = False) -> bytes:
    """DATA frames, of which the last may end the stream."""
    pieces = cut(data)
    return b"".join(data_frame(1, each, end=end and n == len(pieces) - 1) for n, each in enumerate(pieces))


def pour(end: Scripted, data: bytes, sizes: Iterable[int]) -> None:
    """Have an end receive bytes in pieces of these sizes, over and over."""
    at = 0
    while at < len(data):
        for size in sizes:
            end.receive(data[at : at + size])
            at += size


def given(sent: Iterable[Frame], stream_id: int) -> int:
    """The window that frames of ours gave to the peer."""
    return sum(
        int.from_bytes(each.payload, "big")
        for each in sent
        if (each.kind, each.stream_id) == (frames.WINDOW_UPDATE, stream_id)
    )


# Each way a message may come


def in_frames_of(size: int) -> bytes:
    return b"".join(data_frame(1, each) for each in cut(LONG, size))


def in_pieces_of(size: int) -> Callable[[Scripted], None]:
    return lambda end: pour(end, plain(LONG), [size])


WAYS: dict[str, Callable[[Scripted], None]] = {
    "as the socket has it": lambda end: end.receive(plain(LONG)),
    **{f"pieces of {size}": in_pieces_of(size) for size in PIECES},
    "pieces of all sizes": lambda end: pour(end, plain(LONG), PIECES),
    "a header apart": lambda end: pour(end, plain(LONG), [9, FRAME]),
    "short frames": lambda end: end.receive(in_frames_of(100)),
    "frames of 16 KiB": lambda end: end.receive(in_frames_of(16 * KIB)),
}
IN_PLACE = [name for name in WAYS if "frames" not in name]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "sink wants none"])
def test_message_arrives_and_the_peers_window_is_what_it_was(name: str, direct: bool) -> None:
    end, stream = receiving(direct=direct)
    before = stream.receive_window
    for _ in range(3):
        end.receive(data_frame(1, b"prefix"))
        end.engine.expect(stream, len(LONG))
        WAYS[name](end)
    assert end.body(1) == (b"prefix" + LONG) * 3
    assert stream.receive_window + stream.unreturned == before
    assert not end.faults
    assert bool(end.of("filled")) == (direct and name in IN_PLACE)
    # The account of the peer, from what went over the wire.
    sent = end.sent()
    came = 3 * (6 + len(LONG))
    assert given(sent, 1) + stream.unreturned == came
    assert given(sent, 0) + end.engine._unreturned == came


@pytest.mark.parametrize("name", IN_PLACE)
def test_all_of_a_long_frame_is_received_in_place(name: str) -> None:
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    WAYS[name](end)
    assert end.events == [("filled", 1, FRAME, False)] * 2


def test_unfinished_frame_goes_into_the_sinks_own_memory() -> None:
    """No copy in between: the socket writes where the message is put together."""
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    end.receive(data_frame(1, LONG[:FRAME])[: 9 + 1000])
    buffer = end.engine.get_buffer(-1)
    assert buffer.obj is end.sinks[1].room
    assert len(buffer) == FRAME - 1000
    assert end.engine.unfinished_since is None  # the call's deadline watches over it
    end.receive(LONG[1000:FRAME])
    assert end.events == [("filled", 1, FRAME, False)]
    assert end.engine.get_buffer(-1).obj is not end.sinks[1].room


@pytest.mark.parametrize("rest", [32 * KIB - 1, 32 * KIB])
def test_a_short_rest_of_a_frame_is_not_worth_a_read_of_its_own(rest: int) -> None:
    end, stream = receiving()
    end.engine.expect(stream, FRAME)
    message = data_frame(1, LONG[:FRAME])
    end.receive(message[:50_000])
    if rest == 32 * KIB:  # the first piece decided, when half of the frame was to come
        assert end.engine.get_buffer(-1).obj is end.sinks[1].room
    end, stream = receiving()
    end.engine.expect(stream, 9 + rest)
    end.receive(data_frame(1, bytes(9 + rest))[: 9 + 9])
    assert (end.engine.get_buffer(-1).obj is end.sinks[1].room) == (rest == 32 * KIB)


def test_messages_nobody_waits_for_take_the_ordinary_way() -> None:
    end, stream = receiving(limits=Limits(max_frame_size=FRAME))
    pour(end, plain(LONG[:FRAME]), [5000])
    assert [event[0] for event in end.events] == ["data"]
    end.engine.expect(stream, FRAME)
    pour(end, plain(LONG), [5000])
    assert [event[0] for event in end.events] == ["data", "filled", "data"]


def test_only_announced_bytes_are_asked_room_for() -> None:
    """What lies behind the message in the same frame is for ``data``: the sink has no room for it."""
    end, stream = receiving(limits=Limits(max_frame_size=FRAME))
    end.engine.expect(stream, FRAME - 1)
    pour(end, data_frame(1, LONG[:FRAME]), [5000])
    assert end.events == [("data", 1, LONG[:FRAME], False)]


@pytest.mark.parametrize("sizes", [[100_000], [50], [5000]], ids=["whole", "small pieces", "pieces"])
def test_end_may_come_with_the_last_frame(sizes: list[int]) -> None:
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    pour(end, plain(LONG, end=True), sizes)
    assert end.events[-1][0] == "filled"
    assert [event[-1] for event in end.events] == [False] * (len(end.events) - 1) + [True]
    assert end.body(1) == LONG
    end.receive(data_frame(1, b"late"))
    assert end.of("reset")[0][1:3] == (1, ErrorCode.STREAM_CLOSED)


def test_trailers_may_come_instead_of_the_rest() -> None:
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    end.receive(plain(LONG[:FRAME]) + end.headers(1, TRAILERS, end=True))
    assert [event[0] for event in end.events] == ["filled", "headers"]


def test_stated_length_holds_for_expected_content() -> None:
    """RFC 9113 8.1.1."""
    end = Scripted(client=False, limits=LIMITS)
    end.receive(end.headers(1, (*REQUEST, (b"content-length", b"%d" % len(LONG)))))
    end.sinks[1].direct = True
    end.engine.expect(end.opened[1], len(LONG))
    pour(end, plain(LONG, end=True), [5000])
    assert end.body(1) == LONG
    assert end.events[-1][-1] is True
    assert end.of("reset") == []


# The end in the middle

ENDINGS: dict[str, Callable[[Scripted], Any]] = {
    "reset by us": lambda end: end.engine.reset(end.opened[1], ErrorCode.CANCEL),
    "connection lost": lambda end: end.engine.lost("gone"),
    "connection failed": lambda end: end.engine.fail(ConnectionFault(ErrorCode.SETTINGS_TIMEOUT, "late")),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_nothing_is_filled_after_the_end_in_the_middle(name: str) -> None:
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    message = plain(LONG)
    end.receive(message[:5000])
    ENDINGS[name](end)
    told = list(end.events)
    pour(end, message[5000:], [3000])
    assert end.of("filled") == []
    assert [event for event in end.events if event not in told] == []


def test_rest_of_a_frame_for_a_reset_stream_gives_its_window_back() -> None:
    """S24."""
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    engine = end.engine
    before = engine._receive_window
    message = plain(LONG)
    end.receive(message[:5000])
    engine.reset(stream, ErrorCode.CANCEL)
    pour(end, message[5000:], [3000])
    end.receive(end.headers(3, end=True))
    assert [event[:2] for event in end.events] == [("request", 3)]
    assert sum((engine._receive_window, engine._unreturned)) == before


def test_reset_by_the_peer_between_two_frames() -> None:
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    end.receive(plain(LONG[:FRAME]) + reset_frame(1, ErrorCode.CANCEL))
    assert [event[0] for event in end.events] == ["filled", "reset"]
    assert not end.engine.streams


# Windows


def test_window_is_given_for_all_of_the_message_at_once() -> None:
    end, stream = receiving()
    end.engine.take()
    end.engine.expect(stream, len(LONG))
    assert end.sent() == [(frames.WINDOW_UPDATE, 0, 1, (len(LONG) - 65535).to_bytes(4, "big"))]


def test_no_window_is_given_for_what_fits_already() -> None:
    end, stream = receiving()
    end.engine.take()
    end.engine.expect(stream, 65535)
    assert end.sent() == []
    end.engine.expect(stream, 100)
    assert end.sent() == []


def test_window_given_ahead_is_not_given_twice() -> None:
    end, stream = receiving(greedy=False)
    end.engine.expect(stream, len(LONG))
    end.receive(plain(LONG))
    end.engine.take()
    end.engine.consumed(stream, len(LONG) - 65535)
    assert end.sent() == []
    end.engine.consumed(stream, 65535)
    assert given(end.sent(), 1) == 65535


def test_window_is_given_back_when_the_message_is_there() -> None:
    """Updates on the way would be for nothing: the peer can send all of it already."""
    end, stream = receiving(limits=Limits(stream_window=256 * KIB))
    end.receive(data_frame(1, b"prefix"))
    end.engine.expect(stream, 10 * 16 * KIB)
    for _ in range(9):
        end.receive(data_frame(1, bytes(16 * KIB)))
        assert given(end.sent(), 1) == 0
    end.receive(data_frame(1, bytes(16 * KIB)))
    assert given(end.sent(), 1) == 6 + 160 * KIB


def test_nothing_is_expected_of_an_ended_stream() -> None:
    end, stream = receiving()
    end.receive(data_frame(1, b"", end=True))
    end.engine.take()
    end.engine.expect(stream, len(LONG))
    assert end.sent() == []


@pytest.mark.parametrize("size", [1, FRAME])
def test_data_beyond_the_window_is_refused_though_expected(size: int) -> None:
    """S12, RFC 9113 6.9.1: what was given for the message is no licence for more."""
    limits = Limits(stream_window=65535, connection_window=1 << 20, max_frame_size=FRAME)
    end, stream = receiving(limits=limits, greedy=False)
    end.engine.expect(stream, len(LONG))
    end.receive(plain(LONG))
    end.receive(data_frame(1, bytes(size)))
    assert end.of("reset")[0][1:3] == (1, ErrorCode.FLOW_CONTROL_ERROR)
    assert not end.faults


@pytest.mark.parametrize("greedy", [True, False], ids=["consumed at once", "consumed when whole"])
def test_padding_does_not_use_up_the_window_of_an_expected_message(greedy: bool) -> None:
    """RFC 9113 6.1: padding counts, so who waits for a message must give the peer window for that, too."""
    end, stream = receiving(limits=Limits(stream_window=65535, connection_window=1 << 20), greedy=greedy)
    end.engine.take()
    end.engine.expect(stream, len(LONG))
    window = 65535 + given(end.sent(), 1)
    sent = padding = 0
    while sent < len(LONG):
        assert window > 0, f"the peer is stuck with {sent} bytes of {len(LONG)} sent"
        content = max(1, min(1000, window - 1, len(LONG) - sent))
        pad = min(255, window - 1 - content)
        if pad < 0:  # room for one byte: nothing but that
            end.receive(data_frame(1, LONG[sent : sent + 1]))
        else:
            payload = bytes((pad,)) + LONG[sent : sent + content] + bytes(pad)
            end.receive(frame(frames.DATA, frames.PADDED, 1, payload))
        sent += content
        padding += 1 + pad
        window += given(end.sent(), 1) - (1 + content + pad)
    if not greedy:
        end.engine.consumed(stream, len(LONG))
    assert padding > 65535 // 2
    assert end.body(1) == LONG
    assert stream.receive_window + stream.unreturned == 65535


def test_no_window_passes_the_largest_that_there_is() -> None:
    """RFC 9113 6.9.1: messages may be up to 4 GiB, windows and increments up to 2^31-1."""
    end, stream = receiving(limits=Limits(max_message=1 << 32))
    end.engine.take()
    end.engine.expect(stream, (1 << 32) - 1)
    assert 65535 + given(end.sent(), 1) <= frames.MAX_WINDOW
    assert stream.receive_window <= frames.MAX_WINDOW


def test_connections_window_holds_for_frames_in_pieces() -> None:
    """RFC 9113 6.9.1: a frame that is longer than the window is not even begun in place."""
    end, stream = receiving()
    end.engine.expect(stream, len(LONG))
    end.engine._receive_window = FRAME - 1
    pour(end, plain(LONG), [5000])  # the frame is judged when it is whole
    assert end.faults[0].code == ErrorCode.FLOW_CONTROL_ERROR
    assert end.of("filled") == []
