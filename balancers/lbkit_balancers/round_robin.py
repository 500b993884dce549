"""round_robin: every READY backend in turn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any, ClassVar

from lbkit.balancer import Controller, EndpointBalancer, Subchannel
from lbkit.callinfo import CallInfo
from lbkit.options import Option
from lbkit.picking import Picked, Picker


class RoundRobin(EndpointBalancer):
    """Connects to all endpoints and uses those that are READY one after the other.

    Each backend gets a random place on a ring, which it keeps for as long as it is listed, and the turn goes
    round the ring from a random point. So the clients of a fleet neither start at the same backend nor follow
    the same order (grpc-go PR 2579: else the first backends of the list get several times their share), and a
    backend that flaps takes its own turns out and puts them back, without moving anybody's turn.
    """

    name = "round_robin"
    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self._places: dict[Subchannel, float] = {}  # on a ring of circumference 1
        self._ring: list[Subchannel] = []  # those that were READY last time, by their places
        self._rotation: _Rotation | None = None
        self._turn = controller.random.random()  # the place behind which the present rotation begins

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        """Go on behind the place of the last turn, with the ones that are READY now."""
        rotation = self._rotation
        if rotation is not None and rotation.used:
            self._turn = self._places[rotation.last().subchannel]
        ring = self.ring(ready)
        first = bisect_right(ring, self._turn, key=self._places.__getitem__)
        self._rotation = _Rotation([subchannel.picked for subchannel in ring[first:] + ring[:first]])
        return self._rotation

    def ring(self, ready: Sequence[Subchannel]) -> list[Subchannel]:
        """Return them in the order of their places, and give a place to those that have none."""
        places, random = self._places, self.controller.random.random
        if len(places) > 2 * len(self.subchannels):  # forget those that are no longer listed
            places = self._places = {one: places[one] for one in self.subchannels.values() if one in places}
        for subchannel in ready:
            if subchannel not in places:
                places[subchannel] = random()
        # With thousands of backends this runs again and again while they come up: sorting what nearly is sorted
        # takes a quarter of the time.
        now = dict.fromkeys(ready)
        ring = [subchannel for subchannel in self._ring if subchannel in now]
        before = dict.fromkeys(ring)
        ring += [subchannel for subchannel in ready if subchannel not in before]
        ring.sort(key=places.__getitem__)
        self._ring = ring
        return ring


class _Rotation(Picker):
    __slots__ = ("_length", "_next", "_turns", "used")

    def __init__(self, picks: Sequence[Picked]) -> None:
        self.used = False
        self._length = len(picks)
        self._turns = cycle(picks)
        self._next = self._first

    def _first(self) -> Picked:
        """Take note that somebody was picked; from now on nobody asks."""
        self.used = True
        self._next = self._turns.__next__
        return self._next()

    def pick(self, call: CallInfo) -> Picked:
        return self._next()

    def last(self) -> Picked:
        """Return whose turn it was last, by going once round; so nobody's turn is changed."""
        return next(islice(self._turns, self._length - 1, None))
