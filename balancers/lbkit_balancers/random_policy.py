"""random: any READY backend, by weight."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from lbkit.balancer import EndpointBalancer, Subchannel
from lbkit.callinfo import CallInfo
from lbkit.options import Option
from lbkit.picking import Picked, Picker


class RandomPolicy(EndpointBalancer):
    """Connects to all endpoints and draws one of those that are READY for each call, by their weights.

    Clients need not know of each other to spread evenly, whatever each of them does; the shares of one client
    are even only over many calls.
    """

    name = "random"
    options: ClassVar[Mapping[str, Option]] = {}

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        """Draw evenly if that is what the weights say."""
        picks = [subchannel.picked for subchannel in ready]
        weights = [subchannel.endpoint.weight for subchannel in ready]
        if min(weights) == max(weights):
            return _Even(picks, self.controller.random)
        return _Weighted(picks, weights, self.controller.random)


class _Even(Picker):
    __slots__ = ("_count", "_picks", "_random")

    def __init__(self, picks: Sequence[Picked], random: random.Random) -> None:
        self._picks = picks
        self._count = len(picks)
        self._random = random.random

    def pick(self, call: CallInfo) -> Picked:
        return self._picks[int(self._random() * self._count)]


class _Weighted(Picker):
    """Draws by the alias method (Walker 1977, in Vose's form): one random number, whatever the number of backends.

    Each backend has a bin of the same size. A light one leaves a part of its bin to a heavier one, its alias.
    Cumulative weights with a binary search would take half as long again for a thousand backends.
    """

    __slots__ = ("_aliases", "_count", "_own", "_picks", "_random")

    def __init__(self, picks: Sequence[Picked], weights: Sequence[float], random: random.Random) -> None:
        count = len(picks)
        heaviest = max(weights)  # first by it, for the sum of large weights may be infinite
        mean = sum(weight / heaviest for weight in weights) / count
        own = [weight / heaviest / mean for weight in weights]
        aliases = list(range(count))
        light = [place for place in range(count) if own[place] < 1]
        heavy = [place for place in range(count) if own[place] >= 1]
        while light and heavy:
            place, alias = light.pop(), heavy[-1]
            aliases[place] = alias
            own[alias] -= 1 - own[place]
            if own[alias] < 1:
                light.append(heavy.pop())
        self._picks = picks
        self._count = count
        self._own = own  # the part of each bin that is its backend's own; the rest is its alias's
        self._aliases = aliases
        self._random = random.random

    def pick(self, call: CallInfo) -> Picked:
        drawn = self._random() * self._count
        place = int(drawn)
        return self._picks[place if drawn - place < self._own[place] else self._aliases[place]]
