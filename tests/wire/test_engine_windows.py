"""Windows: how they grow with the path, what is given back when, and what waits on our side (RFC 9113 5.2, 6.9)."""

from __future__ import annotations

from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, Setting, frame
from lbkit.http2.tuner import PING_PAYLOAD
from lbkit.limits import Limits
from tests.support.wire import (
    RESPONSE,
    TRAILERS,
    Frame,
    Pair,
    Scripted,
    data_frame,
    reset_frame,
    settings_frame,
    window_update,
)

KIB = 1024
MIB = 1024 * KIB
PONG = frame(frames.PING, frames.ACK, 0, PING_PAYLOAD)
SETTINGS_ACK = settings_frame(ack=True)


def server(**limits: Any) -> Scripted:
    end = Scripted(client=False, limits=Limits(**limits))
    end.receive(SETTINGS_ACK)
    return end


def pings(sent: list[Frame]) -> int:
    return [(each.kind, each.flags, each.payload) for each in sent].count((frames.PING, 0, PING_PAYLOAD))


def given(sent: list[Frame], stream_id: int) -> int:
    """The window that frames of ours gave to the peer."""
    return sum(
        int.from_bytes(each.payload, "big")
        for each in sent
        if (each.kind, each.stream_id) == (frames.WINDOW_UPDATE, stream_id)
    )


def announced(sent: list[Frame]) -> list[bytes]:
    return [each.payload for each in sent if (each.kind, each.flags) == (frames.SETTINGS, 0)]


def setting(key: Setting, value: int) -> bytes:
    return frames.pack_setting(key, value)


def upload(end: Scripted, size: int, stream_id: int = 1) -> None:
    for at in range(0, size, 16 * KIB):
        end.receive(data_frame(stream_id, bytes(min(16 * KIB, size - at))))


# How windows grow with the path

GROWING = {"stream_window": 128 * KIB, "connection_window": 128 * KIB, "max_window": MIB}


def test_small_messages_cause_no_ping() -> None:
    end = server(**GROWING)
    for n in range(1, 100, 2):
        end.receive(end.headers(n) + data_frame(n, b"x" * 600, end=True))
    assert pings(end.sent()) == 0


def test_a_quarter_of_the_window_begins_one_sample_at_a_time() -> None:
    end = server(**GROWING)
    end.receive(end.headers(1))
    upload(end, 32 * KIB - 1)
    assert pings(end.sent()) == 0
    upload(end, 128 * KIB)
    assert pings(end.sent()) == 1  # and no more of them until it is answered
    end.time += 0.1
    end.receive(PONG)
    upload(end, 128 * KIB)
    assert pings(end.sent()) == 1


