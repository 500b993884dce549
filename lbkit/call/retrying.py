"""Attempts of a call one after the other (gRFC A6, retryPolicy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lbkit.retry import RetryPolicy, RetryState, pushback_of
from lbkit.status import Status

if TYPE_CHECKING:
    import asyncio

    from lbkit.call.attempts import Attempts
    from lbkit.channel import Channel


class FurtherAttempts(Protocol):
    """Who decides whether a call is tried again; calls of methods without a policy have none."""

    def previous(self, call: Attempts) -> int:
        """Return how many attempts came before, as the server is told (``grpc-previous-rpc-attempts``)."""
        ...

    def start(self) -> None:
        """Begin: the first attempt is about to be made."""
        ...

    def committed(self, call: Attempts) -> None:
        """Take note that a server has begun to answer ``call``: its attempt is the one that counts."""
        ...

    def failed(self, call: Attempts, status: Status) -> bool:
        """Take note that an attempt failed before there was an answer. True: the call goes on without it."""
        ...

    def ended(self, call: Attempts, status: Status) -> bool:
        """Take note that ``call`` is over. True: it was an attempt for another one, which has been told."""
        ...

    def wrote(self, payload: bytes) -> bool:
        """Take note of a message of a stream. True: another attempt than the call's own has sent it."""
        ...

    def done_writing(self) -> None:
        """Take note that the stream of requests has ended."""
        ...

    def overflowed(self) -> None:
        """Take note that too much was written to be written once more: no further attempts."""
        ...


class Retries:
    """What the ``retryPolicy`` of its method means for one call.

    Args:
        call: whose.
        policy: the method's.
    """

    __slots__ = ("_call", "_state", "_timer")

    def __init__(self, call: Attempts, policy: RetryPolicy) -> None:
        self._call = call
        self._state = RetryState(policy)
        self._timer: asyncio.TimerHandle | None = None

    def previous(self, call: Attempts) -> int:
        """Return how many attempts came before, transparent ones not counted."""
        return self._state.retries

    def start(self) -> None:
        """Count the call for the budget."""
        count(self._call._channel)

    def committed(self, call: Attempts) -> None:
        """Do nothing: that there was an answer is seen by the headers it came with."""

    def failed(self, call: Attempts, status: Status) -> bool:
        """Arrange for another attempt, if there is to be one."""
        channel = call._channel
        pushback = pushback_of(call._trailing)
        delay = self._state.after(status.code, pushback, channel.retry_throttle, channel.random)
        if delay is None or not affordable(channel) or not call.rewind(status, "retry"):
            return False
        channel.retrying[call] = None
        self._timer = channel.loop.call_later(delay, self._again)
        return True

    def ended(self, call: Attempts, status: Status) -> bool:
        """Make no more attempts."""
        if self._timer is not None:
            self._timer.cancel()
            self._forget_timer()
        return False

    def wrote(self, payload: bytes) -> bool:
        """Do nothing: the call keeps what was written."""
        return False

    def done_writing(self) -> None:
        """Do nothing, for the same reason."""

    def overflowed(self) -> None:
        """Do nothing: the call cannot be rewound any more."""

    def _again(self) -> None:
        self._forget_timer()
        self._call.attempt_again()

    def _forget_timer(self) -> None:
        self._timer = None
        self._call._channel.retrying.pop(self._call, None)


def count(channel: Channel) -> None:
    """Count a call that may be tried again for the channel's budget."""
    if channel.retry_budget is not None:
        channel.retry_budget.deposit(channel.loop.time())


def affordable(channel: Channel) -> bool:
    """Spend a further attempt of the channel's budget; return whether there was one left."""
    return channel.retry_budget is None or channel.retry_budget.withdraw(channel.loop.time())
