"""What a pick is: the question, the four answers, and what is told when the call is over.

A picker is an immutable snapshot (plus counters): the channel asks it once per call attempt, and waiting means
waiting for the next snapshot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbkit.callinfo import CallInfo
from lbkit.metadata import EMPTY, Metadata
from lbkit.status import Status, StatusCode

if TYPE_CHECKING:
    from lbkit.balancer import Subchannel


class Outcome(NamedTuple):
    """How an attempt ended, as ``Picked.on_done`` is told.

    Attributes:
        status: the call's status, or None if nothing was sent because the subchannel had just gone.
        trailing_metadata: what came with the status; load reports travel here.
    """

    status: Status | None
    trailing_metadata: Metadata = EMPTY


class Picked:
    """Answer: send the call over this subchannel.

    Attributes:
        on_done: called exactly once, when the last message or the error of the attempt is known, also when the
            call is cancelled. Must not raise.
        metadata: sent with the call, after the application's own.
    """

    __slots__ = ("metadata", "on_done", "subchannel")

    def __init__(
        self,
        subchannel: Subchannel,
        on_done: Callable[[Outcome], None] | None = None,
        metadata: Metadata = EMPTY,
    ) -> None:
        self.subchannel = subchannel
        self.on_done = on_done
        self.metadata = metadata

    def __repr__(self) -> str:
        return f"Picked({self.subchannel.endpoint})"


class Queue:
    """Answer: wait; ask the next picker. Use the one instance ``QUEUE``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "QUEUE"


QUEUE = Queue()


class Fail(NamedTuple):
    """Answer: the call cannot be served now. A wait-for-ready call waits on; any other ends with the status."""

    status: Status


class Drop(NamedTuple):
    """Answer: end the call with this status; it is not retried, nor does wait-for-ready save it."""

    status: Status


Pick: TypeAlias = Picked | Queue | Fail | Drop


class Picker(ABC):
    """Chooses a subchannel for each call. Immutable but for counters; replaced, never changed."""

    @abstractmethod
    def pick(self, call: CallInfo) -> Pick:
        """Answer for one attempt of one call: no await, no I/O, no lock. An exception fails the call."""


class QueuePicker(Picker):
    """Lets every call wait for the next picker."""

    def pick(self, call: CallInfo) -> Pick:
        """Return ``QUEUE``."""
        return QUEUE


class FailPicker(Picker):
    """Fails every call; the text is made when a call needs it, so that it is up to date.

    Args:
        explain: returns the details for people.
    """

    def __init__(self, explain: Callable[[], str]) -> None:
        self._explain = explain

    def pick(self, call: CallInfo) -> Pick:
        """Return ``Fail`` with UNAVAILABLE and the explanation of this moment."""
        return Fail(Status(StatusCode.UNAVAILABLE, self._explain()))
