"""Follows the EndpointSlices of one Service: list once, then watch, and list again only when a watch cannot go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from math import inf
from typing import Any, NamedTuple, NoReturn, Protocol

from lbkit.backoff import Backoff
from lbkit.errors import ResolverError
from lbkit.resolution import Resolution
from lbkit.resolver import Sink
from lbkit_resolvers.kubernetes.events import Event
from lbkit_resolvers.kubernetes.failures import SLOW_S, Failure
from lbkit_resolvers.kubernetes.slices import Slices
from lbkit_resolvers.pacing import Pace
from lbkit_resolvers.records import Complaints

_READ_PER_TURN = 5  # slices, of up to 100 endpoints each, before other work on the event loop gets a turn
_JITTER = 0.1  # so that many clients that started together do not list and watch together

_log = logging.getLogger("lbkit.resolver")


class Timing(NamedTuple):
    """Times in seconds.

    Attributes:
        request_s: for one page of a list, and for the server to begin with a watch.
        watch_s: how long the server is asked to go on with a watch; a tenth more or less.
        slack_s: how much longer it gets to end it, before the connection is given up.
        good_s: a watch that went on for so long, from when the server took it up, was a good one.
        slow_s: before asking again what a person has to put right first.
    """

    request_s: float = 30.0
    watch_s: float = 300.0
    slack_s: float = 10.0
    good_s: float = 1.0
    slow_s: float = SLOW_S


class Source(Protocol):
    """What is asked: ``api.Api``."""

    where: str

    async def everything(self) -> tuple[list[Any], str]:
        """Return all slices, and the version to watch from."""
        ...

    def watch(self, version: str, seconds: float, opened: Callable[[], None]) -> AsyncGenerator[Event, None]:
        """Give what changes after that version; call ``opened`` when the server has taken up the watch."""
        ...


class Follower:
    """What one run of the resolver knows: the slices, the version they are of, and how it went so far.

    Args:
        sink: the channel's.
        port: which of the slices' ports.
        backoff: between attempts that fail.
        timing: how long a watch goes on, and from when on it was a good one.
        resync_s: list again after so long, whatever the watch says.
        complaints: tells of records that make no sense.
    """

    def __init__(
        self,
        sink: Sink,
        port: str,
        *,
        backoff: Backoff,
        timing: Timing,
        resync_s: float,
        complaints: Complaints,
    ) -> None:
        self.version = ""  # empty: list first
        self._sink = sink
        self._slices = Slices(port)
        self._backoff = backoff
        self._timing = timing
        self._resync_s = resync_s
        self._complaints = complaints
        self._where = ""
        self._resync_at = 0.0
        self._good = False  # the last watch was a good one
        self._credit = False  # there was a good one, and nothing has failed at once since
        self._renewed = False  # a token that was not accepted was read again
        self._unusable = ""
        self._pace = Pace(sink.clock, self._publish)

    def close(self) -> None:
        """Publish nothing more."""
        self._pace.close()

    async def follow(self, source: Source) -> NoReturn:
        """List and watch until something goes wrong that a new connection may put right.

        Raises:
            Failure: see ``after``.
        """
        self._where = source.where
        while True:
            try:
                if not self.version or self._sink.clock.time() >= self._resync_at:
                    await self._list(source)
                await self._watch(source)
            except Failure as failure:
                if not self._quiet(failure):
                    raise
                _log.debug("%s", failure)
            else:
                # If the server ended it at once: do not ask in a loop.
                if not self._good and await self._sink.pause(self._backoff.next_delay()):
                    self._backoff.reset()

    def after(self, failure: Failure) -> float:
        """Report a failure; return the seconds to wait before the next attempt.

        It begins with a list if the version has expired, else it goes on with the watch.
        """
        if failure.expired:
            self.version = ""
        if failure.status == 401 and not self._renewed:
            self._renewed = True
            return 0.0
        self._sink.fail(failure)
        return max(self._backoff.next_delay(), failure.wait_s)

    def _quiet(self, failure: Failure) -> bool:
        """Whether this is what happens to every watch sooner or later, and nothing has to be made anew."""
        if not failure.passing or not self._credit:
            return False
        self._credit = self._good
        if failure.expired:
            self.version = ""
        return True

    async def _list(self, source: Source) -> None:
        self._good = False
        items, version = await source.everything()
        named: list[tuple[str, dict[str, Any]]] = []
        for item in items:
            if not (name := _name_of(item)):
                raise Failure(f"{self._where}: the API server's list holds what is no EndpointSlice")
            named.append((name, item))
        for count, _ in enumerate(self._slices.replacing(named), 1):
            if count % _READ_PER_TURN == 0:
                await asyncio.sleep(0)
        self.version = version
        self._renewed = False
        self._resync_at = self._sink.clock.time() + self._spread(self._resync_s)
        self._pace.changed()

    async def _watch(self, source: Source) -> None:
        self._good = False
        clock = self._sink.clock
        seconds = min(self._spread(self._timing.watch_s), max(1.0, self._resync_at - clock.time()))
        opened_at = inf  # a server that takes its time to say no, or nothing, makes no good watch

        def opened() -> None:
            nonlocal opened_at
            opened_at = clock.time()

        try:
            async with aclosing(source.watch(self.version, seconds, opened)) as events:
                async for event in events:
                    self._take(event)
        finally:
            self._good = clock.time() - opened_at >= self._timing.good_s
            if self._good:
                self._credit = True
                self._backoff.reset()

    def _take(self, event: Event) -> None:
        if event.kind != "BOOKMARK":
            if not (name := _name_of(event.object)):
                raise Failure(f"{self._where}: an event is about what is no EndpointSlice", expired=True)
            if event.kind == "DELETED":
                self._slices.remove(name)
            else:
                self._slices.put(name, event.object)
            self._pace.changed()
        self.version = event.version or self.version

    def _publish(self) -> None:
        answer = self._slices.answer()
        problems = dict(answer.problems)
        if not self._slices:
            problems["the service"] = "it has no EndpointSlices; are its name and namespace right?"
        self._complaints.take(problems)
        if answer.unusable:
            if answer.unusable != self._unusable:
                self._sink.fail(ResolverError(f"{self._where}: {answer.unusable}"))
        else:  # if rejected: asking again would change nothing
            source = f"kubernetes {self._where}, version {self.version}"
            self._sink.update(Resolution(answer.endpoints, source=source))
        self._unusable = answer.unusable

    def _spread(self, seconds: float) -> float:
        return seconds * self._sink.random.uniform(1 - _JITTER, 1 + _JITTER)


def _name_of(item: Any) -> str:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
