"""Leases: how long each has, and which keys end with it. Pure; the time is passed in."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from lbkit.registry.refusals import (
    LEASE_EXISTS,
    LEASE_NOT_FOUND,
    LEASE_TTL_TOO_LARGE,
    TOO_MANY_REQUESTS,
    Refusal,
)

LONGEST_S = 9_000_000_000  # etcd: so that it fits its times


class Lease:
    """One lease.

    Attributes:
        id: its number.
        ttl_s: what it was granted, in seconds.
        until: when it ends, unless it is kept alive.
        keys: what ends with it.
    """

    __slots__ = ("id", "keys", "ttl_s", "until")

    def __init__(self, number: int, ttl_s: int, until: float) -> None:
        self.id = number
        self.ttl_s = ttl_s
        self.until = until
        self.keys: set[bytes] = set()


class Leases:
    """The leases of a registry.

    Args:
        shortest_s: shorter ones are granted this; etcd's is one and a half election timeouts.
        most: how many there may be.
        number: gives the number of one whose client does not care, above 0.
    """

    def __init__(self, number: Callable[[], int], *, shortest_s: int = 1, most: int = 50_000) -> None:
        self._number = number
        self._shortest_s = shortest_s
        self._most = most
        self._leases: dict[int, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def ids(self) -> list[int]:
        """Return the numbers of all leases; those that end first come first."""
        return [lease.id for lease in sorted(self._leases.values(), key=lambda lease: lease.until)]

    def grant(self, number: int, ttl_s: int, now: float) -> Lease:
        """Make a lease.

        Args:
            number: 0 to have one chosen.
            ttl_s: how long it lives if it is not kept alive.
            now: the time.

        Raises:
            Refusal: FAILED_PRECONDITION, there is one with this number; OUT_OF_RANGE, the time is too long;
                RESOURCE_EXHAUSTED, there are too many.
        """
        if ttl_s > LONGEST_S:
            raise Refusal(*LEASE_TTL_TOO_LARGE)
        if number in self._leases:
            raise Refusal(*LEASE_EXISTS)
        if len(self._leases) >= self._most:
            raise Refusal(*TOO_MANY_REQUESTS)
        while not number or number in self._leases:
            number = self._number()
        ttl_s = max(ttl_s, self._shortest_s)
        lease = self._leases[number] = Lease(number, ttl_s, now + ttl_s)
        return lease

    def find(self, number: int) -> Lease | None:
        """Return a lease; None if there is no such lease."""
        return self._leases.get(number)

    def get(self, number: int) -> Lease:
        """Return a lease.

        Raises:
            Refusal: NOT_FOUND.
        """
        lease = self._leases.get(number)
        if lease is None:
            raise Refusal(*LEASE_NOT_FOUND)
        return lease

    def keep(self, number: int, now: float) -> Lease:
        """Give a lease its whole time again.

        Raises:
            Refusal: NOT_FOUND.
        """
        lease = self.get(number)
        lease.until = now + lease.ttl_s
        return lease

    def keep_all(self, now: float) -> None:
        """Give all leases their whole time again, as a leader does that has just been elected."""
        for lease in self._leases.values():
            lease.until = now + lease.ttl_s

    def drop(self, number: int) -> Lease:
        """Forget a lease; its keys are still to be deleted.

        Raises:
            Refusal: NOT_FOUND.
        """
        lease = self.get(number)
        del self._leases[number]
        return lease

    def attach(self, key: bytes, before: int, now: int) -> None:
        """Have a key end with the lease ``now``, and no more with ``before``; 0 for none."""
        if before and before != now and (lease := self._leases.get(before)) is not None:
            lease.keys.discard(key)
        if now:
            self._leases[now].keys.add(key)

    def expired(self, now: float) -> list[int]:
        """Return the numbers of the leases whose time is up."""
        return [lease.id for lease in self._leases.values() if lease.until <= now]

    def next_end(self) -> float:
        """Return when the first one ends; infinity without any."""
        return min((lease.until for lease in self._leases.values()), default=inf)
