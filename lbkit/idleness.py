"""When nobody uses a channel or a connection any more, and what a channel does then (gRFC A9; grpc-go's idle mode).

Pure: time is a number passed in. A timer for each call would cost more than it saves, so whoever owns something looks
at it now and then: it is idle when no look found a call open, or one begun since the look before, for long enough.
"""

from __future__ import annotations

# States of a channel.
AWAKE = 0  # it has a resolver, a policy and connections, or makes them
CLOSING = 1  # for want of calls all that is being closed
WANTED = 2  # the same, and somebody wants it back already
ASLEEP = 3  # it has nothing; the next call makes everything anew
STATE_NAMES = ("awake", "closing", "wanted", "asleep")

# Inputs.
UNUSED = 0  # for the whole idle timeout
WANT = 1  # a call, or somebody who wants it to connect
CLOSED = 2  # the last connection and the resolver are gone
INPUT_NAMES = ("unused", "want", "closed")

# TRANSITIONS[state * 3 + input] is the next state; -1 cannot come.
TRANSITIONS = (
    # UNUSED WANT    CLOSED
    CLOSING, AWAKE,  -1,      # AWAKE
    -1,      WANTED, ASLEEP,  # CLOSING
    -1,      WANTED, AWAKE,   # WANTED: a resolver is not run again before its last run has ended
    -1,      AWAKE,  -1,      # ASLEEP
)  # fmt: skip

_LOOKS = 4  # in the time after which something is idle


class Idleness:
    """What is known of the use of one channel or connection.

    Args:
        idle_s: without a call for so long, in seconds, it is idle; found out at most a quarter later.
        now: the time.

    Attributes:
        due: when to look next.
    """

    __slots__ = ("_busy", "_idle_s", "_mark", "_since", "due")

    def __init__(self, idle_s: float, now: float) -> None:
        self._idle_s = idle_s
        self._busy = False
        self._mark: float = 0
        self._since = now
        self.due = now + idle_s / _LOOKS

    def look(self, now: float, mark: float, *, busy: bool) -> bool:
        """Return whether it is idle, at ``due`` or later.

        Args:
            now: the time.
            mark: a number that every call changes.
            busy: whether a call is open.
        """
        # A call that ended since the last look may have ended just now.
        if busy or self._busy or mark != self._mark:
            self._busy, self._mark = busy, mark
            self._since = now
        ends = self._since + self._idle_s
        self.due = min(now + self._idle_s / _LOOKS, ends)
        return now >= ends


def checked_timeout(name: str, seconds: float | None) -> float | None:
    """Return an idle timeout; None and 0 are none.

    Raises:
        ValueError: it is below 0, or no number.
    """
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"{name}={seconds!r}: it must be above 0 seconds; None or 0 for none")
    return None if not seconds or seconds == float("inf") else seconds
