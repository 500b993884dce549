"""``max_concurrent_rpcs``: a limit that holds, whatever becomes of calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from tests.support.servers import Item, channel_to, failure, kinds, serving, unary, until

MODES = pytest.mark.parametrize("shared_workers", [None, 2])


@MODES
async def test_calls_over_the_limit_end_at_once_and_wave_after_wave(shared_workers: int | None) -> None:
    running = most = 0
    go_on = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1
        return request

    options: dict[str, Any] = {"max_concurrent_rpcs": 2, "shared_workers": shared_workers}
    async with serving(behaviour, **options) as backend, channel_to(backend) as channel:
        failed: list[lbkit.RpcError] = []
        for wave in range(4):  # what grpc.aio let through from the second on
            go_on.clear()
            calls = [asyncio.ensure_future(unary(channel)(Item())) for _ in range(7)]
            await until(lambda: sum(call.done() for call in calls) == 5)  # noqa: B023 -- awaited at once
            go_on.set()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            failed = [each for each in answers if isinstance(each, lbkit.RpcError)]
            assert {each.code() for each in failed} == {StatusCode.RESOURCE_EXHAUSTED}
            assert len(failed) == 5
            assert backend.server.counters.exceeded["max_concurrent_rpcs"] == 5 * (wave + 1)
        assert most == 2
        assert "runs 2 calls already, its max_concurrent_rpcs" in failed[0].details()


@MODES
async def test_cancelled_call_counts_until_its_handler_has_ended(shared_workers: int | None) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        if not request.number:
            return request
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await go_on.wait()

    options: dict[str, Any] = {"max_concurrent_rpcs": 1, "shared_workers": shared_workers}
    async with serving(behaviour, **options) as backend, channel_to(backend) as channel:
        call = unary(channel)(Item(number=1))
        await begun.wait()
        call.cancel()
        assert (await failure(unary(channel)(Item()))).code() is StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        dispatcher = backend.server._dispatcher
        assert dispatcher is not None
        await until(lambda: not dispatcher.counted)
        assert await unary(channel)(Item()) == Item()


async def test_thread_that_still_works_for_a_cancelled_call_counts() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Kinds:
        def UnaryUnary(self, request: Any, context: lbkit.BlockingContext) -> Any:
            if request.number:
                begun.set()
                go_on.wait(10)
            return request

    async with kinds(Kinds(), max_concurrent_rpcs=1) as stub:
        call = stub.UnaryUnary(Item(number=1))
        await until(begun.is_set)
        call.cancel()
        assert (await failure(stub.UnaryUnary(Item()))).code() is StatusCode.RESOURCE_EXHAUSTED
        go_on.set()

        async def served() -> bool:
            try:
                await stub.UnaryUnary(Item())
            except lbkit.RpcError:
                return False
            return True

        async with asyncio.timeout(10):
            while not await served():
                pass


async def test_streams_count_until_they_end() -> None:
    go_on = asyncio.Event()

    class Kinds:
        async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            yield request
            await go_on.wait()

        async def StreamUnary(self, requests: Any, context: lbkit.ServicerContext) -> Any:
            return Item(number=len([None async for _ in requests]))

    async with kinds(Kinds(), max_concurrent_rpcs=1) as stub:
        stream = stub.UnaryStream(Item())
        assert await stream.read() == Item()
        assert (await failure(stub.StreamUnary(iter([Item()])))).code() is StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        assert await stream.read() is lbkit.EOF
        assert (await stub.StreamUnary(iter([Item()] * 3))).number == 3


async def test_call_that_waits_for_a_thread_ends_at_its_deadline() -> None:
    go_on = threading.Event()
    began: list[int] = []

    class Kinds:
        def UnaryUnary(self, request: Any, context: lbkit.BlockingContext) -> Any:
            began.append(request.number)
            go_on.wait(10)
            return request

    submitted: list[Future[Any]] = []

    class Threads(ThreadPoolExecutor):
        def submit(self, *work: Any, **options: Any) -> Future[Any]:
            submitted.append(super().submit(*work, **options))
            return submitted[-1]

    with Threads(1) as threads:
        async with kinds(Kinds(), threads=threads) as stub:
            first = stub.UnaryUnary(Item(number=1))
            await until(lambda: began)
            error = await failure(stub.UnaryUnary(Item(number=2), timeout=0.05))
            assert error.code() is StatusCode.DEADLINE_EXCEEDED
            await until(submitted[1].cancelled)  # the server's own clock, or the client's word
            go_on.set()
            assert (await first).number == 1
            assert (await stub.UnaryUnary(Item(number=3))).number == 3
    assert began == [1, 3]  # the second one was taken out of the queue
