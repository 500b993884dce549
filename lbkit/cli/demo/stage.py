"""What the acts play with: the backends, the list of them, the channel, and the calls."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import lbkit
from lbkit.cli.demo.fleet import Backend, Fleet
from lbkit.cli.load import Load, Record, first_line

_LOOK_EVERY_S = 0.002


class Listed(lbkit.Resolver):
    """A resolver plug-in: the list of backends that the demo itself keeps, pushed whenever it changes."""

    def __init__(self) -> None:
        super().__init__(lbkit.Target.parse("demo:///echo", ()))
        self._sink: lbkit.Sink | None = None
        self._answer = lbkit.Resolution(())

    def update(self, weights: Mapping[Backend, float]) -> None:
        """Replace the list."""
        endpoints = [lbkit.Endpoint(backend.address, weight=weight) for backend, weight in weights.items()]
        self._answer = lbkit.Resolution(tuple(endpoints))
        if self._sink is not None:
            self._sink.update(self._answer)

    async def run(self, sink: lbkit.Sink) -> None:
        """Push the list, and again from ``update``."""
        self._sink = sink
        sink.update(self._answer)
        await asyncio.get_running_loop().create_future()  # until the channel is closed


class Look(NamedTuple):
    """One subchannel at a glance."""

    state: str
    in_flight: int
    weight: float


class Progress(NamedTuple):
    """How far a download is, in bytes."""

    done: int
    total: int


class Stage:
    """Everything an act needs.

    Args:
        fleet: the processes.
        listed: says to the channel who is there.
        channel: what is called on.
        load: who calls.
        over: every call that is over, in the order of their ends.
        calls: how many each act judges by.
        limit_s: how long an act waits for these.
    """

    def __init__(
        self,
        fleet: Fleet,
        listed: Listed,
        channel: lbkit.Channel,
        load: Load,
        over: Sequence[Record],
        *,
        calls: int,
        limit_s: float,
    ) -> None:
        self.fleet = fleet
        self.channel = channel
        self.load = load
        self.over = over
        self.calls = calls
        self.limit_s = limit_s
        self.on_list: list[Backend] = []  # by what the resolver says
        self.download: Progress | None = None  # while there is one
        self._listed = listed

    def announce(self, backends: Sequence[Backend], weights: Sequence[float] = ()) -> None:
        """Tell the channel, through its resolver, who is there now, and with which weights; 1 if none are given."""
        self.on_list = [*backends]
        self._listed.update(dict(zip(backends, weights or [1.0] * len(backends), strict=True)))

    async def settled(self) -> None:
        """Wait until calls go by what was announced: the channel publishes it a turn of its loop later.

        Calls that are late may all be made in that turn, and then would count as if they came after it.
        """
        await asyncio.sleep(_LOOK_EVERY_S)

    def looks(self) -> dict[str, Look]:
        """Return each subchannel's state by its address."""
        return {
            str(sub.endpoint): Look(sub.state.text, sub.in_flight, sub.endpoint.weight)
            for sub in self.channel.subchannels()
        }

    async def until(self, seen: Callable[[], bool], limit_s: float) -> float | None:
        """Wait until something can be seen; return how long that took, None if it took too long."""
        clock = asyncio.get_running_loop().time
        began = clock()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not seen():  # noqa: ASYNC110  # subchannels set no event
                    await asyncio.sleep(_LOOK_EVERY_S)
                return clock() - began
        return None

    def ready(self, backend: Backend) -> bool:
        """Whether calls can be sent to it."""
        look = self.looks().get(backend.address)
        return look is not None and look.state == lbkit.ConnectivityState.READY.text

    def in_flight_on(self, backend: Backend) -> set[Record]:
        """Return the calls that were sent to it and are not over."""
        return {record for record in self.load.running if record.address == backend.address}

    def over_in_last(self, seconds: float) -> Sequence[Record]:
        """Return the calls that ended within the last ``seconds``."""
        since = asyncio.get_running_loop().time() - seconds
        return self.over[bisect_left(self.over, since, key=lambda record: record.started_s + record.took_s) :]

    async def next_calls(self) -> list[Record]:
        """Let as many calls as an act judges by start and end, from now on; fewer if that takes too long."""
        first = self.load.started
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limit_s):
                await self.load.until_over(first + self.calls)
        return [record for record in self.over if first <= record.number < first + self.calls]


def shares(records: Iterable[Record]) -> Counter[str]:
    """Count who answered."""
    return Counter(record.backend for record in records if record.error is None)


def errors(records: Iterable[Record]) -> list[str]:
    """Return what the failed calls said."""
    return [first_line(record.error) for record in records if record.error is not None]
