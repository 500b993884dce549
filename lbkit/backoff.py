"""Exponential back-off with jitter, as in gRPC's connection back-off document."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """How long to wait after each failure in a row; all durations in seconds.

    Raises:
        ValueError: a value that would make the wait negative, zero for ever, or shrinking.
    """

    initial_s: float = 1.0
    multiplier: float = 1.6
    jitter: float = 0.2
    maximum_s: float = 120.0

    def __post_init__(self) -> None:
        if not 0 < self.initial_s <= self.maximum_s:
            raise ValueError(f"back-off: 0 < initial_s <= maximum_s does not hold: {self}")
        if not self.multiplier >= 1 or not 0 <= self.jitter < 1:
            raise ValueError(f"back-off: multiplier must be >= 1 and jitter in [0, 1): {self}")


class Backoff:
    """The state of one thing that is retried."""

    __slots__ = ("_base_s", "_policy", "_random")

    def __init__(self, policy: BackoffPolicy, random: random.Random) -> None:
        self._policy = policy
        self._random = random
        self._base_s = policy.initial_s

    @property
    def base_s(self) -> float:
        """The next delay before jitter, in seconds."""
        return self._base_s

    def next_delay(self) -> float:
        """Return the seconds to wait now, and lengthen the wait that follows."""
        policy = self._policy
        delay = self._base_s * self._random.uniform(1 - policy.jitter, 1 + policy.jitter)
        self._base_s = min(self._base_s * policy.multiplier, policy.maximum_s)
        return delay

    def reset(self) -> None:
        """Start over; call this after a success."""
        self._base_s = self._policy.initial_s
