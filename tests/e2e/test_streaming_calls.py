"""Streaming calls as an application makes them: grpc.aio's call objects over all four kinds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

import lbkit
from lbkit import EOF, StatusCode
from tests.support.servers import GROWING_S, PATIENCE_S, Item, failure, kinds, until


class Echo:
    """Counts, sums and echoes; remembers how its handlers ended."""

    def __init__(self) -> None:
        self.context: Any = None
        self.ended: list[str] = []
        self.got: list[int] = []

    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        return request

    async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        self.context = context
        try:
            for number in range(request.number):
                yield Item(number=number, body=request.body)
            if request.text == "fail":
                await context.abort(StatusCode.DATA_LOSS, "lost the rest", (("why", "test"),))
            if request.text == "wait":
                await asyncio.Event().wait()
        finally:
            self.ended.append("UnaryStream")

    async def StreamUnary(self, requests: AsyncIterator[Any], context: lbkit.ServicerContext) -> Any:
        total = 0
        try:
            async for request in requests:
                self.got.append(request.number)
                total += request.number
                if request.text == "enough":
                    break
        finally:
            self.ended.append("StreamUnary")
        return Item(number=total)

    async def StreamStream(
        self, requests: AsyncIterator[Any], context: lbkit.ServicerContext
    ) -> AsyncIterator[Any]:
        try:
            async for request in requests:
                yield request
        finally:
            self.ended.append("StreamStream")


async def numbers(count: int) -> AsyncIterator[Any]:
    for number in range(count):
        yield Item(number=number)


async def broken_off(call: Any) -> tuple[list[Any], lbkit.RpcError]:
    """Iterate over a call that must fail; return what came before, and the error."""
    got: list[Any] = []
    try:
        async for response in call:
            got.append(response)  # noqa: PERF401  # a comprehension would lose them
    except lbkit.RpcError as error:
        return got, error
    raise AssertionError(f"the call did not fail, it gave {got}")


async def test_responses_come_in_order_with_async_for() -> None:
    async with kinds(Echo()) as stub:
        call = stub.UnaryStream(Item(number=100))
        assert [response.number async for response in call] == list(range(100))
        assert await call.code() is StatusCode.OK
        assert call.done()


async def test_responses_come_in_order_with_read_until_eof() -> None:
    async with kinds(Echo()) as stub:
        call = stub.UnaryStream(Item(number=3))
        assert [(await call.read()).number for _ in range(3)] == [0, 1, 2]
        assert await call.read() is EOF
        assert await call.read() is EOF, "and stays at the end"
        assert not EOF


async def test_read_and_async_for_are_not_mixed() -> None:
    async with kinds(Echo()) as stub:
        call = stub.UnaryStream(Item(number=3))
        await call.read()
        with pytest.raises(lbkit.UsageError, match="do not mix"):
            call.__aiter__()


@pytest.mark.parametrize("requests", [lambda: numbers(10), lambda: [Item(number=n) for n in range(10)]])
async def test_requests_come_from_an_iterator_of_either_sort(requests: Any) -> None:
    async with kinds(Echo()) as stub:
        assert (await stub.StreamUnary(requests())).number == 45
        assert [each.number async for each in stub.StreamStream(requests())] == list(range(10))


async def test_requests_are_written_and_the_stream_ended_by_hand() -> None:
    async with kinds(Echo()) as stub:
        call = stub.StreamUnary()
        for number in range(5):
            await call.write(Item(number=number))
        await call.done_writing()
        await call.done_writing()
        assert (await call).number == 10
        assert (await call).number == 10, "it may be awaited again"


async def test_ping_pong_keeps_a_strict_order() -> None:
    async with kinds(Echo()) as stub:
        call = stub.StreamStream()
        for number in range(50):
            await call.write(Item(number=number))
            assert (await call.read()).number == number
        await call.done_writing()
        assert await call.read() is EOF


async def test_writing_after_the_end_is_an_invalid_state() -> None:
    async with kinds(Echo()) as stub:
        call = stub.StreamUnary()
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError, match="done_writing"):
            await call.write(Item())
        await call
        with pytest.raises(asyncio.InvalidStateError, match="the call is over"):
            await call.write(Item())
        await call.done_writing()


async def test_writing_to_a_call_with_an_iterator_is_refused() -> None:
    async with kinds(Echo()) as stub:
        call = stub.StreamUnary(numbers(1))
        with pytest.raises(lbkit.UsageError, match="without one"):
            await call.write(Item())
        with pytest.raises(lbkit.UsageError):
            await call.done_writing()
        await call


async def test_writing_to_a_call_that_failed_raises_its_status() -> None:
    class Refuse:
        async def StreamUnary(self, requests: Any, context: lbkit.ServicerContext) -> Any:
            await context.abort(StatusCode.PERMISSION_DENIED, "not you")

    async with kinds(Refuse()) as stub:
        call = stub.StreamUnary()
        assert await call.code() is StatusCode.PERMISSION_DENIED
        with pytest.raises(lbkit.RpcError, match="not you"):
            await call.write(Item())


async def test_messages_before_an_error_are_read_first() -> None:
    async with kinds(Echo()) as stub:
        call = stub.UnaryStream(Item(number=3, text="fail"))
        assert await call.code() is StatusCode.DATA_LOSS
        responses, error = await broken_off(call)
        got = [response.number for response in responses]
        assert got == [0, 1, 2]
        assert error.code() is StatusCode.DATA_LOSS
        assert error.details() == "lost the rest"
        assert error.trailing_metadata()["why"] == "test"
        assert (await call.trailing_metadata())["why"] == "test"


async def test_initial_metadata_come_before_the_first_message() -> None:
    gate = asyncio.Event()

    class Early:
        async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            await context.send_initial_metadata((("early", "yes"),))
            await gate.wait()
            context.set_trailing_metadata((("late", "too"),))
            yield Item(number=1)

    async with kinds(Early()) as stub:
        call = stub.UnaryStream(Item())
        assert (await call.initial_metadata())["early"] == "yes"
        await call.wait_for_connection()
        assert not call.done()
        gate.set()
        assert [each.number async for each in call] == [1]
        assert (await call.trailing_metadata())["late"] == "too"


@pytest.mark.parametrize("kind", ["UnaryStream", "StreamUnary", "StreamStream"])
async def test_cancel_ends_the_call_here_and_the_handler_there(kind: str) -> None:
    echo = Echo()
    async with kinds(echo) as stub:
        call = (
            stub.UnaryStream(Item(number=1, text="wait")) if kind == "UnaryStream" else getattr(stub, kind)()
        )
        if kind == "StreamUnary":
            await call.write(Item(number=7))
            await until(lambda: echo.got)
        else:
            if kind == "StreamStream":
                await call.write(Item())
            await call.read()
        seen: list[Any] = []
        call.add_done_callback(seen.append)
        assert call.cancel()
        assert not call.cancel()
        assert call.cancelled()
        assert call.done()
        with pytest.raises(asyncio.CancelledError):
            await (call if kind == "StreamUnary" else call.read())
        assert await call.code() is StatusCode.CANCELLED
        await until(lambda: echo.ended == [kind])
        assert seen == [call]


@pytest.mark.parametrize("where", ["read", "iterate", "write", "response"])
async def test_cancelling_a_task_that_waits_cancels_the_call(where: str) -> None:
    echo = Echo()
    big = Item(body=b"x" * 1_000_000)
    gate = asyncio.Event()

    class Deaf(Echo):
        async def StreamUnary(self, requests: AsyncIterator[Any], context: lbkit.ServicerContext) -> Any:
            self.got.append(0)
            try:
                await gate.wait()
            finally:
                self.ended.append("StreamUnary")

    echo = Deaf()

    async def use() -> None:
        if where == "read":
            await call.read()
        elif where == "iterate":
            async for _ in call:
                pass
        elif where == "write":
            while True:
                await call.write(big)
        else:
            await call

    async with kinds(echo) as stub:
        call = stub.UnaryStream(Item(text="wait")) if where in {"read", "iterate"} else stub.StreamUnary()
        task = asyncio.create_task(use())
        await until(lambda: echo.context or echo.got)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        await until(lambda: echo.ended)


async def test_call_that_nobody_holds_is_cancelled() -> None:
    echo = Echo()
    async with kinds(echo) as stub:
        async for _ in stub.UnaryStream(Item(number=1, text="wait")):
            break
        gc.collect()
        await until(lambda: echo.ended == ["UnaryStream"])
        assert echo.context.cancelled()


async def test_accessor_keeps_a_call_alive_that_only_it_holds() -> None:
    async with kinds(Echo()) as stub:
        assert await stub.UnaryStream(Item(number=1)).code() is StatusCode.OK
        assert (await stub.StreamUnary(numbers(3))).number == 3
        assert [each.number async for each in stub.StreamStream(numbers(2))] == [0, 1]


async def test_deadline_ends_a_stream_on_both_sides() -> None:
    echo = Echo()
    async with kinds(echo) as stub:
        for timeout in GROWING_S:
            call = stub.UnaryStream(Item(number=1, text="wait"), timeout=timeout)
            responses, error = await broken_off(call)
            if responses:
                break
        else:
            pytest.fail("no response came before any of these deadlines")
        assert len(responses) == 1
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert call.time_remaining() == 0
        await until(lambda: echo.ended[-1:] == ["UnaryStream"])


async def test_early_answer_ends_a_call_whose_requests_go_on() -> None:
    """PROTOCOL-HTTP2: the server may answer before the client has ended its side; the rest is not sent."""
    echo = Echo()
    pulled = 0

    async def endless() -> AsyncIterator[Any]:
        nonlocal pulled
        while True:
            pulled += 1
            yield Item(number=1, text="enough")

    async with kinds(echo) as stub:
        assert (await stub.StreamUnary(endless())).number == 1
        before = pulled
        assert (await stub.StreamUnary(numbers(3))).number == 3, "the connection lives on"
        assert pulled == before, "the iterator was left alone after the end"


@pytest.mark.parametrize("sort", ["asynchronous", "plain"])
async def test_iterator_that_raises_ends_its_call_only(sort: str) -> None:
    async def broken() -> AsyncIterator[Any]:
        yield Item(number=1)
        raise ValueError("no more numbers")

    def broken_too() -> Any:
        yield Item(number=1)
        raise ValueError("no more numbers")

    echo = Echo()
    async with kinds(echo) as stub:
        error = await failure(stub.StreamUnary(broken() if sort == "asynchronous" else broken_too()))
        assert error.code() is StatusCode.UNKNOWN
        assert "ValueError: no more numbers" in error.details()
        assert (await stub.UnaryUnary(Item(number=3))).number == 3


async def test_serialiser_that_raises_ends_its_call_only() -> None:
    async with kinds(Echo()) as stub:
        call = stub.StreamUnary()
        with pytest.raises(TypeError):
            await call.write("not a message")
        await call.write(Item(number=2))
        await call.done_writing()
        assert (await call).number == 2
        assert "TypeError" in (await failure(stub.StreamUnary(["not a message"]))).details()


async def test_undecodable_response_ends_the_stream_behind_the_good_ones() -> None:
    class Raw:
        async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            for number in range(3):
                yield Item(number=number)

    def parse(payload: bytes) -> Any:
        item = Item.FromString(payload)
        if item.number == 1:
            raise ValueError("one is none")
        return item

    async with kinds(Raw()) as stub:
        channel = stub.UnaryStream.channel
        call = channel.unary_stream("/lbkit.tests.Kinds/UnaryStream", Item.SerializeToString, parse)(Item())
        responses, error = await broken_off(call)
        assert "one is none" in error.details()
        got = [response.number for response in responses]
        assert got == [0]
        assert error.code() is StatusCode.INTERNAL
        assert await call.code() is StatusCode.INTERNAL


async def test_large_messages_pass_in_both_directions() -> None:
    body = bytes(range(256)) * 8192  # 2 MiB
    async with kinds(Echo()) as stub:
        call = stub.StreamStream(Item(number=number, body=body) for number in range(8))
        got = [response.number async for response in call if response.body == body]
        assert got == list(range(8))


async def test_slow_reader_holds_the_writer_back() -> None:
    """The window returns as messages are read: a server cannot fill the client's memory, nor its own."""
    sent = 0

    class Fast:
        async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            nonlocal sent
            for _ in range(1000):
                sent += 1
                yield Item(body=bytes(10_000))

    async with kinds(Fast()) as stub:
        call = stub.UnaryStream(Item())
        await call.read()
        before = -1
        while sent > before:  # until it stands still
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 200, "of 10 MB: a window, and what the server may queue"
        count = 1
        while await call.read():
            count += 1
        assert count == 1000


