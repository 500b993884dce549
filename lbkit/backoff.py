"""Exponential back-off with jitter, as in gRPC's connection back-off document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbkit.frozen import Frozen

if TYPE_CHECKING:
    import random


class BackoffPolicy(Frozen):
    """How long to wait after each failure in a row.

    Args:
        initial_s: seconds after the first failure.
        multiplier: how much longer after each further one.
        jitter: the part of a wait that is random, both ways.
        maximum_s: seconds that no wait exceeds, jitter apart.

    Raises:
        ValueError: a value that would make the wait negative, zero for ever, or shrinking.
    """

    __slots__ = ("initial_s", "jitter", "maximum_s", "multiplier")

    initial_s: float
    multiplier: float
    jitter: float
    maximum_s: float

    def __init__(
        self,
        initial_s: float = 1.0,
        multiplier: float = 1.6,
        jitter: float = 0.2,
        maximum_s: float = 120.0,
    ) -> None:
        if not 0 < initial_s <= maximum_s:
            raise ValueError(
                f"back-off: 0 < initial_s <= maximum_s does not hold for {initial_s}, {maximum_s}"
            )
        if not multiplier >= 1 or not 0 <= jitter < 1:
            raise ValueError(
                f"back-off: multiplier must be >= 1 and jitter in [0, 1), not {multiplier}, {jitter}"
            )
        self._set("initial_s", initial_s)
        self._set("multiplier", multiplier)
        self._set("jitter", jitter)
        self._set("maximum_s", maximum_s)

    def __repr__(self) -> str:
        return (
            f"BackoffPolicy(initial_s={self.initial_s}, multiplier={self.multiplier}, "
            f"jitter={self.jitter}, maximum_s={self.maximum_s})"
        )


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
