"""One HTTP/2 stream: its state machine (RFC 9113 5.1) and its counters.

Streams in the idle and reserved states have no object: idle is "id not used yet", and push is refused.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbkit.http2.hpack import Field
    from lbkit.http2.interface import StreamSink

# States. Small ints, and a flat table, because every frame with END_STREAM looks them up.
OPEN = 0
HALF_CLOSED_LOCAL = 1  # we have sent END_STREAM
HALF_CLOSED_REMOTE = 2  # the peer has
CLOSED = 3
STATE_NAMES = ("open", "half-closed (local)", "half-closed (remote)", "closed")

# Inputs.
SEND_END = 0
RECEIVE_END = 1
RESET = 2  # RST_STREAM either way, or the end of the connection
INPUT_NAMES = ("send END_STREAM", "receive END_STREAM", "reset")

ILLEGAL = -1

NO_LENGTH = -1  # no content-length was declared

# TRANSITIONS[state * 3 + input] is the next state.
TRANSITIONS = (
    # SEND_END           RECEIVE_END         RESET
    HALF_CLOSED_LOCAL, HALF_CLOSED_REMOTE, CLOSED,  # OPEN
    ILLEGAL,           CLOSED,             CLOSED,  # HALF_CLOSED_LOCAL
    CLOSED,            ILLEGAL,            CLOSED,  # HALF_CLOSED_REMOTE: more from the peer is STREAM_CLOSED
    ILLEGAL,           ILLEGAL,            CLOSED,  # CLOSED
)  # fmt: skip


class Stream:
    """What the engine knows of one stream. ``sink`` belongs to the layer above."""

    __slots__ = (
        "answered",
        "ends_at",
        "id",
        "missing",
        "pending",
        "pending_end",
        "plain",
        "receive_window",
        "send_window",
        "sink",
        "state",
        "unreturned",
    )

    def __init__(
        self, stream_id: int, send_window: int, receive_window: int, sink: StreamSink, *, answered: bool
    ) -> None:
        self.id = stream_id
        self.sink = sink
        self.state = OPEN
        self.send_window = send_window
        self.receive_window = receive_window
        # Bytes consumed whose window was not given back yet; below 0, window given ahead for a message that is awaited.
        self.unreturned = 0
        self.pending: deque[memoryview] | None = None  # data waiting for window
        self.pending_end = False  # END_STREAM follows the pending data
        self.answered = answered  # the headers that the peer's message begins with have come
        self.plain = answered  # DATA may take the short way: nothing below is to be looked at
        # Where the receive window will be when the message has come that is awaited.
        self.ends_at = receive_window
        self.missing = NO_LENGTH  # bytes that content-length still promises

    def unread(self, initial_window: int) -> int:
        """Return how many bytes have come that were not consumed."""
        return initial_window - self.receive_window - self.unreturned

    def __repr__(self) -> str:
        return f"Stream({self.id}, {STATE_NAMES[self.state]})"


class _NullSink:
    """Takes everything and does nothing; see ``NULL_SINK``."""

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        """Do nothing."""

    def data(self, data: bytes, end: bool) -> None:
        """Do nothing."""

    def data_buffer(self, length: int) -> memoryview | None:
        """Want none."""
        return None

    def filled(self, length: int, end: bool) -> None:
        """Do nothing."""

    def reset(self, code: int, reason: str) -> None:
        """Do nothing."""

    def lost(self, reason: str) -> None:
        """Do nothing."""

    def writable(self) -> None:
        """Do nothing."""


# The sink of a stream that has none yet, or none any more: whoever is done with a stream puts it there, because
# a stream and its sink know each other, and the cycle would keep every finished call until the next collection.
NULL_SINK: StreamSink = _NullSink()
