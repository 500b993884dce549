"""How a resolver is run: started, backed off, started again; what reaches the policy; when it is asked again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from lbkit import resolving
from lbkit.address import Endpoint
from lbkit.resolution import ACCEPTED, Discovery, Resolution, Verdict
from lbkit.resolver import FunctionResolver, Resolver, Sink
from lbkit.resolving import ResolverHost
from lbkit.target import Target
from tests.support.virtual_loop import run_virtual

TARGET = Target.parse("tests:///name", {"tests"})
REJECTED = Verdict(accepted=False, reason="not to my taste")


def answer(*names: str, **options: Any) -> Resolution:
    return Resolution(tuple(Endpoint(f"{name}:1") for name in names), **options)


class Script(Resolver):
    """Runs the test's function, and notes when."""

    def __init__(self, body: Callable[[Sink], Awaitable[None]]) -> None:
        super().__init__(TARGET)
        self.starts: list[float] = []
        self._body = body

    async def run(self, sink: Sink) -> None:
        self.starts.append(asyncio.get_running_loop().time())
        await self._body(sink)


class Even(random.Random):
    """Jitters by nothing."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class World:
    """A host, what it told the policy, and what the policy says to it."""

    def __init__(self) -> None:
        self.updates: list[Resolution] = []
        self.errors: list[Exception] = []
        self.verdict = ACCEPTED
        self.resolver: Any = None
        self.host: Any = None

    def start(self, resolver: Resolver) -> ResolverHost:
        self.resolver = resolver
        self.host = ResolverHost(
            resolver,
            clock=asyncio.get_running_loop(),
            random=Even(),
            update=self.update,
            fail=self.errors.append,
        )
        self.host.start()
        return self.host  # type: ignore[no-any-return]

    def run(self, body: Callable[[Sink], Awaitable[None]]) -> ResolverHost:
        return self.start(Script(body))

    def update(self, resolution: Resolution) -> Verdict:
        self.updates.append(resolution)
        return self.verdict

    @property
    def names(self) -> list[list[str]]:
        return [[endpoint.addresses[0].host for endpoint in each.endpoints] for each in self.updates]


def virtual(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time in a World of its own, closed at the end."""

    def run() -> None:
        async def main() -> None:
            world = World()
            try:
                await test(world)
            finally:
                if world.host is not None:
                    await world.host.close()

        run_virtual(main())

    run.__name__ = test.__name__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


# Answers


@virtual
async def test_answers_reach_the_policy_numbered(world: World) -> None:
    async def body(sink: Sink) -> None:
        assert sink.update(answer("a")) is ACCEPTED
        sink.update(answer("a", "b"))

    world.run(body)
    await asyncio.sleep(1)
    assert world.names == [["a"], ["a", "b"]]
    assert [each.generation for each in world.updates] == [1, 2]


@virtual
async def test_equal_answer_goes_no_further(world: World) -> None:
    async def body(sink: Sink) -> None:
        for _ in range(3):
            assert sink.update(answer("a", "b")) is ACCEPTED
        sink.update(answer("b", "a"))

    world.run(body)
    await asyncio.sleep(1)
    assert world.names == [["a", "b"], ["b", "a"]]


@virtual
async def test_changed_attribute_is_another_answer(world: World) -> None:
    async def body(sink: Sink) -> None:
        for weight in (1, 1, 2):
            sink.update(Resolution((Endpoint("a:1", weight=weight),)))

    world.run(body)
    await asyncio.sleep(1)
    assert [each.endpoints[0].weight for each in world.updates] == [1, 2]


@virtual
async def test_verdict_is_handed_back_also_for_an_equal_answer(world: World) -> None:
    verdicts: list[Verdict] = []

    async def body(sink: Sink) -> None:
        verdicts.extend([sink.update(answer()), sink.update(answer())])

    world.verdict = REJECTED
    world.run(body)
    await asyncio.sleep(1)
    assert verdicts == [REJECTED, REJECTED]
    assert world.names == [[]]


@virtual
async def test_changed_service_config_is_another_answer(world: World) -> None:
    async def body(sink: Sink) -> None:
        for config in ({}, {}, {"x": 1}, '{"x": 1}', None):
            sink.update(answer("a", service_config=config))

    world.run(body)
    await asyncio.sleep(1)
    assert [each.service_config for each in world.updates] == [{}, {"x": 1}, '{"x": 1}', None]


# Failures


@virtual
async def test_failure_before_any_answer_reaches_the_policy(world: World) -> None:
    async def body(sink: Sink) -> None:
        sink.fail(OSError("registry down"))

    world.run(body)
    await asyncio.sleep(1)
    assert [str(error) for error in world.errors] == ["registry down"]


