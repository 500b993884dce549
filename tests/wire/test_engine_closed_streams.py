"""Frames for streams that are gone or never were: each by its fate (RFC 9113 5.1 and 5.1.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.stream import Stream
from lbkit.limits import Limits
from tests.support.wire import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    Recorder,
    Scripted,
    data_frame,
    goaway_frame,
    reset_frame,
    window_update,
)

GONE = 5  # the stream that late frames are for

# How a stream of a client came to its end, on our server


def ended(end: Scripted) -> None:
    end.receive(end.headers(1, end=True) + end.headers(3, end=True) + end.headers(GONE, end=True))
    end.engine.send_headers(end.opened[GONE], None, (*RESPONSE, *TRAILERS), True)


def ended_early(end: Scripted) -> None:
    """R28: we had answered before the request ended, and it ended then."""
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE))
    end.engine.send_headers(end.opened[GONE], None, (*RESPONSE, *TRAILERS), True)
    end.receive(data_frame(GONE, b"", end=True))


def reset_by_us(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE))
    end.engine.reset(end.opened[GONE], ErrorCode.CANCEL)


def reset_by_us_after_its_end(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE, end=True))
    end.engine.reset(end.opened[GONE], ErrorCode.CANCEL)


def reset_by_peer(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE) + reset_frame(GONE, ErrorCode.CANCEL))


def malformed(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE, TRAILERS))


def refused(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE))


def passed_over(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE + 2))


def forgotten(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3) + end.headers(GONE) + reset_frame(GONE, ErrorCode.CANCEL))
    for n in range(GONE + 2, GONE + 2 + 2000, 2):
        end.receive(end.headers(n) + reset_frame(n, ErrorCode.CANCEL))


def crossed_our_goaway(end: Scripted) -> None:
    end.receive(end.headers(1) + end.headers(3))
    end.engine.goaway(None, ErrorCode.NO_ERROR)
    end.receive(end.headers(GONE))


# The same for a stream of ours, on our client


def asked(end: Scripted) -> Stream:
    """Open streams up to ``GONE``."""
    return [end.open(end=True) for _ in range(3)][-1]


def answered(end: Scripted) -> None:
    end.receive(end.headers(asked(end).id, (*RESPONSE, *TRAILERS), end=True))


def reset_by_our_client(end: Scripted) -> None:
    end.engine.reset(asked(end), ErrorCode.CANCEL)


def reset_by_the_server(end: Scripted) -> None:
    end.receive(reset_frame(asked(end).id, ErrorCode.INTERNAL_ERROR))


def malformed_answer(end: Scripted) -> None:
    end.receive(end.headers(asked(end).id, TRAILERS))


# What must happen to DATA and HEADERS

CONNECTION_CLOSED = "connection: STREAM_CLOSED"
CONNECTION_PROTOCOL = "connection: PROTOCOL_ERROR"
STREAM_CLOSED = "stream: STREAM_CLOSED"
DROPPED = "dropped"  # it may have been on its way when the peer learnt of the end
ODD = "dropped, and counted"

FATES: dict[str, tuple[bool, Callable[[Scripted], None], str]] = {
    "server: ended": (False, ended, CONNECTION_CLOSED),
    "server: answered early, then ended": (False, ended_early, CONNECTION_CLOSED),
    "server: reset by us": (False, reset_by_us, DROPPED),
    "server: ended, then reset by us": (False, reset_by_us_after_its_end, CONNECTION_CLOSED),
    "server: reset by the peer": (False, reset_by_peer, STREAM_CLOSED),
    "server: malformed": (False, malformed, DROPPED),
    "server: refused": (False, refused, DROPPED),
    "server: passed over": (False, passed_over, CONNECTION_PROTOCOL),
    "server: forgotten": (False, forgotten, ODD),
    "server: crossed our GOAWAY": (False, crossed_our_goaway, DROPPED),
    "client: answered": (True, answered, CONNECTION_CLOSED),
    "client: reset by us": (True, reset_by_our_client, DROPPED),
    "client: reset by the peer": (True, reset_by_the_server, STREAM_CLOSED),
    "client: malformed": (True, malformed_answer, DROPPED),
}
LIMITS = Limits(resets_burst=5000)


def gone(name: str) -> Scripted:
    """An end on which ``GONE`` came to its end in a certain way."""
    client, script, _ = FATES[name]
    limits = Limits(max_concurrent_streams=2) if script is refused else LIMITS
    end = Scripted(client=client, limits=limits)
    script(end)
    end.engine.take()
    end.events.clear()
    end.counters.seen.clear()
    assert GONE not in end.engine.streams
    return end


def late_headers(end: Scripted) -> bytes:
    return end.headers(GONE, TRAILERS, end=True)


LATE: dict[str, Callable[[Scripted], bytes]] = {
    "DATA": lambda _: data_frame(GONE, b"late"),
    "DATA that ends": lambda _: data_frame(GONE, b"late", end=True),
    "padded DATA": lambda _: frame(frames.DATA, frames.PADDED, GONE, b"\2late\0\0"),
    "empty DATA": lambda _: data_frame(GONE, b""),
    "HEADERS": late_headers,
    "HEADERS in two frames": lambda end: (
        end.headers(GONE, TRAILERS, flags=0) + frame(frames.CONTINUATION, frames.END_HEADERS, GONE, b"")
    ),
}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("name", FATES)
def test_late_frame_meets_the_fate_of_its_stream(name: str, late: str) -> None:
    """S21, S23, S24."""
    end = gone(name)
    expected = FATES[name][2]
    end.receive(LATE[late](end))
    sent = end.sent()
    if expected in (CONNECTION_CLOSED, CONNECTION_PROTOCOL):
        code = ErrorCode.STREAM_CLOSED if expected == CONNECTION_CLOSED else ErrorCode.PROTOCOL_ERROR
        assert [event[:2] for event in end.events] == [("fault", code)]
        assert sent[-1].kind == frames.GOAWAY
        return
    assert end.events == []
    if expected == STREAM_CLOSED:
        assert sent == [(frames.RST_STREAM, 0, GONE, b"\0\0\0\5")]
        assert end.counters.seen["resets"] == end.counters.seen["stream_faults"] == 1
    else:
        assert sent == []
        assert end.counters.seen["late_frames"] == late.startswith("HEADERS")
        odd = expected == ODD and late in ("DATA", "DATA that ends", "padded DATA")
        assert end.counters.seen["glitches"] == odd


@pytest.mark.parametrize("name", FATES)
def test_late_control_frames_harm_nothing(name: str) -> None:
    """RFC 9113 5.1: they may have crossed the end of the stream."""
    end = gone(name)
    end.receive(reset_frame(GONE, ErrorCode.CANCEL) + window_update(GONE, 1))
    end.receive(frame(frames.PRIORITY, 0, GONE, bytes(5)))
    assert end.events == end.sent() == []
    assert end.counters.seen == {
        "late_frames": 1,
        "window_updates": 1,
        "priority_frames": 1,
        "glitches": 1,  # the PRIORITY
    }


def test_after_our_answer_to_a_late_frame_more_of_it_is_dropped() -> None:
    """RFC 9113 5.1: we have reset it now, so what is on its way is no fault."""
    end = gone("server: reset by the peer")
    end.receive(data_frame(GONE, b"late") * 3)
    assert [each.kind for each in end.sent()] == [frames.RST_STREAM]
    assert end.counters.seen["resets"] == 1
    assert end.counters.seen["glitches"] == 0


def test_data_is_odd_when_it_cannot_have_been_on_its_way() -> None:
    """S24: what the window of a stream allowed when we reset it may still come, and then no more."""
    end = Scripted(client=False, limits=Limits(stream_window=65535))
    end.receive(end.headers(1) + data_frame(1, bytes(5535)))
    end.engine.reset(end.opened[1], ErrorCode.CANCEL)
    end.receive(data_frame(1, bytes(15_000)) * 4)
    assert end.counters.seen["glitches"] == 0
    end.receive(data_frame(1, b"x") + frame(frames.DATA, frames.PADDED, 1, b"\1xx"))
    assert end.counters.seen["glitches"] == 2
    assert not end.faults


def test_second_frame_after_the_end_is_a_fault_of_the_connection() -> None:
    """S23: the first resets the stream; that does not unmake its end (RFC 9113 5.1)."""
    end = Scripted(client=False)
    end.receive(end.headers(1, end=True) + data_frame(1, b"late"))
    assert [event[:3] for event in end.events[1:]] == [("reset", 1, ErrorCode.STREAM_CLOSED)]
    end.receive(data_frame(1, b"later"))
    assert end.faults[0].code == ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize("name", [name for name in FATES if not FATES[name][2].startswith("connection")])
def test_late_headers_keep_the_tables_in_step(name: str) -> None:
    """RFC 9113 4.3: a block that nobody wants is decoded all the same."""
    end = gone(name)
    kept = (b"x-kept", b"in the table")
    end.receive(end.headers(GONE, (*TRAILERS, kept), end=True))
    if FATES[name][0]:
        end.receive(end.headers(1, (*RESPONSE, kept)))
        assert end.events == [("headers", 1, (*RESPONSE, kept), False)]
    else:
        end.receive(end.headers(1, (*TRAILERS, kept), end=True))
        assert end.events == [("headers", 1, (*TRAILERS, kept), True)]


def test_data_after_our_reset_gives_the_connections_window_back() -> None:
    """S24."""
    end = Scripted(client=False, limits=Limits(stream_window=65535, connection_window=65535))
    end.receive(end.headers(1) + end.headers(3))
    end.engine.reset(end.opened[1], ErrorCode.CANCEL)
    end.engine.take()
    returned = 0
    for _ in range(20):
        end.receive(data_frame(1, bytes(16_384)))
        for each in end.sent_kinds(frames.WINDOW_UPDATE):
            assert each.stream_id == 0
            returned += int.from_bytes(each.payload, "big")
    assert returned == 20 * 16_384
    end.receive(data_frame(3, b"still served", end=True))
    assert end.body(3) == b"still served"


def test_dropped_data_is_held_to_the_connections_window() -> None:
    """RFC 9113 6.9: frames on closed streams count."""
    end = Scripted(client=False, limits=Limits(stream_window=65535, connection_window=65535))
    end.receive(end.headers(1))
    end.engine.reset(end.opened[1], ErrorCode.CANCEL)
    end.engine.take()
    end.engine._scratch = memoryview(bytearray(1 << 17))  # one read: nothing is given back in between
    end.receive(data_frame(1, bytes(16_384)) * 4)
    assert end.faults[0].code == ErrorCode.FLOW_CONTROL_ERROR


def test_padding_on_a_closed_stream_is_checked() -> None:
    """RFC 9113 6.1: whatever the stream, it is a fault of the connection."""
    end = gone("server: reset by us")
    end.receive(frame(frames.DATA, frames.PADDED, GONE, b"\4ab"))
    assert end.faults[0].code == ErrorCode.PROTOCOL_ERROR


# Streams that never were


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("stream_id", [2, 7], ids=["even", "odd"])
@pytest.mark.parametrize(
    "kind",
    [frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.WINDOW_UPDATE],
    ids=lambda kind: f"type {kind}",
)
def test_frames_on_idle_streams_are_faults_of_the_connection(kind: int, stream_id: int, client: bool) -> None:
    """S22, and S21 for even ids. Only a server takes HEADERS there, and only on odd ids (RFC 9113 5.1.1)."""
    end = Scripted(client=client)
    if client:
        end.open()
    else:
        end.receive(end.headers(1))
    end.receive(
        {
            frames.DATA: data_frame(stream_id, b"x"),
            frames.HEADERS: end.headers(stream_id, RESPONSE if client else REQUEST),
            frames.RST_STREAM: reset_frame(stream_id, ErrorCode.CANCEL),
            frames.WINDOW_UPDATE: window_update(stream_id, 1),
        }[kind]
    )
    if kind == frames.HEADERS and stream_id == 7 and not client:
        assert not end.faults
        return
    assert [fault.code for fault in end.faults] == [ErrorCode.PROTOCOL_ERROR]


def test_lower_id_than_the_last_is_no_new_stream() -> None:
    """S21: the GOAWAY names the highest one."""
    end = gone("server: passed over")
    end.receive(end.headers(GONE))
    (goaway,) = end.sent()
    assert goaway.payload[:8] == (GONE + 2).to_bytes(4, "big") + b"\0\0\0\1"


def test_streams_that_the_peer_gave_up_by_goaway_are_no_longer_open() -> None:
    """C17, RFC 9113 6.8: what it sends about them later must not end the others' connection by surprise."""
    end = Scripted(client=True)
    first, second = end.open(end=True), end.open(end=True)
    end.receive(goaway_frame(first.id) + reset_frame(second.id, ErrorCode.REFUSED_STREAM))
    assert [event[:3] for event in end.events[1:]] == [("reset", second.id, ErrorCode.REFUSED_STREAM)]
    end.receive(end.headers(first.id, (*RESPONSE, *TRAILERS), end=True))
    assert end.events[-1] == ("headers", first.id, (*RESPONSE, *TRAILERS), True)


@pytest.mark.parametrize("how", ["lost", "GOAWAY"])
def test_stream_that_another_ones_sink_has_reset_is_not_told_of_it(how: str) -> None:
    """Whoever resets a stream knows that it is over: nothing more is said to its sink."""
    end = Scripted(client=True)
    first, second = end.open(), end.open()

    class GivesUpTheOther(Recorder):
        def lost(self, reason: str) -> None:
            end.engine.reset(second, ErrorCode.CANCEL)

        def reset(self, code: int, reason: str) -> None:
            end.engine.reset(second, ErrorCode.CANCEL)

    first.sink = GivesUpTheOther(end, first.id)
    if how == "lost":
        end.engine.lost("gone")
    else:
        end.receive(goaway_frame(0))
    assert end.names(second.id) == []
    assert not end.engine.streams


def test_late_data_behind_the_peers_own_reset_is_refused() -> None:
    """RFC 9113 5.1: both have reset the stream; nothing can be on its way behind the peer's RST_STREAM."""
    end = gone("server: reset by us")
    end.receive(reset_frame(GONE, ErrorCode.CANCEL) + data_frame(GONE, b"late"))
    assert end.sent() == [(frames.RST_STREAM, 0, GONE, b"\0\0\0\5")]
