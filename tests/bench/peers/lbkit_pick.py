"""What one round_robin pick costs: the picker that the real policy publishes, over stand-in subchannels."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from statistics import median
from timeit import repeat

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, Controller, Subchannel
from lbkit.clock import Clock, TimerHandle
from lbkit.connectivity import ConnectivityState
from lbkit.metadata import EMPTY
from lbkit.picking import Picked, Picker
from lbkit.resolution import Resolution
from lbkit_balancers.round_robin import RoundRobin

SIZES = (3, 1000)
_PICKS = 200_000
_REPEATS = 5


class Call:
    """A call that carries nothing but its method."""

    def __init__(self) -> None:
        self.method = "/lbkit.bench.Bench/Echo"
        self.metadata = EMPTY
        self.attributes: Mapping[str, object] = {}


class StillClock:
    """A clock that no policy of this module needs to look at."""

    def time(self) -> float:
        """Return always the same time."""
        return 0.0

    def call_at(self, when: float, callback: Callable[..., object], /, *args: object) -> TimerHandle:
        """Refuse: nothing here waits."""
        raise NotImplementedError


class ReadySubchannel(Subchannel):
    """A subchannel that is told to be READY and never connects."""

    __slots__ = ()

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.state = ConnectivityState.IDLE
        self.in_flight = 0
        self.picked = Picked(self)

    def connect(self) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Do nothing."""

    def revise(self, endpoint: Endpoint) -> None:
        """Take the new endpoint."""
        self.endpoint = endpoint

    def describe_failure(self) -> str:
        """Say nothing: it never fails."""
        return ""


class RecordingController(Controller):
    """Makes stand-in subchannels and keeps the picker that was published last."""

    def __init__(self) -> None:
        self.clock: Clock = StillClock()
        self.random = random.Random(1)
        self.made: list[ReadySubchannel] = []
        self.picker: Picker | None = None
        self.unsettled = False

    def new_subchannel(self, endpoint: Endpoint) -> Subchannel:
        """Make a stand-in."""
        subchannel = ReadySubchannel(endpoint)
        self.made.append(subchannel)
        return subchannel

    def publish(self, state: ConnectivityState, picker: Picker) -> None:
        """Keep the picker."""
        self.picker = picker

    def reresolve(self) -> None:
        """Do nothing."""

    def settle_again(self) -> None:
        """Note that the policy has work left."""
        self.unsettled = True

    def settle(self, policy: Balancer) -> None:
        """Let the policy do all the work that it has."""
        self.unsettled = True
        while self.unsettled:
            self.unsettled = False
            policy.settle()


def published_picker(size: int) -> Picker:
    """Return the picker of the real policy when ``size`` endpoints are READY."""
    controller = RecordingController()
    policy = RoundRobin(controller, {})
    policy.update(Resolution(tuple(Endpoint(f"127.0.0.1:{10_000 + number}") for number in range(size))))
    controller.settle(policy)
    for subchannel in controller.made:
        subchannel.state = ConnectivityState.READY
        policy.subchannel_changed(subchannel, ConnectivityState.READY)
    controller.settle(policy)
    assert controller.picker is not None
    picks = [controller.picker.pick(Call()) for _ in range(size)]
    chosen = {id(picked.subchannel) for picked in picks if isinstance(picked, Picked)}
    assert len(chosen) == size, "round_robin left endpoints out"
    return controller.picker


def pick_ns(size: int) -> float:
    """Return the median time of one pick among ``size`` READY endpoints."""
    names = {"pick": published_picker(size).pick, "call": Call()}
    return median(repeat("pick(call)", globals=names, number=_PICKS, repeat=_REPEATS)) / _PICKS * 1e9


if __name__ == "__main__":
    print(json.dumps({str(size): pick_ns(size) for size in SIZES}))
