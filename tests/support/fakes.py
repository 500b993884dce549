"""Stand-ins for what the channel gives to plug-ins, so that policies and resolvers can be tested alone."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, Controller, Subchannel
from lbkit.clock import Clock
from lbkit.connectivity import ConnectivityState
from lbkit.metadata import EMPTY, Metadata
from lbkit.picking import Pick, Picked, Picker
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Sink
from lbkit.testing.clock import VirtualClock

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE
SHUTDOWN = ConnectivityState.SHUTDOWN


def endpoints(*names: str | Endpoint) -> tuple[Endpoint, ...]:
    """Make endpoints of names (``"a"`` is ``a:1``), as they are if they are that already."""
    return tuple(name if isinstance(name, Endpoint) else Endpoint(f"{name}:1") for name in names)


def resolution(*names: str | Endpoint) -> Resolution:
    """Make an answer of such endpoints."""
    return Resolution(endpoints(*names))


class FakeCall:
    """A ``CallInfo``."""

    def __init__(
        self, method: str = "/test.Service/Method", attributes: Mapping[str, object] | None = None
    ) -> None:
        self.method = method
        self.metadata: Metadata = EMPTY
        self.attributes: Mapping[str, object] = attributes or {}


class FakeSubchannel(Subchannel):
    """A subchannel whose state the test sets with ``become``; ``connect`` is only counted, in ``dials``."""

    def __init__(self, endpoint: Endpoint, controller: FakeController) -> None:
        self.endpoint = endpoint
        self.state = IDLE
        self.in_flight = 0
        self.picked = Picked(self)
        self.controller = controller
        self.dials = 0
        self.connect_wanted = False  # as in the real one, it stays IDLE until it is its turn to dial
        self.shutdowns = 0
        self.revisions: list[Endpoint] = []

    @property
    def name(self) -> str:
        """The host of the first address."""
        return self.endpoint.addresses[0].host

    def become(self, state: ConnectivityState) -> None:
        """Change the state and put the news of it into the queue, as a transport does."""
        assert self.state is not SHUTDOWN
        self.connect_wanted = False
        self.state = state
        self.controller.news.append((self, state))

    def connect(self) -> None:
        assert self.state is not SHUTDOWN, "connect() after shutdown()"
        if self.state is IDLE and not self.connect_wanted:
            self.connect_wanted = True
            self.dials += 1

    def shutdown(self) -> None:
        self.shutdowns += 1
        assert self.shutdowns == 1, f"{self} was shut down twice"
        self.state = SHUTDOWN

    def revise(self, endpoint: Endpoint) -> None:
        assert self.state is not SHUTDOWN, "revise() after shutdown()"
        assert endpoint.identity == self.endpoint.identity
        self.endpoint = endpoint
        self.revisions.append(endpoint)

    def describe_failure(self) -> str:
        return "connection refused"

    def __repr__(self) -> str:
        return f"<{self.endpoint} {self.state.name}>"


class Publication(NamedTuple):
    """What a policy published."""

    state: ConnectivityState
    picker: Picker


class FakeController(Controller):
    """Records what a policy asks for, and delivers news to it as the channel does.

    Args:
        waiting: calls that wait: each asks every picker as it is published, as the channel lets them.
    """

    def __init__(self, clock: Clock | None = None, seed: int = 0, *, waiting: int = 0) -> None:
        self.clock = clock or VirtualClock()
        self.random = random.Random(seed)
        self.waiting = waiting
        self.subchannels: list[FakeSubchannel] = []
        self.publications: list[Publication] = []
        self.reresolutions = 0
        self.settle_wanted = False  # settle_again() was called since the last turn
        self.news: deque[tuple[FakeSubchannel, ConnectivityState]] = deque()

    def new_subchannel(self, endpoint: Endpoint) -> Subchannel:
        made = FakeSubchannel(endpoint, self)
        self.subchannels.append(made)
        return made

    def publish(self, state: ConnectivityState, picker: Picker) -> None:
        self.publications.append(Publication(state, picker))
        for _ in range(self.waiting):
            picker.pick(FakeCall())

    def reresolve(self) -> None:
        self.reresolutions += 1

    def settle_again(self) -> None:
        self.settle_wanted = True

    def turn(self, balancer: Balancer) -> None:
        """Run one turn of the loop: all the news in order, and then one ``settle``."""
        self.settle_wanted = False
        while self.news:
            subchannel, state = self.news.popleft()
            if subchannel.state is not SHUTDOWN:
                balancer.subchannel_changed(subchannel, state)
        balancer.settle()

    @property
    def live(self) -> dict[str, FakeSubchannel]:
        """The subchannels that are not shut down, by name."""
        return {each.name: each for each in self.subchannels if each.state is not SHUTDOWN}

    @property
    def state(self) -> ConnectivityState:
        """What was published last."""
        return self.publications[-1].state

    @property
    def picker(self) -> Picker:
        """What was published last."""
        return self.publications[-1].picker

    def pick(self) -> Pick:
        """Ask the last picker."""
        return self.picker.pick(FakeCall())

    def pick_names(self, count: int) -> list[str]:
        """Ask the last picker ``count`` times and return the names of the backends."""
        return [name_of(self.pick()) for _ in range(count)]


def name_of(pick: Pick) -> str:
    """Return the name of the backend that was picked."""
    assert isinstance(pick, Picked), pick
    assert isinstance(pick.subchannel, FakeSubchannel)
    return pick.subchannel.name


class FakeSink(Sink):
    """Records answers and failures; ``wanted`` returns when the test calls ``ask``.

    Args:
        verdicts: what to say to the updates, in order; accepted when they have run out.
    """

    def __init__(self, verdicts: Iterable[Verdict] = ()) -> None:
        self.clock = VirtualClock()
        self.random = random.Random(0)
        self.answers: list[Resolution] = []
        self.errors: list[Exception] = []
        self.waits: list[tuple[float, float | None]] = []
        self._verdicts = deque(verdicts)
        self._wake = asyncio.Event()

    @property
    def addresses(self) -> list[list[str]]:
        """The answers as text."""
        return [[str(endpoint) for endpoint in answer.endpoints] for answer in self.answers]

    def update(self, resolution: Resolution) -> Verdict:
        self.answers.append(resolution)
        return self._verdicts.popleft() if self._verdicts else ACCEPTED

    def fail(self, error: Exception) -> None:
        self.errors.append(error)

    async def wanted(self, minimum: float = 30.0, refresh: float | None = None) -> None:
        self.waits.append((minimum, refresh))
        await self._wake.wait()
        self._wake.clear()

    def ask(self) -> None:
        """Ask for re-resolution."""
        self._wake.set()
