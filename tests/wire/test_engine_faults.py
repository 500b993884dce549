"""What a peer does wrong: faults of the connection end it by name, faults of a stream end that stream only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.limits import Limits
from tests.support.wire import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    End,
    Scripted,
    data_frame,
    reset_frame,
    settings_frame,
    window_update,
)

HTTP1_ANSWER = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(40)


def server(**limits: int) -> Scripted:
    return Scripted(client=False, limits=Limits(**limits))


def client(**limits: int) -> Scripted:
    return Scripted(client=True, limits=Limits(**limits))


def assert_goaway(end: End, code: ErrorCode, *words: str, last: int = 0) -> None:
    """The engine said GOAWAY with this code, told its sink so, and takes no more input."""
    (fault,) = end.faults
    assert fault.code == code
    for word in words:
        assert word in fault.text
    final = end.sent()[-1]
    assert final.kind == frames.GOAWAY
    assert int.from_bytes(final.payload[:4], "big") == last
    assert int.from_bytes(final.payload[4:8], "big") == code
    assert final.payload[8:].decode() == fault.text
    assert_deaf(end)


def assert_deaf(end: End) -> None:
    """The engine takes no more input."""
    events = len(end.events)
    end.receive(frames.PREFACE + settings_frame() + frame(frames.PING, 0, 0, bytes(8)))
    assert end.engine.take() == b""
    assert len(end.events) == events


def assert_only_stream_reset(end: Scripted, stream_id: int, code: ErrorCode) -> None:
    """The engine reset one stream, told that stream's sink, and the connection lives on."""
    assert not end.faults
    resets = [
        (each.stream_id, int.from_bytes(each.payload, "big")) for each in end.sent_kinds(frames.RST_STREAM)
    ]
    assert resets == [(stream_id, code)]
    assert stream_id not in end.engine.streams
    end.receive(frame(frames.PING, 0, 0, b"12345678"))
    assert [each.payload for each in end.sent()] == [b"12345678"]


# Faults of the connection: (what the peer sends, the code, words of the text)

