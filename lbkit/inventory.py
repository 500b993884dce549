"""What there is in this process, for who looks at it from outside (gRFC A14): numbers, lists, and traces of events.

Everything here is cheap enough to be there always: numbers are drawn when something is made, calls are counted where
they pass, and what is shown is put together when somebody asks.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

_numbers = itertools.count(1)
_KEPT_EVENTS = 100  # of a channel


def next_number() -> int:
    """Return a number that nothing else in this process has: channels, subchannels, servers and sockets have one."""
    return next(_numbers)


class Register:
    """Things that are alive, by number, oldest first; it keeps none of them alive."""

    def __init__(self) -> None:
        self._things: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def add(self, thing: object) -> int:
        """List a thing; return its number."""
        number = next_number()
        self._things[number] = thing
        return number

    def get(self, number: int) -> Any:
        """Return the thing of that number, or None."""
        return self._things.get(number)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._things.values())


channels = Register()
servers = Register()


class CallCounts(NamedTuple):
    """What became of the calls of a server.

    Attributes:
        started: all of them.
        succeeded: those that have ended with OK.
        failed: those that have ended otherwise.
        last_s: how many seconds ago the last one began; None if there was none.
    """

    started: int
    succeeded: int
    failed: int
    last_s: float | None


class Event(NamedTuple):
    """Something that happened to a channel or one of its subchannels.

    Attributes:
        when: in seconds of the channel's clock.
        what: the new state, or another short text.
        why: what led to it; may be empty.
        subchannel: the number of the one that it happened to; 0 for the channel itself.
    """

    when: float
    what: str
    why: str
    subchannel: int


class Trace:
    """The last events of one channel, those of its subchannels included, so that memory is bounded.

    Attributes:
        count: how many there were, those that were dropped included.
    """

    __slots__ = ("_events", "count")

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self.count = 0

    def add(self, when: float, what: str, why: str = "", subchannel: int = 0) -> None:
        """Note an event."""
        self.count += 1
        self._events.append(Event(when, what, why, subchannel))

    def events(self) -> list[Event]:
        """Return those that are kept, oldest first."""
        return list(self._events)
