"""Lists of endpoints as registries give them: growing, shrinking, reordered, reweighted, equal, doubled, empty."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator

from lbkit.address import Endpoint
from lbkit.resolution import Resolution

_WEIGHTS = (1.0, 1.0, 2.0, 3.0, 5.0)


class Lists:
    """Makes one list out of the one before.

    Args:
        random: decides everything.
        most: endpoints of the longest list.
    """

    def __init__(self, random: random.Random, most: int) -> None:
        self._random = random
        self.most = most
        self.current: tuple[Endpoint, ...] = ()
        # Two of each, which are equal and not identical: what is the same is for == to say.
        self._made: dict[tuple[int, float], tuple[Endpoint, Endpoint]] = {}

    def next(self, limit: int) -> tuple[str, Resolution]:
        """Return what was done, and the new list of up to ``limit`` endpoints."""
        limit = min(limit, self.most)
        known = self._known()
        chance = self._random.random()
        if chance < 0.15 and self.current:
            return "equal", self.same()
        if chance < 0.18:
            return "empty", self._take(())
        if chance < 0.30 and known:
            return "reordered", self._take(self._random.sample(self.current, len(self.current)))
        if chance < 0.45 and known:
            return "reweighted", self._take(self._endpoint(number) for number in known)
        if chance < 0.50 and known:
            return "doubled", self._take([*self.current, *self._random.choices(self.current, k=2)])
        if chance < 0.60:
            return "replaced", self.fresh(limit)
        gone = set(self._random.sample(known, min(len(known), self._random.randrange(4))))
        kept = [
            endpoint
            for endpoint, number in zip(self.current, self._numbers(), strict=True)
            if number not in gone
        ]
        present = set(known) - gone
        room = max(0, limit - len(present))
        added = [self._number() for _ in range(min(room, self._random.randrange(4)))]
        new = dict.fromkeys(number for number in added if number not in present)
        changed = [*kept[:limit], *(self._endpoint(number) for number in new)]
        return "changed", self._take(changed or [self._endpoint(self._number())])

    def same(self) -> Resolution:
        """Return the list once more, of endpoints that are equal and not identical."""
        return self._take(
            self._endpoint(number, endpoint.weight)
            for endpoint, number in zip(self.current, self._numbers(), strict=True)
        )

    def fresh(self, limit: int) -> Resolution:
        """Return a whole new list that is not empty."""
        count = self._random.randint(1, min(limit, self.most))
        numbers = self._random.sample(range(2 * self.most), count)
        return self._take(self._endpoint(number) for number in numbers)

    @property
    def listed(self) -> dict[Hashable, Endpoint]:
        """The list by identity."""
        return {endpoint.identity: endpoint for endpoint in self.current}

    def _take(self, endpoints: Iterable[Endpoint]) -> Resolution:
        self.current = tuple(endpoints)
        return Resolution(self.current)

    def _numbers(self) -> Iterator[int]:
        return (int(endpoint.addresses[0].host[1:]) for endpoint in self.current)

    def _known(self) -> list[int]:
        return list(dict.fromkeys(self._numbers()))

    def _number(self) -> int:
        return self._random.randrange(2 * self.most)

    def _endpoint(self, number: int, weight: float = 0.0) -> Endpoint:
        weight = weight or self._random.choice(_WEIGHTS)
        made = self._made.get((number, weight))
        if made is None:
            made = self._made[number, weight] = _endpoint(number, weight), _endpoint(number, weight)
        return made[self._random.random() < 0.5]


def _endpoint(number: int, weight: float) -> Endpoint:
    """Make the endpoint of a number; every seventh has two addresses."""
    addresses = [f"b{number}:1", f"b{number}:2"] if number % 7 == 6 else [f"b{number}:1"]
    return Endpoint(addresses, weight=weight)
