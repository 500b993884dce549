"""Rules of RFC 9113 and RFC 7541 that h2spec has no case for, or only one for servers. All with gRPC's messages."""

from __future__ import annotations

from collections.abc import Iterable

from lbkit.http2 import frames
from lbkit.http2.frames import Setting, frame
from lbkit.http2.hpack import Field
from tests.conformance.cases import (
    ALIVE,
    COMPRESSION,
    FLOW,
    PROTOCOL,
    SIZE,
    Case,
    Play,
    answered,
    connection_error,
    either,
    outcome,
    stream_error,
)
from tests.conformance.client_cases import ACK, ClientCase, broken, reset
from tests.conformance.plays import (
    block_with,
    in_pieces,
    padded,
    prioritised,
    raw,
    request_with,
    setting,
    table_of,
    window_of,
)
from tests.support.wire import goaway_frame, settings_frame

MAX_ID = frames.MAX_STREAM_ID
DRAINED = either(outcome({"closed"}, {"closed"}), ALIVE)  # a client may leave once its last stream is over

SERVER: list[Case] = [
    Case("rfc9113/4.1 reserved bit of HEADERS", lambda p: [p.whole(0x80000001)], answered()),
    Case("rfc9113/5.1 closed: WINDOW_UPDATE", lambda p: [p.whole(), "ended 1", p.window(1)], ALIVE),
    Case("rfc9113/5.1 closed: RST_STREAM", lambda p: [p.whole(), "ended 1", p.reset()], ALIVE),
    Case("rfc9113/5.1.1 highest stream", lambda p: [p.whole(MAX_ID)], answered(MAX_ID)),
    Case(
        "rfc9113/6.2 HEADERS too short for their priority",
        raw(frames.HEADERS, frames.END_HEADERS | frames.PRIORITY_FLAG, 1, bytes(4)),
        connection_error(SIZE),
    ),
    Case("rfc9113/6.8 GOAWAY of 7 bytes", raw(frames.GOAWAY, 0, 0, bytes(7)), connection_error(SIZE)),
    # Whether the PING gets there before the server closes is a matter of time.
    Case(
        "rfc9113/6.8 GOAWAY lets a stream finish",
        lambda p: [p.head(), goaway_frame(0), p.rest(), "ended 1"],
        either(
            outcome({"ended 1"}, {"status 1", "ended 1", "closed"}),
            outcome({"ended 1"}, {"status 1", "ended 1", "alive"}),
            outcome({"ended 1"}, {"status 1", "ended 1", "alive", "closed"}),
        ),
    ),
    Case(
        "rfc9113/6.9 reserved bit of WINDOW_UPDATE",
        raw(frames.WINDOW_UPDATE, 0, 0, frames.pack_u32(0x80000001)),
        ALIVE,
    ),
    Case(
        "rfc9113/6.9.2 INITIAL_WINDOW_SIZE lifts an open stream above 2^31-1",
        lambda p: [p.head(), p.window(frames.MAX_WINDOW - frames.DEFAULT_WINDOW), window_of(65536)],
        connection_error(FLOW),
    ),
    Case(
        "rfc9113/8.1 pseudo-header in trailers that end",
        lambda p: [p.head(), p.data(end=False), p.trailers((b":method", b"POST"))],
        stream_error(PROTOCOL),
    ),
    *(
        Case(f"rfc9113/{section} {what}", request_with(*more), stream_error(PROTOCOL))
        for section, what, more in (
            ("8.1.1", "content-length of more than comes", [(b"content-length", b"999")]),
            ("8.1.1", "content-length that is no number", [(b"content-length", b"-1")]),
            ("8.1.1", "two content-lengths", [(b"content-length", b"1"), (b"content-length", b"2")]),
            ("8.2.1", "line feed in a value", [(b"x-test", b"o\nk")]),
            ("8.2.1", "NUL in a value", [(b"x-test", b"o\0k")]),
            ("8.2.1", "space before a value", [(b"x-test", b" ok")]),
            ("8.2.1", "tab after a value", [(b"x-test", b"ok\t")]),
            ("8.2.1", "space in a name", [(b"x test", b"ok")]),
            ("8.2.1", "colon in a name", [(b"x:test", b"ok")]),
            ("8.2.1", "empty name", [(b"", b"ok")]),
            ("8.2.2", "keep-alive", [(b"keep-alive", b"1")]),
            ("8.2.2", "proxy-connection", [(b"proxy-connection", b"close")]),
            ("8.2.2", "transfer-encoding", [(b"transfer-encoding", b"chunked")]),
            ("8.2.2", "upgrade", [(b"upgrade", b"h2c")]),
        )
    ),
]