async def test_slow_handler_holds_the_client_back() -> None:
    gate = asyncio.Event()

    class Slow:
        async def StreamUnary(self, requests: AsyncIterator[Any], context: lbkit.ServicerContext) -> Any:
            await gate.wait()
            return Item(number=len([request async for request in requests]))

    async with kinds(Slow()) as stub:
        call = stub.StreamUnary()
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(500):
                await call.write(Item(body=bytes(10_000)))
                written += 1
            await call.done_writing()

        task = asyncio.create_task(write())
        before = -1
        while written > before:
            before = written
            await asyncio.sleep(0.05)
        assert written < 200
        gate.set()
        assert (await call).number == 500
        await task


async def test_endless_producer_leaves_the_event_loop_to_others() -> None:
    class Endless:
        async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            while True:
                yield Item(number=1)

        async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
            return request

    async with kinds(Endless()) as stub:

        async def drain() -> None:
            async for _ in stub.UnaryStream(Item()):
                pass

        task = asyncio.create_task(drain())
        for number in range(20):
            assert (await stub.UnaryUnary(Item(number=number), timeout=PATIENCE_S)).number == number
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_many_streams_at_once_get_their_own_messages() -> None:
    async def one(stub: Any, number: int) -> bool:
        call = stub.StreamStream(Item(number=number * 1000 + step) for step in range(50))
        return [each.number async for each in call] == [number * 1000 + step for step in range(50)]

    async with kinds(Echo()) as stub:
        assert all(await asyncio.gather(*(one(stub, number) for number in range(60))))


