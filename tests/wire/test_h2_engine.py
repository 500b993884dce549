"""The reference engine at both ends and against the native one: the same exchange, whoever is where."""

from __future__ import annotations

import pytest
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.exceptions import ProtocolError

from lbkit.http2 import frames
from lbkit.http2.engine import NativeEngine
from lbkit.http2.engines import VARIABLE, engine_factory
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.hpack import Field
from lbkit.http2.reference.engine import H2Engine
from lbkit.http2.reference.private import JudgingDecoder, ReferenceConnection
from lbkit.http2.stream import CLOSED
from lbkit.limits import Limits
from tests.support.reference import BOTH, SIDES, Played, codes, joined, ours, use_h2
from tests.support.wire import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    End,
    data_frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update,
)

SMALL = Limits(stream_window=65535, connection_window=65535)
LARGE = bytes(range(256)) * 4096


# One exchange, RFC 9113 8.1 and 6.9


@SIDES
def test_unary_exchange_arrives_in_order(client: str, server: str) -> None:
    """RFC 9113 8.1."""
    pair = joined(client, server)
    stream = pair.client.open()
    assert pair.client.engine.send_data(stream, b"question", True)
    pair.pump()
    pair.answer(stream.id, b"answer")
    pair.pump()
    assert pair.server.events == [
        ("settings",),
        ("request", 1, REQUEST, False),
        ("data", 1, b"question", True),
    ]
    assert pair.client.events == [
        ("settings",),
        ("headers", 1, RESPONSE, False),
        ("data", 1, b"answer", False),
        ("headers", 1, TRAILERS, True),
    ]
    assert not pair.client.engine.streams
    assert not pair.server.engine.streams
    assert stream.state == pair.server.opened[1].state == CLOSED
    assert pair.client.engine.settings_acked
    assert pair.server.engine.settings_acked


@SIDES
@pytest.mark.parametrize("limits", [None, SMALL], ids=["wide windows", "windows of 64 KiB"])
def test_large_bodies_pass_the_windows_both_ways(client: str, server: str, limits: Limits | None) -> None:
    """RFC 9113 6.9.1."""
    pair = joined(client, server, limits)
    streams = [pair.client.open() for _ in range(3)]
    for stream in streams:
        pair.client.engine.send_data(stream, LARGE, True)
    pair.pump()
    for stream in streams:
        assert pair.server.body(stream.id) == LARGE
        pair.server.engine.send_headers(pair.server.opened[stream.id], None, RESPONSE, False)
        pair.server.engine.send_data(pair.server.opened[stream.id], LARGE, True)
    pair.pump()
    assert all(pair.client.body(stream.id) == LARGE for stream in streams)
    assert not pair.client.engine.streams


@SIDES
def test_unread_stream_stops_its_sender_only(client: str, server: str) -> None:
    """C28: the connection's window comes back on receipt, the stream's when it is read (RFC 9113 5.2)."""
    pair = joined(client, server, SMALL, greedy=False)
    stuck, other = pair.client.open(), pair.client.open()
    assert not pair.client.engine.send_data(stuck, LARGE, True)
    pair.pump()
    assert len(pair.server.body(stuck.id)) == 65535
    pair.client.engine.send_data(other, b"x" * 60_000, True)
    pair.pump()
    assert pair.server.body(other.id) == b"x" * 60_000
    while len(pair.server.body(stuck.id)) < len(LARGE):
        pair.server.engine.consumed(pair.server.opened[stuck.id], 65535)
        pair.pump()
    assert pair.client.sinks[stuck.id].writables == 1


@SIDES
def test_expected_message_comes_without_being_read(client: str, server: str) -> None:
    """The window for all of it is given at once (RFC 9113 6.9)."""
    pair = joined(client, server, SMALL, greedy=False)
    stream = pair.client.open()
    pair.pump()
    pair.server.engine.expect(pair.server.opened[1], len(LARGE))
    pair.client.engine.send_data(stream, LARGE, True)
    pair.pump()
    assert pair.server.body(1) == LARGE


@pytest.mark.parametrize("engine", BOTH)
def test_streams_are_sent_in_turn(engine: str) -> None:
    """RFC 9113 5.2.2: one stream must not wait for another's end."""
    end = Played(engine, client=True)
    end.receive(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 0)))
    for _ in range(3):
        end.engine.send_data(end.open(), b"x" * 40_000, True)
    end.receive(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 65535)))
    assert [each.stream_id for each in end.sent_kinds(frames.DATA)] == [1, 3, 5, 1]


