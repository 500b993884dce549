"""The table of HTTP/2 stream states, every pair of it (RFC 9113 5.1)."""

from __future__ import annotations

import pytest

from lbkit.http2 import stream
from lbkit.http2.stream import (
    CLOSED,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    ILLEGAL,
    NULL_SINK,
    OPEN,
    RECEIVE_END,
    RESET,
    SEND_END,
    TRANSITIONS,
    Stream,
)
from tests.support.wire import End, Recorder

EXPECTED = {
    (OPEN, SEND_END): HALF_CLOSED_LOCAL,
    (OPEN, RECEIVE_END): HALF_CLOSED_REMOTE,
    (OPEN, RESET): CLOSED,
    (HALF_CLOSED_LOCAL, SEND_END): ILLEGAL,
    (HALF_CLOSED_LOCAL, RECEIVE_END): CLOSED,
    (HALF_CLOSED_LOCAL, RESET): CLOSED,
    (HALF_CLOSED_REMOTE, SEND_END): CLOSED,
    (HALF_CLOSED_REMOTE, RECEIVE_END): ILLEGAL,
    (HALF_CLOSED_REMOTE, RESET): CLOSED,
    (CLOSED, SEND_END): ILLEGAL,
    (CLOSED, RECEIVE_END): ILLEGAL,
    (CLOSED, RESET): CLOSED,
}


@pytest.mark.parametrize("state", range(len(stream.STATE_NAMES)), ids=lambda n: stream.STATE_NAMES[n])
@pytest.mark.parametrize("event", range(len(stream.INPUT_NAMES)), ids=lambda n: stream.INPUT_NAMES[n])
def test_every_pair_moves_as_the_rfc_says(state: int, event: int) -> None:
    assert TRANSITIONS[state * len(stream.INPUT_NAMES) + event] == EXPECTED[state, event]


def test_table_has_no_other_rows() -> None:
    assert len(TRANSITIONS) == len(EXPECTED) == len(stream.STATE_NAMES) * len(stream.INPUT_NAMES)


def test_stream_says_its_state() -> None:
    assert repr(Stream(7, 0, 0, Recorder(End(client=True), 7), answered=False)) == "Stream(7, open)"


def test_stream_without_a_sink_takes_everything_and_wants_nothing() -> None:
    NULL_SINK.headers((), False)
    NULL_SINK.data(b"x", False)
    assert NULL_SINK.data_buffer(100_000) is None
    NULL_SINK.filled(1, True)
    NULL_SINK.writable()
    NULL_SINK.reset(0, "")
    NULL_SINK.lost("")