SERVER_FAULTS: dict[str, tuple[Callable[[Scripted], bytes], ErrorCode, str]] = {
    "PING of 7 bytes": (lambda _: frame(frames.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR, "PING"),
    "PING on a stream": (lambda _: frame(frames.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR, "stream 1"),
    "SETTINGS of 5 bytes": (
        lambda _: frame(frames.SETTINGS, 0, 0, bytes(5)),
        ErrorCode.FRAME_SIZE_ERROR,
        "SETTINGS",
    ),
    "SETTINGS ack with payload": (
        lambda _: frame(frames.SETTINGS, frames.ACK, 0, bytes(6)),
        ErrorCode.FRAME_SIZE_ERROR,
        "SETTINGS",
    ),
    "SETTINGS on a stream": (
        lambda _: frame(frames.SETTINGS, 0, 1, b""),
        ErrorCode.PROTOCOL_ERROR,
        "stream 1",
    ),
    "INITIAL_WINDOW_SIZE 2^31": (
        lambda _: settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 1 << 31)),
        ErrorCode.FLOW_CONTROL_ERROR,
        "INITIAL_WINDOW_SIZE",
    ),
    "MAX_FRAME_SIZE 16383": (
        lambda _: settings_frame((frames.Setting.MAX_FRAME_SIZE, 16383)),
        ErrorCode.PROTOCOL_ERROR,
        "MAX_FRAME_SIZE 16383",
    ),
    "MAX_FRAME_SIZE 2^24": (
        lambda _: settings_frame((frames.Setting.MAX_FRAME_SIZE, 1 << 24)),
        ErrorCode.PROTOCOL_ERROR,
        "MAX_FRAME_SIZE",
    ),
    "ENABLE_PUSH 2": (
        lambda _: settings_frame((frames.Setting.ENABLE_PUSH, 2)),
        ErrorCode.PROTOCOL_ERROR,
        "ENABLE_PUSH 2",
    ),
    "RST_STREAM of 3 bytes": (
        lambda _: frame(frames.RST_STREAM, 0, 1, bytes(3)),
        ErrorCode.FRAME_SIZE_ERROR,
        "RST_STREAM",
    ),
    "RST_STREAM on stream 0": (lambda _: reset_frame(0, 8), ErrorCode.PROTOCOL_ERROR, "idle stream 0"),
    "RST_STREAM on an idle stream": (
        lambda _: reset_frame(5, 8),
        ErrorCode.PROTOCOL_ERROR,
        "idle stream 5",
    ),
    "WINDOW_UPDATE of 3 bytes": (
        lambda _: frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)),
        ErrorCode.FRAME_SIZE_ERROR,
        "WINDOW_UPDATE",
    ),
    "WINDOW_UPDATE of 0": (lambda _: window_update(0, 0), ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0"),
    "window above 2^31-1": (
        lambda _: window_update(0, frames.MAX_WINDOW),
        ErrorCode.FLOW_CONTROL_ERROR,
        "WINDOW_UPDATE",
    ),
    "WINDOW_UPDATE on an idle stream": (
        lambda _: window_update(5, 1),
        ErrorCode.PROTOCOL_ERROR,
        "idle stream 5",
    ),
    "PRIORITY on stream 0": (
        lambda _: frame(frames.PRIORITY, 0, 0, bytes(5)),
        ErrorCode.PROTOCOL_ERROR,
        "PRIORITY on stream 0",
    ),
    "PRIORITY of 3 bytes": (
        lambda _: frame(frames.PRIORITY, 0, 1, bytes(3)),
        ErrorCode.FRAME_SIZE_ERROR,
        "PRIORITY",
    ),
    "GOAWAY of 7 bytes": (
        lambda _: frame(frames.GOAWAY, 0, 0, bytes(7)),
        ErrorCode.FRAME_SIZE_ERROR,
        "GOAWAY",
    ),
    "GOAWAY on a stream": (
        lambda _: frame(frames.GOAWAY, 0, 1, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
        "stream 1",
    ),
    "PUSH_PROMISE": (
        lambda _: frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes(4)),
        ErrorCode.PROTOCOL_ERROR,
        "PUSH_PROMISE",
    ),
    "DATA on stream 0": (lambda _: data_frame(0, b"x"), ErrorCode.PROTOCOL_ERROR, "idle stream 0"),
    "DATA on an idle stream": (lambda _: data_frame(5, b"x"), ErrorCode.PROTOCOL_ERROR, "idle stream 5"),
    "padding as long as its DATA": (
        lambda end: end.headers(1) + frame(frames.DATA, frames.PADDED, 1, b"\x04ab\x00"),
        ErrorCode.PROTOCOL_ERROR,
        "padding",
    ),
    "padded DATA without a length": (
        lambda end: end.headers(1) + frame(frames.DATA, frames.PADDED, 1, b""),
        ErrorCode.FRAME_SIZE_ERROR,
        "DATA too short",
    ),
    "padded HEADERS without a length": (
        lambda _: frame(frames.HEADERS, frames.PADDED | frames.END_HEADERS, 1, b""),
        ErrorCode.FRAME_SIZE_ERROR,
        "HEADERS too short",
    ),
    "padding as long as its HEADERS": (
        lambda _: frame(frames.HEADERS, frames.PADDED | frames.END_HEADERS, 1, b"\x04ab\x00"),
        ErrorCode.PROTOCOL_ERROR,
        "padding",
    ),
    "HEADERS shorter than their priority": (
        lambda _: frame(frames.HEADERS, frames.PRIORITY_FLAG | frames.END_HEADERS, 1, bytes(4)),
        ErrorCode.FRAME_SIZE_ERROR,
        "too short",
    ),
    "HEADERS on stream 0": (lambda end: end.headers(0), ErrorCode.PROTOCOL_ERROR, "stream 0"),
    "HEADERS on stream 0, to be continued": (
        lambda end: end.headers(0, flags=0),
        ErrorCode.PROTOCOL_ERROR,
        "stream 0",
    ),
    "HEADERS on an even stream": (lambda end: end.headers(2), ErrorCode.PROTOCOL_ERROR, "stream 2"),
    "CONTINUATION alone": (
        lambda end: frame(frames.CONTINUATION, frames.END_HEADERS, 1, end.block(REQUEST)),
        ErrorCode.PROTOCOL_ERROR,
        "CONTINUATION",
    ),
    "CONTINUATION of another stream": (
        lambda end: end.headers(1, flags=0) + frame(frames.CONTINUATION, frames.END_HEADERS, 3, b""),
        ErrorCode.PROTOCOL_ERROR,
        "CONTINUATION",
    ),
    "header block interrupted": (
        lambda end: end.headers(1, flags=0) + frame(frames.PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
        "interrupted",
    ),
    "header block of ten frames": (
        lambda end: end.headers(1, flags=0) + frame(frames.CONTINUATION, 0, 1, b"") * 20,
        ErrorCode.ENHANCE_YOUR_CALM,
        "9 CONTINUATION frames",
    ),
    "header block of 70 kB": (
        lambda end: end.headers(1, flags=0) + frame(frames.CONTINUATION, 0, 1, bytes(16000)) * 5,
        ErrorCode.ENHANCE_YOUR_CALM,
        "without end",
    ),
    "header block that cannot be decoded": (
        lambda _: frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
        "",
    ),
}


@pytest.mark.parametrize("name", SERVER_FAULTS)
def test_connection_fault_says_goaway(name: str) -> None:
    script, code, word = SERVER_FAULTS[name]
    end = server()
    said = script(end)
    end.receive(said)
    assert_goaway(end, code, word, last=1 if end.of("request") else 0)


def test_server_may_not_open_streams() -> None:
    end = client()
    end.receive(end.headers(2, RESPONSE))
    assert_goaway(end, ErrorCode.PROTOCOL_ERROR, "stream 2")


def test_client_takes_no_headers_on_streams_it_did_not_open() -> None:
    end = client()
    end.receive(end.headers(1, RESPONSE))
    assert_goaway(end, ErrorCode.PROTOCOL_ERROR, "stream 1")


def test_goaway_names_the_last_stream_that_was_served() -> None:
    end = server()
    end.receive(end.headers(1, end=True) + end.headers(7, end=True) + frame(frames.PING, 0, 0, b"short"))
    assert_goaway(end, ErrorCode.FRAME_SIZE_ERROR, "PING", last=7)


def test_frames_before_the_bad_one_count() -> None:
    end = server()
    end.receive(end.headers(1) + data_frame(1, b"good", end=True) + data_frame(9, b"bad"))
    assert [event[0] for event in end.events] == ["request", "data", "fault"]


def test_an_oversized_frame_is_refused_from_its_nine_header_bytes() -> None:
    end = server()
    end.receive(b"\x00\x40\x00" + bytes((frames.DATA, 0)) + b"\x00\x00\x00\x01")
    assert not end.faults  # 16384 is allowed
    end = server()
    end.receive(b"\x00\x40\x01" + bytes((frames.DATA, 0)) + b"\x00\x00\x00\x01")
    assert_goaway(end, ErrorCode.FRAME_SIZE_ERROR, "16385 bytes, 16384 allowed")


def test_more_data_than_the_connections_window_is_a_fault() -> None:
    end = server(connection_window=65535, stream_window=1 << 20)
    end.receive(end.headers(1))
    end.engine._unreturned = -1 << 40  # the engine returns windows on receipt; this one must not
    for _ in range(4):
        end.receive(data_frame(1, bytes(16384)))
    assert_goaway(end, ErrorCode.FLOW_CONTROL_ERROR, "window", last=1)


def test_headers_beyond_the_hard_limit_are_a_fault() -> None:
    end = server()
    value = b"v" * 3000
    end.receive(end.headers(1, (*REQUEST, (b"x-bomb", value))))
    assert len(end.of("request")) == 1
    index_of_bomb = b"\xbe"  # the newest entry of the table
    end.receive(frame(frames.HEADERS, frames.END_HEADERS, 3, index_of_bomb * 15000))
    assert_goaway(end, ErrorCode.ENHANCE_YOUR_CALM, last=1)


# Faults of one stream

BAD_REQUESTS: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "upper-case name": (*REQUEST, (b"X-Upper", b"v")),
    "blank in a name": (*REQUEST, (b"x y", b"v")),
    "line feed in a value": (*REQUEST, (b"x-lf", b"a\nb")),
    "NUL in a value": (*REQUEST, (b"x-nul", b"a\x00b")),
    "connection": (*REQUEST, (b"connection", b"close")),
    "te of another kind": (*REQUEST, (b"te", b"gzip")),
    "no path": tuple(field for field in REQUEST if field[0] != b":path"),
    "no method": tuple(field for field in REQUEST if field[0] != b":method"),
    "two paths": (REQUEST[2], *REQUEST),
    "late pseudo-header": (*REQUEST, (b":authority", b"late")),
    "unknown pseudo-header": ((b":status", b"200"), *REQUEST),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_malformed_request_is_reset_and_others_live_on(name: str) -> None:
    end = server()
    end.receive(end.headers(1))
    end.receive(end.headers(3, BAD_REQUESTS[name]))
    assert_only_stream_reset(end, 3, ErrorCode.PROTOCOL_ERROR)
    assert [event[1] for event in end.of("request")] == [1]
    end.receive(data_frame(1, b"still here", end=True))
    assert end.events[-1] == ("data", 1, b"still here", True)


BAD_RESPONSES: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "no status": RESPONSE[1:],
    "status of two digits": ((b":status", b"20"),),
    "status in words": ((b":status", b"abc"),),
    "request pseudo-header": (*RESPONSE, (b":path", b"/")),
    "upper-case name": (*RESPONSE, (b"X-Upper", b"v")),
    "nothing at all": (),
}


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_malformed_response_is_reset_and_others_live_on(name: str) -> None:
    end = client()
    bad, good = end.open(end=True), end.open(end=True)
    end.engine.take()
    end.receive(end.headers(bad.id, BAD_RESPONSES[name]))
    assert end.of("reset")[0][1:3] == (bad.id, ErrorCode.PROTOCOL_ERROR)
    assert "malformed response" in end.of("reset")[0][3]
    assert_only_stream_reset(end, bad.id, ErrorCode.PROTOCOL_ERROR)
    end.receive(end.headers(good.id, (*RESPONSE, *TRAILERS), end=True))
    assert end.events[-1] == ("headers", good.id, (*RESPONSE, *TRAILERS), True)