@SIDES
def test_bytes_may_come_one_at_a_time(client: str, server: str) -> None:
    """RFC 9113 4.1: frames end where their length says, not where a read does."""
    pair = joined(client, server)
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"question", True)
    for byte in pair.client.engine.take():
        pair.server.receive(bytes((byte,)))
    pair.answer(1, b"answer")
    for byte in pair.server.engine.take():
        pair.client.receive(bytes((byte,)))
    assert pair.server.events[1:] == [("request", 1, REQUEST, False), ("data", 1, b"question", True)]
    assert pair.client.names(1) == ["headers", "data", "headers"]
    assert pair.client.engine.unfinished_since is None


@pytest.mark.parametrize("engine", BOTH)
def test_informational_responses_are_left_out(engine: str) -> None:
    """C9, RFC 9113 8.1."""
    end = Played(engine, client=True)
    end.open(end=True)
    for fields in ([(b":status", b"103")], RESPONSE):
        end.receive(end.headers(1, fields))
    end.receive(end.headers(1, TRAILERS, end=True))
    assert [event[2] for event in end.of("headers")] == [RESPONSE, TRAILERS]
    assert end.counters.seen["glitches"] == 1


# The end of streams, RFC 9113 5.4.2 and 6.4


@SIDES
def test_resets_reach_the_other_end(client: str, server: str) -> None:
    """RFC 9113 6.4."""
    pair = joined(client, server)
    cancelled, refused, fine = pair.client.open(), pair.client.open(), pair.client.open(end=True)
    pair.pump()
    pair.client.engine.reset(cancelled, ErrorCode.CANCEL)
    pair.server.engine.reset(pair.server.opened[refused.id], ErrorCode.REFUSED_STREAM)
    pair.pump()
    pair.client.engine.reset(cancelled, ErrorCode.CANCEL)  # harmless
    pair.client.engine.send_data(cancelled, b"late", True)
    pair.client.engine.send_headers(cancelled, None, TRAILERS, True)
    pair.answer(fine.id)
    pair.pump()
    assert [event[:3] for event in pair.server.of("reset")] == [("reset", 1, ErrorCode.CANCEL)]
    assert [event[:3] for event in pair.client.of("reset")] == [("reset", 3, ErrorCode.REFUSED_STREAM)]
    assert pair.client.names(fine.id) == ["headers", "headers"]
    assert not pair.client.faults
    assert not pair.server.faults


@pytest.mark.parametrize("engine", BOTH)
def test_frames_for_a_stream_that_was_reset_are_dropped_and_their_window_given_back(engine: str) -> None:
    """S24, RFC 9113 5.1; h2 alone answers each of them with RST_STREAM."""
    end = Played(engine, client=False, limits=SMALL)
    end.receive(end.headers(1))
    end.engine.reset(end.opened[1], ErrorCode.CANCEL)
    end.engine.take()
    given = 0
    for _ in range(8):  # twice the connection's window
        end.receive(data_frame(1, bytes(16_000)) + end.headers(1, TRAILERS, end=True))
        sent = end.sent()
        assert frames.RST_STREAM not in {each.kind for each in sent}
        given += sum(
            int.from_bytes(each.payload, "big")
            for each in sent
            if (each.kind, each.stream_id) == (frames.WINDOW_UPDATE, 0)
        )
    assert given >= 8 * 16_000 - 65535 // 4
    end.receive(window_update(1, 1) + reset_frame(1, 0) + end.headers(3, end=True))
    assert end.of("request")[-1][1] == 3
    assert not end.faults


@pytest.mark.parametrize("engine", BOTH)
def test_late_frames_are_judged_by_how_their_stream_ended(engine: str) -> None:
    """RFC 9113 5.1, "closed"."""
    end = Played(engine, client=False)
    end.receive(end.headers(1) + reset_frame(1, ErrorCode.CANCEL))
    end.receive(data_frame(1, b"late"))
    assert codes(end) == [ErrorCode.STREAM_CLOSED]
    end.receive(end.headers(3, end=True))
    end.engine.send_headers(end.opened[3], None, (*RESPONSE, *TRAILERS), True)
    end.receive(data_frame(3, b"late"))
    assert [fault.code for fault in end.faults] == [ErrorCode.STREAM_CLOSED]


