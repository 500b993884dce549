"""When a call is tried again (gRFC A6): policies of a method, tokens of a backend's channel, and what they decide.

Pure: time and randomness are passed in. What carries the decisions out is in ``lbkit.call``.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from lbkit.metadata import Metadata
from lbkit.status import StatusCode

if TYPE_CHECKING:
    from random import Random

MAX_ATTEMPTS = 5  # whatever a service config says (gRFC A6)
STOP = -1.0  # a server's push-back that means: not again

_PUSHBACK_DIGITS = 10  # of a 32-bit number of milliseconds
_SLICES = 10  # of the time that a deposit in a budget lasts
_ROUNDING = 1e-9  # in floats, ten deposits of a tenth make less than one


class RetryPolicy(NamedTuple):
    """``retryPolicy`` of a method: one attempt after the other. Times in seconds.

    Attributes:
        max_attempts: the first one included; at least 2, at most ``MAX_ATTEMPTS``.
        initial_backoff_s: the wait before the second attempt, +-20 %.
        max_backoff_s: what no wait exceeds, jitter apart.
        backoff_multiplier: how much longer each wait is than the one before.
        codes: statuses that are worth another attempt; never empty.
    """

    max_attempts: int
    initial_backoff_s: float
    max_backoff_s: float
    backoff_multiplier: float
    codes: frozenset[StatusCode]


class HedgingPolicy(NamedTuple):
    """``hedgingPolicy`` of a method: attempts side by side, the first good answer wins. Times in seconds.

    Attributes:
        max_attempts: the first one included; at least 2, at most ``MAX_ATTEMPTS``.
        delay_s: the pause between two attempts; 0 sends all of them at once.
        non_fatal_codes: statuses after which the other attempts go on; any other ends the call.
    """

    max_attempts: int
    delay_s: float = 0.0
    non_fatal_codes: frozenset[StatusCode] = frozenset()


class RetryThrottling(NamedTuple):
    """``retryThrottling`` of a service config: tokens that failures cost and successes earn back.

    Attributes:
        max_tokens: in (0, 1000]; with half of them or fewer left, nothing is tried again.
        token_ratio: what a success earns; above 0, three decimals count.
    """

    max_tokens: float
    token_ratio: float


class RetryThrottle:
    """Tokens of one channel: while many calls fail, none is tried again (gRFC A6, "Throttling Retry Attempts").

    Args:
        throttling: how many there are, and what a success earns.
    """

    __slots__ = ("_half", "_most", "_ratio", "_tokens")

    def __init__(self, throttling: RetryThrottling) -> None:
        # In thousandths: a sum of a million floats would drift.
        self._most = self._tokens = int(throttling.max_tokens * 1000)
        self._half = self._most / 2
        self._ratio = int(throttling.token_ratio * 1000)

    @property
    def tokens(self) -> float:
        """How many are left."""
        return self._tokens / 1000

    def succeeded(self) -> None:
        """Take note of a call that ended well, whatever its method."""
        self._tokens = min(self._most, self._tokens + self._ratio)

    def failed(self) -> bool:
        """Take note of an attempt that failed and was worth another one; return whether there may be one."""
        self._tokens = max(0, self._tokens - 1000)
        return self.open

    @property
    def open(self) -> bool:
        """Whether calls may be tried again."""
        return self._tokens > self._half


class RetryBudget:
    """Lets further attempts be a share of calls at most, as Finagle's: ``lbkit.Channel(retry_budget=RetryBudget())``.

    Unlike ``retryThrottling``, it bounds attempts also while most calls succeed, and lets a channel with few calls
    retry at all. One object may serve several channels of one event loop, whose attempts then share it.

    Args:
        ratio: further attempts for each call that may be tried again.
        minimum_per_s: further attempts in a second, whatever the number of calls.
        ttl_s: seconds for which a call counts.

    Raises:
        ValueError: a value is below 0, or not finite; or the time is 0.
    """

    __slots__ = ("_balance", "_deposits", "_minimum", "_slice", "_slice_s", "minimum_per_s", "ratio", "ttl_s")

    def __init__(self, ratio: float = 0.2, minimum_per_s: float = 10.0, ttl_s: float = 10.0) -> None:
        for name, value in (("ratio", ratio), ("minimum_per_s", minimum_per_s)):
            if not 0 <= value < inf:
                raise ValueError(f"{name}={value!r}: it must be a number from 0 up")
        if not 0 < ttl_s < inf:
            raise ValueError(f"ttl_s={ttl_s!r}: it must be above 0 seconds")
        self.ratio = ratio
        self.minimum_per_s = minimum_per_s
        self.ttl_s = ttl_s
        self._slice_s = ttl_s / _SLICES
        self._slice = 0  # the number of the present slice of time
        self._deposits: deque[float] = deque([0.0] * _SLICES, _SLICES)  # less what was spent, by slice
        self._balance = 0.0
        self._minimum = minimum_per_s * ttl_s

    def deposit(self, now: float) -> None:
        """Take note of a call that may be tried again. ``now`` is in seconds, of any clock that is always the same."""
        self._move(now)
        self._deposits[-1] += self.ratio
        self._balance += self.ratio

    def withdraw(self, now: float) -> bool:
        """Spend a further attempt, if there is one left; return whether there was."""
        self._move(now)
        if self._balance + self._minimum < 1 - _ROUNDING:
            return False
        self._deposits[-1] -= 1
        self._balance -= 1
        return True

    def _move(self, now: float) -> None:
        """Forget the slices that are too old."""
        number = int(now / self._slice_s)
        passed, self._slice = number - self._slice, number
        if passed <= 0:
            return
        self._deposits.extend([0.0] * min(passed, _SLICES))
        self._balance = sum(self._deposits)  # and not a difference, which would drift

    def __repr__(self) -> str:
        return f"RetryBudget(ratio={self.ratio}, minimum_per_s={self.minimum_per_s}, ttl_s={self.ttl_s})"


def pushback_of(trailing: Metadata) -> float | None:
    """Return the seconds after which a server wants the next attempt; ``STOP`` for none; None if it does not say.

    What cannot be read means ``STOP`` (gRFC A6, "Pushback").
    """
    said = [value for key, value in trailing if key == "grpc-retry-pushback-ms"]
    if not said:
        return None
    value = said[0]
    if len(said) > 1 or not isinstance(value, str) or not value.isascii() or not value.isdigit():
        return STOP
    return int(value) / 1000 if len(value) <= _PUSHBACK_DIGITS else STOP


class RetryState:
    """How often a call has been tried, and whether and when it is tried again.

    Args:
        policy: the method's.

    Attributes:
        retries: attempts made after the first one, transparent ones not counted.
    """

    __slots__ = ("_backoffs", "_policy", "retries")

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._backoffs = 0  # waits since the beginning, or since the server last said how long
        self.retries = 0

    def after(
        self, code: StatusCode, pushback: float | None, throttle: RetryThrottle | None, random: Random
    ) -> float | None:
        """Return the seconds to wait before the next attempt; None if the call is to end with this failure.

        Args:
            code: what the attempt ended with.
            pushback: what ``pushback_of`` says.
            throttle: the channel's tokens, if it has any; told of the failure.
            random: the source of jitter.
        """
        policy = self._policy
        counts = pushback == STOP or code in policy.codes
        allowed = counts and (throttle is None or throttle.failed())
        if not allowed or pushback == STOP or self.retries + 1 >= min(policy.max_attempts, MAX_ATTEMPTS):
            return None
        self.retries += 1
        if pushback is not None:
            self._backoffs = 0
            return pushback
        backoff = min(
            policy.initial_backoff_s * policy.backoff_multiplier**self._backoffs, policy.max_backoff_s
        )
        self._backoffs += 1
        return backoff * random.uniform(0.8, 1.2)
