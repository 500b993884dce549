"""The channel's side of a resolver under test: a sink that looks at all it is given, and the task that runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress

from lbkit.address import Endpoint
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Resolver, Sink
from lbkit.testing import making
from lbkit.testing.conformance import ConformanceError, History, complain

RULES: Mapping[str, str] = {
    **making.RULES,
    "answers": "run() gives an answer where there is one to be had",
    "valid": "an answer is a Resolution with a tuple of distinct Endpoints",
    "expected": "the answer is the one that the test expects",
    "stable": "while nothing changes every answer equals the first: a whole list, in an order that does not change",
    "sink": "fail() takes an exception; wanted() takes minimum >= 0, and refresh > 0 or None",
    "pace": "a resolver does not loop without pause: it waits in wanted(), or raises to be started again later",
    "cancel": "cancelling run() ends it promptly, and nothing else comes out of it",
    "leftovers": "a cancelled resolver leaves no task, thread or socket",
    "again": "run() can be started again, and gives the answer again",
    "outage": "when no answer can be had run() raises or calls sink.fail(), and never publishes an empty list",
}

_PROMPTLY_S = 2.0  # a cancelled resolver has ended by then, on a busy machine too


class Stop(BaseException):
    """Ends a resolver that broke a rule: it may catch every Exception and go on."""


class Inspector:
    """What was found out so far.

    Args:
        label: what to call the resolver.
        per_second: updates, failures and look-ups that are allowed in a second.
        lookups: how many look-ups there were so far, if somebody counts them.
    """

    def __init__(self, label: str, per_second: int, lookups: Callable[[], int] | None) -> None:
        self.label = label
        self.per_second = per_second
        self.lookups = lookups or (lambda: 0)
        self.history = History()
        self.error: ConformanceError | None = None

    def broken(self, rule: str, details: str) -> None:
        """Note a broken rule; the first one counts."""
        if self.error is None:
            self.error = complain(f"resolver {self.label}", RULES, rule, details, [], self.history)

    def look(self) -> None:
        """Raise what was found."""
        if self.error is not None:
            raise self.error


class InspectingSink(Sink):
    """Takes answers as a channel does. Time passes for the resolver when the check says so: ``grant``.

    Attributes:
        answers: what was published.
        failures: what was reported.
    """

    def __init__(self, inspector: Inspector, verdict: Verdict = ACCEPTED) -> None:
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop
        self.random = random.Random(0)
        self.answers: list[Resolution] = []
        self.failures: list[Exception] = []
        self.news = asyncio.Event()  # something happened
        self._inspector = inspector
        self._verdict = verdict
        self._parked: asyncio.Future[None] | None = None
        self._began = self._loop.time()
        self._granted = 0.0  # seconds that passed in wanted(), or between two runs
        self._events = 0
        self._lookups = inspector.lookups()

    @property
    def parked(self) -> bool:
        """Whether the resolver waits to be asked."""
        return self._parked is not None

    def grant(self) -> None:
        """Ask for a new answer, as late as the resolver allows."""
        if self._parked is not None and not self._parked.done():
            self._inspector.history.add("asked for a new answer")
            self._parked.set_result(None)
            self._parked = None

    def pass_(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._granted += seconds

    def update(self, resolution: Resolution) -> Verdict:
        """Look at an answer."""
        self._inspector.history.add("update({})", resolution)
        self._count("sink.update() was called")
        problem = _problem(resolution)
        if problem:
            self._break("valid", problem)
        self.answers.append(resolution)
        return self._verdict

    def fail(self, error: Exception) -> None:
        """Look at a failure."""
        self._inspector.history.add("fail({!r})", error)
        self._count("sink.fail() was called")
        if not isinstance(error, Exception):
            self._break("sink", f"fail() got {error!r}")
        self.failures.append(error)

    async def wanted(self, minimum: float = 30.0, refresh: float | None = None) -> None:
        """Sleep until ``grant``."""
        self._inspector.history.add("wanted(minimum={}, refresh={})", minimum, refresh)
        self._count("sink.wanted() was called")
        if not minimum >= 0 or (refresh is not None and not refresh > 0):
            self._break("sink", f"wanted(minimum={minimum}, refresh={refresh})")
        self._parked = parked = self._loop.create_future()
        try:
            await parked
        finally:
            self._parked = None
        self._granted += minimum

    def check_pace(self) -> None:
        """Compare the look-ups with the time that has passed."""
        count = self._inspector.lookups() - self._lookups
        if count > self._allowed():
            self._inspector.broken("pace", f"{count} look-ups in {self._elapsed():.1f} s")

    def _elapsed(self) -> float:
        return self._loop.time() - self._began + self._granted

    def _allowed(self) -> float:
        return self._inspector.per_second * (1 + self._elapsed())

    def _count(self, what: str) -> None:
        self.news.set()
        self._events += 1
        if self._events > self._allowed():
            self._break("pace", f"{what}; that is {self._events} calls in {self._elapsed():.1f} s")

    def _break(self, rule: str, details: str) -> None:
        self._inspector.broken(rule, details)
        raise Stop


class Running:
    """A resolver's run: the task, and what comes out of it."""

    def __init__(
        self, resolver: Resolver, inspector: Inspector, sink: InspectingSink, patience_s: float
    ) -> None:
        self.sink = sink
        self._resolver = resolver
        self._inspector = inspector
        self._patience_s = patience_s
        self.start()

    def start(self) -> None:
        """Run it (again)."""
        self._inspector.history.add("run()")
        self.task = asyncio.get_running_loop().create_task(self._resolver.run(self.sink))
        self.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.sink.news.set()
        if not task.cancelled():
            task.exception()  # looked at now, whether or not it matters: asyncio complains otherwise

    @property
    def raised(self) -> BaseException | None:
        """What came out of the run; None while it goes on, and when it returned."""
        return self.task.exception() if self.task.done() and not self.task.cancelled() else None

    async def until(self, condition: Callable[[], object], seconds: float | None = None) -> bool:
        """Wait for something that the resolver does. Ends early when it broke a rule."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s if seconds is None else seconds):
                while not condition() and self._inspector.error is None:
                    self.sink.news.clear()
                    await self.sink.news.wait()
        self.sink.check_pace()
        self._inspector.look()
        return bool(condition())

    async def answer(self, rule: str) -> Resolution:
        """Wait for the first answer.

        Raises:
            ConformanceError: there was none.
        """
        sink = self.sink
        await self.until(lambda: sink.answers or self.task.done())
        if not sink.answers:
            what = (
                f"run() raised {self.raised!r}"
                if self.raised
                else "run() returned"
                if self.task.done()
                else ""
            )
            said = f", and said {sink.failures[-1]!r}" if sink.failures else ""
            self._inspector.broken(rule, (what or f"no answer within {self._patience_s:g} s") + said)
            await self.cancel()
        return sink.answers[0]

    async def cancel(self) -> None:
        """End the run as a channel does when it is closed.

        Raises:
            ConformanceError: it did not end, or something else came out.
        """
        if not self.task.done():
            self._inspector.history.add("cancelled")
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=_PROMPTLY_S)
            if not self.task.done():
                self._inspector.broken("cancel", f"run() goes on {_PROMPTLY_S:g} s after it was cancelled")
            elif self.raised is not None and not isinstance(self.raised, Stop):
                self._inspector.broken("cancel", f"run() raised {self.raised!r} when it was cancelled")
        self._inspector.look()


def _problem(resolution: object) -> str:
    """Say what is wrong with an answer; nothing if it is well."""
    if not isinstance(resolution, Resolution):
        return f"{resolution!r} is no Resolution"
    if not isinstance(resolution.endpoints, tuple):
        return f"its endpoints are a {type(resolution.endpoints).__name__}"
    seen: set[object] = set()
    for endpoint in resolution.endpoints:
        if not isinstance(endpoint, Endpoint):
            return f"{endpoint!r} is no Endpoint"
        if endpoint.identity in seen:
            return f"{endpoint} is listed twice"
        seen.add(endpoint.identity)
    return ""


REJECTED = Verdict(accepted=False, reason="rejected by the check")
