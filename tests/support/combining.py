"""Resolvers that the test drives, and a combinator of them that runs in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from lbkit.address import Endpoint
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Resolver, Sink
from lbkit.target import Target
from tests.support.fakes import endpoints
from tests.support.virtual_loop import run_virtual

REJECTED = Verdict(accepted=False, reason="not to my taste")


class Part(Resolver):
    """Says what the test has it say; ``part://name`` is its target.

    Attributes:
        starts: when it was started, in seconds.
        asked: when it was wanted to answer.
    """

    def __init__(self, name: str) -> None:
        super().__init__(Target(f"part:///{name}", "part", "", name, ""))
        self.starts: list[float] = []
        self.asked: list[float] = []
        self.running = 0
        self.sink: Any = None
        self._end: Any = None

    async def run(self, sink: Sink) -> None:
        self.starts.append(now())
        self.running += 1
        self.sink = sink
        self._end = asyncio.get_running_loop().create_future()
        try:
            while not self._end.done():
                asking = asyncio.ensure_future(sink.wanted(minimum=5.0))
                try:
                    await asyncio.wait([asking, self._end], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    asking.cancel()
                    with suppress(asyncio.CancelledError):
                        await asking
                if not self._end.done():
                    self.asked.append(now())
            self._end.result()
        finally:
            self.running -= 1

    @property
    def alive(self) -> bool:
        """Whether it runs, and was not told to end."""
        return self.running > 0 and not self._end.done()

    def says(self, *names: str | Endpoint, **more: Any) -> Verdict:
        """Answer with endpoints: ``"a"`` is ``a:1``."""
        return self.sink.update(Resolution(endpoints(*names), **more))  # type: ignore[no-any-return]

    def fails(self, text: str = "down") -> None:
        """Report that there is no answer."""
        self.sink.fail(OSError(text))

    def raises(self, text: str = "down") -> None:
        """End the run with an error."""
        self._end.set_exception(OSError(text))

    def returns(self) -> None:
        """End the run."""
        self._end.set_result(None)


class Outside(Sink):
    """What the channel is for a combinator.

    Attributes:
        log: each publication as (seconds, "a b c"), each failure as (seconds, "! text").
    """

    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop()
        self.random = random.Random(0)
        self.answers: list[Resolution] = []
        self.errors: list[str] = []
        self.log: list[tuple[float, str]] = []
        self.verdict = ACCEPTED
        self._wanted = asyncio.Event()

    def update(self, resolution: Resolution) -> Verdict:
        self.answers.append(resolution)
        self.log.append((now(), names(resolution)))
        return self.verdict

    def fail(self, error: Exception) -> None:
        self.errors.append(str(error))
        self.log.append((now(), f"! {error}"))

    async def wanted(self, minimum: float = 30.0, refresh: float | None = None) -> None:
        await self._wanted.wait()
        self._wanted.clear()

    def want(self) -> None:
        """Ask for an answer."""
        self._wanted.set()

    def news(self) -> list[tuple[float, str]]:
        """Return what was logged since the last time."""
        log, self.log = self.log, []
        return log


def now() -> float:
    """Return the virtual seconds, rounded."""
    return round(asyncio.get_running_loop().time(), 3)


def names(resolution: Resolution) -> str:
    """Return the hosts of an answer."""
    return " ".join(endpoint.addresses[0].host for endpoint in resolution.endpoints)


async def until_s(when: float) -> None:
    """Sleep until that virtual second, and a little longer, so that what is due then has happened."""
    await asyncio.sleep(when + 1e-4 - asyncio.get_running_loop().time())


class World:
    """Two parts, and what a combinator of them tells the outside."""

    def __init__(self) -> None:
        self.a, self.b, self.c = Part("a"), Part("b"), Part("c")
        self.out: Any = None
        self._task: Any = None

    async def run(self, combinator: Resolver) -> Outside:
        """Start it; all parts are running when this returns."""
        self.out = Outside()
        self._task = asyncio.ensure_future(combinator.run(self.out))
        for _ in range(5):
            await asyncio.sleep(0)
        return self.out  # type: ignore[no-any-return]

    async def stop(self) -> None:
        """Cancel it."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None


def virtual(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time in a World of its own; nothing may be left of it, nor run any more."""

    def run() -> None:
        async def main() -> None:
            world = World()
            try:
                await test(world)
            finally:
                await world.stop()
            assert [part.running for part in (world.a, world.b, world.c)] == [0, 0, 0]

        run_virtual(main())

    run.__name__ = test.__name__
    return run