def response_with(*more: Field, first: Iterable[Field] = (), without: bytes = b"") -> Play:
    """A response with some header fields more at its end or beginning, or one less."""
    return lambda p: [
        p.head([*first, *(each for each in p.fields() if each[0] != without), *more], end=False),
        p.rest(),
    ]


def trailers_with(*fields: Field, end: bool = True) -> Play:
    """A response with other trailers."""
    return lambda p: [p.head(), p.data(end=False), p.trailers(*fields, end=end)]


CLIENT: list[ClientCase] = [
    broken(
        "rfc9113/5.3.1 PRIORITY, dependent on itself, idle",
        lambda p: [p.priority(stream=2, on=2)],
        connection_error(PROTOCOL),
    ),
    reset("rfc9113/5.3.1 HEADERS, dependent on itself", prioritised(1), stream_error(PROTOCOL)),
    ClientCase(
        "rfc9113/6.1 padded DATA",
        lambda p: [
            p.head(),
            frame(frames.DATA, frames.PADDED, 1, b"\x06" + p.dialect.data + b"padded"),
            p.trailers(),
        ],
        ALIVE,
    ),
    ClientCase("rfc9113/6.2 padded HEADERS", padded(lambda length: 8, bytes(8)), ALIVE),
    ClientCase("rfc9113/6.2 HEADERS with priority", prioritised(0), ALIVE),
    ClientCase("rfc9113/6.3 PRIORITY", lambda p: [p.priority(), p.whole(), p.priority()], ALIVE),
    broken(
        "rfc9113/6.5.2 ENABLE_PUSH 1 from a server",
        setting(Setting.ENABLE_PUSH, 1),
        connection_error(PROTOCOL),
    ),
    broken("rfc9113/6.5.2 ENABLE_PUSH 2", setting(Setting.ENABLE_PUSH, 2), connection_error(PROTOCOL)),
    ClientCase(
        "rfc9113/6.5 SETTINGS",
        lambda p: [settings_frame((1, 4096), (3, 100), (4, 65535), (5, 16384), (6, 100))],
        ACK,
    ),
    broken("rfc9113/6.8 GOAWAY of 7 bytes", raw(frames.GOAWAY, 0, 0, bytes(7)), connection_error(SIZE)),
    ClientCase(
        "rfc9113/6.8 GOAWAY, then the answer",
        lambda p: [goaway_frame(1), p.whole()],
        either(outcome({"closed"}, {"closed"}), ALIVE),
    ),
    broken(
        "rfc9113/6.8 GOAWAY that rises",
        lambda p: [goaway_frame(1), goaway_frame(3)],
        connection_error(PROTOCOL),
    ),
    ClientCase("rfc9113/6.9 WINDOW_UPDATE, connection", lambda p: [p.window(1, stream=0)], ALIVE),
    ClientCase("rfc9113/6.9 WINDOW_UPDATE, closed", lambda p: [p.whole(), p.window(1)], ALIVE),
    ClientCase("rfc9113/6.10 two CONTINUATION, one byte in front", in_pieces(1, 2), ALIVE),
    ClientCase(
        "rfc9113/7 GOAWAY, unknown code",
        lambda p: [goaway_frame(1, 0xFF), p.whole()],
        either(outcome({"closed"}, {"closed"}), ALIVE),
    ),
    ClientCase("rfc9113/7 RST_STREAM, unknown code", lambda p: [p.reset(0xFF)], ALIVE, code="INTERNAL"),
    ClientCase(
        "rfc9113/8.1 informational response",
        lambda p: [p.head([(b":status", b"103")], end=False), p.whole()],
        ALIVE,
    ),
    reset(
        "rfc9113/8.1 informational response that ends",
        lambda p: [p.head([(b":status", b"103")], end=True)],
        stream_error(PROTOCOL),
    ),
    reset("rfc9113/8.1 DATA before HEADERS", lambda p: [p.data()], stream_error(PROTOCOL)),
    reset(
        "rfc9113/8.1 trailers without END_STREAM",
        trailers_with((b"grpc-status", b"0"), end=False),
        stream_error(PROTOCOL),
    ),
    reset(
        "rfc9113/8.1 pseudo-header in trailers",
        trailers_with((b":status", b"200"), (b"grpc-status", b"0")),
        stream_error(PROTOCOL),
    ),
    reset(
        "rfc9113/8.1.1 content-length 1, one DATA of more",
        response_with((b"content-length", b"1")),
        stream_error(PROTOCOL),
    ),
    reset(
        "rfc9113/8.1.1 content-length of more than came",
        response_with((b"content-length", b"999")),
        stream_error(PROTOCOL),
    ),
    reset(
        "rfc9113/8.1.1 two content-lengths",
        response_with((b"content-length", b"1"), (b"content-length", b"2")),
        stream_error(PROTOCOL),
    ),
    reset("rfc9113/8.2.1 upper case", response_with((b"X-TEST", b"ok")), stream_error(PROTOCOL)),
    reset("rfc9113/8.2.1 line feed in a value", response_with((b"x-test", b"o\nk")), stream_error(PROTOCOL)),
    reset("rfc9113/8.2.1 space around a value", response_with((b"x-test", b" ok")), stream_error(PROTOCOL)),
    reset("rfc9113/8.2.1 space in a name", response_with((b"x test", b"ok")), stream_error(PROTOCOL)),
    reset("rfc9113/8.2.2 connection", response_with((b"connection", b"keep-alive")), stream_error(PROTOCOL)),
    reset(
        "rfc9113/8.2.2 te in a response", response_with((b"te", b"trailers, deflate")), stream_error(PROTOCOL)
    ),
    reset(
        "rfc9113/8.2.2 te: trailers in a response",
        response_with((b"te", b"trailers")),
        stream_error(PROTOCOL),
    ),
    reset(
        "rfc9113/8.3 unknown pseudo-header", response_with(first=[(b":test", b"ok")]), stream_error(PROTOCOL)
    ),
    reset("rfc9113/8.3 :path in a response", response_with(first=[(b":path", b"/")]), stream_error(PROTOCOL)),
    reset(
        "rfc9113/8.3 pseudo-header after a field",
        response_with(first=[(b"x-test", b"ok")]),
        stream_error(PROTOCOL),
    ),
    reset("rfc9113/8.3 :status twice", response_with(first=[(b":status", b"200")]), stream_error(PROTOCOL)),
    reset("rfc9113/8.3.2 no :status", response_with(without=b":status"), stream_error(PROTOCOL)),
    reset(
        "rfc9113/8.3.2 :status of two digits",
        response_with(without=b":status", first=[(b":status", b"20")]),
        stream_error(PROTOCOL),
    ),
    broken(
        "rfc9113/8.4 PUSH_PROMISE",
        lambda p: [frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, frames.pack_u32(2) + p.block())],
        connection_error(PROTOCOL),
    ),
    *(
        broken(f"rfc7541/{section}", play, connection_error(COMPRESSION))
        for section, play in (
            ("2.3.3 index past the table", block_with(after=b"\xc6")),
            ("2.3.3 name's index past the table", block_with(after=b"\x7f\x07\x00")),
            ("4.2 table size update at the end", block_with(after=b"\x21")),
            (
                "5.2 Huffman padding of 8 bits",
                block_with(after=b"\0\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
            ),
            ("5.2 Huffman padding of zeros", block_with(after=b"\0\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90")),
            (
                "5.2 Huffman EOS",
                block_with(after=b"\0\x85\xf2\xb2\x4a\x84\xff\x87\xff\xff\xff\xfd\x25\x42\x7f"),
            ),
            ("6.1 index 0", block_with(after=b"\x80")),
            ("6.3 table size above the limit", table_of),
        )
    ),
    ClientCase("rfc7541/6.3 table size updates", block_with(before=b"\x20\x3f\xe1\x1f"), ALIVE),
]