def test_pseudo_headers_in_trailers_reset_the_stream() -> None:
    end = client()
    stream = end.open(end=True)
    end.engine.take()
    end.receive(end.headers(stream.id, RESPONSE) + end.headers(stream.id, RESPONSE, end=True))
    assert "malformed trailers" in end.of("reset")[0][3]
    assert_only_stream_reset(end, stream.id, ErrorCode.PROTOCOL_ERROR)


def test_second_headers_without_an_end_reset_the_stream() -> None:
    end = client()
    stream = end.open(end=True)
    end.engine.take()
    end.receive(end.headers(stream.id, RESPONSE) + end.headers(stream.id, TRAILERS))
    assert_only_stream_reset(end, stream.id, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("informed", [False, True])
def test_data_before_an_answers_headers_resets_the_stream(informed: bool) -> None:
    """RFC 9113 8.1; an informational response is not the beginning of it."""
    end = client()
    stream = end.open(end=True)
    end.engine.take()
    if informed:
        end.receive(end.headers(stream.id, ((b":status", b"103"),)))
    end.receive(data_frame(stream.id, b"too early"))
    assert "DATA before HEADERS" in end.of("reset")[0][3]
    assert end.of("data") == []
    assert_only_stream_reset(end, stream.id, ErrorCode.PROTOCOL_ERROR)


def test_informational_response_must_not_end_the_stream() -> None:
    end = client()
    stream = end.open(end=True)
    end.engine.take()
    end.receive(end.headers(stream.id, ((b":status", b"100"),), end=True))
    assert_only_stream_reset(end, stream.id, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("late", ["DATA", "HEADERS"])
def test_frames_after_the_end_reset_the_stream(late: str) -> None:
    end = server()
    end.receive(end.headers(1, end=True))
    end.receive(data_frame(1, b"late") if late == "DATA" else end.headers(1, TRAILERS, end=True))
    assert end.of("reset")[0][1:3] == (1, ErrorCode.STREAM_CLOSED)
    assert_only_stream_reset(end, 1, ErrorCode.STREAM_CLOSED)


@pytest.mark.parametrize(
    ("increment", "code"),
    [(0, ErrorCode.PROTOCOL_ERROR), (frames.MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR)],
)
def test_bad_window_update_resets_its_stream(increment: int, code: ErrorCode) -> None:
    end = server()
    end.receive(end.headers(1) + window_update(1, increment))
    assert end.of("reset")[0][1:3] == (1, code)
    assert_only_stream_reset(end, 1, code)


@pytest.mark.parametrize("padded", [False, True])
def test_more_data_than_the_streams_window_resets_it(padded: bool) -> None:
    end = server(stream_window=65535, connection_window=1 << 20)
    end.sinks.clear()
    end.greedy = False
    end.receive(end.headers(1))
    payload = b"\x00" + bytes(16383)
    for _ in range(5 if padded else 4):  # padding is returned on receipt
        end.receive(frame(frames.DATA, frames.PADDED if padded else 0, 1, payload))
    assert end.of("reset")[0][1:3] == (1, ErrorCode.FLOW_CONTROL_ERROR)
    assert_only_stream_reset(end, 1, ErrorCode.FLOW_CONTROL_ERROR)


def test_settings_that_overflow_a_streams_window_are_a_fault() -> None:
    end = server()
    end.receive(end.headers(1) + window_update(1, frames.MAX_WINDOW - 65535))
    end.receive(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 65536)))
    assert_goaway(end, ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE", last=1)


def test_too_large_request_list_is_told_and_the_table_stays_in_step() -> None:
    """S9: the layer above answers it, so that the caller learns the reason."""
    end = server(max_header_list=1000)
    end.receive(end.headers(1, (*REQUEST, (b"x-large", b"v" * 1200), (b"x-kept", b"in the table"))))
    ((_, stream_id, reason),) = end.of("oversized")
    assert stream_id == 1
    assert "limit is 1000" in reason
    assert end.of("request") == end.sent() == []
    assert end.counters.exceeded == {"max_header_list": 1}
    end.engine.send_headers(end.opened[1], None, (*RESPONSE, *TRAILERS), True)
    assert [each.kind for each in end.sent()] == [frames.HEADERS]
    end.receive(end.headers(3, (*REQUEST, (b"x-kept", b"in the table"))))
    assert end.of("request")[0][2][-1] == (b"x-kept", b"in the table")


def test_too_large_response_list_resets_with_its_size() -> None:
    end = client(max_header_list=1000)
    stream = end.open(end=True)
    end.engine.take()
    end.receive(end.headers(stream.id, (*RESPONSE, (b"x-large", b"v" * 1200))))
    assert "limit is 1000" in end.of("reset")[0][3]
    assert_only_stream_reset(end, stream.id, ErrorCode.ENHANCE_YOUR_CALM)


def test_peers_reset_is_told_by_its_name() -> None:
    end = client()
    stream = end.open(end=True)
    end.engine.take()
    end.receive(reset_frame(stream.id, ErrorCode.CANCEL))
    assert end.of("reset") == [
        ("reset", stream.id, ErrorCode.CANCEL, "the peer reset the stream with CANCEL")
    ]
    assert end.sent() == []
    assert not end.engine.streams
