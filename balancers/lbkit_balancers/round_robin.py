"""round_robin: every READY backend in turn."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from lbkit.balancer import Controller, EndpointBalancer, Subchannel
from lbkit.callinfo import CallInfo
from lbkit.picking import Picked, Picker


class RoundRobin(EndpointBalancer):
    """Connects to all endpoints and uses those that are READY one after the other.

    Each backend gets a random place on a ring, which it keeps for as long as it is listed, and the turn goes
    round the ring from a random point. So the clients of a fleet neither start at the same backend nor follow
    the same order (grpc-go PR 2579: else the first backends of the list get several times their share), and a
    backend that flaps takes its own turns out and puts them back, without moving anybody's turn.
    """

    name = "round_robin"

    def __init__(self, controller: Controller, config: Mapping[str, Any]) -> None:
        super().__init__(controller, config)
        self._places: dict[Subchannel, float] = {}  # on a ring of circumference 1
        self._rotation: _Rotation | None = None

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        """Let the turn go on from where it is among the ones that are READY now."""
        random = self.controller.random.random
        turn = random() if self._rotation is None else self._places[self._rotation.coming().subchannel]
        known = self._places
        self._places = {
            subchannel: known[subchannel] if subchannel in known else random()
            for subchannel in self.subchannels.values()
        }
        ring = sorted(ready, key=self._places.__getitem__)
        first = bisect_left(ring, turn, key=self._places.__getitem__)
        self._rotation = _Rotation([subchannel.picked for subchannel in ring[first:] + ring[:first]])
        return self._rotation


class _Rotation(Picker):
    __slots__ = ("_next",)

    def __init__(self, picks: Sequence[Picked]) -> None:
        self._next = cycle(picks).__next__

    def pick(self, call: CallInfo) -> Picked:
        return self._next()

    def coming(self) -> Picked:
        """Return whose turn it is. Takes the turn, so this ends the picker's use."""
        return self._next()
