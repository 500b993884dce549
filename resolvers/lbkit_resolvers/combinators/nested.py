"""What the combinators share: resolvers that run inside another one, and one run of that other one."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from lbkit.address import Endpoint
from lbkit.clock import TimerHandle
from lbkit.errors import ResolverError
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Resolver, Sink, make_resolver
from lbkit.resolving import ResolverHost
from lbkit.target import Target

Source: TypeAlias = Resolver | str  # a resolver, or the target of one

_log = logging.getLogger("lbkit.resolver")


class Inner(ResolverHost):
    """The sink of a resolver that runs inside another, and the task that runs it.

    As the channel's own, but every error is told, also those behind a good answer; an equal answer behind an error is
    told too, for it is good again; and nothing is logged here: the channel logs what it is told.

    Attributes:
        latest: what it last answered.
        error: what it said since that it could not answer; None when all is well.
        noted: the text of that error, once it was logged.
        verdict: what was said to its answer, for when it gives the same again.
    """

    def __init__(self, resolver: Resolver, run: Run) -> None:
        super().__init__(
            resolver, clock=run.sink.clock, random=run.sink.random, update=self._told, fail=self._complained
        )
        self.error: Exception | None = None
        self.noted = ""
        self.verdict = ACCEPTED
        self._of = run

    @property
    def name(self) -> str:
        """Its target, as it may stand in a log."""
        return str(self._resolver.target)

    @property
    def silent(self) -> bool:
        """Whether it has said nothing at all yet."""
        return self.latest is None and self.error is None

    def update(self, resolution: Resolution) -> Verdict:
        """Take an answer; one that changes nothing goes no further."""
        self._heard_at = self.clock.time()
        if resolution != self.latest or self.error is not None:
            self.latest, self.error, self.noted = resolution, None, ""
            self.verdict = self._deliver(resolution)
        if self.verdict.accepted:
            self._backoff.reset()
        return self.verdict

    def _told(self, resolution: Resolution) -> Verdict:
        return self._of.update(self, resolution)

    def _failed(self, error: Exception) -> None:
        self.error = error
        self._report(error)

    def _complained(self, error: Exception) -> None:
        self._of.fail(self, error)

    async def _run(self) -> None:
        await super()._run()
        if self.silent and not self._of.over:
            self._failed(ResolverError(f"{self.name} ended without an answer"))


class Run(ABC):
    """One run of a combinator: what its parts have said, what was published, and one timer.

    Attributes:
        sink: the combinator's own.
        parts: the resolvers inside, in the user's order.
        published: what the sink was last given.
        failing: the sink was told since that there is no answer, so an equal one is news to it.
        over: nothing comes out of it any more.
    """

    def __init__(self, owner: Combinator, sink: Sink) -> None:
        self.sink = sink
        self.parts = [Inner(resolver, self) for resolver in owner.parts]
        self.published: Resolution | None = None
        self.failing = False
        self.over = False
        self._name = owner.target
        self._timer: TimerHandle | None = None
        self._timer_at: float | None = None

    @abstractmethod
    def update(self, part: Inner, resolution: Resolution) -> Verdict:
        """Take an answer that differs from the part's last one, or is the first behind an error."""

    def fail(self, part: Inner, error: Exception) -> None:
        """Take it that a part has no answer just now."""
        self.report(error)

    def due(self) -> None:  # noqa: B027 -- who sets no timer needs none
        """Do what ``wake_at`` was called for."""

    def publish(self, resolution: Resolution, *told: Inner) -> Verdict:
        """Give the sink an answer. The verdict is kept for the parts in ``told``, in case they repeat theirs."""
        if self.over:
            return ACCEPTED
        self.published, self.failing = resolution, False
        verdict = self.sink.update(resolution)
        for part in told:
            part.verdict = verdict
        return verdict

    def report(self, error: Exception) -> None:
        """Tell the sink that there is no answer just now. Calls fail with it if there never was one."""
        if not self.over:
            self.failing = True
            self.sink.fail(error)

    def log(self, problem: object) -> None:
        """Tell people about something that is no failure to answer."""
        if not self.over:
            _log.warning("resolver of %s: %s", self._name, problem)

    def note(self, part: Inner) -> None:
        """Tell people of the error of a part without which there is an answer: once, as it may stay so for long."""
        text = str(part.error)
        if text != part.noted:
            part.noted = text
            self.log(f"{part.name}: {text}")

    def wake_at(self, when: float | None) -> None:
        """Have ``due`` called at that time of the clock, and at no other; None for never."""
        if when == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = None if when is None or self.over else self.sink.clock.call_at(when, self._fire)

    async def follow(self) -> None:
        """Run the parts until cancelled, and pass on to them what the channel wants."""
        for part in self.parts:
            part.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_wants_on())
                group.create_task(self._pass_resets_on())
        finally:
            self.over = True
            self.wake_at(None)
            await asyncio.gather(*(part.close() for part in self.parts))

    async def _pass_wants_on(self) -> None:
        while True:
            await self.sink.wanted(minimum=0.0)  # each part keeps to its own minimum
            for part in self.parts:
                part.want()

    async def _pass_resets_on(self) -> None:
        while await self.sink.pause(None):
            for part in self.parts:
                part.reset_backoff()

    def _fire(self) -> None:
        self._timer = self._timer_at = None
        self.due()


class Combinator(Resolver):
    """A resolver made of others. ``:authority`` is that of the first.

    Args:
        parts: resolvers, which belong to this one from now on, or their targets.

    Raises:
        TargetError, UnknownPluginError: a target cannot be understood.
    """

    parameters = None
    scheme: ClassVar[str]

    def __init__(self, *parts: Source) -> None:
        self.parts = tuple(make_resolver(each) if isinstance(each, str) else each for each in parts)
        super().__init__(self._shown(""))

    @property
    def authority(self) -> str:
        """The first resolver's."""
        return self.parts[0].authority

    def _shown(self, parameters: str) -> Target:
        """Return a target for people to read: passwords in those of the parts are not shown."""
        names = "abcdefghijklmnopqrstuvwxyz" if len(self.parts) > 1 else ["of"]
        inner = "&".join(f"{name}={part.target}" for name, part in zip(names, self.parts, strict=False))
        query = f"{parameters}&{inner}" if parameters else inner
        return Target(f"{self.scheme}:///?{query}", self.scheme, "", "", query)


def with_missing(answer: Resolution, before: Sequence[Endpoint]) -> Resolution:
    """Return the answer with those behind it that were there before, and are not in it any more."""
    listed = {endpoint.identity for endpoint in answer.endpoints}
    missing = tuple(endpoint for endpoint in before if endpoint.identity not in listed)
    return changed(answer, answer.endpoints + missing, answer.source) if missing else answer


def changed(answer: Resolution, endpoints: tuple[Endpoint, ...], source: str) -> Resolution:
    """Return an answer with other endpoints; what else came with it stays."""
    return Resolution(
        endpoints, answer.service_config, answer.attributes, answer.selector, answer.generation, source
    )


def checked(name: str, value: float, *, least: float = 0.0) -> float:
    """Return a number that was given to a class.

    Raises:
        ValueError: it is less than ``least``, or no number.
    """
    if not value >= least:
        raise ValueError(f"{name} must be {least:g} or more, not {value!r}")
    return value