@pytest.mark.parametrize("engine", BOTH)
def test_stream_that_was_never_sent_is_not_reset_on_the_wire(engine: str) -> None:
    """RFC 9113 6.4: RST_STREAM must not be sent for an idle stream."""
    end = Played(engine, client=True)
    stream = end.open()
    end.engine.take()
    end.engine.reset(stream, ErrorCode.CANCEL)
    assert codes(end) == [ErrorCode.CANCEL]
    if engine == "h2":
        unsent = end.engine.open(end.sinks[1])
        end.engine.reset(unsent, ErrorCode.CANCEL)
        assert end.sent() == []


# More streams than allowed, RFC 9113 5.1.2


@SIDES
def test_streams_above_the_limit_are_refused_one_by_one(client: str, server: str) -> None:
    """S27; for h2 alone the first of them is the end of the connection."""
    pair = joined(client, server, Limits(max_concurrent_streams=2))
    assert pair.client.engine.max_streams == 2
    for _ in range(4):
        pair.client.open(end=True)
    pair.pump()
    assert [event[1:3] for event in pair.client.of("reset")] == [
        (5, ErrorCode.REFUSED_STREAM),
        (7, ErrorCode.REFUSED_STREAM),
    ]
    for stream_id in (1, 3):
        pair.answer(stream_id)
    pair.client.open(end=True)
    pair.pump()
    assert [event[1] for event in pair.server.of("request")] == [1, 3, 9]
    assert not pair.server.faults


@pytest.mark.parametrize("engine", BOTH)
def test_handlers_that_still_run_count_as_open_streams(engine: str) -> None:
    """S1, CVE-2023-44487."""
    end = Played(engine, client=False, limits=Limits(max_concurrent_streams=2))
    end.engine.held = 2
    end.receive(end.headers(1, end=True))
    assert codes(end) == [ErrorCode.REFUSED_STREAM]
    end.engine.held = 1
    end.receive(end.headers(3, end=True))
    assert [event[1] for event in end.of("request")] == [3]
    assert end.counters.exceeded["max_concurrent_streams"] == 1


# GOAWAY, RFC 9113 6.8


@SIDES
def test_streams_outlive_both_goaways(client: str, server: str) -> None:
    """C18; for h2 alone every frame after a GOAWAY is an error."""
    pair = joined(client, server)
    early = pair.client.open()
    pair.pump()
    pair.server.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
    pair.server.engine.ping(b"drained?")
    late = pair.client.open(end=True)  # on its way while the GOAWAY is
    pair.pump()
    assert pair.server.of("pong") == [("pong", b"drained?")]
    pair.server.engine.goaway(None, ErrorCode.NO_ERROR, b"graceful_stop")
    pair.client.engine.goaway(None, ErrorCode.NO_ERROR)
    pair.pump()
    assert [event[1] for event in pair.client.of("goaway")] == [frames.MAX_STREAM_ID, late.id]
    assert pair.client.of("goaway")[1][3] == b"graceful_stop"
    pair.client.engine.send_data(early, LARGE, True)
    pair.pump()
    for stream in (early, late):
        pair.answer(stream.id, b"answer")
    pair.pump()
    assert pair.server.body(early.id) == LARGE
    assert pair.client.body(early.id) == pair.client.body(late.id) == b"answer"
    assert not pair.client.engine.streams
    assert pair.client.of("reset") == []


@SIDES
def test_connection_without_a_stream_outlives_goaway_too(client: str, server: str) -> None:
    """RFC 9113 6.8: what was on its way is served."""
    pair = joined(client, server)
    pair.server.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
    pair.server.engine.ping(b"drained?")
    pair.client.open(end=True)
    pair.pump()
    pair.answer(1)
    pair.pump()
    assert pair.server.of("pong") == [("pong", b"drained?")]
    assert pair.client.names(1) == ["headers", "headers"]


@SIDES
def test_streams_above_the_last_id_are_refused_at_both_ends(client: str, server: str) -> None:
    """C17."""
    pair = joined(client, server)
    pair.client.open(end=True)
    pair.pump()
    pair.server.engine.goaway(None, ErrorCode.NO_ERROR)
    crossing = pair.client.open(end=True)
    pair.server.receive(pair.client.engine.take())
    assert [event[1] for event in pair.server.of("request")] == [1]
    pair.client.receive(pair.server.engine.take())
    assert [event[1:3] for event in pair.client.of("reset")] == [(crossing.id, ErrorCode.REFUSED_STREAM)]
    pair.answer(1)
    pair.pump()
    assert [event[1] for event in pair.client.of("headers")] == [1, 1]


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(("first", "second"), [(3, 5), (5, 4)], ids=["risen", "even"])
def test_wrong_last_id_is_a_fault(engine: str, first: int, second: int) -> None:
    """C19."""
    end = Played(engine, client=True)
    end.receive(goaway_frame(first) + goaway_frame(second))
    assert [fault.code for fault in end.faults] == [ErrorCode.PROTOCOL_ERROR]


