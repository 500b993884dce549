"""The reference engine at the edges of its windows, ids and limits; the rules are the native engine's."""

from __future__ import annotations

from lbkit.http2 import frames
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import ErrorCode, Setting, frame
from lbkit.limits import Limits
from tests.support.reference import Played, ours
from tests.support.wire import REQUEST, RESPONSE, data_frame, reset_frame, settings_frame, window_update

FULL = bytes(16384)


def server(**limits: int) -> Played:
    return Played("h2", client=False, limits=Limits(**limits))


def client(**limits: int) -> Played:
    return Played("h2", client=True, limits=Limits(**limits))


def test_a_second_fault_changes_nothing() -> None:
    end = server()
    for text in ("first", "second"):
        end.engine.fail(ConnectionFault(ErrorCode.SETTINGS_TIMEOUT, text))
    assert [fault.text for fault in end.faults] == ["first"]


def test_late_data_uses_up_the_connections_window_too() -> None:
    """RFC 9113 5.1, 6.9.1: DATA on a stream that was reset counts for the connection."""
    end = server(connection_window=65535, max_window=1)
    end.greedy = False
    end.receive(end.headers(1) + end.headers(3))
    end.receive(data_frame(1, FULL))  # unread: the connection's window does not come back
    end.engine.reset(end.opened[3], ErrorCode.CANCEL)
    end.receive(data_frame(3, FULL) * 4)
    assert end.faults[0].code == ErrorCode.FLOW_CONTROL_ERROR


def test_empty_continuation_is_counted() -> None:
    """S5, RFC 9113 6.10."""
    end = server()
    block = end.block(REQUEST)
    end.receive(
        frame(frames.HEADERS, frames.END_STREAM, 1, block)
        + frame(frames.CONTINUATION, 0, 1, b"")
        + frame(frames.CONTINUATION, frames.END_HEADERS, 1, b"")
    )
    assert end.counters.seen["empty_frames"] == 1
    assert end.names(1) == ["request"]


def test_block_without_end_ends_the_connection() -> None:
    """S3: above 64 KiB, whatever is in it."""
    end = server()
    end.receive(frame(frames.HEADERS, 0, 1, FULL) + frame(frames.CONTINUATION, 0, 1, FULL) * 4)
    assert end.faults[0].code == ErrorCode.ENHANCE_YOUR_CALM
    assert end.counters.exceeded["abusive_header_list"] == 1


def test_list_above_what_was_announced_is_taken_and_counted() -> None:
    """Table 1.0: 8 KiB are announced, 16 KiB are taken."""
    end = server()
    end.receive(end.headers(1, (*REQUEST, (b"x-long", b"x" * 9000)), end=True))
    assert end.names(1) == ["request"]
    assert end.counters.exceeded == {"header_list_advertised": 1}


def test_response_that_ends_short_of_its_length_is_reset() -> None:
    """RFC 9113 8.1.1."""
    end = client()
    stream = end.open()
    end.receive(end.headers(stream.id, (*RESPONSE, (b"content-length", b"5")), end=True))
    assert end.of("reset")[0][1:3] == (stream.id, ErrorCode.PROTOCOL_ERROR)


def test_peers_header_list_size_is_known_when_it_was_said() -> None:
    """RFC 9113 6.5.2: no limit until then."""
    end = client()
    assert end.engine.max_header_list == frames.MAX_STREAM_ID
    end.receive(settings_frame((Setting.MAX_HEADER_LIST_SIZE, 4000)))
    assert end.engine.max_header_list == 4000


def test_stream_ids_run_out_at_three_quarters() -> None:
    """C21, RFC 9113 5.1.1."""
    end = client()
    ours(end)._next_id = frames.MAX_STREAM_ID // 4 * 3 - 2 | 1
    end.open()
    assert end.of("exhausted") == []
    end.open()
    assert end.of("exhausted") == [("exhausted",)]


def test_data_behind_blocked_data_waits_its_turn() -> None:
    end = client()
    end.receive(settings_frame((Setting.INITIAL_WINDOW_SIZE, 3)))
    stream = end.open()
    end.engine.take()
    assert not end.engine.send_data(stream, b"abcd", False)
    assert not end.engine.send_data(stream, b"efgh", True)
    end.receive(window_update(stream.id, 100))
    assert b"".join(each.payload for each in end.sent_kinds(frames.DATA)) == b"abcdefgh"


def test_blocked_data_of_a_reset_stream_is_dropped() -> None:
    end = client()
    end.receive(settings_frame((Setting.INITIAL_WINDOW_SIZE, 0)))
    stream, other = end.open(), end.open()
    for each in (stream, other):
        assert not end.engine.send_data(each, b"data", True)
    end.engine.reset(stream, ErrorCode.CANCEL)
    end.engine.take()
    end.receive(window_update(other.id, 100))
    assert [each.stream_id for each in end.sent_kinds(frames.DATA)] == [other.id]


def test_expected_message_within_the_window_needs_no_more() -> None:
    end = server()
    end.receive(end.headers(1))
    end.engine.take()
    end.engine.expect(end.opened[1], 1000)
    assert end.sent() == []


def test_connections_window_waits_for_readers_and_comes_back() -> None:
    """C28, S10: above ``max_window`` unread bytes, until they are consumed or their streams are over."""
    for how in ("consumed", "reset"):
        end = server(stream_window=65536, connection_window=65536, max_window=65536)
        end.greedy = False
        end.receive(end.headers(1) + end.headers(3))
        end.receive(data_frame(1, FULL) * 3)
        end.engine.take()
        end.receive(data_frame(3, FULL) * 2)
        assert [each.stream_id for each in end.sent_kinds(frames.WINDOW_UPDATE)] == []
        if how == "consumed":
            end.engine.consumed(end.opened[1], 1)  # still too much
            end.engine.consumed(end.opened[1], 3 * len(FULL) - 1)
        else:
            end.receive(reset_frame(1, ErrorCode.CANCEL))
        assert 0 in [each.stream_id for each in end.sent_kinds(frames.WINDOW_UPDATE)]


def test_window_of_an_ended_stream_is_not_returned() -> None:
    """RFC 9113 6.9: nobody can use it."""
    end = server(stream_window=65536)
    end.greedy = False
    end.receive(end.headers(1) + data_frame(1, FULL) * 2 + data_frame(1, b"", end=True))
    end.engine.take()
    end.engine.consumed(end.opened[1], 2 * len(FULL))
    end.engine.expect(end.opened[1], 1 << 20)
    assert end.sent_kinds(frames.WINDOW_UPDATE) == []
