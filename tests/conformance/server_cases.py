"""The cases for servers: h2spec's suites ``generic``, ``http2`` and ``hpack``."""

from __future__ import annotations

from lbkit.http2 import frames
from lbkit.http2.frames import Setting, frame
from tests.conformance.cases import (
    ALIVE,
    CASE_DATA,
    CLOSED,
    COMPRESSION,
    FLOW,
    PING,
    PROTOCOL,
    REFUSED,
    SIZE,
    STREAM_CLOSED,
    UNASKED_PING,
    Case,
    answered,
    connection_error,
    either,
    outcome,
    stream_error,
)
from tests.conformance.plays import (
    block_with,
    doubled,
    in_pieces,
    padded,
    padded_data,
    prioritised,
    raw,
    request_with,
    setting,
    split_message,
    table_of,
    too_many_streams,
    window_of,
    with_empty_path,
)
from tests.support.wire import goaway_frame, settings_frame

MAX_WINDOW = frames.MAX_WINDOW
PADDED_BY_8 = bytes(8)

PONG = outcome({f"pong {PING!r}"}, {f"pong {PING!r}", "alive"})

# A response, and of its content what the window takes.
ONE_BYTE = outcome({"data 1 of 1"}, {"status 1", "data 1 of 1", "alive"})

GENERIC: list[Case] = [
    # The server's first frame is SETTINGS: ``shake`` waits for it (RFC 9113 3.4).
    Case("generic/1/1 preface", lambda p: [], ALIVE),
    Case("generic/2/1 PRIORITY, idle", lambda p: [p.priority()], ALIVE),
    Case(
        "generic/2/2 WINDOW_UPDATE, half-closed (remote)",
        lambda p: [window_of(0), p.whole(), p.window(1)],
        ONE_BYTE,
    ),
    Case(
        "generic/2/3 PRIORITY, half-closed (remote)",
        lambda p: [window_of(0), p.whole(), p.priority(), p.window(1)],
        ONE_BYTE,
    ),
    Case("generic/2/4 RST_STREAM, half-closed (remote)", lambda p: [p.whole(), p.reset()], ALIVE),
    Case("generic/2/5 PRIORITY, closed", lambda p: [p.whole(), "ended 1", p.priority()], ALIVE),
    Case("generic/3.1/1 DATA", lambda p: [p.post(), p.data()], answered()),
    Case("generic/3.1/2 two DATA", split_message, answered()),
    Case("generic/3.1/3 padded DATA", padded_data, answered()),
    Case("generic/3.2/1 HEADERS", lambda p: [p.whole()], answered()),
    Case("generic/3.2/2 padded HEADERS", padded(lambda length: 8, PADDED_BY_8), answered()),
    Case("generic/3.2/3 HEADERS with priority", prioritised(0), answered()),
    Case("generic/3.3/1 PRIORITY of 1", lambda p: [p.priority(weight=0), p.whole()], answered()),
    Case("generic/3.3/2 PRIORITY of 256", lambda p: [p.priority(), p.whole()], answered()),
    Case("generic/3.3/3 PRIORITY, dependent", lambda p: [p.priority(stream=3, on=1), p.whole()], answered()),
    Case(
        "generic/3.3/4 PRIORITY, exclusive",
        lambda p: [p.priority(on=1 << 31, weight=0), p.whole()],
        answered(),
    ),
    Case(
        "generic/3.3/5 PRIORITY of a higher stream", lambda p: [p.priority(stream=3), p.whole()], answered()
    ),
    Case("generic/3.4/1 RST_STREAM", lambda p: [p.head(end=False), p.reset()], ALIVE),
    Case(
        "generic/3.5/1 SETTINGS",
        lambda p: [settings_frame((1, 4096), (2, 1), (3, 100), (4, 65535), (5, 16384), (6, 100))],
        outcome({"settings ack"}, {"settings ack", "alive"}),
    ),
    Case(
        "generic/3.7/1 PING",
        raw(frames.PING, 0, 0, PING),
        PONG,
    ),
    # RFC 9113 6.8: the server finishes what is open, which is nothing.
    Case("generic/3.8/1 GOAWAY", lambda p: [goaway_frame(0, debug=b"h2spec")], either(CLOSED, ALIVE)),
    Case("generic/3.9/1 WINDOW_UPDATE, connection", lambda p: [p.window(1, stream=0)], ALIVE),
    Case("generic/3.9/2 WINDOW_UPDATE, stream", lambda p: [p.whole(), p.window(1)], answered()),
    Case("generic/3.10/1 CONTINUATION", in_pieces(5), answered()),
    Case("generic/3.10/2 two CONTINUATION", in_pieces(5, 10), answered()),
    Case("generic/4/1 GET", lambda p: [p.whole()], answered()),
    Case("generic/4/2 HEAD", lambda p: [p.head(p.fields(method=b"HEAD"), end=True)], answered()),
    Case("generic/4/3 POST", lambda p: [p.post(), p.data()], answered()),
    Case(
        "generic/4/4 POST with trailers",
        lambda p: [p.post((b"trailer", b"x-test")), p.data(end=False), p.trailers((b"x-test", b"ok"))],
        answered(),
    ),
    *(
        Case(f"generic/5/{number} HPACK, {what}", block_with(after=after), answered())
        for number, what, after in (
            (1, "indexed", b"\xba"),
            (
                2,
                "with indexing, known name, Huffman",
                b"\x40\x87\xb5\x05\xb1\x61\xcc\x5a\x93\x84\x9c\x48\xac\xa4",
            ),
            (3, "with indexing, known name", b"\x40\x0auser-agent\x06h2spec"),
            (4, "with indexing, new name", b"\x40\x06x-test\x06h2spec"),
            (5, "with indexing, new name, Huffman", b"\x40\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4"),
            (6, "without indexing, known name", b"\x00\x0auser-agent\x06h2spec"),
            (
                7,
                "without indexing, known name, Huffman",
                b"\x00\x87\xb5\x05\xb1\x61\xcc\x5a\x93\x84\x9c\x48\xac\xa4",
            ),
            (8, "without indexing, new name", b"\x00\x06x-test\x06h2spec"),
            (9, "without indexing, new name, Huffman", b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4"),
            (10, "never indexed, known name", b"\x10\x0auser-agent\x06h2spec"),
            (
                11,
                "never indexed, known name, Huffman",
                b"\x10\x87\xb5\x05\xb1\x61\xcc\x5a\x93\x84\x9c\x48\xac\xa4",
            ),
            (12, "never indexed, new name", b"\x10\x06x-test\x06h2spec"),
            (13, "never indexed, new name, Huffman", b"\x10\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4"),
        )
    ),
    Case("generic/5/14 HPACK, table size update", block_with(before=b"\x20"), answered()),
    Case("generic/5/15 HPACK, two table size updates", block_with(before=b"\x20\x3f\xe1\x1f"), answered()),
]

HTTP2: list[Case] = [
    Case("http2/3.5/1 preface", lambda p: [], ALIVE),
    # http2/3.5/2, a preface that is none, is not of this form: see the tests.
    Case("http2/4.1/1 unknown frame type", raw(0x16, 0, 0, bytes(8)), ALIVE),
    Case(
        "http2/4.1/2 unknown flags",
        raw(frames.PING, 0x16, 0, PING),
        PONG,
    ),
    Case(
        "http2/4.1/3 reserved bit",
        raw(frames.PING, 0x16, 0x80000000, PING),
        PONG,
    ),
    # 16 KiB that are no gRPC message are refused as one, after a whole frame of it was taken.
    Case("http2/4.2/1 DATA of 16384", lambda p: [p.post(), p.data(b"x" * p.max_frame)], answered()),
    Case(
        "http2/4.2/2 DATA of 16385",
        lambda p: [p.post(), p.data(b"x" * (p.max_frame + 1))],
        stream_error(SIZE),
    ),
    Case(
        "http2/4.2/3 HEADERS of more than 16384",
        lambda p: [p.head(block=p.block() + p.long(5))],
        connection_error(SIZE),
    ),
    Case("http2/4.3/1 block cut short", raw(frames.HEADERS, 5, 1, b"\x40"), connection_error(COMPRESSION)),
    Case(
        "http2/4.3/2 PRIORITY inside a block",
        lambda p: [p.head(end=False, flags=0), p.priority(), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/4.3/3 HEADERS inside a block",
        lambda p: [p.head(end=False, flags=0), p.head(stream=3, end=True), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    Case("http2/5.1/1 idle: DATA", lambda p: [p.data(CASE_DATA)], connection_error(PROTOCOL)),
    Case("http2/5.1/2 idle: RST_STREAM", lambda p: [p.reset()], connection_error(PROTOCOL)),
    Case("http2/5.1/3 idle: WINDOW_UPDATE", lambda p: [p.window(100)], connection_error(PROTOCOL)),
    Case("http2/5.1/4 idle: CONTINUATION", lambda p: [p.more(p.block())], connection_error(PROTOCOL)),
    Case(
        "http2/5.1/5 half-closed (remote): DATA",
        lambda p: [p.whole(), p.data(CASE_DATA)],
        stream_error(STREAM_CLOSED),
    ),
    Case(
        "http2/5.1/6 half-closed (remote): HEADERS",
        lambda p: [p.whole(), p.head(end=True)],
        stream_error(STREAM_CLOSED),
    ),
    # RFC 9113 6.10 is stricter than 5.1: CONTINUATION follows a block that is not complete, or is a fault of all.
    Case(
        "http2/5.1/7 half-closed (remote): CONTINUATION",
        lambda p: [p.whole(), p.more(p.block())],
        either(stream_error(STREAM_CLOSED, h2spec=[PROTOCOL]), connection_error(PROTOCOL)),
    ),
    Case(
        "http2/5.1/8 closed: DATA after RST_STREAM",
        lambda p: [p.head(end=False), p.reset(), p.data(CASE_DATA)],
        stream_error(STREAM_CLOSED),
    ),
    Case(
        "http2/5.1/9 closed: HEADERS after RST_STREAM",
        lambda p: [p.head(end=False), p.reset(), p.head(end=True)],
        stream_error(STREAM_CLOSED),
    ),
    Case(
        "http2/5.1/10 closed: CONTINUATION after RST_STREAM",
        lambda p: [p.head(end=False), p.reset(), p.more(p.long())],
        connection_error(PROTOCOL, STREAM_CLOSED),
    ),
    Case(
        "http2/5.1/11 closed: DATA",
        lambda p: [p.whole(), "ended 1", p.data(CASE_DATA)],
        connection_error(STREAM_CLOSED),
    ),
    Case(
        "http2/5.1/12 closed: HEADERS",
        lambda p: [p.whole(), "ended 1", p.head(end=True)],
        connection_error(STREAM_CLOSED),
    ),
    Case(
        "http2/5.1/13 closed: CONTINUATION",
        lambda p: [p.whole(), "ended 1", p.more(p.long())],
        connection_error(PROTOCOL, STREAM_CLOSED),
    ),
    Case("http2/5.1.1/1 even stream", lambda p: [p.whole(2)], connection_error(PROTOCOL)),
    Case("http2/5.1.1/2 lower stream", lambda p: [p.whole(5), p.whole(3)], connection_error(PROTOCOL)),
    Case(
        "http2/5.1.1/3 HEADERS, half-closed (remote)",
        lambda p: [p.whole(5), p.head(stream=5, end=True)],
        stream_error(STREAM_CLOSED, stream=5),
    ),
    Case(
        "http2/5.1.2/1 one stream too many",
        too_many_streams,
        stream_error(REFUSED, stream=201, h2spec=[PROTOCOL]),
    ),
    # RFC 9113 5.3.2 takes priority signals out: this is RFC 7540 5.3.1, which it leaves open.
    Case("http2/5.3.1/1 HEADERS, dependent on itself", prioritised(1), stream_error(PROTOCOL)),
    Case("http2/5.3.1/2 PRIORITY, dependent on itself", lambda p: [p.priority(on=1)], stream_error(PROTOCOL)),
    Case("http2/5.4.1/1 faulty PING: end", raw(frames.PING, 0, 3, bytes(8)), connection_error(PROTOCOL)),
    Case(
        "http2/5.4.1/2 faulty PING: GOAWAY first",
        raw(frames.PING, 0, 3, bytes(8)),
        outcome({"goaway PROTOCOL_ERROR"}, {"goaway PROTOCOL_ERROR", "closed"}),
    ),
    Case("http2/5.5/1 extension frame", raw(0x16, 0, 0, bytes(8)), ALIVE),
    Case(
        "http2/5.5/2 extension frame inside a block",
        lambda p: [p.head(end=True, flags=0), frame(0x16, 0, 0, bytes(8))],
        connection_error(PROTOCOL),
    ),
    Case("http2/6.1/1 DATA on stream 0", lambda p: [p.data(CASE_DATA, stream=0)], connection_error(PROTOCOL)),
    Case(
        "http2/6.1/2 DATA, half-closed (remote)",
        lambda p: [p.head(p.fields(method=b"POST"), end=True), p.data(CASE_DATA)],
        stream_error(STREAM_CLOSED),
    ),
    Case(
        "http2/6.1/3 DATA padded too long",
        lambda p: [p.post((b"content-length", b"4")), frame(frames.DATA, 9, 1, b"\x06Test")],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.2/1 PRIORITY inside a block",
        lambda p: [p.head(end=False, flags=0), p.priority(), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.2/2 HEADERS inside a block",
        lambda p: [p.head(end=False, flags=0), p.head(stream=3, end=True), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    Case("http2/6.2/3 HEADERS on stream 0", lambda p: [p.head(stream=0)], connection_error(PROTOCOL)),
    Case(
        "http2/6.2/4 HEADERS padded too long", padded(lambda length: length + 2), connection_error(PROTOCOL)
    ),
    Case("http2/6.3/1 PRIORITY on stream 0", lambda p: [p.priority(stream=0)], connection_error(PROTOCOL)),
    Case(
        "http2/6.3/2 PRIORITY of 4 bytes",
        lambda p: [p.whole(), frame(frames.PRIORITY, 0, 1, b"\x80\0\0\1")],
        stream_error(SIZE),
    ),
    Case("http2/6.4/1 RST_STREAM on stream 0", lambda p: [p.reset(stream=0)], connection_error(PROTOCOL)),
    Case("http2/6.4/2 RST_STREAM, idle", lambda p: [p.reset()], connection_error(PROTOCOL)),
    Case(
        "http2/6.4/3 RST_STREAM of 3 bytes",
        lambda p: [p.whole(), frame(frames.RST_STREAM, 0, 1, bytes(3))],
        connection_error(SIZE),
    ),
    Case(
        "http2/6.5/1 SETTINGS ACK with a payload", raw(frames.SETTINGS, 1, 0, b"\0"), connection_error(SIZE)
    ),
    Case(
        "http2/6.5/2 SETTINGS on stream 1",
        raw(frames.SETTINGS, 0, 1, b"\0\3\0\0\0\x64"),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.5/3 SETTINGS of 3 bytes",
        raw(frames.SETTINGS, 0, 0, b"\0\3\0"),
        connection_error(SIZE, PROTOCOL),
    ),
    Case("http2/6.5.2/1 ENABLE_PUSH 2", setting(Setting.ENABLE_PUSH, 2), connection_error(PROTOCOL)),
    Case(
        "http2/6.5.2/2 INITIAL_WINDOW_SIZE 2^31",
        setting(Setting.INITIAL_WINDOW_SIZE, 1 << 31),
        connection_error(FLOW),
    ),
    Case(
        "http2/6.5.2/3 MAX_FRAME_SIZE 16383",
        setting(Setting.MAX_FRAME_SIZE, 16383),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.5.2/4 MAX_FRAME_SIZE 2^24",
        setting(Setting.MAX_FRAME_SIZE, 1 << 24),
        connection_error(PROTOCOL),
    ),
    Case("http2/6.5.2/5 unknown setting", setting(0xFF, 1), ALIVE),
    Case(
        "http2/6.5.3/1 INITIAL_WINDOW_SIZE twice: the last counts",
        lambda p: [window_of(100, 1), "settings ack", p.whole()],
        ONE_BYTE,
    ),
    Case(
        "http2/6.5.3/2 SETTINGS are acknowledged",
        setting(Setting.ENABLE_PUSH, 0),
        outcome({"settings ack"}, {"settings ack", "alive"}),
    ),
    Case(
        "http2/6.7/1 PING",
        raw(frames.PING, 0, 0, PING),
        PONG,
    ),
    Case(
        "http2/6.7/2 PING ACK is not answered",
        lambda p: [frame(frames.PING, 1, 0, UNASKED_PING), frame(frames.PING, 0, 0, PING)],
        PONG,
    ),
    Case("http2/6.7/3 PING on stream 1", raw(frames.PING, 0, 1, bytes(8)), connection_error(PROTOCOL)),
    Case("http2/6.7/4 PING of 6 bytes", raw(frames.PING, 0, 0, bytes(6)), connection_error(SIZE)),
    Case("http2/6.8/1 GOAWAY on stream 1", raw(frames.GOAWAY, 0, 1, bytes(8)), connection_error(PROTOCOL)),
    Case(
        "http2/6.9/1 WINDOW_UPDATE 0, connection",
        lambda p: [p.window(0, stream=0)],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.9/2 WINDOW_UPDATE 0, stream",
        lambda p: [p.head(end=False), p.window(0)],
        stream_error(PROTOCOL),
    ),
    Case(
        "http2/6.9/3 WINDOW_UPDATE of 3 bytes",
        raw(frames.WINDOW_UPDATE, 0, 0, b"\0\0\1"),
        connection_error(SIZE),
    ),
    Case(
        "http2/6.9.1/1 window of 1",
        lambda p: [window_of(1), "settings ack", p.whole()],
        ONE_BYTE,
    ),
    Case(
        "http2/6.9.1/2 connection's window above 2^31-1",
        lambda p: [p.window(MAX_WINDOW, stream=0) * 2],
        outcome({"goaway FLOW_CONTROL_ERROR"}, {"goaway FLOW_CONTROL_ERROR", "closed"}),
    ),
    Case(
        "http2/6.9.1/3 stream's window above 2^31-1",
        lambda p: [p.head(end=False), p.window(MAX_WINDOW) * 2],
        outcome({"any reset FLOW_CONTROL_ERROR"}, {"reset 1 FLOW_CONTROL_ERROR", "alive"}),
    ),
    Case(
        "http2/6.9.2/1 INITIAL_WINDOW_SIZE changes an open stream",
        lambda p: [window_of(0), "settings ack", p.whole(), window_of(1), "settings ack"],
        ONE_BYTE,
    ),
    Case(
        "http2/6.9.2/2 window below 0",
        lambda p: [
            window_of(3),
            "settings ack",
            p.whole(),
            "data 1 of 3 or ended 1",
            window_of(2),
            "settings ack",
            p.window(2),
        ],
        ONE_BYTE,
    ),
    Case(
        "http2/6.9.2/3 INITIAL_WINDOW_SIZE 2^31",
        raw(frames.SETTINGS, 0, 0, b"\0\4\x80\0\0\0"),
        connection_error(FLOW),
    ),
    Case(
        "http2/6.10/1 two CONTINUATION",
        lambda p: [p.head(flags=0), p.more(p.long(), end=False), p.more(p.long()), p.rest()],
        answered(),
    ),
    Case(
        "http2/6.10/2 DATA inside a block",
        lambda p: [
            p.head(p.fields(method=b"POST"), end=False, flags=0),
            p.more(p.long(), end=False),
            p.data(),
        ],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/3 CONTINUATION on stream 0",
        lambda p: [p.head(end=True, flags=0), p.more(p.long(), stream=0)],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/4 CONTINUATION after END_HEADERS",
        lambda p: [p.head(end=True), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/5 CONTINUATION after the last CONTINUATION",
        lambda p: [p.head(end=True, flags=0), p.more(p.long()), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/6 CONTINUATION after DATA",
        lambda p: [
            p.head(p.fields(method=b"POST"), end=False, flags=0),
            p.data(),
            p.more(p.long(), end=False),
        ],
        connection_error(PROTOCOL),
    ),
    Case("http2/7/1 GOAWAY, unknown code", lambda p: [goaway_frame(0, 0xFF)], either(CLOSED, ALIVE)),
    Case("http2/7/2 RST_STREAM, unknown code", lambda p: [p.post(), p.reset(0xFF)], ALIVE),
    Case(
        "http2/8.1/1 trailers without END_STREAM",
        lambda p: [p.post(), p.data(end=False), p.trailers((b"x-test", b"ok"), end=False)],
        stream_error(PROTOCOL),
    ),
    Case("http2/8.1.2/1 upper case", request_with((b"X-TEST", b"ok")), stream_error(PROTOCOL)),
    Case("http2/8.1.2.1/1 unknown pseudo-header", request_with((b":test", b"ok")), stream_error(PROTOCOL)),
    Case("http2/8.1.2.1/2 :status in a request", request_with((b":status", b"200")), stream_error(PROTOCOL)),
    Case(
        "http2/8.1.2.1/3 pseudo-header in trailers",
        lambda p: [p.post(), p.data(end=False), p.trailers((b":method", b"POST"), end=False)],
        stream_error(PROTOCOL),
    ),
    Case(
        "http2/8.1.2.1/4 pseudo-header after a field",
        request_with(first=[(b"x-test", b"ok")]),
        stream_error(PROTOCOL),
    ),
    Case("http2/8.1.2.2/1 connection", request_with((b"connection", b"keep-alive")), stream_error(PROTOCOL)),
    Case(
        "http2/8.1.2.2/2 te is not trailers",
        request_with((b"trailers", b"test"), (b"te", b"trailers, deflate")),
        stream_error(PROTOCOL),
    ),
    Case("http2/8.1.2.3/1 :path empty", with_empty_path, stream_error(PROTOCOL)),
    Case("http2/8.1.2.3/2 no :method", request_with(without=b":method"), stream_error(PROTOCOL)),
    Case("http2/8.1.2.3/3 no :scheme", request_with(without=b":scheme"), stream_error(PROTOCOL)),
    Case("http2/8.1.2.3/4 no :path", request_with(without=b":path"), stream_error(PROTOCOL)),
    Case("http2/8.1.2.3/5 :method twice", doubled(b":method"), stream_error(PROTOCOL)),
    Case("http2/8.1.2.3/6 :scheme twice", doubled(b":scheme"), stream_error(PROTOCOL)),
    Case("http2/8.1.2.3/7 :path twice", doubled(b":path"), stream_error(PROTOCOL)),
    Case(
        "http2/8.1.2.6/1 content-length 1, one DATA of more",
        lambda p: [p.post((b"content-length", b"1")), p.data()],
        stream_error(PROTOCOL),
    ),
    Case(
        "http2/8.1.2.6/2 content-length 1, two DATA of more",
        lambda p: [p.post((b"content-length", b"1")), p.data(end=False), p.data()],
        stream_error(PROTOCOL),
    ),
    Case(
        "http2/8.2/1 PUSH_PROMISE",
        lambda p: [frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, frames.pack_u32(3) + p.block())],
        connection_error(PROTOCOL),
    ),
]

HPACK: list[Case] = [
    Case(f"hpack/{section} {what}", play, connection_error(COMPRESSION))
    for section, what, play in (
        ("2.3.3/1", "index past the table", block_with(after=b"\xc6")),
        ("2.3.3/2", "name's index past the table", block_with(after=b"\x7f\x07\x00")),
        ("4.2/1", "table size update at the end", block_with(after=b"\x21")),
        (
            "5.2/1",
            "Huffman padding of 8 bits",
            block_with(after=b"\0\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
        ),
        (
            "5.2/2",
            "Huffman padding of zeros",
            block_with(after=b"\0\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
        ),
        (
            "5.2/3",
            "Huffman EOS",
            block_with(after=b"\0\x85\xf2\xb2\x4a\x84\xff\x87\xff\xff\xff\xfd\x25\x42\x7f"),
        ),
        ("6.1/1", "index 0", block_with(after=b"\x80")),
        ("6.3/1", "table size above the limit", table_of),
    )
]

CASES: list[Case] = [*GENERIC, *HTTP2, *HPACK]