@pytest.mark.parametrize("engine", BOTH)
def test_frames_for_a_refused_stream_are_dropped(engine: str) -> None:
    """RFC 9113 6.8: what its peer had sent before GOAWAY."""
    end = Played(engine, client=True)
    end.open()
    end.receive(goaway_frame(0))
    end.receive(window_update(1, frames.MAX_WINDOW) + reset_frame(1, 0))
    assert [event[0] for event in end.events] == ["goaway", "reset"]
    assert not end.faults


@pytest.mark.parametrize("engine", BOTH)
def test_lost_connection_is_told_to_every_open_stream(engine: str) -> None:
    end = Played(engine, client=True)
    end.open()
    end.open()
    end.engine.lost("cut")
    end.receive(end.headers(1, RESPONSE))
    assert end.events == [("lost", 1, "cut"), ("lost", 3, "cut")]


# The beginning, RFC 9113 3.4


def test_servers_settings_wait_for_the_clients_preface() -> None:
    """RFC 9113 3.4."""
    end = End(client=False)
    use_h2(end)
    end.receive(frames.PREFACE[:-1])
    assert end.engine.take() == b""
    end.receive(frames.PREFACE[-1:])
    first, *_ = end.sent()
    assert (first.kind, first.flags) == (frames.SETTINGS, 0)
    end.receive(settings_frame())
    assert [(each.kind, each.flags) for each in end.sent()] == [(frames.SETTINGS, frames.ACK)]


@pytest.mark.parametrize("engine", BOTH)
def test_settings_come_before_an_early_goaway(engine: str) -> None:
    """RFC 9113 3.4: a server that stops before its client has said anything."""
    end = End(client=False)
    if engine == "h2":
        use_h2(end)
    end.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
    end.receive(frames.PREFACE + settings_frame())
    first, *_ = end.sent()
    assert (first.kind, first.flags) == (frames.SETTINGS, 0)


@pytest.mark.parametrize(
    "opening", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", frames.PREFACE + bytes(9)]
)
def test_strangers_get_the_same_answer_from_both_engines(opening: bytes) -> None:
    """S16, S17, RFC 9113 3.4."""
    said = []
    for engine in BOTH:
        end = End(client=False)
        if engine == "h2":
            use_h2(end)
        end.receive(opening)
        (fault,) = end.faults
        said.append((str(fault), [each for each in (end.engine.take(),) if each.startswith(b"HTTP/1.1")]))
    assert said[0] == said[1]


def test_push_is_off_and_our_limits_are_announced() -> None:
    """RFC 9113 6.5.2, 8.4."""
    said = []
    for client in (True, False):
        end = End(client=client)
        use_h2(end)
        if not client:
            end.receive(frames.PREFACE)
        (payload,) = [each.payload for each in end.sent_kinds(frames.SETTINGS)]
        said.append(dict(frames.unpack_setting(payload, at) for at in range(0, len(payload), 6)))
    assert said[0][frames.Setting.ENABLE_PUSH] == 0
    assert said[1][frames.Setting.MAX_CONCURRENT_STREAMS] == Limits().max_concurrent_streams
    assert said[0][frames.Setting.INITIAL_WINDOW_SIZE] == Limits().stream_window
    end = Played("h2", client=True)
    end.open(end=True)
    end.receive(frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes((0, 0, 0, 2)) + end.block(REQUEST)))
    assert [fault.code for fault in end.faults] == [ErrorCode.PROTOCOL_ERROR]


# Memory


@pytest.mark.parametrize("engine", BOTH)
def test_answers_that_nobody_reads_are_counted(engine: str) -> None:
    """S4, CVE-2019-9512: the layer above acts on it."""
    end = Played(engine, client=True, limits=Limits(pings_burst=5000))
    end.receive(frame(frames.PING, 0, 0, bytes(8)) * 1001)
    assert end.engine.queued_control == 1001


def test_queue_is_bounded_and_counted() -> None:
    """S10: what waits for the socket; ``take`` makes room for more."""
    end = Played("h2", client=True, limits=Limits(send_buffer=50_000))
    end.receive(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 1 << 24)) + window_update(0, 1 << 24))
    stream = end.open()
    end.engine.take()
    assert not end.engine.send_data(stream, LARGE, True)
    body = b""
    while queued := end.engine.queued_bytes:
        assert queued <= 50_000 + 16_384 + 9
        count = end.engine.queued_frames
        sent = end.sent()
        assert sum(len(each.payload) + 9 for each in sent) == queued
        assert len(sent) == count
        body += b"".join(each.payload for each in sent)
    assert body == LARGE
    assert end.sinks[1].writables == 1


