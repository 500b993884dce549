"""What a balancing policy must keep to, and the report when it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RULES: Mapping[str, str] = {
    "raises": "a policy does not raise; an update that cannot be used gets a rejection with a reason",
    "verdict": "update() accepts a list with endpoints, and rejects an empty one with a reason",
    "answer": "pick() returns a Picked, QUEUE, Fail or Drop; TRANSIENT_FAILURE never lets a call wait",
    "pick-ready": "the current picker picks READY subchannels of the policy's own only",
    "on-done": "on_done does not raise, whenever and however the call ends",
    "leak": "what is not listed is shut down, and no endpoint has two subchannels",
    "identity": "revise() changes attributes; for other addresses there is another subchannel",
    "keep": "an endpoint that stays listed keeps its subchannel",
    "news": "an equal update, or wake() while READY, costs nothing: no publication, no connection, no subchannel",
    "once": "settle() publishes, and once per turn at most",
    "state": "READY is published if and only if a subchannel is READY",
    "aggregate": "a policy that connects to all publishes READY, CONNECTING or TRANSIENT_FAILURE as its backends are",
    "connect": "a policy that connects to all has a subchannel for each endpoint, and reconnects idle ones",
    "sticky": "TRANSIENT_FAILURE stays until a backend is READY or the list changes",
    "stuck": "a policy with endpoints is connecting, connected or backing off, or publishes IDLE",
    "settles": "settle_again() comes to an end",
    "recovers": "once every backend answers, the channel becomes READY",
    "fair": "each backend gets its share of the calls",
    "close": "close() leaves nothing: no subchannel, no timer, nothing later",
}


def shares_of(weights: Sequence[float]) -> list[float]:
    """Return which part of the calls each backend should get."""
    total = sum(weights)
    return [weight / total for weight in weights]


def unfair(counts: Sequence[int], shares: Sequence[float], tolerance: float) -> tuple[int, float] | None:
    """Return the place and the expectation of the first count that is too far off; None if all are well.

    One pick more or less is always allowed: turns cannot be divided.
    """
    total = sum(counts)
    for place, (count, share) in enumerate(zip(counts, shares, strict=True)):
        expected = total * share
        if abs(count - expected) > tolerance * expected + 1:
            return place, expected
    return None


def picks_needed(shares: Sequence[float], tolerance: float) -> int:
    """Return how many picks tell an unfair policy from bad luck: five standard deviations within tolerance."""
    per_backend = min((5 / tolerance) ** 2, 4000.0) if tolerance else 20.0
    return min(int(per_backend / min(shares)) + 1, 200_000)
