"""What the acts play with: the backends, their registry, the channel, and the calls."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import lbkit
from lbkit.cli.demo.fleet import Fleet, Process
from lbkit.cli.demo.records import Records
from lbkit.cli.load import Load, Record, first_line

_LOOK_EVERY_S = 0.002


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
        records: of the backends in the registry.
        channel: what is called on.
        load: who calls.
        over: every call that is over, in the order of their ends.
        calls: how many each act judges by.
        limit_s: how long an act waits for these.

    Attributes:
        serving: who should get calls, by what the acts have done to them.
        download: how far it is, while there is one.
    """

    def __init__(
        self,
        fleet: Fleet,
        records: Records,
        channel: lbkit.Channel,
        load: Load,
        over: Sequence[Record],
        *,
        calls: int,
        limit_s: float,
    ) -> None:
        self.fleet = fleet
        self.records = records
        self.channel = channel
        self.load = load
        self.over = over
        self.calls = calls
        self.limit_s = limit_s
        self.serving: list[Process] = []
        self.download: Progress | None = None

    async def weigh(self, weights: Sequence[float]) -> float | None:
        """Put these weights of those who serve into the registry; return after how many seconds calls go by them.

        None if that takes too long.
        """
        clock = asyncio.get_running_loop().time
        wanted = {backend.address: weight for backend, weight in zip(self.serving, weights, strict=True)}
        began = clock()
        await self.records.weigh(wanted)
        if await self.until(lambda: self._weights() == wanted, self.limit_s) is None:
            return None
        took_s = clock() - began
        # The channel publishes it a turn of its loop later. Calls that are late may all be made in that turn, and then
        # would count as if they came after it.
        await asyncio.sleep(_LOOK_EVERY_S)
        return took_s

    def _weights(self) -> dict[str, float]:
        return {address: look.weight for address, look in self.looks().items()}

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

    def listed(self, backend: Process) -> bool:
        """Whether it is in the list that the channel has from the registry."""
        return backend.address in self.looks()

    def ready(self, backend: Process) -> bool:
        """Whether calls can be sent to it."""
        look = self.looks().get(backend.address)
        return look is not None and look.state == lbkit.ConnectivityState.READY.text

    def in_flight_on(self, backend: Process) -> set[Record]:
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