async def test_written_requests_wait_for_a_backend_and_are_sent_then() -> None:
    async with kinds(Echo()) as stub:
        call = stub.StreamStream(wait_for_ready=True)  # the channel has not connected yet
        writes = [asyncio.create_task(call.write(Item(number=number))) for number in range(3)]
        assert [(await call.read()).number for _ in writes] == [0, 1, 2]
        await asyncio.gather(*writes)
        await call.done_writing()
        assert await call.read() is EOF


@pytest.mark.parametrize("limit", ["channel", "call"])
async def test_request_above_the_limit_ends_the_call_before_it_is_sent(limit: str) -> None:
    options = {"max_request_bytes": 100}
    echo = Echo()
    async with kinds(echo, channel=options if limit == "channel" else {}) as stub:
        call = stub.StreamUnary(**(options if limit == "call" else {}))
        await call.write(Item(number=1))
        with pytest.raises(lbkit.RpcError) as caught:
            await call.write(Item(body=bytes(200)))
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        await until(lambda: echo.ended == ["StreamUnary"])


@pytest.mark.parametrize("limit", ["channel", "call"])
async def test_response_above_the_limit_ends_the_stream_behind_the_good_ones(limit: str) -> None:
    class Growing:
        async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            for size in (10, 20, 200, 30):
                yield Item(body=bytes(size))

    options = {"max_response_bytes": 100}
    async with kinds(Growing(), channel=options if limit == "channel" else {}) as stub:
        call = stub.UnaryStream(Item(), **(options if limit == "call" else {}))
        responses, error = await broken_off(call)
        assert "larger than the limit of 100" in error.details()
        sizes = [len(response.body) for response in responses]
        assert sizes == [10, 20]
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_closing_the_channel_ends_a_stream() -> None:
    echo = Echo()
    async with kinds(echo) as stub:
        call = stub.UnaryStream(Item(number=1, text="wait"))
        await call.read()
        await stub.UnaryStream.channel.close()
        error = await failure(call.read())
        assert error.code() is StatusCode.CANCELLED
        assert "closed" in error.details()


async def test_timeout_of_zero_starts_no_stream() -> None:
    echo = Echo()
    async with kinds(echo) as stub:
        for call in (stub.UnaryStream(Item(), timeout=0), stub.StreamStream(timeout=0)):
            assert (await failure(call.read())).code() is StatusCode.DEADLINE_EXCEEDED
        assert echo.context is None


async def test_bad_metadata_are_refused_before_anything_is_sent() -> None:
    async with kinds(Echo()) as stub:
        for make in (stub.UnaryStream, stub.StreamUnary, stub.StreamStream):
            with pytest.raises(lbkit.MetadataError):
                make(Item() if make is stub.UnaryStream else None, metadata=(("UPPER", "x"),))
