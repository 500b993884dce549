"""The rules of blocking queries: what to ask next, how often, and what an answer is worth. Pure.

Consul's documentation, "Blocking Queries": an index that went backwards starts over at 0, it is never less than 1 (else
every query returns at once), a return need not be a change, and whoever loops needs a limit on how fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

BURST = 2  # queries that may follow each other at once
INTERVAL_S = 1.0  # and then one in so many seconds


class Worth(NamedTuple):
    """What the headers of an answer say about it.

    Attributes:
        next_index: to ask with next; 0 to ask from the beginning.
        age_s: seconds since the server that answered last heard from the leader.
        leader: there is one.
        reset: the index went backwards: the servers, or the agent, have started over.
    """

    next_index: int
    age_s: float
    leader: bool
    reset: bool


def worth_of(headers: Mapping[str, str], asked: int) -> Worth:
    """Read the headers of a good answer; those of an error mean nothing.

    Args:
        headers: by their names in lower case.
        asked: the index that the query had; 0 for none.
    """
    index = max(1, _number(headers.get("x-consul-index", "")))
    reset = index < asked
    return Worth(
        0 if reset else index,
        _number(headers.get("x-consul-lastcontact", "")) / 1000,
        headers.get("x-consul-knownleader", "true").lower() != "false",
        reset,
    )


def answer_limit_s(wait_s: float, timeout_s: float) -> float:
    """How long an answer may take: Consul adds up to a sixteenth to the wait, so that not all return together."""
    return wait_s * 17 / 16 + timeout_s


class Bucket:
    """Lets two queries go at once and then one a second, so that fast churn turns into polling."""

    def __init__(self) -> None:
        self._full_at = float("-inf")

    def take(self, now: float) -> float:
        """Return the seconds to wait before the next query."""
        wait = max(0.0, self._full_at - (BURST - 1) * INTERVAL_S - now)
        self._full_at = max(self._full_at, now) + INTERVAL_S
        return wait


class EmptyGuard:
    """Holds an empty answer back for a while when there is reason to doubt it.

    An agent that was restarted has forgotten what it had not written down, until its services have registered again; and
    a server that knows no leader may know nothing at all.

    Args:
        hold_s: for how long; 0 for never.

    Attributes:
        had_some: the last published answer was not empty.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self.had_some = False
        self._broken = False
        self._until: float | None = None

    def lost(self) -> None:
        """Take note that the agent could not be asked: it may have been restarted."""
        self._broken = True

    def held_s(self, now: float, *, empty: bool, doubtful: bool) -> float:
        """Return how many seconds an answer is still to be held back; 0 means to publish it."""
        if not empty:
            self.had_some, self._broken, self._until = True, False, None
            return 0.0
        if self.had_some and self._until is None and (doubtful or self._broken):
            self._until = now + self._hold_s
        left = (self._until or now) - now if self.had_some else 0.0
        if left > 0:
            return left
        self.had_some, self._broken, self._until = False, False, None
        return 0.0


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
