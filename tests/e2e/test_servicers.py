"""Servicer methods in the four styles that grpc.aio takes, and what they can do with their context."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import lbkit
from lbkit import EOF, StatusCode
from tests.support.servers import PATIENCE_S, Item, channel_to, failure, kinds, until


class Coroutines:
    """``async def``; streams go through the context."""

    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        return request

    async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> None:
        for number in range(request.number):
            await context.write(Item(number=number))

    async def StreamUnary(self, requests: Any, context: lbkit.ServicerContext) -> Any:
        total = 0
        while (request := await context.read()) is not EOF:
            total += request.number
        return Item(number=total)

    async def StreamStream(self, requests: Any, context: lbkit.ServicerContext) -> None:
        while (request := await context.read()) is not EOF:
            await context.write(request)


class Generators(Coroutines):
    """Asynchronous generators."""

    async def UnaryStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        for number in range(request.number):
            yield Item(number=number)

    async def StreamUnary(self, requests: Any, context: lbkit.ServicerContext) -> Any:
        return Item(number=sum([request.number async for request in requests]))

    async def StreamStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        async for request in requests:
            yield request


class Functions:
    """Plain functions and generators, in threads."""

    def UnaryUnary(self, request: Any, context: lbkit.BlockingContext) -> Any:
        assert threading.current_thread().name.startswith("lbkit-handler")
        return request

    def UnaryStream(self, request: Any, context: lbkit.BlockingContext) -> Iterator[Any]:
        assert threading.current_thread().name.startswith("lbkit-handler")
        for number in range(request.number):
            yield Item(number=number)

    def StreamUnary(self, requests: Iterator[Any], context: lbkit.BlockingContext) -> Any:
        return Item(number=sum(request.number for request in requests))

    def StreamStream(self, requests: Iterator[Any], context: lbkit.BlockingContext) -> Iterator[Any]:
        yield from requests


class Lists(Functions):
    """Plain functions that return all responses at once."""

    def UnaryStream(self, request: Any, context: Any) -> Any:
        return [Item(number=number) for number in range(request.number)]

    def StreamStream(self, requests: Iterator[Any], context: Any) -> Any:
        return list(requests)


def numbers(count: int) -> list[Any]:
    return [Item(number=number) for number in range(count)]


@pytest.mark.parametrize("servicer", [Coroutines, Generators, Functions, Lists])
async def test_all_kinds_are_served_in_every_style(servicer: type[Any]) -> None:
    async with kinds(servicer()) as stub:
        assert (await stub.UnaryUnary(Item(number=3))).number == 3
        assert [each.number async for each in stub.UnaryStream(Item(number=40))] == list(range(40))
        assert [each.number async for each in stub.UnaryStream(Item(number=0))] == []
        assert (await stub.StreamUnary(numbers(10))).number == 45
        assert [each.number async for each in stub.StreamStream(numbers(40))] == list(range(40))
        assert [each.number async for each in stub.StreamStream([])] == []


async def test_partial_functions_and_callable_objects_are_taken_for_what_they_are() -> None:
    class Callable:
        async def __call__(self, request: Any, context: lbkit.ServicerContext) -> Any:
            return Item(text="object")

    async def named(name: str, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        yield Item(text=name)

    servicer = SimpleNamespace(UnaryUnary=Callable(), UnaryStream=partial(named, "partial"))
    async with kinds(servicer) as stub:
        assert (await stub.UnaryUnary(Item())).text == "object"
        assert [each.text async for each in stub.UnaryStream(Item())] == ["partial"]


def test_method_with_one_response_that_yields_is_refused_at_registration() -> None:
    from tests.support.protos import kinds_pb2

    class Yields:
        async def UnaryUnary(self, request: Any, context: Any) -> AsyncIterator[Any]:
            yield request

    with pytest.raises(TypeError, match="return it instead"):
        lbkit.Server().add(kinds_pb2, "Kinds", Yields())


ABORTS = [StatusCode.NOT_FOUND, "no such thing", (("hint", "look elsewhere"),)]


class AbortingCoroutines:
    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(*ABORTS)  # type: ignore[arg-type]

    async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        yield Item(number=1)
        await context.abort(*ABORTS)  # type: ignore[arg-type]

    async def StreamUnary(self, requests: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort_with_status(
            SimpleNamespace(code=ABORTS[0], details=ABORTS[1], trailing_metadata=ABORTS[2])
        )

    async def StreamStream(self, requests: Any, context: lbkit.ServicerContext) -> None:
        await context.write(Item(number=1))
        context.set_trailing_metadata(ABORTS[2])  # type: ignore[arg-type]
        context.set_code(ABORTS[0])
        context.set_details(ABORTS[1])  # type: ignore[arg-type]


class AbortingFunctions:
    def UnaryUnary(self, request: Any, context: lbkit.BlockingContext) -> Any:
        context.set_trailing_metadata(ABORTS[2])  # type: ignore[arg-type]
        context.abort(*ABORTS[:2])  # type: ignore[arg-type]

    def UnaryStream(self, request: Any, context: lbkit.BlockingContext) -> Iterator[Any]:
        yield Item(number=1)
        context.set_trailing_metadata(ABORTS[2])  # type: ignore[arg-type]
        context.abort(*ABORTS[:2])  # type: ignore[arg-type]

    def StreamUnary(self, requests: Any, context: lbkit.BlockingContext) -> Any:
        context.abort_with_status(
            SimpleNamespace(code=ABORTS[0], details=ABORTS[1], trailing_metadata=ABORTS[2])
        )

    def StreamStream(self, requests: Any, context: lbkit.BlockingContext) -> Iterator[Any]:
        yield Item(number=1)
        context.set_trailing_metadata(ABORTS[2])  # type: ignore[arg-type]
        context.set_code(ABORTS[0])
        context.set_details(ABORTS[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("servicer", [AbortingCoroutines, AbortingFunctions])
@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"])
async def test_handler_ends_its_call_with_a_status_of_its_own(servicer: type[Any], kind: str) -> None:
    async with kinds(servicer()) as stub:
        call = getattr(stub, kind)(Item() if kind.startswith("Unary") else numbers(1))
        if kind.endswith("Stream"):
            assert (await call.read()).number == 1, "what was written before comes first"
            error = await failure(call.read())
        else:
            error = await failure(call)
        assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "no such thing")
        assert error.trailing_metadata()["hint"] == "look elsewhere"


@pytest.mark.parametrize("style", ["coroutine", "function"])
async def test_handler_that_raises_tells_the_client_the_type_only(
    style: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def coroutine(request: Any, context: lbkit.ServicerContext) -> Any:
        raise ValueError("the password is xyzzy")

    def function(request: Any, context: lbkit.BlockingContext) -> Any:
        raise ValueError("the password is xyzzy")

    behaviour = coroutine if style == "coroutine" else function
    async with kinds(SimpleNamespace(UnaryUnary=behaviour, UnaryStream=behaviour)) as stub:
        for call in (stub.UnaryUnary(Item()), stub.UnaryStream(Item()).read()):
            error = await failure(call)
            assert error.code() is StatusCode.UNKNOWN
            assert "ValueError" in error.details()
            assert "xyzzy" not in error.details()
        assert "xyzzy" in caplog.text


async def test_what_a_method_gives_that_is_no_message_is_internal() -> None:
    async def nothing(request: Any, context: lbkit.ServicerContext) -> Any:
        return None

    async def text(request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        yield Item(number=1)
        yield "text"

    async with kinds(SimpleNamespace(UnaryUnary=nothing, UnaryStream=text)) as stub:
        error = await failure(stub.UnaryUnary(Item()))
        assert error.code() is StatusCode.INTERNAL
        assert "NoneType" in error.details()
        call = stub.UnaryStream(Item())
        await call.read()
        assert (await failure(call.read())).code() is StatusCode.INTERNAL


async def test_reading_and_writing_where_there_is_no_stream_is_refused() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        with pytest.raises(lbkit.UsageError, match="first argument"):
            await context.read()
        with pytest.raises(lbkit.UsageError, match="return it"):
            await context.write(Item())
        return request

    async with kinds(SimpleNamespace(UnaryUnary=behaviour)) as stub:
        await stub.UnaryUnary(Item())


async def test_reading_and_writing_after_the_end_is_refused() -> None:
    kept: list[lbkit.ServicerContext] = []

    async def behaviour(requests: Any, context: lbkit.ServicerContext) -> None:
        kept.append(context)

    async with kinds(SimpleNamespace(StreamStream=behaviour)) as stub:
        assert [each async for each in stub.StreamStream([])] == []
        with pytest.raises(lbkit.UsageError, match="over"):
            await kept[0].write(Item())
        with pytest.raises(lbkit.UsageError, match="over"):
            await kept[0].read()


async def test_response_above_the_servers_limit_is_resource_exhausted() -> None:
    async with kinds(Generators(), max_response_bytes=10) as stub:
        error = await failure(stub.UnaryUnary(Item(body=bytes(20))))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        call = stub.StreamStream([Item(number=1), Item(body=bytes(20))])
        assert (await call.read()).number == 1
        assert (await failure(call.read())).code() is StatusCode.RESOURCE_EXHAUSTED


async def test_request_above_the_servers_limit_reaches_the_handler_as_an_error() -> None:
    async with kinds(Generators(), max_request_bytes=10) as stub:
        error = await failure(stub.StreamUnary([Item(number=1), Item(body=bytes(20))]))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.UnaryUnary(Item(number=1))).number == 1


async def test_context_of_a_plain_function_answers_as_the_other_does() -> None:
    seen: dict[str, Any] = {}
    over = threading.Event()

    def behaviour(request: Any, context: lbkit.BlockingContext) -> Any:
        seen["metadata"] = context.invocation_metadata()["who"]
        seen["peer"] = context.peer()
        seen["time"] = context.time_remaining()
        seen["active"] = context.is_active()
        seen["added"] = context.add_callback(over.set)
        context.send_initial_metadata((("first", "1"),))
        context.set_details("well done")
        seen["details"] = context.details()
        seen["code"] = context.code()
        seen["identity"] = (context.auth_context(), context.peer_identities(), context.peer_identity_key())
        context.disable_next_message_compression()
        with pytest.raises(RuntimeError, match="before"):
            context.set_compression("gzip")
        with pytest.raises(RuntimeError, match="before"):
            context.send_initial_metadata(())
        with pytest.raises(lbkit.MetadataError):
            context.set_trailing_metadata((("UPPER", ""),))
        context.set_trailing_metadata((("last", "1"),))
        assert context.trailing_metadata()["last"] == "1"
        return request

    async with kinds(SimpleNamespace(UnaryUnary=behaviour)) as stub:
        call = stub.UnaryUnary(Item(), timeout=PATIENCE_S, metadata=(("who", "ann"),))
        await call
        assert (await call.initial_metadata())["first"] == "1"
        assert (await call.trailing_metadata())["last"] == "1"
        assert await call.details() == "well done"
        await until(over.is_set)
    assert seen["metadata"] == "ann"
    assert seen["peer"].startswith("ipv4:127.0.0.1:")
    assert 0 < seen["time"] <= PATIENCE_S
    assert seen["active"]
    assert seen["added"]
    assert seen["details"] == "well done"
    assert seen["code"] is StatusCode.OK
    insecure = {"transport_security_type": [b"insecure"], "security_level": [b"TSI_SECURITY_NONE"]}
    assert seen["identity"] == (insecure, None, None)


async def test_plain_function_cancels_its_own_call() -> None:
    def behaviour(request: Any, context: lbkit.BlockingContext) -> Any:
        context.cancel()

    async with kinds(SimpleNamespace(UnaryUnary=behaviour)) as stub:
        assert (await failure(stub.UnaryUnary(Item()))).code() is StatusCode.CANCELLED


async def test_plain_function_sees_that_its_call_is_over_and_its_stream_counts_until_it_returns() -> None:
    begun, go_on = threading.Event(), threading.Event()
    active: list[bool] = []

    def behaviour(request: Any, context: lbkit.BlockingContext) -> Any:
        begun.set()
        go_on.wait(PATIENCE_S)
        active.append(context.is_active())
        return request

    servicer = SimpleNamespace(UnaryUnary=behaviour)
    async with kinds(servicer, max_concurrent_streams=1) as stub:
        call = stub.UnaryUnary(Item())
        await until(begun.is_set)
        call.cancel()
        # The only stream that is allowed counts while the function runs: the next call is refused, twice.
        refused = await failure(stub.UnaryUnary(Item(number=2)))
        assert refused.code() is StatusCode.UNAVAILABLE
        go_on.set()
        await until(lambda: active == [False])
        await until_served(stub)


async def until_served(stub: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await stub.UnaryUnary(Item()).code() is not StatusCode.OK:
            pass


async def test_generator_function_is_closed_when_its_client_has_gone() -> None:
    closed = threading.Event()

    def behaviour(request: Any, context: lbkit.BlockingContext) -> Iterator[Any]:
        try:
            while True:
                yield Item(body=bytes(100_000))
        finally:
            closed.set()

    async with kinds(SimpleNamespace(UnaryStream=behaviour)) as stub:
        call = stub.UnaryStream(Item())
        await call.read()
        call.cancel()
        await until(closed.is_set)


async def test_function_that_waits_for_requests_is_told_when_the_client_has_gone() -> None:
    told: list[str] = []

    def behaviour(requests: Iterator[Any], context: lbkit.BlockingContext) -> Any:
        try:
            for _ in requests:
                told.append("request")  # noqa: PERF401  # it may raise
        except lbkit.UsageError:
            told.append("over")
            raise

    async with kinds(SimpleNamespace(StreamUnary=behaviour)) as stub:
        call = stub.StreamUnary()
        await call.write(Item())
        await until(lambda: told == ["request"])
        call.cancel()
        await until(lambda: told == ["request", "over"])


async def test_function_that_returns_a_coroutine_is_told_how_to_be_written() -> None:
    async def real(request: Any, context: Any) -> Any:
        return request

    def wrapper(request: Any, context: Any) -> Any:
        return real(request, context)

    async with kinds(SimpleNamespace(UnaryUnary=wrapper)) as stub:
        assert "TypeError" in (await failure(stub.UnaryUnary(Item()))).details()


async def test_function_that_leaks_stop_iteration_fails_its_call() -> None:
    def behaviour(request: Any, context: Any) -> Any:
        return next(iter(()))

    async with kinds(SimpleNamespace(UnaryUnary=behaviour)) as stub:
        assert "RuntimeError" in (await failure(stub.UnaryUnary(Item(), timeout=PATIENCE_S))).details()


async def test_functions_run_on_the_executor_that_the_server_is_given() -> None:
    names: list[str] = []

    def behaviour(request: Any, context: Any) -> Any:
        names.append(threading.current_thread().name)
        return request

    with ThreadPoolExecutor(1, "mine") as threads:
        async with kinds(SimpleNamespace(UnaryUnary=behaviour), threads=threads) as stub:
            await asyncio.gather(*(stub.UnaryUnary(Item()) for _ in range(5)))
    assert set(names) == {"mine_0"}


async def test_handlers_run_in_the_context_of_their_task() -> None:
    """A context variable set in one call is not seen by another, and threads see that of their call."""
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="unset")

    def behaviour(request: Any, context: Any) -> Any:
        before = variable.get()
        variable.set(request.text)
        return Item(text=before)

    async with kinds(SimpleNamespace(UnaryUnary=behaviour)) as stub:
        for text in ("a", "b"):
            assert (await stub.UnaryUnary(Item(text=text))).text == "unset"


async def test_graceful_stop_waits_for_streams() -> None:
    from tests.support.protos import kinds_pb2

    gate = asyncio.Event()

    class Slow:
        async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            yield Item(number=1)
            await gate.wait()
            yield Item(number=2)

    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Slow())
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with channel_to(port) as channel:
        call = channel.stub(kinds_pb2, "Kinds").UnaryStream(Item())
        assert (await call.read()).number == 1
        stopping = asyncio.create_task(server.stop(grace=PATIENCE_S))
        await until(lambda: channel.get_state() is not lbkit.ConnectivityState.READY)
        gate.set()
        assert (await call.read()).number == 2
        assert await call.read() is EOF
        await stopping
