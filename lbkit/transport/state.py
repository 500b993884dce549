"""The life of one HTTP/2 connection, the same on both sides, as a table."""

from __future__ import annotations

# States. Small ints: the hot path compares them.
HANDSHAKE = 0  # TCP is up, the peer's SETTINGS have not come
OPEN = 1
DRAINING = 2  # GOAWAY was sent or received: streams finish, no new ones
CLOSED = 3
STATE_NAMES = ("handshake", "open", "draining", "closed")

# Inputs.
SETTINGS = 0  # the peer's SETTINGS came
DRAIN = 1  # either side said GOAWAY, or we were told to close gracefully
END = 2  # a fault, the end of the socket, or the last stream of a draining connection
INPUT_NAMES = ("settings", "drain", "end")

# TRANSITIONS[state * 3 + input] is the next state. Nothing is illegal here: what does not apply changes nothing.
TRANSITIONS = (
    # SETTINGS  DRAIN     END
    OPEN,      DRAINING, CLOSED,  # HANDSHAKE
    OPEN,      DRAINING, CLOSED,  # OPEN: SETTINGS may come again at any time
    DRAINING,  DRAINING, CLOSED,  # DRAINING: the server says GOAWAY twice
    CLOSED,    CLOSED,   CLOSED,  # CLOSED
)  # fmt: skip
