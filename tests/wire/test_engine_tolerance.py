"""What a peer may do, odd as it is: it must not disturb anything."""

from __future__ import annotations

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.hpack import Field
from lbkit.limits import Limits
from tests.support.wire import (
    REQUEST,
    TRAILERS,
    Scripted,
    data_frame,
    goaway_frame,
    reset_frame,
    window_update,
)


def server(**limits: int) -> Scripted:
    return Scripted(client=False, limits=Limits(**limits))


def client(**limits: int) -> Scripted:
    return Scripted(client=True, limits=Limits(**limits))


@pytest.mark.parametrize("how", ["DATA", "HEADERS", "RST_STREAM", "WINDOW_UPDATE"])
def test_late_frames_for_a_closed_stream_are_ignored(how: str) -> None:
    end = server()
    end.receive(end.headers(1))
    end.engine.reset(end.opened[1], ErrorCode.CANCEL)
    end.engine.take()
    end.receive(
        {
            "DATA": data_frame(1, b"late", end=True),
            "HEADERS": end.headers(1, TRAILERS, end=True),
            "RST_STREAM": reset_frame(1, ErrorCode.CANCEL),
            "WINDOW_UPDATE": window_update(1, 1),
        }[how]
    )
    assert end.events[1:] == []
    assert end.sent() == []


def test_padding_and_priority_are_stripped() -> None:
    end = server()
    block = end.block(REQUEST)
    everything = frames.PADDED | frames.PRIORITY_FLAG | frames.END_HEADERS
    end.receive(frame(frames.HEADERS, everything, 1, b"\x04" + bytes(5) + block + bytes(4)))
    end.receive(frame(frames.DATA, frames.PADDED, 1, b"\x07payload" + bytes(7)))
    end.receive(frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x00end"))
    assert end.events == [
        ("request", 1, REQUEST, False),
        ("data", 1, b"payload", False),
        ("data", 1, b"end", True),
    ]


def test_padding_alone_gives_its_window_back() -> None:
    end = server(stream_window=65535, connection_window=65535)
    end.receive(end.headers(1))
    for _ in range(400):  # ten in a row that carry nothing are allowed
        end.receive(frame(frames.DATA, frames.PADDED, 1, b"\xff" + bytes(255)) * 10 + data_frame(1, b"x"))
    assert not end.faults
    assert end.of("reset") == []


def test_padded_header_block_may_continue() -> None:
    end = server()
    block = end.block(REQUEST)
    end.receive(frame(frames.HEADERS, frames.PADDED, 1, b"\x02" + block[:5] + bytes(2)))
    end.receive(frame(frames.CONTINUATION, 0, 1, block[5:9]))
    end.receive(frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:]))
    assert end.events == [("request", 1, REQUEST, False)]


def test_end_of_stream_on_a_continued_block_counts() -> None:
    end = server()
    block = end.block(REQUEST)
    end.receive(frame(frames.HEADERS, frames.END_STREAM, 1, block[:5]))
    end.receive(frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[5:]))
    assert end.events == [("request", 1, REQUEST, True)]


def test_request_trailers_end_the_request() -> None:
    end = server()
    end.receive(end.headers(1) + end.headers(1, ((b"x-trailer", b"v"),), end=True))
    assert end.events[-1] == ("headers", 1, ((b"x-trailer", b"v"),), True)


def test_unknown_frames_and_priority_are_ignored() -> None:
    end = server()
    end.receive(frame(0xFA, 0xFF, 0, b"whatever") + frame(frames.PRIORITY, 0, 5, bytes(5)))
    assert end.events == []
    assert end.sent() == []


# Priority is ignored, but RFC 7540 5.3.1 made it an error of the stream to depend on itself


def on_itself(end: Scripted, stream_id: int, flags: int, fields: tuple[Field, ...] = REQUEST) -> bytes:
    """HEADERS whose priority says that the stream depends on itself."""
    depends = stream_id.to_bytes(4, "big") + b"\x10"
    return frame(frames.HEADERS, flags | frames.PRIORITY_FLAG, stream_id, depends + end.block(fields))


@pytest.mark.parametrize("whole", [True, False])
def test_stream_that_depends_on_itself_is_not_served(whole: bool) -> None:
    end = server()
    end.receive(on_itself(end, 1, frames.END_HEADERS if whole else 0))
    if not whole:
        end.receive(frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""))
    assert end.events == []
    assert [(each.kind, each.stream_id, each.payload) for each in end.sent()] == [
        (frames.RST_STREAM, 1, b"\0\0\0\1")
    ]
    end.receive(end.headers(3))
    assert end.events == [("request", 3, REQUEST, False)]


def test_trailers_that_depend_on_their_stream_do_not_harm_the_next_one() -> None:
    end = server()
    flags = frames.END_HEADERS | frames.END_STREAM
    end.receive(end.headers(1) + on_itself(end, 1, flags, TRAILERS) + end.headers(3))
    assert [event[:2] for event in end.events] == [("request", 1), ("reset", 1), ("request", 3)]


def test_refused_stream_that_depends_on_itself_does_not_harm_the_next_one() -> None:
    end = server(max_concurrent_streams=1)
    end.receive(end.headers(1) + on_itself(end, 3, frames.END_HEADERS))
    end.receive(reset_frame(1, ErrorCode.CANCEL) + end.headers(5))
    assert [event[:2] for event in end.of("request")] == [("request", 1), ("request", 5)]


def test_priority_frame_that_makes_a_stream_depend_on_itself_resets_it() -> None:
    end = server()
    end.receive(end.headers(1) + frame(frames.PRIORITY, 0, 1, b"\0\0\0\1\0"))
    assert end.of("reset")[0][1:3] == (1, ErrorCode.PROTOCOL_ERROR)
    end.receive(frame(frames.PRIORITY, 0, 5, b"\0\0\0\5\0"))  # there is no stream to reset
    assert end.faults[0].code == ErrorCode.PROTOCOL_ERROR


def test_reserved_bit_of_stream_ids_is_ignored() -> None:
    end = server()
    end.receive(frame(frames.HEADERS, frames.END_HEADERS, 1 | 1 << 31, end.block(REQUEST)))
    end.receive(data_frame(1 | 1 << 31, b"x", end=True))
    assert [event[0] for event in end.events] == ["request", "data"]


def test_high_bytes_in_values_pass() -> None:
    end = server()
    fields = (*REQUEST, (b"x-high", b"caf\xc3\xa9 \xff"))
    end.receive(end.headers(1, fields))
    assert end.events == [("request", 1, fields, False)]


def test_goaway_of_a_client_is_told_and_harms_nothing() -> None:
    end = server()
    end.receive(end.headers(1) + goaway_frame(0, 0, b"leaving"))
    assert end.events[-1] == ("goaway", 0, 0, b"leaving")
    assert list(end.engine.streams) == [1]
    assert end.of("reset") == []


def test_unknown_error_codes_are_told_by_number() -> None:
    end = client()
    stream = end.open()
    end.receive(reset_frame(stream.id, 77))
    assert end.of("reset")[0][2:] == (77, "the peer reset the stream with error 77")