def test_memory_of_closed_streams_is_bounded() -> None:
    """h2 alone keeps 65,536 of them, 11 MB to a connection."""
    end = Played("h2", client=False)
    for stream_id in range(1, 2001, 2):
        end.receive(end.headers(stream_id, end=True))
        end.engine.send_headers(end.opened[stream_id], None, (*RESPONSE, *TRAILERS), True)
        end.engine.take()
    connection = ours(end)._h2
    assert len(connection._closed_streams) <= ReferenceConnection.MAX_CLOSED_STREAMS
    assert len(connection.streams) <= 1
    assert not end.engine.streams


def test_secrets_are_never_indexed() -> None:
    """RFC 7541 7.1.3."""
    end = Played("h2", client=True)
    end.open((*REQUEST, (b"authorization", b"s3cr3t")), end=True)
    (sent,) = end.sent_kinds(frames.HEADERS)
    assert (b"authorization", b"s3cr3t") in end.decode(sent.payload)
    assert b"s3cr3t" not in str(ours(end)._h2.encoder.header_table.dynamic_entries).encode()


def test_peer_cannot_make_our_compression_table_large() -> None:
    """RFC 9113 6.5.2 lets it offer any size; it is our memory."""
    end = Played("h2", client=True)
    end.receive(settings_frame((frames.Setting.HEADER_TABLE_SIZE, 1 << 24)))
    assert ours(end)._h2.encoder.header_table_size == 4096


TABLE_SIZES = {0: b"\x20", 64: b"\x3f\x21"}  # and how they are announced (RFC 7541 6.3)


@pytest.mark.parametrize("size", TABLE_SIZES)
def test_smaller_compression_table_is_announced(size: int) -> None:
    """RFC 7541 4.2 asks for it at the beginning of the next block; nghttp2 ends the connection where it is missing."""
    end = Played("h2", client=True)
    end.receive(settings_frame((frames.Setting.HEADER_TABLE_SIZE, size)))
    end.open(REQUEST, end=True)
    (sent,) = end.sent_kinds(frames.HEADERS)
    assert sent.payload.startswith(TABLE_SIZES[size])


# What h2 must go on being like


def test_h2_still_closes_the_connection_at_goaway() -> None:
    """If this fails, python-hyper/h2#1181 is mended, and ``_OUTLIVING_GOAWAY`` has had its day."""
    table = H2ConnectionStateMachine._transitions
    for state in (ConnectionState.IDLE, ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN):
        for event in (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY):
            assert table[state, event] == (None, ConnectionState.CLOSED)
    assert {state for state, _ in table} == set(ConnectionState)


def test_only_our_connections_outlive_goaway() -> None:
    use_h2(End(client=True))
    plain = H2Connection()
    assert plain.state_machine._transitions is H2ConnectionStateMachine._transitions
    plain.initiate_connection()
    plain.close_connection()
    with pytest.raises(ProtocolError):
        plain.ping(bytes(8))


def test_h2_has_the_parts_that_we_use() -> None:
    """See lbkit/http2/reference/private.py for what for."""
    blocks: list[tuple[Field, ...]] = []

    def judge(fields: tuple[Field, ...]) -> list[Field]:
        blocks.append(fields)
        raise KeyError

    connection = ReferenceConnection(
        JudgingDecoder(1000, pytest.fail, judge), client=False, max_frame_size=16_384
    )
    connection.initiate_connection()
    connection.receive_data(frames.PREFACE + settings_frame())
    with pytest.raises(KeyError):  # comes through, and h2 has done nothing about the frame
        connection.receive_data(frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x83"))
    assert blocks == [((b":method", b"POST"),)]
    assert not connection.streams
    assert connection.state_machine.state is ConnectionState.IDLE
    assert connection.receive_data(frame(frames.PING, 0, 0, bytes(8)))
    before = connection.inbound_flow_control_window
    connection.discard(1000)
    assert connection.inbound_flow_control_window == before - 1000
    assert len(H2Connection()._closed_streams) == 0


@pytest.mark.parametrize(("name", "kind"), [("h2", H2Engine), ("native", NativeEngine)])
def test_engine_is_chosen_by_name_or_environment(
    name: str, kind: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_factory(name) is kind
    monkeypatch.setenv(VARIABLE, name)
    assert engine_factory() is kind
