"""weighted_round_robin: every READY backend in turn, as often as its weight says."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heapreplace
from math import gcd
from typing import Any

from lbkit.balancer import Controller, Subchannel
from lbkit.callinfo import CallInfo
from lbkit.picking import Picked, Picker
from lbkit_balancers.round_robin import RoundRobin

_LARGEST = 65535  # what the heaviest weight becomes where weights have to be scaled, as in gRPC
_GOLDEN = 0.6180339887498949  # successive multiples of it, modulo 1, fall as far apart as can be


class WeightedRoundRobin(RoundRobin):
    """Connects to all endpoints and gives those that are READY turns in proportion to their static weights.

    Whole weights up to 65535 count exactly as they are; any others are scaled so that the largest is 65535, and
    rounded, but never to nothing. In each run of as many calls as these weights add up to, wherever it starts,
    every backend gets exactly its weight, for as long as no backend comes, goes or gets another weight. In any
    other run it is off by less than 2 + count * weight / sum.

    The sequence is that of gRPC's static stride scheduler, which goes round the backends again and again and
    passes over each one until its weight has added up to the largest. It is random where it starts and in which
    order it goes round, and after a change it goes on where it was. With equal weights it is ``round_robin``, and
    costs the same.
    """

    name = "weighted_round_robin"

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self._strides: _Strides | None = None  # while the weights differ
        self._ahead: dict[Subchannel, float] = {}  # as ``_Strides.ahead``; of all that had turns by weight
        self._phase = controller.random.random()

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        """Go on from the place of the last turn, with the ones that are READY now and their present weights."""
        turn = self.controller.random.random()
        if self._strides is not None:
            self._ahead.update(self._strides.ahead())
            turn = self._places[self._strides.upcoming()]
            self._strides = self._rotation = None
        weights = whole([subchannel.endpoint.weight for subchannel in ready])
        if min(weights) == max(weights):
            return super().make_picker(ready)
        ahead = self._ahead
        if len(ahead) > 2 * len(self.subchannels):  # forget those that are no longer listed
            ahead = self._ahead = {one: ahead[one] for one in self.subchannels.values() if one in ahead}
        for subchannel in ready:
            if subchannel not in ahead:  # a newcomer waits a random part of its way to a turn
                self._phase = (self._phase + _GOLDEN) % 1
                ahead[subchannel] = self._phase
        weight_of = dict(zip(ready, weights, strict=True))
        ring = self.ring(ready)
        first = bisect_left(ring, turn, key=self._places.__getitem__)
        ring = ring[first:] + ring[:first]
        self._strides = _Strides(ring, [weight_of[one] for one in ring], [ahead[one] for one in ring])
        return self._strides


def whole(weights: Sequence[float]) -> list[int]:
    """Return whole weights in the same proportions, none above 65535.

    They are exact if that is possible, and else off by at most 1 / 65535 of the heaviest.
    """
    if all(weight == int(weight) for weight in weights):
        common = gcd(*map(int, weights))
        reduced = [int(weight) // common for weight in weights]
        if max(reduced) <= _LARGEST:
            return reduced
    heaviest = max(weights)
    return [max(1, round(weight / heaviest * _LARGEST)) for weight in weights]


class _Strides(Picker):
    """The static stride scheduler, without the passing over.

    In round r the backend at place i has a turn if w(i) * (r + 1) + o(i) reaches a further multiple of the largest
    weight than w(i) * r + o(i) did. So the round of its next turn follows by a division, and a heap of turns
    (round * count + place) makes the same sequence in O(log count) steps for a pick, where passing over takes
    as many as there are backends if one of them is much heavier than the others.
    """

    __slots__ = ("_due", "_largest", "_next", "_ring", "_turns", "_weights")

    def __init__(self, ring: Sequence[Subchannel], weights: Sequence[int], ahead: Sequence[float]) -> None:
        scale = _LARGEST // max(weights)  # small weights would leave no room for parts of the way
        self._ring = ring
        self._weights = weights = [weight * scale for weight in weights]
        self._largest = max(weights)
        # Of each backend: the round of its next turn * its weight.
        self._due = [int(part * self._largest) for part in ahead]
        count = len(ring)
        self._turns = [
            due // weight * count + place
            for place, (due, weight) in enumerate(zip(self._due, weights, strict=True))
        ]
        heapify(self._turns)
        self._next = self._run().__next__

    def _run(self) -> Iterator[Picked]:
        turns, due, weights, largest = self._turns, self._due, self._weights, self._largest
        picks = [subchannel.picked for subchannel in self._ring]
        count = len(picks)
        while True:
            place = turns[0] % count
            due[place] += largest
            heapreplace(turns, due[place] // weights[place] * count + place)
            yield picks[place]

    def pick(self, call: CallInfo) -> Picked:
        return self._next()

    def upcoming(self) -> Subchannel:
        """Return whose turn is next."""
        return self._ring[self._turns[0] % len(self._ring)]

    def ahead(self) -> dict[Subchannel, float]:
        """Return how far each backend is from its next turn, as a part of its way from one turn to the next.

        Those that had their chance in this round count from the next round on.
        """
        now, passed = divmod(self._turns[0], len(self._ring))
        return {
            subchannel: (due - (now + (place < passed)) * weight) / self._largest
            for place, (subchannel, due, weight) in enumerate(
                zip(self._ring, self._due, self._weights, strict=True)
            )
        }
