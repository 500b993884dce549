"""Stream ids: used up, passed over, refused (RFC 9113 5.1.1 and 5.1.2)."""

from __future__ import annotations

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.limits import Limits
from tests.support.wire import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    End,
    Scripted,
    data_frame,
    goaway_frame,
    reset_frame,
)

LAST = frames.MAX_STREAM_ID // 4 * 3


def test_client_leaves_when_three_quarters_of_the_ids_are_used() -> None:
    """C21: long before the last, so that calls that are on their way still find one."""
    end = Scripted(client=True)
    end.engine._next_id = LAST - LAST % 2 - 1
    assert end.open().id < LAST
    assert end.events == []
    stream = end.open()
    assert stream.id >= LAST
    assert end.events == [("exhausted",)]
    end.receive(end.headers(stream.id, (*RESPONSE, *TRAILERS), end=True))
    assert end.events[-1][:2] == ("headers", stream.id)  # the connection is as good as before


def test_each_further_stream_says_it_again() -> None:
    end = Scripted(client=True)
    end.engine._next_id = LAST + 2
    for _ in range(3):
        end.open()
    assert end.of("exhausted") == [("exhausted",)] * 3


def test_highest_id_is_served() -> None:
    end = Scripted(client=False, limits=Limits())
    end.receive(end.headers(frames.MAX_STREAM_ID, end=True))
    assert end.of("request") == [("request", frames.MAX_STREAM_ID, REQUEST, True)]
    end.engine.goaway(None, ErrorCode.NO_ERROR)
    assert end.sent()[-1].payload[:4] == b"\x7f\xff\xff\xff"


@pytest.mark.parametrize("first", [1, 3, 13, 1001])
def test_client_may_begin_with_any_odd_id(first: int) -> None:
    """nghttp2 begins with 13; only leaving some out is odd."""
    end = Scripted(client=False)
    end.receive(end.headers(first, end=True))
    assert end.of("request") == [("request", first, REQUEST, True)]
    assert end.counters.seen["glitches"] == (first > 1)


def test_ids_in_a_row_are_not_odd() -> None:
    end = Scripted(client=False)
    for n in (1, 3, 5):
        end.receive(end.headers(n, end=True))
    assert end.counters.seen["glitches"] == 0


def test_passed_over_ids_are_closed_for_good() -> None:
    """RFC 9113 5.1.1: the first use of an id closes all lower ones that were idle."""
    end = Scripted(client=False)
    end.receive(end.headers(1) + end.headers(9))
    end.receive(end.headers(7))
    assert end.faults[0].code == ErrorCode.PROTOCOL_ERROR
    assert "passed over" in end.faults[0].text


def test_refused_streams_use_up_their_ids() -> None:
    """S27: what comes for them later is dropped, as after any reset of ours."""
    end = Scripted(client=False, limits=Limits(max_concurrent_streams=1))
    end.receive(end.headers(1) + end.headers(3) + data_frame(3, b"x", end=True))
    assert [(each.stream_id, each.payload) for each in end.sent()] == [(3, b"\0\0\0\7")]
    end.receive(reset_frame(1, ErrorCode.CANCEL) + end.headers(5, end=True))
    assert [event[1] for event in end.of("request")] == [1, 5]
    assert end.counters.exceeded == {"max_concurrent_streams": 1}
    assert end.counters.seen["glitches"] == 0


def test_handlers_that_still_run_count_as_streams() -> None:
    """S1: a stream is released when its handler has ended, not when it was reset."""
    end = Scripted(client=False, limits=Limits(max_concurrent_streams=1))
    end.receive(end.headers(1) + reset_frame(1, ErrorCode.CANCEL))
    end.engine.held = 1
    end.receive(end.headers(3))
    end.engine.held = 0
    end.receive(end.headers(5))
    assert [event[1] for event in end.of("request")] == [1, 5]


@pytest.mark.parametrize(("acked", "held", "resets"), [(False, 0, 0), (True, 0, 1), (True, 1, 0)])
def test_only_who_knows_the_limit_is_blamed_for_passing_it(acked: bool, held: int, resets: int) -> None:
    """S27: 100 calls may be on their way before our SETTINGS are read; and handlers are ours to end."""
    end = Scripted(client=False, limits=Limits(max_concurrent_streams=1))
    if acked:
        end.receive(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
    if held:
        end.engine.held = held
    else:
        end.receive(end.headers(1))
    end.receive(end.headers(3))
    assert end.sent()[-1].payload == b"\0\0\0\7"
    assert end.counters.seen["resets"] == resets


def test_streams_above_our_goaway_are_refused_unseen() -> None:
    """RFC 9113 6.8: they are tried elsewhere, so they must not run here."""
    end = Scripted(client=False)
    end.receive(end.headers(1))
    end.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
    end.receive(end.headers(3))
    end.engine.goaway(None, ErrorCode.NO_ERROR)
    end.receive(end.headers(5))
    assert [event[1] for event in end.of("request")] == [1, 3]
    assert end.sent()[-1] == (frames.RST_STREAM, 0, 5, b"\0\0\0\7")
    assert end.counters.seen["resets"] == 0  # it could not know


def test_our_goaway_never_rises() -> None:
    """RFC 9113 6.8."""
    end = Scripted(client=False)
    end.receive(end.headers(1))
    for last in (1, frames.MAX_STREAM_ID, 3, None):
        end.engine.goaway(last, ErrorCode.NO_ERROR)
    assert {each.payload[:4] for each in end.sent()} == {b"\0\0\0\1"}


def test_peers_goaway_may_fall_but_not_rise() -> None:
    """C19."""
    end = Scripted(client=True)
    for _ in range(3):
        end.open(end=True)
    end.receive(goaway_frame(5) + goaway_frame(5) + goaway_frame(3) + goaway_frame(1))
    assert [event[1] for event in end.of("reset")] == [5, 3]
    end.receive(goaway_frame(3))
    assert end.faults[0].code == ErrorCode.PROTOCOL_ERROR
    assert "rose from 1 to 3" in end.faults[0].text


def test_peers_goaway_names_a_stream_of_ours() -> None:
    """C19."""
    end = Scripted(client=True)
    end.receive(goaway_frame(2))
    assert end.faults[0].code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("what", ["GOAWAY", "PING"])
def test_servers_settings_come_first(what: str) -> None:
    """RFC 9113 3.4: also from a server that is told to drain while the client's preface is on its way."""
    end = End(client=False)
    if what == "GOAWAY":
        end.engine.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
    end.engine.ping(b"12345678")
    first = end.sent()
    end.receive(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, b""))
    kinds = [(each.kind, each.flags) for each in first + end.sent()]
    assert kinds[0] == (frames.SETTINGS, 0)
    assert kinds.count((frames.SETTINGS, 0)) == 1
