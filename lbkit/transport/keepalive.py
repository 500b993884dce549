"""Keepalive (gRFC A8, A9): a peer that has said nothing for long is asked whether it is still there.

Pure: time is a number passed in. The connection says when bytes came, has ``look`` called when ``due``, and sends
the PING.
"""

from __future__ import annotations

# States.
LISTENING = 0  # bytes came lately, or the peer owes us none
ASKED = 1  # a PING is out; any byte answers it
DOUBTING = 2  # no answer came in time, but we looked late ourselves: it may lie in the socket, unread
LOST = 3
STATE_NAMES = ("listening", "asked", "doubting", "lost")

# Inputs: what a look at a connection finds.
HEARD = 0  # bytes came meanwhile, or none were owed
SILENT = 1
SILENT_LATE = 2  # the look was overdue: the event loop was kept busy
INPUT_NAMES = ("heard", "silent", "silent, looked late")

# TRANSITIONS[state * 3 + input] is the next state.
TRANSITIONS = (
    # HEARD    SILENT SILENT_LATE
    LISTENING, ASKED, ASKED,     # LISTENING
    LISTENING, LOST,  DOUBTING,  # ASKED
    LISTENING, LOST,  LOST,      # DOUBTING: by now whatever came has been read
    LOST,      LOST,  LOST,      # LOST
)  # fmt: skip

_LATE_S = 0.05  # more than a timer that is kept is ever late
_DOUBT_S = 0.2  # in that time the event loop reads every socket, also if it has much to catch up on


class KeepalivePolicy:
    """How the connections of a channel or a server keep an eye on their peers. Times in seconds.

    One for all connections, since a server that finds us too curious means the next connection as well.

    Args:
        time_s: without a byte for so long, a peer is asked.
        timeout_s: it has so long to answer. The kernel keeps what is not acknowledged as long (gRFC A18).
        without_calls: ask also while no call is open; servers always do.

    Raises:
        ValueError: a time is not above 0.
    """

    __slots__ = ("time_s", "timeout_s", "without_calls")

    def __init__(self, time_s: float, timeout_s: float = 20.0, *, without_calls: bool = False) -> None:
        for name, value in (("keepalive", time_s), ("keepalive_timeout", timeout_s)):
            if not value > 0:
                raise ValueError(f"{name}={value!r}: it must be above 0 seconds")
        self.time_s = time_s
        self.timeout_s = timeout_s
        self.without_calls = without_calls

    def slow_down(self, too_fast_s: float) -> None:
        """Ask half as often as a server has found too often. Several that say so at once count as one."""
        self.time_s = max(self.time_s, 2 * too_fast_s)


class Keepalive:
    """What is known of one connection's peer.

    Attributes:
        state: see the table.
        heard_at: when the last byte came; set by the connection at each read.
        time_s: the policy's when the connection was made.
    """

    __slots__ = ("_policy", "_since", "heard_at", "state", "time_s")

    def __init__(self, policy: KeepalivePolicy, now: float) -> None:
        self.state = LISTENING
        self.heard_at = now
        self.time_s = policy.time_s
        self._policy = policy
        self._since = now  # when the state began

    @property
    def due(self) -> float:
        """When to look next."""
        if self.heard_at >= self._since:
            return self.heard_at + self.time_s
        if self.state == LISTENING:
            return self._since + self.time_s
        return self._since + (self._policy.timeout_s if self.state == ASKED else _DOUBT_S)

    def look(self, now: float, *, owed: bool) -> int:
        """Find out how the peer is, at ``due`` or later; return the new state. ASKED: send a PING now.

        Args:
            now: the time.
            owed: whether the peer has anything to say: a call is open, or was given up without a word.
        """
        event = SILENT
        if self.state == LISTENING:
            if not owed:
                event = HEARD
                self._since = now
        elif self.heard_at >= self._since:
            event = HEARD
        elif now - self.due > _LATE_S:
            event = SILENT_LATE
        if event != HEARD:
            self._since = now
        self.state = TRANSITIONS[self.state * len(INPUT_NAMES) + event]
        return self.state
