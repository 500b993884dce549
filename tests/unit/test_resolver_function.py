from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit.errors import AddressError, ResolverError
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import (
    FunctionResolver,
    Resolver,
    Sink,
    make_resolver,
    registry,
    resolution_of,
    resolver,
)
from lbkit.target import Target
from tests.support.fakes import FakeSink

TARGET = Target.parse("test:///x", {"test"})


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
def scheme() -> Iterator[str]:
    yield "test-function"
    registry._registered.pop("test-function", None)


async def test_function_is_called_again_when_wanted() -> None:
    answers = iter([["a:1"], [Endpoint("b:1"), "c:1"]])

    async def resolve(target: Target) -> Any:
        assert target is TARGET
        return next(answers)

    sink = FakeSink()
    task = asyncio.create_task(FunctionResolver(resolve, TARGET, 30.0).run(sink))
    await turn()
    assert sink.addresses == [["a:1"]]
    sink.ask()
    await turn()
    assert sink.addresses == [["a:1"], ["b:1", "c:1"]]
    assert sink.waits == [(30.0, 30.0), (30.0, 30.0)]
    await stop(task)


async def test_failure_of_the_function_comes_out_of_run() -> None:
    async def resolve(target: Target) -> list[str]:
        raise OSError("registry is down")

    sink = FakeSink()
    with pytest.raises(OSError, match="registry is down"):
        await FunctionResolver(resolve, TARGET, None).run(sink)
    assert not sink.answers


async def test_rejected_answer_counts_as_failure() -> None:
    async def resolve(target: Target) -> list[str]:
        return []

    sink = FakeSink([Verdict(accepted=False, reason="no endpoints")])
    with pytest.raises(ResolverError, match="test:///x was rejected: no endpoints"):
        await FunctionResolver(resolve, TARGET, None).run(sink)
    assert not sink.waits


async def test_generator_is_followed_to_its_end() -> None:
    async def resolve(target: Target) -> AsyncIterator[list[str]]:
        yield ["a:1"]
        yield ["a:1", "b:1"]

    sink = FakeSink([Verdict(accepted=False), ACCEPTED])
    await FunctionResolver(resolve, TARGET, None).run(sink)
    assert sink.addresses == [["a:1"], ["a:1", "b:1"]]


async def test_generator_is_closed_when_an_answer_is_bad() -> None:
    closed = False

    async def resolve(target: Target) -> AsyncIterator[list[str]]:
        nonlocal closed
        try:
            yield ["nonsense"]
        finally:
            closed = True

    with pytest.raises(AddressError):
        await FunctionResolver(resolve, TARGET, None).run(FakeSink())
    assert closed


async def test_generator_is_closed_when_cancelled() -> None:
    closed = False

    async def resolve(target: Target) -> AsyncIterator[list[str]]:
        nonlocal closed
        try:
            yield ["a:1"]
            await asyncio.Event().wait()
        finally:
            closed = True

    task = asyncio.create_task(FunctionResolver(resolve, TARGET, None).run(FakeSink()))
    await turn()
    await stop(task)
    assert closed


async def test_resolution_is_taken_as_it_is() -> None:
    answer = Resolution(())
    assert await resolution_of(answer) is answer


async def test_one_bad_address_spoils_the_answer() -> None:
    with pytest.raises(AddressError, match="'b' has no valid port"):
        await resolution_of(["a:1", "b"])


async def test_one_string_is_not_a_list() -> None:
    with pytest.raises(TypeError, match="not the one string 'a:1'"):
        await resolution_of("a:1")


async def test_long_answer_lets_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    answer = await resolution_of(f"10.0.0.1:{port}" for port in range(5000))
    assert len(answer.endpoints) == 5000
    assert turns >= 9
    await stop(counter)


async def test_decorator_registers_and_returns_the_function(scheme: str) -> None:
    @resolver(scheme, refresh=5.0)
    async def resolve(target: Target) -> list[str]:
        return [target.path]

    assert await resolve(TARGET) == ["x"]
    sink = FakeSink()
    task = asyncio.create_task(make_resolver(f"{scheme}:///a:1").run(sink))
    await turn()
    assert sink.addresses == [["a:1"]]
    assert sink.waits == [(30.0, 5.0)]
    await stop(task)


async def test_decorator_takes_a_generator(scheme: str) -> None:
    @resolver(scheme)
    async def resolve(target: Target) -> AsyncIterator[list[str]]:
        yield [target.path]

    sink = FakeSink()
    await make_resolver(f"{scheme}:///a:1").run(sink)
    assert sink.addresses == [["a:1"]]


def test_decorator_takes_a_class(scheme: str) -> None:
    @resolver(scheme)
    class Mine(Resolver):
        async def run(self, sink: Sink) -> None:
            pass

    assert type(make_resolver(f"{scheme}:///a:1")) is Mine


@pytest.mark.parametrize("wrong", [lambda target: [], "text", int])
def test_decorator_refuses_anything_else(scheme: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"must (be a Resolver subclass|derive from)"):
        resolver(scheme)(wrong)
    assert scheme not in registry
