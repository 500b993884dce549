"""Client interceptors beyond what grpc.aio has: one method for all kinds, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit.testing import memory_channel
from tests.e2e.test_interceptors import ANSWERS, Servicer, call_all, items
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Item, until


class Everything(lbkit.ClientInterceptor):
    """Does ``work(continuation, details, request)`` for each kind."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work

    async def intercept(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._work(continuation, client_call_details, request)


async def passing(continuation: Any, details: Any, request: Any) -> Any:
    return await continuation(details, request)


@asynccontextmanager
async def intercepted(*work: Callable[..., Any], **options: Any) -> AsyncGenerator[Any, None]:
    """A stub and its servicer, in memory, with interceptors for all kinds."""
    server = lbkit.Server()
    servicer = Servicer()
    server.add(kinds_pb2, "Kinds", servicer)
    async with memory_channel(server, interceptors=[Everything(each) for each in work], **options) as channel:
        stub: Any = channel.stub(kinds_pb2, "Kinds")
        stub.servicer = servicer
        stub.channel = channel
        yield stub


async def test_one_interceptor_serves_all_kinds() -> None:
    async with intercepted(passing, passing) as stub:
        assert await call_all(stub) == ANSWERS


async def test_interceptor_of_several_kinds_is_asked_about_each() -> None:
    class Two(lbkit.UnaryUnaryClientInterceptor, lbkit.UnaryStreamClientInterceptor):
        async def intercept_unary_unary(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            return Item(text="mine")

        async def intercept_unary_stream(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            return items(1)

        def intercept(self) -> None:
            raise AssertionError("that is something else, as its own methods say")

    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Servicer())
    async with memory_channel(server, interceptors=[Two()]) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        assert await call_all(stub) == ["mine", [0], *ANSWERS[2:]]
        call = stub.UnaryStream(Item())
        assert await call.code() is lbkit.StatusCode.OK
        assert await call.details() == ""
        assert (call.backend, call.attempts, call.status) == (None, (), lbkit.Status(lbkit.StatusCode.OK, ""))
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
        assert list(await call.initial_metadata()) == list(await call.trailing_metadata()) == []
        await call.wait_for_connection()


async def test_call_tells_all_that_plain_calls_tell() -> None:
    async with intercepted(passing) as stub:
        call = stub.UnaryUnary(Item(text="x"), timeout=PATIENCE_S)
        assert (call.backend, call.attempts, call.status, call.done()) == (None, (), None, False)
        assert 0 < call.time_remaining() <= PATIENCE_S
        assert list(await call.initial_metadata()) == []
        await call.wait_for_connection()
        assert (await call).text == "x"
        assert call.backend
        assert [attempt.backend for attempt in call.attempts] == [call.backend]
        assert call.status.code is lbkit.StatusCode.OK
        assert 0 < call.time_remaining() <= PATIENCE_S
        assert stub.UnaryUnary(Item()).time_remaining() is None


async def test_response_of_an_interceptor_tells_of_the_call_on_the_way() -> None:
    async def text_only(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        return Item(text=(await call).text) if not hasattr(call, "read") else call

    async with intercepted(text_only) as stub:
        call = stub.UnaryUnary(Item(text="x"), timeout=PATIENCE_S)
        assert (await call).text == "x"
        assert (await call.trailing_metadata())["x-trailing"] == "t"
        assert list(await call.initial_metadata()) == []
        await call.wait_for_connection()
        assert call.backend
        assert len(call.attempts) == 1
        assert call.time_remaining() is not None
        assert call.status.code is lbkit.StatusCode.OK
        done: list[Any] = []
        call.add_done_callback(done.append)
        assert done == [call]


async def test_method_is_changed_by_an_interceptor() -> None:
    async def elsewhere(continuation: Any, details: Any, request: Any) -> Any:
        method = "/lbkit.tests.Kinds/UnaryUnary" if request.number else b"/lbkit.tests.Kinds/Nothing"
        return await continuation(details._replace(method=method), request)

    async with intercepted(elsewhere) as stub:
        assert (await stub.UnaryUnary(Item(number=1))).number == 1
        for _ in range(2):
            assert await stub.UnaryUnary(Item()).code() is lbkit.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("kind", ["UnaryStream", "StreamStream"])
async def test_answer_that_is_no_stream_is_refused(kind: str) -> None:
    async def wrong(continuation: Any, details: Any, request: Any) -> Any:
        return [1, 2]

    async with intercepted(wrong) as stub:
        call = getattr(stub, kind)(Item() if kind == "UnaryStream" else items(1))
        with pytest.raises(
            lbkit.UsageError, match=r"intercept returned \[1, 2\]; return the call, or an async"
        ):
            await call.read()


@pytest.mark.parametrize("given", [object(), Everything, "name"])
def test_what_is_no_interceptor_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="an interceptor is an object with a method 'intercept'"):
        lbkit.Channel("static:///127.0.0.1:1", interceptors=[given])


async def test_write_does_not_wait_for_an_interceptor_that_waits_for_the_answer() -> None:
    async def waits(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await call.code()  # with grpc.aio, write() would never return
        return call

    async with intercepted(waits) as stub:
        call = stub.StreamUnary(timeout=PATIENCE_S)
        await call.write(Item(number=1))
        await call.write(Item(number=2))
        await call.done_writing()
        await call.done_writing()
        assert (await call).number == 3


async def test_write_to_a_call_that_failed_raises_why() -> None:
    async def fails(continuation: Any, details: Any, request: Any) -> Any:
        raise LookupError("no")

    async with intercepted(fails) as stub:
        call = stub.StreamStream()
        with pytest.raises(LookupError):
            await call.read()
        with pytest.raises(LookupError):
            await call.write(Item())
        fed = stub.StreamStream(items(1))
        with pytest.raises(lbkit.UsageError, match="given an iterator"):
            await fed.write(Item())
        with pytest.raises(LookupError):
            await fed.read()


async def test_write_to_a_call_that_is_over_raises_why() -> None:
    async def nowhere(continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(method="/no/where"), request)

    async with intercepted(nowhere) as stub:
        call = stub.StreamStream()
        assert await call.code() is lbkit.StatusCode.UNIMPLEMENTED
        await until(call.done)
        with pytest.raises(lbkit.RpcError, match="no method '/no/where'"):
            await call.write(Item())
    async with intercepted(passing) as stub:
        call = stub.StreamStream()
        await call.write(Item())
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.write(Item())
        call = stub.StreamStream()
        await call.done_writing()
        assert await call.read() is lbkit.EOF
        with pytest.raises(asyncio.InvalidStateError, match="the call is over"):
            await call.write(Item())


async def test_writing_waits_for_room_and_ends_with_the_call() -> None:
    hold = asyncio.Event()

    async def holds(continuation: Any, details: Any, requests: Any) -> Any:
        await hold.wait()
        return await continuation(details, requests)

    async with intercepted(holds) as stub:
        call = stub.StreamStream()
        await call.write(Item(number=1))
        writing = asyncio.create_task(call.write(Item(number=2)))
        await asyncio.wait([writing], timeout=0.01)
        assert not writing.done()
        hold.set()
        await writing
        assert [(await call.read()).number for _ in range(2)] == [1, 2]
        call.cancel()
        hold.clear()
        call = stub.StreamStream()
        await call.write(Item(number=1))
        writing = asyncio.create_task(call.write(Item(number=2)))
        await asyncio.wait([writing], timeout=0.01)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert call.cancelled()


async def test_exception_of_an_interceptor_ends_the_call_it_made() -> None:
    async def fails(continuation: Any, details: Any, request: Any) -> Any:
        await continuation(details, request)
        await until(lambda: stub.servicer.waiting)
        raise LookupError("no")

    async with intercepted(fails) as stub:
        with pytest.raises(LookupError):
            await stub.UnaryUnary(Item(text="wait"))
        await until(lambda: stub.servicer.cancelled)


async def test_waiting_for_the_code_does_not_cancel() -> None:
    async with intercepted(passing) as stub:
        call = stub.UnaryUnary(Item(text="wait"))
        waiting = asyncio.create_task(call.code())
        await until(lambda: stub.servicer.waiting)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not call.done()
        call.cancel()


@pytest.mark.parametrize("where", ["in the interceptor", "in the call"])
async def test_stream_that_nobody_holds_is_cancelled(where: str) -> None:
    entered: list[Any] = []
    left: list[Any] = []

    async def work(continuation: Any, details: Any, request: Any) -> Any:
        entered.append(1)
        try:
            if where == "in the interceptor":
                await asyncio.Event().wait()
            call = await continuation(details, request)
            call.add_done_callback(left.append)  # as one does that counts
            return call
        except asyncio.CancelledError:
            left.append(1)
            raise

    async with intercepted(work) as stub:
        call = stub.UnaryStream(Item(text="wait"))
        if where == "in the call":
            assert (await call.read()).number == 0
            await until(lambda: stub.servicer.waiting)
        await until(lambda: entered)
        del call
        gc.collect()
        await until(lambda: left)


async def test_closing_the_channel_ends_interceptors_that_wait() -> None:
    entered = asyncio.Event()

    async def waits(continuation: Any, details: Any, request: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    async with intercepted(waits) as stub:
        call = stub.UnaryUnary(Item())
        await entered.wait()
        await stub.channel.close()
        with pytest.raises(lbkit.RpcError, match="the channel was closed") as caught:
            await call
        assert caught.value.code() is await call.code() is lbkit.StatusCode.CANCELLED
        with pytest.raises(lbkit.ChannelClosedError):
            stub.UnaryUnary(Item())


async def test_closing_the_channel_at_once_ends_what_has_not_begun() -> None:
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(intercepted(passing))
        await stub.UnaryUnary(Item())
        call = stub.UnaryUnary(Item())
        await stub.channel.close()
        with pytest.raises(lbkit.Error, match="closed"):
            await call


async def test_bad_metadata_surfaces_where_the_call_is_awaited() -> None:
    async def bad(continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("Upper", "case")
        return await continuation(details, request)

    async with intercepted(bad) as stub:
        with pytest.raises(lbkit.MetadataError, match="Upper"):
            await stub.UnaryUnary(Item())


async def test_metadata_of_the_caller_stay_as_they_are() -> None:
    async def adds(continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("x-by", "me")
        return await continuation(details, request)

    given = lbkit.MutableMetadata(("x-a", "1"))
    async with intercepted(adds) as stub:
        await stub.UnaryUnary(Item(), metadata=given)
        assert stub.servicer.seen == [("UnaryUnary", "me")]
    assert given == (("x-a", "1"),)


async def test_limits_and_time_of_the_call_hold_behind_interceptors() -> None:
    async with intercepted(passing) as stub:
        with pytest.raises(lbkit.RpcError) as caught:
            await stub.UnaryUnary(Item(text="x" * 100), max_request_bytes=10)
        assert caught.value.code() is lbkit.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(lbkit.RpcError) as caught:
            await stub.UnaryUnary(Item(text="wait"), timeout=0.02)
        assert caught.value.code() is lbkit.StatusCode.DEADLINE_EXCEEDED
