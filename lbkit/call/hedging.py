"""Attempts of a call side by side (gRFC A6, hedgingPolicy): the first good answer wins, the others are cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbkit.call.retrying import affordable, count
from lbkit.retry import MAX_ATTEMPTS, STOP, HedgingPolicy, pushback_of
from lbkit.status import Status, StatusCode

if TYPE_CHECKING:
    import asyncio

    from lbkit.call.attempts import Attempts

_BEATEN = Status(StatusCode.CANCELLED, "another attempt was faster")


class Hedges:
    """What the ``hedgingPolicy`` of its method means for one call.

    The call makes the first attempt itself; each further one is a twin of it, which nobody waits for. When a server
    begins to answer a twin, or its status ends the call, the call adopts what the twin has, and it is as if it had
    made that attempt.

    Args:
        call: whose.
        policy: the method's.
    """

    __slots__ = ("_alive", "_call", "_delay_s", "_left", "_non_fatal", "_timer", "_twins")

    def __init__(self, call: Attempts, policy: HedgingPolicy) -> None:
        self._call = call
        self._delay_s = policy.delay_s
        self._non_fatal = policy.non_fatal_codes
        self._left = min(policy.max_attempts, MAX_ATTEMPTS) - 1
        self._alive = True  # the call's own attempt runs
        self._twins: dict[Attempts, int] = {}  # the others that run, oldest first: how many came before
        self._timer: asyncio.TimerHandle | None = None

    def previous(self, call: Attempts) -> int:
        """Return how many attempts were sent before this one."""
        return self._twins.get(call, 0)

    def start(self) -> None:
        """Send the next attempt after the delay, when the first is on its way."""
        count(self._call._channel)
        self._send_after(self._delay_s, reserved=False)

    def committed(self, call: Attempts) -> None:
        """Let the attempt that a server answers be the call's, and cancel the others."""
        self._settle_on(call)

    def failed(self, call: Attempts, status: Status) -> bool:
        """Go on with the attempts that run, and with the next one: at once, or when the server wants it."""
        if status.code not in self._non_fatal:
            return False
        pushback = pushback_of(call._trailing)
        throttle = self._call._channel.retry_throttle
        if throttle is not None:
            throttle.failed()
        if pushback == STOP:
            self._stop()
        others = len(self._twins) + self._alive > 1
        another = self._may_send()
        if not another and not others:
            return False
        self._take_out(call, status)
        if another:
            self._send_after(pushback or 0.0, reserved=True)
        if not others:
            self._call._channel.retrying[self._call] = None
        return True

    def ended(self, call: Attempts, status: Status) -> bool:
        """Cancel the other attempts; the end of a twin is the call's."""
        self._settle_on(call)
        if call is self._call:
            return False
        self._call._finish(status)
        return True

    def wrote(self, payload: bytes) -> bool:
        """Write it on the streams of the other attempts, too."""
        for twin in self._twins:
            twin.mirror(payload)
        return any(twin._stream is not None for twin in self._twins)

    def done_writing(self) -> None:
        """End the streams of the other attempts, too."""
        for twin in self._twins:
            twin.mirror_end()

    def overflowed(self) -> None:
        """Keep the oldest attempt that is on a connection: it has sent most."""
        self._stop()
        running = [*([self._call] if self._alive else ()), *self._twins]
        self._settle_on(next((call for call in running if call._stream is not None), running[0]))

    # Inside

    def _may_send(self) -> bool:
        """Spend one of the attempts that are left, if the channel's tokens and its budget allow it."""
        channel = self._call._channel
        throttled = channel.retry_throttle is not None and not channel.retry_throttle.open
        if not self._left or throttled or not affordable(channel):
            return False
        self._left -= 1
        return True

    def _send_after(self, delay_s: float, *, reserved: bool) -> None:
        """Send one more attempt later; ``reserved`` if it has been spent already."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._call._channel.loop.call_later(delay_s, self._send, reserved)

    def _send(self, reserved: bool) -> None:
        self._timer = None
        call = self._call
        call._channel.retrying.pop(call, None)
        if not reserved and not self._may_send():
            return
        twin = call.twin()
        self._twins[twin] = len(call._earlier or ()) + len(self._twins) + self._alive
        if self._left:
            self._send_after(self._delay_s, reserved=False)
        twin.attempt()

    def _settle_on(self, call: Attempts) -> None:
        """Let one attempt be the call's own, and end the others."""
        self._stop()
        if call is not self._call:
            if self._alive:
                self._beat(self._call)
            self._twins.pop(call, None)
            self._call.adopt(call)
            self._alive = True
        for twin in list(self._twins):
            self._beat(twin)

    def _beat(self, call: Attempts) -> None:
        """Cancel an attempt."""
        call.leave()
        self._take_out(call, _BEATEN)

    def _take_out(self, call: Attempts, status: Status) -> None:
        """Go on without an attempt."""
        call.rewind(status, "hedge")
        if call is self._call:
            self._alive = False
        else:
            del self._twins[call]
            self._call.remember(call)

    def _stop(self) -> None:
        self._left = 0
        self._call._channel.retrying.pop(self._call, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
