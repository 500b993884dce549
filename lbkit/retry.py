"""When a call is tried again (gRFC A6): policies of a method, tokens of a backend's channel, and what they decide.

Pure: time and randomness are passed in. What carries the decisions out is in ``lbkit.call``.
"""

from __future__ import annotations

from typing import NamedTuple

from lbkit.status import StatusCode

MAX_ATTEMPTS = 5  # whatever a service config says (gRFC A6)


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
