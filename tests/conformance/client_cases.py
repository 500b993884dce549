"""The cases for clients: h2spec's suite ``client``, of ``h2specd``.

The peer is a server here. Each case begins when a whole request has come.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbkit.http2 import frames
from lbkit.http2.frames import Setting, frame
from tests.conformance.cases import (
    ALIVE,
    CASE_DATA,
    COMPRESSION,
    FLOW,
    PING,
    PROTOCOL,
    SIZE,
    STREAM_CLOSED,
    UNASKED_PING,
    Case,
    Outcome,
    Play,
    connection_error,
    outcome,
    stream_error,
)
from tests.conformance.plays import padded, raw, setting

MAX_WINDOW = frames.MAX_WINDOW
PONG = outcome({f"pong {PING!r}"}, {f"pong {PING!r}", "alive"})
ACK = outcome({"settings ack"}, {"settings ack", "alive"})


@dataclass(frozen=True)
class ClientCase(Case):
    """A case for a client.

    Attributes:
        code: the status that a gRPC call ends with, if the case lets it live when it gets a good answer afterwards.
    """

    code: str = "OK"


def broken(id: str, play: Play, wanted: Outcome) -> ClientCase:
    """A case that ends the connection before the answer."""
    return ClientCase(id, play, wanted, code="UNAVAILABLE")


def reset(id: str, play: Play, wanted: Outcome) -> ClientCase:
    """A case that resets the stream, for what the server did."""
    return ClientCase(id, play, wanted, code="INTERNAL")


H2SPEC: list[ClientCase] = [
    ClientCase("client/1/1 preface", lambda p: [p.whole()], ALIVE),
    ClientCase("client/4.1/1 unknown frame type", raw(0x16, 0, 0, bytes(8)), ALIVE),
    ClientCase("client/4.1/2 unknown flags", raw(frames.PING, 0x16, 0, PING), PONG),
    ClientCase("client/4.1/3 reserved bit", raw(frames.PING, 0x16, 0x80000000, PING), PONG),
    ClientCase(
        "client/4.2/1 DATA of 16384",
        lambda p: [p.head(end=False), p.data(b"x" * p.max_frame)],
        # 16 KiB that are no gRPC message: the whole frame was taken, and refused as what it carries.
        outcome({"alive"}, {"alive"}, {"reset 1 CANCEL", "alive"}),
        code="INTERNAL",
    ),
    broken(
        "client/4.2/2 DATA of 16385",
        lambda p: [p.head(end=False), p.data(b"x" * (p.max_frame + 1))],
        stream_error(SIZE),
    ),
    broken(
        "client/4.2/3 HEADERS of more than 16384",
        lambda p: [p.head(block=p.block() + p.long(5))],
        connection_error(SIZE),
    ),
    broken("client/4.3/1 block cut short", raw(frames.HEADERS, 5, 1, b"\x40"), connection_error(COMPRESSION)),
    broken("client/5.1/1 idle: DATA", lambda p: [p.data(CASE_DATA, stream=2)], connection_error(PROTOCOL)),
    broken("client/5.1/2 idle: RST_STREAM", lambda p: [p.reset(stream=2)], connection_error(PROTOCOL)),
    broken(
        "client/5.1/3 idle: WINDOW_UPDATE", lambda p: [p.window(100, stream=2)], connection_error(PROTOCOL)
    ),
    broken(
        "client/5.1/4 idle: CONTINUATION", lambda p: [p.more(p.block(), stream=2)], connection_error(PROTOCOL)
    ),
    ClientCase(
        "client/5.1/5 closed: DATA after RST_STREAM",
        lambda p: [p.head(end=False), p.reset(), p.data(CASE_DATA)],
        stream_error(STREAM_CLOSED),
        code="CANCELLED",
    ),
    ClientCase(
        "client/5.1/6 closed: HEADERS after RST_STREAM",
        lambda p: [p.head(end=False), p.reset(), p.head(end=True)],
        stream_error(STREAM_CLOSED),
        code="CANCELLED",
    ),
    ClientCase(
        "client/5.1/7 closed: CONTINUATION after RST_STREAM",
        lambda p: [p.head(end=False), p.reset(), p.more(p.long())],
        connection_error(PROTOCOL, STREAM_CLOSED),
        code="CANCELLED",
    ),
    ClientCase(
        "client/5.1/8 closed: DATA", lambda p: [p.whole(), p.data(CASE_DATA)], connection_error(STREAM_CLOSED)
    ),
    ClientCase(
        "client/5.1/9 closed: HEADERS",
        lambda p: [p.whole(), p.head(end=True)],
        connection_error(STREAM_CLOSED),
    ),
    ClientCase(
        "client/5.1/10 closed: CONTINUATION",
        lambda p: [p.whole(), p.more(p.long())],
        connection_error(PROTOCOL, STREAM_CLOSED),
    ),
    broken(
        "client/5.1.1/1 stream that nobody opened",
        lambda p: [p.head(stream=101, end=True)],
        connection_error(PROTOCOL),
    ),
    broken("client/5.4.1/1 faulty PING: end", raw(frames.PING, 0, 3, bytes(8)), connection_error(PROTOCOL)),
    broken(
        "client/5.4.1/2 faulty PING: GOAWAY first",
        raw(frames.PING, 0, 3, bytes(8)),
        outcome({"goaway PROTOCOL_ERROR"}, {"goaway PROTOCOL_ERROR", "closed"}),
    ),
    ClientCase("client/5.5/1 extension frame", raw(0x16, 0, 0, bytes(8)), ALIVE),
    broken(
        "client/6.1/1 DATA on stream 0", lambda p: [p.data(CASE_DATA, stream=0)], connection_error(PROTOCOL)
    ),
    ClientCase(
        "client/6.1/2 DATA, closed", lambda p: [p.whole(), p.data(CASE_DATA)], connection_error(STREAM_CLOSED)
    ),
    broken(
        "client/6.1/3 DATA padded too long",
        lambda p: [
            p.head(p.fields((b"content-length", b"4")), end=False),
            frame(frames.DATA, 9, 1, b"\x06Test"),
        ],
        connection_error(PROTOCOL),
    ),
    broken(
        "client/6.2/1 PRIORITY inside a block",
        lambda p: [p.head(end=False, flags=0), p.priority(), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    broken("client/6.2/2 HEADERS on stream 0", lambda p: [p.head(stream=0)], connection_error(PROTOCOL)),
    broken(
        "client/6.2/3 HEADERS padded too long", padded(lambda length: length + 2), connection_error(PROTOCOL)
    ),
    broken("client/6.3/1 PRIORITY on stream 0", lambda p: [p.priority(stream=0)], connection_error(PROTOCOL)),
    ClientCase(
        "client/6.3/2 PRIORITY of 4 bytes",
        lambda p: [p.whole(), frame(frames.PRIORITY, 0, 1, b"\x80\0\0\1")],
        stream_error(SIZE),
    ),
    broken("client/6.4/1 RST_STREAM on stream 0", lambda p: [p.reset(stream=0)], connection_error(PROTOCOL)),
    broken("client/6.4/2 RST_STREAM, idle", lambda p: [p.reset(stream=2)], connection_error(PROTOCOL)),
    ClientCase(
        "client/6.4/3 RST_STREAM of 3 bytes",
        lambda p: [p.whole(), frame(frames.RST_STREAM, 0, 1, bytes(3))],
        connection_error(SIZE),
    ),
    broken(
        "client/6.5/1 SETTINGS ACK with a payload", raw(frames.SETTINGS, 1, 0, b"\0"), connection_error(SIZE)
    ),
    broken(
        "client/6.5/2 SETTINGS on stream 1",
        raw(frames.SETTINGS, 0, 1, b"\0\3\0\0\0\x64"),
        connection_error(PROTOCOL),
    ),
    broken(
        "client/6.5/3 SETTINGS of 3 bytes",
        raw(frames.SETTINGS, 0, 0, b"\0\3\0"),
        connection_error(SIZE, PROTOCOL),
    ),
    broken(
        "client/6.5.2/1 INITIAL_WINDOW_SIZE 2^31",
        setting(Setting.INITIAL_WINDOW_SIZE, 1 << 31),
        connection_error(FLOW),
    ),
    broken(
        "client/6.5.2/2 MAX_FRAME_SIZE 16383",
        setting(Setting.MAX_FRAME_SIZE, 16383),
        connection_error(PROTOCOL),
    ),
    broken(
        "client/6.5.2/3 MAX_FRAME_SIZE 2^24",
        setting(Setting.MAX_FRAME_SIZE, 1 << 24),
        connection_error(PROTOCOL),
    ),
    ClientCase("client/6.5.2/4 unknown setting", setting(0xFF, 1), ALIVE),
    ClientCase("client/6.5.3/1 SETTINGS are acknowledged", setting(Setting.ENABLE_PUSH, 0), ACK),
    ClientCase("client/6.7/1 PING", raw(frames.PING, 0, 0, PING), PONG),
    ClientCase(
        "client/6.7/2 PING ACK is not answered",
        lambda p: [frame(frames.PING, 1, 0, UNASKED_PING), frame(frames.PING, 0, 0, PING)],
        PONG,
    ),
    broken("client/6.7/3 PING on stream 1", raw(frames.PING, 0, 1, bytes(8)), connection_error(PROTOCOL)),
    broken("client/6.7/4 PING of 6 bytes", raw(frames.PING, 0, 0, bytes(6)), connection_error(SIZE)),
    broken("client/6.8/1 GOAWAY on stream 1", raw(frames.GOAWAY, 0, 1, bytes(8)), connection_error(PROTOCOL)),
    broken(
        "client/6.9/1 WINDOW_UPDATE 0, connection",
        lambda p: [p.window(0, stream=0)],
        connection_error(PROTOCOL),
    ),
    reset(
        "client/6.9/2 WINDOW_UPDATE 0, stream",
        lambda p: [p.head(end=False), p.window(0)],
        stream_error(PROTOCOL),
    ),
    broken(
        "client/6.9/3 WINDOW_UPDATE of 3 bytes",
        raw(frames.WINDOW_UPDATE, 0, 0, b"\0\0\1"),
        connection_error(SIZE),
    ),
    broken(
        "client/6.9.1/1 connection's window above 2^31-1",
        lambda p: [p.window(MAX_WINDOW, stream=0) * 2],
        outcome({"goaway FLOW_CONTROL_ERROR"}, {"goaway FLOW_CONTROL_ERROR", "closed"}),
    ),
    reset(
        "client/6.9.1/2 stream's window above 2^31-1",
        lambda p: [p.head(end=False), p.window(MAX_WINDOW) * 2],
        outcome({"any reset FLOW_CONTROL_ERROR"}, {"reset 1 FLOW_CONTROL_ERROR", "alive"}),
    ),
    ClientCase(
        "client/6.10/1 two CONTINUATION",
        lambda p: [p.head(flags=0), p.more(p.long(), end=False), p.more(p.long()), p.rest()],
        ALIVE,
    ),
    broken(
        "client/6.10/2 DATA inside a block",
        lambda p: [p.head(end=False, flags=0), p.more(p.long(), end=False), p.data()],
        connection_error(PROTOCOL),
    ),
    broken(
        "client/6.10/3 CONTINUATION on stream 0",
        lambda p: [p.head(end=True, flags=0), p.more(p.long(), stream=0)],
        connection_error(PROTOCOL),
    ),
    ClientCase(
        "client/6.10/4 CONTINUATION after END_HEADERS",
        lambda p: [p.whole(), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    broken(
        "client/6.10/5 CONTINUATION after the last CONTINUATION",
        lambda p: [p.head(end=False, flags=0), p.more(p.long()), p.more(p.long())],
        connection_error(PROTOCOL),
    ),
    broken(
        "client/6.10/6 CONTINUATION after DATA",
        lambda p: [p.head(end=False, flags=0), p.data(), p.more(p.long(), end=False)],
        connection_error(PROTOCOL),
    ),
]
