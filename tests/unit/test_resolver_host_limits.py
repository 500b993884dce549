"""A resolver at its limits: jitter, requests and cancellations that cross, an end that goes wrong."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import pytest

from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.clock import Clock
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Resolver, Sink
from lbkit.resolving import ResolverHost
from lbkit.target import Target
from lbkit.testing.clock import VirtualClock
from tests.support.fakes import endpoints, resolution
from tests.support.virtual_loop import run_virtual

REJECTED = Verdict(accepted=False, reason="too few")

Script = Callable[[Sink], Awaitable[None]]


async def idle(sink: Sink) -> None:
    """Run until cancelled."""
    await asyncio.get_running_loop().create_future()


async def end(sink: Sink) -> None:
    """Return: the last answer never changes."""


async def fail(sink: Sink) -> None:
    raise OSError("no route")


def updating(*names: str, then: Script) -> Script:
    """Give an answer, then do something else."""

    async def run(sink: Sink) -> None:
        sink.update(resolution(*names))
        await then(sink)

    return run


class ScriptedResolver(Resolver):
    """Does at each start what the next script says, and what the last one says from then on."""

    def __init__(self, scripts: Iterable[Script]) -> None:
        super().__init__(Target.parse("test:///backends", ()))
        self.scripts = list(scripts)
        self.starts: list[float] = []

    async def run(self, sink: Sink) -> None:
        self.starts.append(sink.clock.time())
        await self.scripts[min(len(self.starts), len(self.scripts)) - 1](sink)


class World:
    """A host and what comes out of it.

    Args:
        scripts: what the resolver does at its first start, its second ...
        verdicts: what the policy says to the answers, in order; accepted when they have run out.
    """

    def __init__(
        self,
        *scripts: Script,
        verdicts: Iterable[Verdict] = (),
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        self.answers: list[Resolution] = []
        self.errors: list[Exception] = []
        self._verdicts = list(verdicts)
        self.resolver = ScriptedResolver(scripts)
        self.starts = self.resolver.starts
        self.host = ResolverHost(
            self.resolver,
            clock=clock or VirtualClock(),
            random=random.Random(seed),
            update=self._update,
            fail=self.errors.append,
        )

    def _update(self, resolution: Resolution) -> Verdict:
        self.answers.append(resolution)
        return self._verdicts.pop(0) if self._verdicts else ACCEPTED

    @property
    def gaps(self) -> list[float]:
        """The seconds between one start and the next."""
        return [after - before for before, after in zip(self.starts, self.starts[1:], strict=False)]


def running(*scripts: Script, verdicts: Iterable[Verdict] = (), seed: int = 0) -> World:
    """Make a World on the running loop and start its resolver."""
    world = World(*scripts, verdicts=verdicts, clock=asyncio.get_running_loop(), seed=seed)
    world.host.start()
    return world


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time; it fails if a task or timer is left behind."""

    def run() -> None:
        run_virtual(test())

    run.__name__ = test.__name__
    return run


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "lbkit.resolver")
    return caplog


# Back-off


async def gaps_of_failures(seed: int) -> list[float]:
    world = running(fail, seed=seed)
    await asyncio.sleep(1000)
    await world.host.close()
    return world.gaps


@pytest.mark.parametrize("seed", range(20))
def test_back_off_grows_by_1_6_up_to_120_s_with_a_fifth_of_jitter(seed: int) -> None:
    gaps = run_virtual(gaps_of_failures(seed))
    assert len(gaps) >= 13
    for failures, gap in enumerate(gaps):
        base = min(1.6**failures, 120.0)
        assert base * 0.8 - 1e-6 <= gap <= base * 1.2 + 1e-6


def test_back_off_takes_its_jitter_from_the_channel_s_random() -> None:
    gaps = run_virtual(gaps_of_failures(7))
    backoff = Backoff(BackoffPolicy(), random.Random(7))
    assert gaps == pytest.approx([backoff.next_delay() for _ in gaps])
    assert gaps != pytest.approx(run_virtual(gaps_of_failures(8)))


@virtual
async def test_back_off_goes_on_growing_after_a_rejected_answer_that_equals_the_last_one() -> None:
    rejected = updating("a", then=fail)
    world = running(fail, fail, rejected, rejected, idle, verdicts=[REJECTED])
    await asyncio.sleep(100)
    assert len(world.answers) == 1
    assert 1.6**2 * 0.8 <= world.gaps[2] <= 1.6**2 * 1.2
    assert 1.6**3 * 0.8 <= world.gaps[3] <= 1.6**3 * 1.2
    await world.host.close()


@virtual
async def test_raising_is_retried_after_its_back_off_and_not_put_off_to_the_next_refresh() -> None:
    async def poll(sink: Sink) -> None:
        await sink.wanted(refresh=60.0)
        raise OSError("no route")

    world = running(updating("a", then=poll), poll, poll, idle)
    await asyncio.sleep(100)
    assert 60.8 <= world.gaps[0] <= 61.2
    assert 1.6 * 0.8 <= world.gaps[1] <= 1.6 * 1.2
    assert 1.6**2 * 0.8 <= world.gaps[2] <= 1.6**2 * 1.2
    await world.host.close()


@virtual
async def test_returning_after_a_failure_ends_it() -> None:
    world = running(fail, end)
    await asyncio.sleep(1000)
    assert len(world.starts) == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Answers and failures