def test_windows_double_when_a_full_one_came_in_a_round_trip() -> None:
    end = server(**GROWING)
    end.receive(end.headers(1) + end.headers(3))
    upload(end, 32 * KIB)  # the PING goes out
    upload(end, 128 * KIB)
    end.engine.take()
    before = [end.opened[n].receive_window + end.opened[n].unreturned for n in (1, 3)]
    end.time += 0.1
    end.receive(PONG)
    sent = end.sent()
    assert announced(sent) == [setting(Setting.INITIAL_WINDOW_SIZE, 256 * KIB)]
    assert given(sent, 0) == 128 * KIB
    after = [end.opened[n].receive_window + end.opened[n].unreturned for n in (1, 3)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [128 * KIB] * 2
    end.receive(end.headers(5))
    assert end.opened[5].receive_window == 256 * KIB
    assert end.of("pong") == []  # it is nobody else's


def test_windows_stay_when_little_came_in_a_round_trip() -> None:
    end = server(**GROWING)
    end.receive(end.headers(1))
    upload(end, 40 * KIB)
    end.engine.take()
    end.time += 0.1
    end.receive(PONG)
    assert end.sent() == []


def test_windows_of_a_fast_upload_grow_to_their_limit() -> None:
    """Here the whole window is under way all the time: it is the bottleneck until it is at its limit."""
    pair = Pair(server=Limits(stream_window=65535, connection_window=65535, max_window=512 * KIB))
    stream = pair.client.open()
    pair.client.engine.send_data(stream, bytes(16 * MIB), True)
    pair.pump()
    assert len(pair.server.body(stream.id)) == 16 * MIB
    assert pair.client.engine._peer_stream_window == 512 * KIB
    assert pair.server.engine._settings_unacked == 0


def test_windows_at_their_limit_cause_no_ping() -> None:
    end = server(stream_window=MIB, connection_window=128 * KIB, max_window=MIB)
    end.receive(end.headers(1))
    upload(end, 512 * KIB)
    assert pings(end.sent()) == 0


def test_samples_without_success_become_rare() -> None:
    end = server(**GROWING)
    end.receive(end.headers(1))
    rounds = 0
    for _ in range(64):
        upload(end, 33 * KIB)
        if pings(end.sent()):
            rounds += 1
            end.time += 0.1
            end.receive(PONG)
    assert 4 <= rounds <= 8  # after 1, 3, 7, 15, 31 ... that were left out


def test_a_tuning_ping_of_the_peers_own_making_is_an_oddity() -> None:
    end = server(**GROWING)
    end.receive(PONG)
    assert end.counters.seen["glitches"] == 1
    assert end.sent() == []


# What is given back when


def test_window_is_given_back_in_quarters_of_its_size() -> None:
    end = Scripted(client=False, limits=Limits(stream_window=128 * KIB, max_window=128 * KIB))
    end.greedy = False
    end.receive(end.headers(1) + data_frame(1, bytes(16 * KIB)) + data_frame(1, bytes(16 * KIB)))
    end.engine.take()
    end.engine.consumed(end.opened[1], 32 * KIB - 1)
    assert end.sent() == []
    end.engine.consumed(end.opened[1], 1)
    assert given(end.sent(), 1) == 32 * KIB


def test_no_window_of_nothing_is_given_back() -> None:
    """RFC 9113 6.9: an increment of 0 is a fault of who sends it."""
    end = server(stream_window=1, connection_window=1)
    end.greedy = False
    end.receive(end.headers(1))
    end.receive(data_frame(1, b"", end=False))
    end.engine.consumed(end.opened[1], 0)
    end.receive(frame(frames.PING, 0, 0, bytes(8)))
    assert all(int.from_bytes(each.payload, "big") for each in end.sent_kinds(frames.WINDOW_UPDATE))


@pytest.mark.parametrize(
    "how", ["consumed", "reset by us", "reset by the peer", "answered last", "answered first"]
)
def test_connections_window_waits_for_readers_above_the_limit(how: str) -> None:
    """C28, S10: streams nobody reads do not stop others, until they fill the memory that they may have."""
    end = server(stream_window=128 * KIB, connection_window=128 * KIB, max_window=200 * KIB)
    end.greedy = False
    end.receive(end.headers(1) + end.headers(3) + end.headers(5))
    upload(end, 128 * KIB, 1)
    assert given(end.sent(), 0) == 128 * KIB
    upload(end, 64 * KIB, 3)
    assert given(end.sent(), 0) == 64 * KIB
    upload(end, 64 * KIB, 3)
    assert given(end.sent(), 0) == 0  # 256 KiB wait to be read
    if how == "consumed":
        end.engine.consumed(end.opened[1], 128 * KIB)
    elif how == "reset by us":
        end.engine.reset(end.opened[1], ErrorCode.CANCEL)
    elif how == "reset by the peer":
        end.receive(reset_frame(1, ErrorCode.CANCEL))
    elif how == "answered last":
        end.receive(data_frame(1, b"", end=True))
        end.engine.send_headers(end.opened[1], None, (*RESPONSE, *TRAILERS), True)
    else:
        end.engine.send_headers(end.opened[1], None, (*RESPONSE, *TRAILERS), True)
        end.receive(data_frame(1, b"", end=True))
    assert given(end.sent(), 0) == 64 * KIB


def test_requests_that_were_never_read_do_not_shut_the_connection() -> None:
    """The answer came first, and whoever served them looks at them no more."""
    pair = Pair(server=Limits(stream_window=65535, connection_window=65535, max_window=65535), greedy=False)
    for _ in range(4):
        stream = pair.client.open()
        pair.client.engine.send_data(stream, bytes(40_000), True)
        pair.pump()
        if stream.id in pair.server.opened:
            pair.answer(stream.id)
        pair.pump()
    assert [len(pair.server.body(n)) for n in (1, 3, 5, 7)] == [40_000] * 4


# Our SETTINGS, and until they are known


def test_small_windows_hold_from_the_acknowledgement_on() -> None:
    """RFC 9113 6.9.2: until then the peer may send as much as the default allows."""
    end = Scripted(client=False, limits=Limits(stream_window=1000))
    end.greedy = False
    end.receive(end.headers(1) + data_frame(1, bytes(5000)))
    assert not end.engine.settings_acked
    end.receive(SETTINGS_ACK)
    assert end.engine.settings_acked
    assert end.opened[1].receive_window == 1000 - 5000
    end.receive(end.headers(3) + data_frame(3, bytes(1000)) + data_frame(3, b"x"))
    assert [event[:3] for event in end.of("reset")] == [("reset", 3, ErrorCode.FLOW_CONTROL_ERROR)]
    end.engine.take()
    end.engine.consumed(end.opened[1], 5000)
    assert end.opened[1].receive_window == 1000
    assert given(end.sent(), 1) == 5000


@pytest.mark.parametrize("window", [65535, 100_000])
def test_large_windows_hold_from_the_beginning(window: int) -> None:
    end = Scripted(client=False, limits=Limits(stream_window=window))
    end.receive(end.headers(1))
    end.receive(SETTINGS_ACK)
    assert end.opened[1].receive_window == window


def test_settings_are_acknowledged_once() -> None:
    """RFC 9113 6.5.3 says nothing of further ACKs: they are odd, and change nothing."""
    end = Scripted(client=False, limits=Limits(stream_window=1000))
    end.receive(end.headers(1) + SETTINGS_ACK * 3)
    assert end.opened[1].receive_window == 1000
    assert end.counters.seen["glitches"] == 2


def test_client_streams_wait_for_the_acknowledgement_too() -> None:
    end = Scripted(client=True, limits=Limits(stream_window=1000))
    stream = end.open(end=True)
    assert stream.receive_window == 65535
    end.receive(SETTINGS_ACK)
    assert stream.receive_window == end.open().receive_window == 1000


# What waits on our side


def sending(send_buffer: int, *, window: int = 16 * MIB) -> tuple[Scripted, Any]:
    """A client with one stream whose peer gives much window."""
    end = Scripted(
        client=True,
        limits=Limits(send_buffer=send_buffer),
        settings=[(Setting.INITIAL_WINDOW_SIZE, window)],
    )
    end.receive(window_update(0, 16 * MIB))
    stream = end.open()
    end.engine.take()
    return end, stream


def test_send_buffer_bounds_what_is_queued_and_taking_goes_on() -> None:
    """S10."""
    end, stream = sending(100 * KIB)
    assert not end.engine.send_data(stream, bytes(MIB), True)
    taken = b""
    rounds = 0
    while end.engine.queued_bytes:
        assert end.engine.queued_bytes <= 100 * KIB + 16 * KIB + 9  # the last frame may pass it
        assert end.sinks[1].writables == (stream.pending is None)
        taken += end.engine.take()
        rounds += 1
    assert rounds == 10
    assert end.sinks[1].writables == 1
    assert len(taken) == MIB + 64 * 9


def test_small_frames_wait_behind_a_full_send_buffer() -> None:
    end, stream = sending(100)
    assert end.engine.send_data(stream, bytes(100), False)
    assert not end.engine.send_data(stream, b"next", False)
    other = end.open()
    assert not end.engine.send_data(other, b"other", True)
    assert [each.payload for each in end.sent_kinds(frames.DATA)] == [bytes(100)]
    assert [(each.stream_id, each.payload) for each in end.sent_kinds(frames.DATA)] == [
        (1, b"next"),
        (3, b"other"),
    ]
    assert [end.sinks[n].writables for n in (1, 3)] == [1, 1]


def test_window_that_comes_while_the_buffer_is_full_is_used_later() -> None:
    end, stream = sending(10, window=20)
    assert not end.engine.send_data(stream, bytes(40), True)
    end.receive(window_update(1, 20))
    assert [len(each.payload) for each in end.sent_kinds(frames.DATA)] == [20]
    assert [len(each.payload) for each in end.sent_kinds(frames.DATA)] == [20]


def test_a_sink_that_was_waited_for_may_send_more() -> None:
    """``writable`` comes from inside ``take``; what it sends is queued behind."""
    end, stream = sending(10)
    left = [b"rest"]

    def send_the_rest() -> None:
        if left:
            end.engine.send_data(stream, left.pop(), True)

    end.engine.send_data(stream, bytes(10), False)
    end.engine.send_data(stream, b"next", False)
    end.sinks[1].writable = send_the_rest  # type: ignore[method-assign]
    payloads = []
    while end.engine.queued_bytes:
        payloads += [each.payload for each in end.sent_kinds(frames.DATA)]
    assert payloads == [bytes(10), b"next", b"rest"]


def test_pending_data_of_a_lost_connection_is_dropped() -> None:
    end, stream = sending(10)
    end.engine.send_data(stream, bytes(100), False)
    end.engine.send_data(stream, bytes(100), True)
    end.engine.lost("gone")
    end.engine.take()
    assert end.engine.take() == b""
    assert end.names(1) == ["lost"]
