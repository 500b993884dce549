"""Two engines joined without I/O: a unary exchange, flow control at both levels, limits, and the end of connections."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.http2.stream import CLOSED
from lbkit.limits import Limits
from tests.support.wire import REQUEST, RESPONSE, TRAILERS, End, Event, Pair, window_update

SMALL = Limits(stream_window=65535, connection_window=65535)
MEGABYTES = bytes(range(256)) * (3 * 4096)


def exchange(pair: Pair, body: bytes = b"question") -> int:
    stream = pair.client.open()
    pair.client.engine.send_data(stream, body, True)
    pair.pump()
    pair.answer(stream.id, b"answer")
    pair.pump()
    return stream.id


# A unary exchange


def test_handshake_tells_both_sides_settings_once() -> None:
    pair = Pair()
    assert pair.client.events == [("settings",)]
    assert pair.server.events == [("settings",)]
    assert pair.client.engine.max_streams == Limits().max_concurrent_streams


def test_unary_exchange_arrives_in_order() -> None:
    pair = Pair()
    number = exchange(pair)
    assert pair.server.events[1:] == [
        ("request", number, REQUEST, False),
        ("data", number, b"question", True),
    ]
    assert pair.client.events[1:] == [
        ("headers", number, RESPONSE, False),
        ("data", number, b"answer", False),
        ("headers", number, TRAILERS, True),
    ]


def test_streams_are_forgotten_after_both_ends() -> None:
    pair = Pair()
    number = exchange(pair)
    assert not pair.client.engine.streams
    assert not pair.server.engine.streams
    assert pair.client.opened[number].state == pair.server.opened[number].state == CLOSED


def test_client_streams_are_odd_and_rise() -> None:
    pair = Pair()
    assert [pair.client.open().id for _ in range(3)] == [1, 3, 5]


def test_trailers_only_answer_ends_with_its_headers() -> None:
    pair = Pair()
    stream = pair.client.open(end=True)
    pair.pump()
    pair.server.engine.send_headers(pair.server.opened[stream.id], None, (*RESPONSE, *TRAILERS), True)
    pair.pump()
    assert pair.client.events[1:] == [("headers", stream.id, (*RESPONSE, *TRAILERS), True)]


def test_empty_data_carries_the_end() -> None:
    pair = Pair()
    stream = pair.client.open()
    assert pair.client.engine.send_data(stream, b"", True)
    pair.pump()
    assert pair.server.of("data") == [("data", stream.id, b"", True)]


def test_informational_responses_are_left_out() -> None:
    pair = Pair()
    stream = pair.client.open(end=True)
    pair.pump()
    answering = pair.server.opened[stream.id]
    for status in (b"100", b"103"):
        pair.server.engine.send_headers(answering, None, ((b":status", status),), False)
    pair.answer(stream.id)
    pair.pump()
    assert pair.client.names(stream.id) == ["headers", "headers"]
    assert pair.client.events[1][2] == RESPONSE


def test_queued_bytes_is_what_take_returns() -> None:
    pair = Pair()
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"question", True)
    queued = pair.client.engine.queued_bytes
    assert queued == len(pair.client.engine.take()) > 0
    assert pair.client.engine.queued_bytes == 0
    assert pair.client.engine.take() == b""


def test_queued_frames_is_about_their_number() -> None:
    pair = Pair()
    streams = [pair.client.open() for _ in range(10)]
    for stream in streams:
        pair.client.engine.send_data(stream, b"question", True)
    assert pair.client.engine.queued_frames == 20
    pair.client.engine.take()
    assert pair.client.engine.queued_frames == 0


# Bytes may come in any pieces


def conversation() -> tuple[bytes, bytes]:
    """What the two ends of a lively connection say: the client's bytes and the server's."""
    said: tuple[list[bytes], list[bytes]] = ([], [])
    client, server = End(client=True), End(client=False)

    def carry() -> None:
        for _ in range(4):
            for speaker, listener, record in ((client, server, said[0]), (server, client, said[1])):
                record.append(speaker.engine.take())
                listener.receive(record[-1])

    carry()
    first = client.open((*REQUEST, (b"x-long", b"v" * 200)))
    client.engine.send_data(first, b"q" * 40, False)
    second = client.open()
    client.engine.send_data(second, b"", True)
    client.engine.ping(b"12345678")
    client.engine.send_data(first, b"rest", True)
    third = client.open()
    carry()
    client.engine.reset(third, ErrorCode.CANCEL)
    for stream in (second, first):
        answering = server.opened[stream.id]
        server.engine.send_headers(answering, None, RESPONSE, False)
        server.engine.send_data(answering, b"a" * 30, False)
        server.engine.send_headers(answering, None, (*TRAILERS, (b"x-more", b"w" * 60)), True)
    server.engine.goaway(None, ErrorCode.NO_ERROR, b"bye")
    carry()
    return b"".join(said[0]), b"".join(said[1])


FROM_CLIENT, FROM_SERVER = conversation()


def fresh_server() -> End:
    return End(client=False)


def fresh_client() -> End:
    """A client end whose three streams are the conversation's, for the server's answers to find."""
    end = End(client=True)
    for _ in range(3):
        end.open()
    return end


def outcome(end: End, pieces: list[bytes]) -> tuple[list[Event], bytes]:
    end.engine.take()
    for piece in pieces:
        end.receive(piece)
    return end.events, end.engine.take()


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize(("make", "data"), [(fresh_server, FROM_CLIENT), (fresh_client, FROM_SERVER)])
def test_byte_at_a_time_equals_whole(make: Callable[[], End], data: bytes) -> None:
    whole = outcome(make(), [data])
    assert len(whole[0]) > 6
    assert not [event for event in whole[0] if event[0] == "fault"]
    assert outcome(make(), [data[n : n + 1] for n in range(len(data))]) == whole


@settings(deadline=None)
@given(at=st.lists(st.integers(0, len(FROM_CLIENT)), max_size=12))
def test_any_split_of_the_clients_bytes_equals_whole(at: list[int]) -> None:
    assert outcome(fresh_server(), cut(FROM_CLIENT, at)) == outcome(fresh_server(), [FROM_CLIENT])


@settings(deadline=None)
@given(at=st.lists(st.integers(0, len(FROM_SERVER)), max_size=12))
def test_any_split_of_the_servers_bytes_equals_whole(at: list[int]) -> None:
    assert outcome(fresh_client(), cut(FROM_SERVER, at)) == outcome(fresh_client(), [FROM_SERVER])


# Flow control


def test_large_messages_pass_small_windows_both_ways() -> None:
    pair = Pair(SMALL, SMALL)
    stream = pair.client.open()
    assert not pair.client.engine.send_data(stream, MEGABYTES, True)
    pair.pump()
    assert pair.server.body(stream.id) == MEGABYTES
    assert pair.client.sinks[stream.id].writables == 1

    answering = pair.server.opened[stream.id]
    pair.server.engine.send_headers(answering, None, RESPONSE, False)
    assert not pair.server.engine.send_data(answering, MEGABYTES, False)
    pair.pump()
    pair.server.engine.send_headers(answering, None, TRAILERS, True)
    pair.pump()
    assert pair.client.body(stream.id) == MEGABYTES
    assert pair.client.events[-1] == ("headers", stream.id, TRAILERS, True)


def test_no_frame_is_longer_than_the_peer_takes() -> None:
    pair = Pair()
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 50_000, True)
    assert [len(each.payload) for each in pair.client.sent_kinds(frames.DATA)] == [16384, 16384, 16384, 848]


def test_sender_stops_at_the_streams_window() -> None:
    pair = Pair(server=Limits(stream_window=70_000), greedy=False)
    stream = pair.client.open()
    pair.client.engine.send_data(stream, MEGABYTES, True)
    pair.pump()
    assert len(pair.server.body(stream.id)) == 70_000


def test_sender_stops_at_the_connections_window() -> None:
    pair = Pair(server=Limits(stream_window=1_000_000, connection_window=65535))
    first, second = pair.client.open(), pair.client.open()
    for stream in (first, second):
        pair.client.engine.send_data(stream, MEGABYTES, True)
    sent = sum(len(each.payload) for each in pair.client.sent_kinds(frames.DATA))
    assert sent == 65535


def test_blocked_stream_resumes_when_its_data_is_consumed() -> None:
    pair = Pair(server=SMALL, greedy=False)
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 100_000, True)
    pair.pump()
    assert len(pair.server.body(stream.id)) == 65535
    pair.server.engine.consumed(pair.server.opened[stream.id], 65535)
    pair.pump()
    assert len(pair.server.body(stream.id)) == 100_000
    assert pair.server.events[-1][-1] is True


def test_a_stream_nobody_reads_stops_no_other() -> None:
    pair = Pair(server=SMALL, greedy=False)
    stuck = pair.client.open()
    pair.client.engine.send_data(stuck, MEGABYTES, True)
    pair.pump()
    other = pair.client.open()
    pair.client.engine.send_data(other, b"y" * 60_000, True)
    pair.pump()
    assert len(pair.server.body(other.id)) == 60_000
    assert len(pair.server.body(stuck.id)) == 65535


def test_blocked_streams_take_turns_frame_by_frame() -> None:
    pair = Pair(server=Limits(stream_window=65535, connection_window=65535), shake=True)
    hog = pair.client.open()
    pair.client.engine.send_data(hog, b"x" * 65535, True)  # the connection's window is used up
    first, second = pair.client.open(), pair.client.open()
    pair.client.engine.send_data(first, b"1" * 49152, True)
    pair.client.engine.send_data(second, b"2" * 49152, True)
    pair.client.engine.take()
    pair.client.receive(frames.frame(frames.WINDOW_UPDATE, 0, 0, (98304).to_bytes(4, "big")))
    order = [each.stream_id for each in pair.client.sent_kinds(frames.DATA)]
    assert order == [first.id, second.id] * 3


def test_windows_come_back_in_quarters() -> None:
    pair = Pair(server=Limits(stream_window=80_000, connection_window=160_000), greedy=False)
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 70_000, False)
    pair.server.receive(pair.client.engine.take())
    assert [each.stream_id for each in pair.server.sent_kinds(frames.WINDOW_UPDATE)] == [0]

    receiving = pair.server.opened[stream.id]
    pair.server.engine.consumed(receiving, 19_999)
    assert pair.server.sent() == []
    pair.server.engine.consumed(receiving, 1)
    (update,) = pair.server.sent_kinds(frames.WINDOW_UPDATE)
    assert (update.stream_id, int.from_bytes(update.payload, "big")) == (stream.id, 20_000)


def test_window_of_an_ended_stream_is_not_returned() -> None:
    pair = Pair(greedy=False)
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 10_000, True)
    pair.pump()
    pair.server.engine.consumed(pair.server.opened[stream.id], 200_000)
    assert pair.server.sent_kinds(frames.WINDOW_UPDATE) == []


def test_data_of_reset_streams_still_returns_the_connections_window() -> None:
    pair = Pair(server=SMALL)
    for _ in range(5):
        stream = pair.client.open()
        pair.client.engine.send_data(stream, b"x" * 40_000, True)
        to_server = pair.client.engine.take()
        split = len(to_server) - 40_000
        pair.server.receive(to_server[:split])
        pair.server.engine.reset(pair.server.opened[stream.id], ErrorCode.CANCEL)
        pair.server.receive(to_server[split:])
        pair.pump()
    number = exchange(pair, b"x" * 50_000)
    assert len(pair.server.body(number)) == 50_000


def test_reset_drops_pending_data_and_lets_others_go_on() -> None:
    pair = Pair(server=SMALL, greedy=False)
    stuck, other = pair.client.open(), pair.client.open()
    pair.client.engine.send_data(stuck, b"x" * 65535 + b"more", True)
    pair.client.engine.send_data(other, b"y" * 1000, True)
    pair.client.engine.reset(stuck, ErrorCode.CANCEL)
    pair.pump()
    assert pair.server.body(other.id) == b"y" * 1000
    assert pair.server.events[-1] != ("data", stuck.id, b"more", True)
    assert pair.server.names(stuck.id)[-1] == "reset"


def test_reset_stream_takes_no_more_data() -> None:
    pair = Pair()
    stream = pair.client.open()
    pair.client.engine.reset(stream, ErrorCode.CANCEL)
    pair.client.engine.take()
    assert pair.client.engine.send_data(stream, b"late", True)
    assert pair.client.sent() == []
    assert stream.state == CLOSED


# SETTINGS


def setting(**values: int) -> bytes:
    payload = b"".join(frames.pack_setting(frames.Setting[name], value) for name, value in values.items())
    return frames.frame(frames.SETTINGS, 0, 0, payload)


def test_a_shrunk_window_may_become_negative_and_recovers() -> None:
    pair = Pair()
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 1000, False)
    pair.pump()
    pair.client.receive(setting(INITIAL_WINDOW_SIZE=500))
    assert stream.send_window == -500
    assert not pair.client.engine.send_data(stream, b"y" * 10, False)
    assert not pair.client.engine.send_data(stream, b"", True)
    assert pair.client.sent_kinds(frames.DATA) == []
    pair.client.receive(setting(INITIAL_WINDOW_SIZE=2000))
    assert [(each.payload, each.flags) for each in pair.client.sent_kinds(frames.DATA)] == [
        (b"y" * 10, 0),
        (b"", frames.END_STREAM),
    ]


def test_empty_end_passes_a_negative_window() -> None:
    pair = Pair()
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 1000, False)
    pair.pump()
    pair.client.receive(setting(INITIAL_WINDOW_SIZE=500))
    pair.client.engine.take()
    assert pair.client.engine.send_data(stream, b"", True)
    assert [each.payload for each in pair.client.sent()] == [b""]
    assert stream.send_window == -500


def test_a_raised_window_frees_blocked_streams() -> None:
    pair = Pair(server=Limits(stream_window=65535), greedy=False)
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 80_000, True)
    pair.pump()
    pair.client.receive(setting(INITIAL_WINDOW_SIZE=100_000))
    assert sum(len(each.payload) for each in pair.client.sent_kinds(frames.DATA)) == 80_000 - 65535
    assert pair.client.sinks[stream.id].writables == 1


def test_new_streams_start_with_the_changed_window() -> None:
    pair = Pair()
    pair.client.receive(setting(INITIAL_WINDOW_SIZE=123))
    assert pair.client.open().send_window == 123


def test_smaller_table_is_announced_and_both_sides_stay_in_step() -> None:
    pair = Pair()
    exchange(pair)
    pair.client.receive(setting(HEADER_TABLE_SIZE=0))
    pair.server.receive(setting(HEADER_TABLE_SIZE=64))
    for _ in range(3):
        exchange(pair)
    assert not pair.client.faults
    assert not pair.server.faults
    assert [event[2] for event in pair.server.of("request")] == [REQUEST] * 4


def test_frames_grow_with_the_peers_limit_up_to_our_own() -> None:
    """RFC 9113 4.2 allows 16 MiB, but other streams wait while a frame is written."""
    pair = Pair(client=Limits(send_buffer=1 << 20))
    pair.client.receive(setting(MAX_FRAME_SIZE=1_000_000, INITIAL_WINDOW_SIZE=1_000_000))
    pair.client.receive(window_update(0, 1_000_000))
    stream = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 40_000, False)
    pair.client.engine.send_data(stream, b"x" * 600_000, True)
    sizes = [len(each.payload) for each in pair.client.sent_kinds(frames.DATA)]
    assert sizes == [40_000, 256 * 1024, 256 * 1024, 600_000 - 512 * 1024]


def test_settings_are_acknowledged_once_and_acks_are_not() -> None:
    pair = Pair()
    pair.client.receive(setting(MAX_CONCURRENT_STREAMS=7))
    assert [(each.kind, each.flags, each.payload) for each in pair.client.sent()] == [
        (frames.SETTINGS, frames.ACK, b"")
    ]
    assert pair.client.engine.max_streams == 7
    pair.client.receive(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
    assert pair.client.sent() == []


def test_unknown_settings_are_ignored() -> None:
    pair = Pair()
    pair.client.receive(frames.frame(frames.SETTINGS, 0, 0, b"\xff\xff\x00\x00\x00\x01"))
    assert not pair.client.faults


# Limits, PING, GOAWAY


def test_streams_above_the_limit_are_refused_one_by_one() -> None:
    pair = Pair(server=Limits(max_concurrent_streams=2))
    streams = [pair.client.open() for _ in range(4)]
    pair.pump()
    assert [event[1] for event in pair.server.of("request")] == [1, 3]
    assert [event[1:3] for event in pair.client.of("reset")] == [
        (5, ErrorCode.REFUSED_STREAM),
        (7, ErrorCode.REFUSED_STREAM),
    ]
    assert streams[2].state == CLOSED
    pair.answer(1)
    pair.client.engine.send_data(streams[0], b"", True)
    pair.pump()
    again = pair.client.open()
    pair.pump()
    assert pair.server.of("request")[-1][1] == again.id


def test_ping_is_answered_with_its_payload() -> None:
    pair = Pair()
    pair.client.engine.ping(b"abcdefgh")
    pair.pump()
    assert pair.client.of("pong") == [("pong", b"abcdefgh")]
    assert pair.server.of("pong") == []


def test_goaway_refuses_higher_streams_and_lets_lower_ones_finish() -> None:
    pair = Pair()
    lower, higher = pair.client.open(end=True), pair.client.open(end=True)
    pair.pump()
    pair.server.engine.goaway(lower.id, ErrorCode.NO_ERROR, b"maintenance")
    pair.pump()
    assert pair.client.of("goaway") == [("goaway", lower.id, ErrorCode.NO_ERROR, b"maintenance")]
    assert [event[1:3] for event in pair.client.of("reset")] == [(higher.id, ErrorCode.REFUSED_STREAM)]
    pair.answer(lower.id, b"still here")
    pair.pump()
    assert pair.client.body(lower.id) == b"still here"
    assert pair.client.events[-1] == ("headers", lower.id, TRAILERS, True)


def test_goaway_is_told_before_its_streams_are_refused() -> None:
    """A refused call is tried again at once: it must not find the connection that is going away still open."""
    pair = Pair()
    pair.client.open(end=True)
    pair.pump()
    pair.server.engine.goaway(0, ErrorCode.NO_ERROR)
    pair.pump()
    assert [event[0] for event in pair.client.events[1:]] == ["goaway", "reset"]


def test_two_goaways_drain_gracefully() -> None:
    pair = Pair()
    early = pair.client.open(end=True)
    pair.pump()
    pair.server.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
    late = pair.client.open(end=True)  # on its way while the GOAWAY is
    pair.pump()
    pair.server.engine.goaway(None, ErrorCode.NO_ERROR)
    pair.pump()
    assert [event[1] for event in pair.client.of("goaway")] == [frames.MAX_STREAM_ID, late.id]
    assert pair.client.of("reset") == []
    for stream in (early, late):
        pair.answer(stream.id)
    pair.pump()
    assert not pair.client.engine.streams


def test_lost_connection_is_told_to_every_open_stream() -> None:
    pair = Pair()
    done = exchange(pair)
    open_ones = [pair.client.open().id for _ in range(3)]
    pair.client.engine.lost("the cable was cut")
    assert pair.client.of("lost") == [("lost", number, "the cable was cut") for number in open_ones]
    assert done not in open_ones
    assert not pair.client.engine.streams


def test_nothing_is_processed_after_the_connection_is_lost() -> None:
    pair = Pair()
    pair.client.open()
    pair.server.engine.lost("gone")
    before = list(pair.server.events)
    pair.server.receive(pair.client.engine.take())
    assert pair.server.events == before


# CONTINUATION


def test_long_header_blocks_go_out_in_continuations_and_come_back_whole() -> None:
    wide = Limits(max_header_list=60_000)
    pair = Pair(wide, wide)
    fields = (*REQUEST, *((b"x-%d" % n, b"\xf0" * 1500) for n in range(20)))
    pair.client.open(fields, end=True)
    sent = pair.client.engine.take()
    pair.server.receive(sent)
    assert pair.server.of("request") == [("request", 1, fields, True)]

    probe = Pair(wide, wide)
    probe.client.open(fields, end=True)
    kinds = [(each.kind, each.flags) for each in probe.client.sent()]
    assert kinds[0] == (frames.HEADERS, frames.END_STREAM)
    assert set(kinds[1:-1]) <= {(frames.CONTINUATION, 0)}
    assert kinds[-1] == (frames.CONTINUATION, frames.END_HEADERS)