def test_generations_count_up_whatever_number_the_resolver_gives_and_whatever_is_said() -> None:
    world = World(verdicts=[ACCEPTED, REJECTED, ACCEPTED])
    world.host.update(resolution("a"))
    world.host.update(Resolution(endpoints("b"), generation=70))
    world.host.update(Resolution(endpoints("b"), generation=71))  # equal: it goes no further
    world.host.update(resolution("a"))  # equal to an older one: goes further
    assert [answer.generation for answer in world.answers] == [1, 2, 3]
    assert world.host.latest is world.answers[-1]


@pytest.mark.parametrize("verdict", [ACCEPTED, REJECTED])
def test_a_failure_after_an_answer_is_only_logged(log: pytest.LogCaptureFixture, verdict: Verdict) -> None:
    world = World(verdicts=[verdict])
    world.host.update(resolution("a"))
    world.host.fail(OSError("no route"))
    assert world.errors == []
    assert log.messages == ["resolver of test:///backends: no route"]


# wanted()


class Poll:
    """A host whose last answer came at 0 s."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.host = World(clock=self.loop).host
        self.host.update(resolution("a"))

    def ask_at(self, *times: float) -> None:
        for when in times:
            self.loop.call_at(when, self.host.want)

    async def wanted(self, minimum: float = 30.0, refresh: float | None = None) -> float:
        """Return when it returned."""
        await self.host.wanted(minimum, refresh)
        return round(self.loop.time(), 6)


async def never(awaitable: Coroutine[Any, Any, object]) -> None:
    """Assert that it does not return in a long time, and cancel it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1e6):
            await awaitable


@virtual
async def test_the_minimum_is_30_s_unless_said_otherwise() -> None:
    poll = Poll()
    poll.ask_at(5.0)
    await poll.host.wanted()
    assert poll.loop.time() == pytest.approx(30.0)


@virtual
async def test_minimum_and_refresh_count_from_the_last_answer_not_from_the_call() -> None:
    poll = Poll()
    await asyncio.sleep(10)
    poll.host.want()
    assert await poll.wanted() == 30.0
    assert await poll.wanted(refresh=40.0) == 40.0
    poll.host.update(resolution("a"))  # an equal answer is an answer
    poll.host.want()
    assert await poll.wanted() == 70.0


@virtual
async def test_a_refresh_that_is_past_returns_at_once() -> None:
    poll = Poll()
    await asyncio.sleep(100)
    assert await poll.wanted(refresh=60.0) == 100.0


@virtual
async def test_the_minimum_counts_from_a_failure_too() -> None:
    poll = Poll()
    await asyncio.sleep(100)
    poll.host.fail(OSError("no route"))
    poll.host.want()
    assert await poll.wanted() == 130.0


@virtual
async def test_a_request_before_wanted_is_called_counts_once() -> None:
    poll = Poll()
    await asyncio.sleep(40)
    poll.host.want()
    poll.host.want()
    await asyncio.sleep(10)
    assert await poll.wanted() == 50.0
    await never(poll.wanted())


@virtual
async def test_before_any_answer_a_request_is_granted_at_once() -> None:
    world = World(clock=asyncio.get_running_loop())
    world.host.want()
    await world.host.wanted()
    assert asyncio.get_running_loop().time() == 0.0


@virtual
async def test_requests_until_wanted_returns_are_one_request() -> None:
    poll = Poll()
    poll.ask_at(5.0, 15.0, 29.0)
    assert await poll.wanted() == 30.0
    await never(poll.wanted())


@virtual
async def test_a_request_is_spent_when_the_refresh_came_first() -> None:
    poll = Poll()
    poll.ask_at(15.0)
    assert await poll.wanted(minimum=30.0, refresh=20.0) == 20.0
    await never(poll.wanted())


@pytest.mark.parametrize("asked", [[], [5.0]], ids=["waiting", "asked but not allowed yet"])
def test_wanted_can_be_cancelled_and_then_called_again(asked: list[float]) -> None:
    async def main() -> None:
        poll = Poll()
        poll.ask_at(*asked)
        task = asyncio.create_task(poll.wanted(refresh=60.0))
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert poll.loop.time() == pytest.approx(10.0)
        assert await poll.wanted(refresh=60.0) == (30.0 if asked else 60.0)  # the request is not lost

    run_virtual(main())


# close()


@virtual
async def test_close_ends_a_wanted() -> None:
    async def poll(sink: Sink) -> None:
        await sink.wanted(refresh=60.0)
        sink.update(resolution("b"))

    world = running(updating("a", then=poll))
    await asyncio.sleep(1)
    await world.host.close()
    await asyncio.sleep(1000)
    assert len(world.answers) == 1


@virtual
async def test_close_before_start_a_second_time_or_after_the_end_returns_at_once() -> None:
    await World(clock=asyncio.get_running_loop()).host.close()
    closed, ended = running(idle), running(end)
    await asyncio.sleep(1)
    for _ in range(2):
        await closed.host.close()
        await ended.host.close()
    assert asyncio.get_running_loop().time() == pytest.approx(1.0)


@virtual
async def test_close_before_the_first_turn_means_no_run() -> None:
    world = running(fail)
    await world.host.close()
    await asyncio.sleep(1000)
    assert world.starts == []


def test_a_resolver_that_raises_when_cancelled_is_logged_and_not_started_again(
    log: pytest.LogCaptureFixture,
) -> None:
    async def untidy(sink: Sink) -> None:
        try:
            await idle(sink)
        finally:
            raise OSError("broken pipe")

    async def main() -> World:
        world = running(untidy)
        await asyncio.sleep(1)
        await world.host.close()
        return world

    world = run_virtual(main())
    assert world.starts == [0.0]
    assert world.errors == []
    assert len(log.messages) == 1
    assert "broken pipe" in log.messages[0]
