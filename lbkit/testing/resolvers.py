"""``check_resolver``: whether a resolver keeps its contract, from its constructor to its cancellation."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import cast

from lbkit.address import Endpoint
from lbkit.errors import TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import (
    FunctionResolver,
    ResolveFunction,
    Resolver,
    ResolverFactory,
    make_resolver,
    registry,
)
from lbkit.target import Target
from lbkit.testing.leaks import Snapshot
from lbkit.testing.making import UNKNOWN, check_constructor, check_parameters_of
from lbkit.testing.resolver_run import REJECTED, InspectingSink, Inspector, Running

_ROUNDS = 3  # how often a resolver that polls is asked again
_LINGER_S = 0.3  # for a resolver that may loop to show it


async def check_resolver(
    resolver: str | type[Resolver] | ResolveFunction | ResolverFactory,
    target: str = "",
    *,
    expect: Iterable[str | Endpoint] | None = None,
    outage: Callable[[], AbstractContextManager[object]] | None = None,
    lookups: Callable[[], int] | None = None,
    per_second: int = 20,
    patience: float = 5.0,
    unknown_parameter: str = UNKNOWN,
) -> None:
    """Run a resolver through its life, and fail at the first rule of the contract that it breaks.

    It is made, asked for answers, cancelled at once and later, started again, told that its answer was rejected,
    and, if the test can arrange for that, left without an answer. Polls cost no time: ``sink.wanted`` returns when
    the check wants it to. What the source answers must not change meanwhile.

    Args:
        resolver: a target whose resolver is registered; or a ``Resolver`` subclass, async function, async generator
            function or factory, and the ``target`` to make it for.
        target: whom to resolve, like ``myscheme:///greeter``; it must have an answer.
        expect: the endpoints that the answer must have, in any order; addresses will do.
        outage: gives a context manager in whose block no answer can be had.
        lookups: says how many look-ups there were so far; then their pace is checked too.
        per_second: updates, failures, waits and look-ups that are allowed in a second.
        patience: seconds for what must happen.
        unknown_parameter: a query that must be refused; empty if there is none.

    Raises:
        ConformanceError: a rule is broken; says which, and what happened before.
        TargetError, PluginError: the resolver cannot be made for that target at all.
    """
    text = resolver if isinstance(resolver, str) else target
    if not text:
        raise TypeError("check_resolver(resolver, target) needs a target to make the resolver for")
    label = (
        repr(text) if isinstance(resolver, str) else f"{getattr(resolver, '__name__', resolver)} of {text!r}"
    )
    inspector = Inspector(label, per_second, lookups)
    check = _Check(_maker(resolver, text), text, inspector, patience)
    check.construct()
    check.refuse(unknown_parameter)
    try:
        first = await check.first_run(expect)
        await check.cancelled_at_once()
        await check.second_run(first)
        await check.rejected()
        if outage is not None:
            await check.outage(outage, first)
    finally:
        await check.end_all()


def _maker(resolver: object, text: str) -> Callable[[str], Resolver]:
    """Return what makes the resolver of a target, as a channel does."""
    if isinstance(resolver, str):
        make_resolver(resolver)  # says what is wrong with the target, if something is
        # From here on without the registry, which may look at the installed distributions each time.
        factory: ResolverFactory = registry.get(Target.parse(resolver, registry).scheme)
    elif inspect.isasyncgenfunction(resolver) or inspect.iscoroutinefunction(resolver):
        function = cast("ResolveFunction", resolver)
        factory = lambda target: FunctionResolver(function, target, 30.0)  # noqa: E731
    elif callable(resolver):
        factory = cast("ResolverFactory", resolver)
    else:
        raise TypeError(
            f"{resolver!r} is no resolver: a target, a Resolver subclass or an async function is needed"
        )

    schemes = {*registry, *(() if isinstance(resolver, str) else (text.partition(":")[0].lower(),))}

    def make(text: str) -> Resolver:
        parsed = Target.parse(text, schemes)
        made = factory(parsed)
        if made.parameters is not None and set(parsed.parameters()) - made.parameters:
            raise TargetError(f"target {text!r} has a parameter that the resolver does not know")
        return made

    return make


class _Check:
    """The parts of the check, in the order in which they run."""

    def __init__(
        self, make: Callable[[str], Resolver], text: str, inspector: Inspector, patience_s: float
    ) -> None:
        self._make = make
        self._text = text
        self._inspector = inspector
        self._patience_s = patience_s
        self._runs: list[Running] = []
        self._resolver = make(text)  # the first one imports what it needs, which is no I/O of its own

    def construct(self) -> None:
        """Make it again, and look at how."""
        broken = self._inspector.broken
        if not isinstance(self._resolver, Resolver):
            broken("constructor", f"{self._resolver!r} is no lbkit.Resolver")
        check_constructor(self._make, self._text, broken)
        self._inspector.look()

    def refuse(self, parameter: str) -> None:
        """Make one with a parameter that nobody knows."""
        check_parameters_of(self._make, self._text, parameter, self._inspector.broken)
        self._inspector.look()

    async def first_run(self, expect: Iterable[str | Endpoint] | None) -> Resolution:
        """Get the answer, ask for it again and again, and cancel."""
        before = Snapshot.take()
        running = self._run(self._resolver)
        sink = running.sink
        first = await running.answer("answers")
        if expect is not None:
            wanted = {str(each) for each in expect}
            got = {str(endpoint) for endpoint in first.endpoints}
            if got != wanted:
                self._inspector.broken("expected", f"{sorted(got)}, not {sorted(wanted)}")
        for _ in range(_ROUNDS):
            if not await running.until(lambda: sink.parked or running.task.done(), _LINGER_S):
                break  # it watches, and says by itself when something changes
            if running.raised is not None:
                self._inspector.broken("answers", f"run() raised {running.raised!r} after its answer")
            sink.grant()
        await running.until(lambda: sink.parked or running.task.done(), _LINGER_S)
        self._same(sink.answers, first, "stable")
        await self._end(running, before)
        return first

    async def cancelled_at_once(self) -> None:
        """Cancel a run that has hardly begun, and one that has not."""
        before = Snapshot.take()
        for turns in (0, 1, 2, 5):
            running = self._run(self._make(self._text))
            for _ in range(turns):
                await asyncio.sleep(0)
            await self._end(running, before)

    async def second_run(self, first: Resolution) -> None:
        """Start the one that was cancelled again."""
        before = Snapshot.take()
        running = self._run(self._resolver)
        await running.answer("again")
        self._same(running.sink.answers, first, "again")
        await self._end(running, before)

    async def rejected(self) -> None:
        """Say no to its answers: it must not try again without pause."""
        before = Snapshot.take()
        running = self._run(self._make(self._text), InspectingSink(self._inspector, REJECTED))
        await running.answer("answers")
        await running.until(running.task.done, _LINGER_S)
        await self._end(running, before)

    async def outage(self, outage: Callable[[], AbstractContextManager[object]], first: Resolution) -> None:
        """Take its answer away and give it back."""
        before = Snapshot.take()
        running = self._run(self._make(self._text))
        sink = running.sink
        await running.answer("answers")
        await running.until(lambda: sink.parked, _LINGER_S)
        with outage():
            said = len(sink.answers)
            sink.grant()
            if not await running.until(lambda: sink.failures or running.task.done()):
                self._inspector.broken("outage", f"nothing was said about it within {self._patience_s:g} s")
            await self._keep_going(running)
            await running.until(running.task.done, _LINGER_S)
            if any(not answer.endpoints for answer in sink.answers[said:]):
                self._inspector.broken("outage", "an empty list was published")
            elif running.task.done() and running.raised is None:
                self._inspector.broken("outage", "run() returned: nothing would ever be asked again")
            self._inspector.look()
        said = len(sink.answers)
        started_again = running.raised is not None
        await self._keep_going(running)
        # One that went on need not say once more what it said before.
        seconds = self._patience_s if started_again else _LINGER_S
        back = await running.until(lambda: len(sink.answers) > said or running.task.done(), seconds)
        if running.raised is not None or (started_again and not back):
            self._inspector.broken("outage", f"no answer after it: {running.raised!r}")
        self._same(sink.answers, first, "stable")
        await self._end(running, before)

    async def end_all(self) -> None:
        """Cancel what still runs because a rule was broken."""
        tasks = {running.task for running in self._runs if not running.task.done()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LINGER_S)

    async def _keep_going(self, running: Running) -> None:
        """Do what a channel does: start what raised again after its back-off, ask what waits."""
        if running.raised is not None:
            running.sink.pass_(1.0)
            running.start()
        running.sink.grant()
        await asyncio.sleep(0)

    def _run(self, resolver: Resolver, sink: InspectingSink | None = None) -> Running:
        running = Running(
            resolver, self._inspector, sink or InspectingSink(self._inspector), self._patience_s
        )
        self._runs.append(running)
        return running

    def _same(self, answers: list[Resolution], first: Resolution, rule: str) -> None:
        for answer in answers:
            if answer != first:
                self._inspector.broken(rule, f"first {first}, then {answer}")
        self._inspector.look()

    async def _end(self, running: Running, before: Snapshot) -> None:
        await running.cancel()
        if left := await before.left():
            self._inspector.broken("leftovers", "; ".join(left))
        self._inspector.look()
