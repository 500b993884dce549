"""Calls made in a handler inherit the deadline of the call being served, and end with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit import sync
from lbkit.testing import memory_channel
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Item, failure, until

LATE_S = 0.3  # a deadline that is to pass


class Backend:
    """Notes how much time its calls have; ``text="wait"`` waits for the end."""

    def __init__(self) -> None:
        self.left: list[float | None] = []
        self.metadata: list[lbkit.Metadata] = []
        self.waiting = 0
        self.ended: list[lbkit.StatusCode] = []

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        self.left.append(context.time_remaining())
        self.metadata.append(context.invocation_metadata())
        await self._maybe_wait(request, context)
        return request

    async def UnaryStream(self, request: Any, context: Any) -> Any:
        self.left.append(context.time_remaining())
        yield Item()
        await self._maybe_wait(request, context)

    async def _maybe_wait(self, request: Any, context: Any) -> None:
        if request.text == "wait":
            self.waiting += 1
            context.add_done_callback(lambda context: self.ended.append(context.code()))
            await asyncio.Event().wait()


class Front:
    """Serves by calling the backend."""

    def __init__(self, work: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self._work = work

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        return await self._work(request, context)


class Rig:
    """A front server that calls a backend, each with its channel."""

    backend: Backend
    behind: Any
    front: Any


@asynccontextmanager
async def rig(
    work: Callable[..., Awaitable[Any]], *, front: object | None = None, **options: Any
) -> AsyncGenerator[Rig, None]:
    """Run both; ``work(stub of the backend, request, context)`` is what the front does."""
    made = Rig()
    made.backend = Backend()
    back = lbkit.Server()
    back.add(kinds_pb2, "Kinds", made.backend)
    async with memory_channel(back) as behind:
        made.behind = behind.stub(kinds_pb2, "Kinds")

        async def serve(request: Any, context: Any) -> Any:
            return await work(made.behind, request, context)

        server = lbkit.Server(**options)
        server.add(kinds_pb2, "Kinds", front or Front(serve))
        async with memory_channel(server) as channel:
            made.front = channel.stub(kinds_pb2, "Kinds")
            yield made


async def warm(made: Rig) -> None:
    """Connect, so that a short deadline does not pass before the call has come to its handler."""
    assert await made.front.UnaryStream(Item()).code() is lbkit.StatusCode.UNIMPLEMENTED
    await made.behind.UnaryStream(Item()).read()
    made.backend.left.clear()


async def passing_on(behind: Any, request: Any, context: Any) -> Any:
    return await behind.UnaryUnary(request)


@pytest.mark.parametrize("options", [{}, {"shared_workers": 2}], ids=["tasks", "workers"])
async def test_deadline_is_inherited(options: Any) -> None:
    async with rig(passing_on, **options) as made:
        await made.front.UnaryUnary(Item(), timeout=5)
        await made.front.UnaryUnary(Item())
    assert made.backend.left[0] is not None
    assert 0 < made.backend.left[0] <= 5
    assert made.backend.left[1] is None


async def test_shorter_deadline_of_the_call_itself_counts() -> None:
    async def quick(behind: Any, request: Any, context: Any) -> Any:
        await behind.UnaryUnary(request, timeout=2)
        return await behind.UnaryUnary(request, timeout=100)

    async with rig(quick) as made:
        await made.front.UnaryUnary(Item(), timeout=5)
    first, second = made.backend.left
    assert first is not None
    assert second is not None
    assert first <= 2 < second <= 5


async def test_inherited_deadline_says_whose_it_was() -> None:
    errors: list[lbkit.RpcError] = []

    async def work(behind: Any, request: Any, context: Any) -> Any:
        task = asyncio.create_task(failure(behind.UnaryUnary(request)))
        task.add_done_callback(lambda task: errors.append(task.result()))
        return await asyncio.shield(task)

    async with rig(work) as made:
        await warm(made)
        error = await failure(made.front.UnaryUnary(Item(text="wait"), timeout=LATE_S))
        assert error.code() is lbkit.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: errors)
    assert errors[0].code() is lbkit.StatusCode.DEADLINE_EXCEEDED
    assert "the deadline of the call being served passed" in errors[0].details()


async def test_handler_that_fails_when_the_deadline_has_passed_is_late() -> None:
    codes: list[lbkit.StatusCode] = []

    async def work(behind: Any, request: Any, context: Any) -> Any:
        context.add_done_callback(lambda context: codes.append(context.code()))
        while context.time_remaining():
            pass  # the event loop notices later
        raise LookupError("what it called was late, too")

    async with rig(work) as made:
        await warm(made)
        await failure(made.front.UnaryUnary(Item(), timeout=LATE_S))
        await until(lambda: codes)
    assert codes == [lbkit.StatusCode.DEADLINE_EXCEEDED]


async def test_cancelling_the_call_cancels_what_its_tasks_wait_for() -> None:
    errors: list[lbkit.RpcError] = []

    async def work(behind: Any, request: Any, context: Any) -> Any:
        stream = behind.UnaryStream(request)
        await stream.read()

        async def read() -> None:
            try:
                await stream.read()
            except lbkit.RpcError as error:
                errors.append(error)

        background.append(asyncio.create_task(read()))
        await asyncio.Event().wait()

    background: list[asyncio.Task[None]] = []
    async with rig(work) as made:
        call = made.front.UnaryUnary(Item(text="wait"))
        await until(lambda: made.backend.waiting and background)
        call.cancel()
        await until(lambda: errors)
        await until(lambda: made.backend.ended)
    assert errors[0].code() is lbkit.StatusCode.CANCELLED
    assert errors[0].details() == "the call being served was cancelled"
    assert made.backend.ended == [lbkit.StatusCode.CANCELLED]


async def test_call_that_ended_well_leaves_its_calls_alone() -> None:
    background: list[asyncio.Task[Any]] = []
    go = asyncio.Event()

    async def later(behind: Any) -> Any:
        await go.wait()
        return await behind.UnaryUnary(Item(text="later"))

    async def work(behind: Any, request: Any, context: Any) -> Any:
        call = behind.UnaryUnary(Item(text="wait"), timeout=PATIENCE_S)
        background.append(asyncio.create_task(call.code()))
        background.append(asyncio.create_task(later(behind)))
        await until(lambda: made.backend.waiting)
        calls.append(call)
        return request

    calls: list[Any] = []
    async with rig(work) as made:
        await made.front.UnaryUnary(Item(), timeout=5)
        assert not calls[0].done()
        calls[0].cancel()
        go.set()
        assert (await background[1]).text == "later"
        assert await background[0] is lbkit.StatusCode.CANCELLED
    assert made.backend.left[-1] is None  # the call being served is over, and its deadline with it


async def test_call_begun_after_the_cancellation_is_refused() -> None:
    errors: list[lbkit.RpcError] = []

    async def work(behind: Any, request: Any, context: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            errors.append(await failure(behind.UnaryUnary(Item())))

    async with rig(work) as made:
        await warm(made)
        error = await failure(made.front.UnaryUnary(Item(), timeout=LATE_S))
        assert error.code() is lbkit.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: errors)
    assert errors[0].details() == "the call being served was cancelled before"
    assert made.backend.left == []


async def test_detached_calls_belong_to_nobody() -> None:
    calls: list[Any] = []

    async def work(behind: Any, request: Any, context: Any) -> Any:
        with lbkit.detached():
            assert lbkit.current_call() is None
            calls.append(behind.UnaryUnary(Item(text="wait")))
        assert lbkit.current_call() is context
        await asyncio.Event().wait()

    async with rig(work) as made:
        call = made.front.UnaryUnary(Item(), timeout=5)
        await until(lambda: made.backend.waiting)
        call.cancel()
        assert made.backend.left == [None]
        await made.behind.UnaryUnary(Item())
        assert not calls[0].done()
        calls[0].cancel()


async def test_call_outside_of_handlers_inherits_nothing() -> None:
    assert lbkit.current_call() is None
    async with rig(passing_on) as made:
        await made.behind.UnaryUnary(Item())
        await made.front.UnaryUnary(Item(), timeout=5)
        await made.behind.UnaryUnary(Item())  # on the connections that the handler may have opened
    assert [left is None for left in made.backend.left] == [True, False, True]


async def test_metadata_are_not_inherited() -> None:
    async with rig(passing_on) as made:
        await made.front.UnaryUnary(Item(), metadata=(("x-a", "1"),))
        await made.behind.UnaryUnary(Item(), metadata=(("x-a", "1"),))
    assert [metadata.get("x-a") for metadata in made.backend.metadata] == [None, "1"]


async def test_plain_function_knows_the_call_and_its_thread_inherits() -> None:
    loop = asyncio.get_running_loop()

    class Plain:
        def UnaryUnary(self, request: Any, context: Any) -> Any:
            call = lbkit.current_call()
            assert call is not None
            assert call.method == context.method == "/lbkit.tests.Kinds/UnaryUnary"
            assert threading.current_thread() is not threading.main_thread()

            async def child() -> Any:
                return await made.behind.UnaryUnary(request)

            # As the blocking API does: the context goes along.
            return asyncio.run_coroutine_threadsafe(child(), loop).result(PATIENCE_S)

    async with rig(passing_on, front=Plain()) as made:
        await made.front.UnaryUnary(Item(), timeout=5)
    assert made.backend.left[0] is not None


async def test_call_on_another_loop_ends_with_the_one_being_served() -> None:
    errors: list[lbkit.RpcError] = []
    started = threading.Event()
    backend = Backend()
    back = lbkit.Server()
    back.add(kinds_pb2, "Kinds", backend)
    port = back.bind("127.0.0.1:0")
    await back.start()

    class Plain:
        def UnaryUnary(self, request: Any, context: Any) -> Any:
            async def main() -> None:
                async with lbkit.Channel(f"static:///127.0.0.1:{port}") as channel:
                    call = channel.stub(kinds_pb2, "Kinds").UnaryUnary(request)
                    started.set()
                    errors.append(await failure(call))

            asyncio.run(main())

    async with rig(passing_on, front=Plain()) as made:
        call = made.front.UnaryUnary(Item(text="wait"), timeout=PATIENCE_S)
        await until(lambda: backend.waiting)
        call.cancel()
        await until(lambda: errors)
        await until(lambda: backend.ended)
    assert errors[0].details() == "the call being served was cancelled"
    await back.stop()


async def test_blocking_call_of_a_plain_function_inherits_and_is_cancelled() -> None:
    errors: list[lbkit.RpcError] = []
    backend = Backend()
    back = lbkit.Server()
    back.add(kinds_pb2, "Kinds", backend)
    port = back.bind("127.0.0.1:0")
    await back.start()

    class Plain:
        def UnaryUnary(self, request: Any, context: Any) -> Any:
            with sync.Channel(f"static:///127.0.0.1:{port}") as channel:
                try:
                    channel.stub(kinds_pb2, "Kinds").UnaryUnary(request)
                except lbkit.RpcError as error:
                    errors.append(error)

    async with rig(passing_on, front=Plain()) as made:
        call = made.front.UnaryUnary(Item(text="wait"), timeout=PATIENCE_S)
        await until(lambda: backend.waiting)
        call.cancel()
        await until(lambda: errors)
        await until(lambda: backend.ended)
    assert backend.left[0] is not None
    assert errors[0].details() == "the call being served was cancelled"
    await back.stop()


async def test_channel_first_used_in_a_handler_is_not_bound_to_it() -> None:
    """Its resolver and its connections go on when that call is over, without its deadline."""
    runs: list[Any] = []

    @lbkit.resolver("inherits-nothing")
    class Watch(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            runs.append(lbkit.current_call())
            sink.update(lbkit.Resolution((lbkit.Endpoint((lbkit.Address.parse(address),)),)))

    back = lbkit.Server()
    back.add(kinds_pb2, "Kinds", Backend())
    address = f"127.0.0.1:{back.bind('127.0.0.1:0')}"
    await back.start()
    channel = lbkit.Channel("inherits-nothing:///x")

    async def work(behind: Any, request: Any, context: Any) -> Any:
        return await channel.stub(kinds_pb2, "Kinds").UnaryUnary(request)

    async with rig(work) as made, channel:
        await made.front.UnaryUnary(Item(), timeout=5)
        await made.front.UnaryUnary(Item())
    assert runs == [None]
    await back.stop()