@virtual
async def test_failure_keeps_the_last_good_answer(world: World) -> None:
    async def body(sink: Sink) -> None:
        sink.update(answer("a"))
        sink.fail(OSError("registry down"))
        raise OSError("registry still down")

    host = world.run(body)
    await asyncio.sleep(0.5)
    assert world.errors == []
    assert world.names == [["a"]]
    assert host.latest is not None


@virtual
async def test_failures_are_logged_with_the_target(world: World) -> None:
    lines: list[str] = []

    async def body(sink: Sink) -> None:
        sink.fail(OSError("registry down"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolving._log, "warning", lambda text, *args, **kwargs: lines.append(text % args))
        world.run(body)
        await asyncio.sleep(1)
    assert lines == ["resolver of tests:///name: registry down"]


@virtual
async def test_the_same_failure_is_logged_once_until_there_is_an_answer(world: World) -> None:
    lines: list[str] = []

    async def body(sink: Sink) -> None:
        for text in ("down", "down", "slow"):
            sink.fail(OSError(text))
        sink.update(answer("a"))
        sink.fail(OSError("slow"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolving._log, "warning", lambda text, *args, **kwargs: lines.append(text % args))
        patch.setattr(resolving._log, "info", lambda text, *args, **kwargs: lines.append(text % args))
        world.run(body)
        await asyncio.sleep(1)
    assert [line.partition(": ")[2] for line in lines] == ["down", "slow", "answers again", "slow"]


@virtual
async def test_discovery_tells_the_answer_its_age_and_the_error_since_then(world: World) -> None:
    async def body(sink: Sink) -> None:
        await asyncio.sleep(1)
        sink.update(answer("a", source="revision 1"))
        await asyncio.sleep(1)
        sink.update(answer("a", source="revision 2"))
        await asyncio.sleep(5)
        sink.fail(OSError("down"))

    host = world.run(body)
    assert host.discovery() == Discovery(None, 0.0, None)
    await asyncio.sleep(3)
    assert host.discovery() == Discovery(answer("a"), 1.0, None)
    assert len(world.updates) == 1
    await asyncio.sleep(5)
    found = host.discovery()
    assert found.resolution is not None
    assert (found.resolution.source, found.resolution.generation, found.age_s) == ("revision 2", 1, 6.0)
    assert str(found.error) == "down"


# Starting again


@virtual
async def test_resolver_that_raises_is_started_again_after_growing_waits(world: World) -> None:
    async def body(sink: Sink) -> None:
        raise OSError("no")

    world.run(body)
    await asyncio.sleep(12)
    assert world.resolver.starts == pytest.approx([0, 1, 1 + 1.6, 1 + 1.6 + 2.56, 1 + 1.6 + 2.56 + 4.096])
    assert len(world.errors) == 5


@virtual
async def test_accepted_answer_starts_the_waits_over(world: World) -> None:
    async def body(sink: Sink) -> None:
        if len(world.resolver.starts) == 4:
            sink.update(answer("a"))
        raise OSError("no")

    world.run(body)
    await asyncio.sleep(1 + 1.6 + 2.56 + 1.5)
    assert world.resolver.starts[-1] - world.resolver.starts[-2] == pytest.approx(1.0)


@virtual
async def test_the_same_answer_again_starts_the_waits_over_too(world: World) -> None:
    async def body(sink: Sink) -> None:
        sink.update(answer("a"))
        raise OSError("the watch broke")

    world.run(body)
    await asyncio.sleep(10.5)
    assert world.resolver.starts == pytest.approx([*range(11)])


@virtual
async def test_rejected_answer_does_not_start_the_waits_over(world: World) -> None:
    async def body(sink: Sink) -> None:
        sink.update(answer(str(len(world.resolver.starts))))
        raise OSError("no")

    world.verdict = REJECTED
    world.run(body)
    await asyncio.sleep(3)
    assert world.resolver.starts == pytest.approx([0, 1, 2.6])


@virtual
async def test_resolver_that_returns_is_not_started_again(world: World) -> None:
    async def body(sink: Sink) -> None:
        sink.update(answer("a"))

    world.run(body)
    await asyncio.sleep(1000)
    assert world.resolver.starts == [0]


@virtual
async def test_resolver_whose_own_work_was_cancelled_is_started_again(world: World) -> None:
    async def body(sink: Sink) -> None:
        lookup = asyncio.get_running_loop().create_future()
        lookup.cancel()
        await lookup

    world.run(body)
    await asyncio.sleep(3)
    assert world.resolver.starts == pytest.approx([0, 1, 2.6])
    assert len(world.errors) == 3


@virtual
async def test_closing_cancels_the_resolver_and_waits_for_its_end(world: World) -> None:
    cleaned: list[float] = []

    async def body(sink: Sink) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(2)
            cleaned.append(now())

    host = world.run(body)
    await asyncio.sleep(5)
    await host.close()
    assert cleaned == [7]


@virtual
async def test_closing_during_a_wait_ends_it(world: World) -> None:
    async def body(sink: Sink) -> None:
        raise OSError("no")

    host = world.run(body)
    await asyncio.sleep(0.5)
    await host.close()
    await asyncio.sleep(100)
    assert world.resolver.starts == [0]


# wanted()


def asking(world: World, **limits: Any) -> list[float]:
    """Run a resolver that answers, waits until it is wanted, and answers again; return the times."""
    times: list[float] = []

    async def body(sink: Sink) -> None:
        while True:
            times.append(round(now(), 3))
            sink.update(answer("a"))
            await sink.wanted(**limits)

    world.run(body)
    return times


@virtual
async def test_nothing_wanted_means_nothing_asked(world: World) -> None:
    times = asking(world)
    await asyncio.sleep(10_000)
    assert times == [0]


@virtual
async def test_wish_is_granted_at_once_after_the_minimum(world: World) -> None:
    times = asking(world, minimum=30)
    await asyncio.sleep(40)
    world.host.want()
    await asyncio.sleep(1)
    assert times == [0, 40]


@virtual
async def test_early_wish_waits_for_the_minimum(world: World) -> None:
    times = asking(world, minimum=30)
    await asyncio.sleep(10)
    world.host.want()
    world.host.want()
    await asyncio.sleep(100)
    assert times == [0, 30]


@virtual
async def test_refresh_asks_again_and_again(world: World) -> None:
    times = asking(world, refresh=60)
    await asyncio.sleep(200)
    assert times == [0, 60, 120, 180]


@virtual
async def test_wish_comes_before_the_refresh(world: World) -> None:
    times = asking(world, minimum=30, refresh=60)
    await asyncio.sleep(40)
    world.host.want()
    await asyncio.sleep(70)
    assert times == [0, 40, 100]


@virtual
async def test_refresh_shorter_than_the_minimum_wins(world: World) -> None:
    times = asking(world, minimum=30, refresh=5)
    await asyncio.sleep(1)
    world.host.want()
    await asyncio.sleep(11)
    assert times == [0, 5, 10]


@virtual
async def test_resolver_that_reports_failures_is_not_asked_in_a_tight_loop(world: World) -> None:
    times: list[float] = []

    async def body(sink: Sink) -> None:
        while True:
            times.append(now())
            assert len(times) < 100, "a tight loop"
            sink.fail(OSError("registry down"))
            await sink.wanted(refresh=10)

    world.run(body)
    await asyncio.sleep(35)
    assert times == [0, 10, 20, 30]


@virtual
async def test_failing_refresh_of_a_known_answer_is_not_a_tight_loop_either(world: World) -> None:
    times: list[float] = []

    async def body(sink: Sink) -> None:
        sink.update(answer("a"))
        while True:
            await sink.wanted(refresh=10)
            times.append(now())
            assert len(times) < 100, "a tight loop"
            sink.fail(OSError("registry down"))

    world.run(body)
    await asyncio.sleep(35)
    assert times == [10, 20, 30]


# The short form


@virtual
async def test_function_is_called_on_demand_and_when_due(world: World) -> None:
    times: list[float] = []

    async def resolve(target: Target) -> list[str]:
        times.append(now())
        return [f"host{len(times)}:1"]

    world.start(FunctionResolver(resolve, TARGET, refresh=100))
    await asyncio.sleep(50)
    world.host.want()
    await asyncio.sleep(110)
    assert times == [0, 50, 150]
    assert world.names == [["host1"], ["host2"], ["host3"]]


@virtual
async def test_function_that_fails_is_called_again_after_its_backoff(world: World) -> None:
    times: list[float] = []

    async def resolve(target: Target) -> list[str]:
        times.append(now())
        if len(times) < 3:
            raise OSError("not yet")
        return ["a:1"]

    world.start(FunctionResolver(resolve, TARGET, refresh=None))
    await asyncio.sleep(1000)
    assert times == pytest.approx([0, 1, 2.6])
    assert world.names == [["a"]]


@virtual
async def test_rejected_answer_of_a_function_is_a_failure(world: World) -> None:
    async def resolve(target: Target) -> list[str]:
        return []

    world.verdict = REJECTED
    world.start(FunctionResolver(resolve, TARGET, refresh=None))
    await asyncio.sleep(0.5)
    assert world.names == [[]]
    await asyncio.sleep(0.6)
    assert len(world.updates) == 1  # the same answer again: no news to the policy
