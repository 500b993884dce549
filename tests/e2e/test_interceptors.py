"""Client interceptors. What is written for grpc.aio is observed to do the same there and here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
import pytest

import lbkit
from tests.support.protos import kinds_pb2_grpc
from tests.support.servers import PATIENCE_S, Item, channel_to, until

KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")

held: ContextVar[str] = ContextVar("held", default="")


class Servicer(kinds_pb2_grpc.KindsServicer):
    """Tells what it was sent; ``text="wait"`` waits to be cancelled."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.waiting = 0
        self.cancelled = 0

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        self.seen.append(("UnaryUnary", dict(context.invocation_metadata()).get("x-by")))
        await self._maybe_wait(request)
        if request.text == "fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")
        context.set_trailing_metadata((("x-trailing", "t"),))
        return request

    async def UnaryStream(self, request: Any, context: Any) -> Any:
        self.seen.append(("UnaryStream", dict(context.invocation_metadata()).get("x-by")))
        for number in range(3):
            yield Item(number=number)
        await self._maybe_wait(request)

    async def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        self.seen.append(("StreamUnary", dict(context.invocation_metadata()).get("x-by")))
        return Item(number=sum([request.number async for request in request_iterator]))

    async def StreamStream(self, request_iterator: Any, context: Any) -> Any:
        self.seen.append(("StreamStream", dict(context.invocation_metadata()).get("x-by")))
        async for request in request_iterator:
            yield request

    async def _maybe_wait(self, request: Any) -> None:
        if request.text == "wait":
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


class World:
    """One implementation: its channels, on a server of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.servicer = Servicer()
        self.aio = name == "grpc.aio"

    @asynccontextmanager
    async def stub(self, *interceptors: Any) -> AsyncGenerator[Any, None]:
        """A generated stub, of a channel with these interceptors."""
        server: Any = grpc.aio.server() if self.aio else lbkit.Server()
        kinds_pb2_grpc.add_KindsServicer_to_server(self.servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            if self.aio:
                channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=interceptors)
            else:
                channel = channel_to(port, interceptors=interceptors)
            async with channel:
                yield kinds_pb2_grpc.KindsStub(channel)
        finally:
            await server.stop(None)


POLLS = pytest.mark.may_leak("thread", "socket", reason="grpcio keeps polling for a while")


@pytest.fixture(params=[pytest.param("grpc.aio", marks=POLLS), "lbkit"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


async def items(count: int) -> AsyncGenerator[Any, None]:
    for number in range(count):
        yield Item(number=number)


async def call_all(stub: Any) -> list[Any]:
    """Make a call of each kind; return what they answered."""
    return [
        (await stub.UnaryUnary(Item(text="x"), timeout=PATIENCE_S)).text,
        [item.number async for item in stub.UnaryStream(Item(), timeout=PATIENCE_S)],
        (await stub.StreamUnary(items(4), timeout=PATIENCE_S)).number,
        [item.number async for item in stub.StreamStream(items(3), timeout=PATIENCE_S)],
    ]


ANSWERS = ["x", [0, 1, 2], 6, [0, 1, 2]]


def four(work: Callable[..., Any]) -> list[Any]:
    """One interceptor of grpc.aio's classes for each kind, which does ``work(kind, continuation, details, request)``."""

    class UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            return await work("UnaryUnary", continuation, client_call_details, request)

    class UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            return await work("UnaryStream", continuation, client_call_details, request)

    class StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
        async def intercept_stream_unary(
            self, continuation: Any, client_call_details: Any, request_iterator: Any
        ) -> Any:
            return await work("StreamUnary", continuation, client_call_details, request_iterator)

    class StreamStream(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(
            self, continuation: Any, client_call_details: Any, request_iterator: Any
        ) -> Any:
            return await work("StreamStream", continuation, client_call_details, request_iterator)

    return [UnaryUnary(), UnaryStream(), StreamUnary(), StreamStream()]


# What is the same in both


async def test_interceptors_surround_calls_in_order(world: World) -> None:
    trace: list[Any] = []

    def named(name: str) -> list[Any]:
        async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
            trace.append((name, kind, "before"))
            call = await continuation(details, request)
            trace.append((name, kind, "after"))
            return call

        return four(work)

    async with world.stub(*named("outer"), *named("inner")) as stub:
        assert await call_all(stub) == ANSWERS
    assert trace == [
        (name, kind, when)
        for kind in KINDS
        for name, when in (("outer", "before"), ("inner", "before"), ("inner", "after"), ("outer", "after"))
    ]


async def test_details_are_as_given_and_changes_arrive(world: World) -> None:
    seen = []

    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.append((details.method, round(details.timeout), tuple(details.metadata), details.wait_for_ready))
        details.metadata.add("x-by", "add")
        details.metadata["x-by"] = f"set for {kind}"
        return await continuation(details._replace(timeout=2 * details.timeout), request)

    async with world.stub(*four(work)) as stub:
        given = (("x-a", "1"), ("x-a", "2"))
        await stub.UnaryUnary(Item(), timeout=5, metadata=given, wait_for_ready=True)
        await call_all(stub)
    assert seen[0] == (b"/lbkit.tests.Kinds/UnaryUnary", 5, given, True)
    assert [method for method, *_ in seen[1:]] == [f"/lbkit.tests.Kinds/{kind}".encode() for kind in KINDS]
    assert world.servicer.seen[1:] == [(kind, f"set for {kind}") for kind in KINDS]


async def test_details_of_the_class_of_grpc_aio_are_taken(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(("x-by", kind))
        changed = grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, None, None)
        return await continuation(changed, request)

    async with world.stub(*four(work)) as stub:
        assert await call_all(stub) == ANSWERS
    assert world.servicer.seen == [(kind, kind) for kind in KINDS]


async def test_response_instead_of_a_call(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        return Item(text="from the cache")

    async with world.stub(four(work)[0]) as stub:
        call = stub.UnaryUnary(Item())
        assert (await call).text == (await call).text == "from the cache"
        assert await call.code() == grpc.StatusCode.OK
        assert await call.details() == ""
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()
    assert world.servicer.seen == []


async def test_response_awaited_and_replaced_by_inner_reaches_outer(world: World) -> None:
    async def outer(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        response = await (await continuation(details, request))
        return Item(text=response.text + ", outer")

    async def inner(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        response = await (await continuation(details, request))
        return Item(text=response.text + ", inner")

    async with world.stub(four(outer)[0], four(inner)[0]) as stub:
        assert (await stub.UnaryUnary(Item(text="x"))).text == "x, inner, outer"


async def test_iterator_instead_of_a_stream(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)

        async def doubled() -> AsyncGenerator[Any, None]:
            async for response in call:
                yield Item(number=2 * response.number)

        return doubled()

    async with world.stub(four(work)[1], four(work)[3]) as stub:
        call = stub.UnaryStream(Item())
        assert [item.number async for item in call] == [0, 2, 4]
        assert await call.code() == grpc.StatusCode.OK
        assert call.done()
        call = stub.StreamStream(items(3))
        assert [(await call.read()).number for _ in range(3)] == [0, 2, 4]
        assert await call.read() == grpc.aio.EOF


async def test_requests_are_wrapped(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, requests: Any) -> Any:
        async def doubled() -> AsyncGenerator[Any, None]:
            async for request in requests:
                yield Item(number=2 * request.number)

        return await continuation(details, doubled())

    async with world.stub(*four(work)[2:]) as stub:
        assert (await stub.StreamUnary(items(4))).number == 12
        call = stub.StreamStream()
        for number in range(3):
            await call.write(Item(number=number))
            assert (await call.read()).number == 2 * number
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


async def test_requests_are_written_through_interceptors(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)

    async with world.stub(*four(work), *four(work)) as stub:
        call = stub.StreamUnary()
        for number in range(5):
            await call.write(Item(number=number))
        await call.done_writing()
        assert (await call).number == 10
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(Item())


async def test_call_is_made_again_by_an_interceptor(world: World) -> None:
    async def retry(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, Item(text="fail"))
        while await call.code() != grpc.StatusCode.OK:
            call = await continuation(details, Item(text="x" if len(world.servicer.seen) == 2 else "fail"))
        return call

    async with world.stub(four(retry)[0]) as stub:
        call = stub.UnaryUnary(Item())
        assert (await call).text == "x"
        assert dict(await call.trailing_metadata()) == {"x-trailing": "t"}
    assert len(world.servicer.seen) == 3


async def test_error_of_the_call_surfaces(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await call.code()
        return call

    async with world.stub(four(work)[0]) as stub:
        call = stub.UnaryUnary(Item(text="fail"))
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == await call.code() == grpc.StatusCode.NOT_FOUND
        assert await call.details() == "nothing there"
        assert call.done()


@pytest.mark.parametrize("kind", KINDS)
async def test_exception_of_an_interceptor_surfaces(world: World, kind: str) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        raise LookupError(kind)

    async with world.stub(*four(work)) as stub:
        call = getattr(stub, kind)(Item() if kind.startswith("Unary") else items(1))
        for _ in range(2):
            with pytest.raises(LookupError, match=kind):
                await (call if kind.endswith("Unary") else call.wait_for_connection())
        with pytest.raises(LookupError, match=kind):
            await call.code()
        assert call.done()
        assert not call.cancelled()


async def test_rpc_error_of_an_interceptor_is_the_status_of_the_call(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        await (await continuation(details, request))

    async with world.stub(four(work)[0]) as stub:
        call = stub.UnaryUnary(Item(text="fail"))
        assert await call.code() == grpc.StatusCode.NOT_FOUND
        assert await call.details() == "nothing there"
        assert list(await call.trailing_metadata()) == []
        with pytest.raises(grpc.aio.AioRpcError):
            await call


@pytest.mark.parametrize("how", ["at once", "while it runs"])
async def test_cancelling_the_call_reaches_the_server(world: World, how: str) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        if how == "while it runs":
            await call
        return call

    async with world.stub(four(work)[0]) as stub:
        call = stub.UnaryUnary(Item(text="wait"))
        await until(lambda: world.servicer.waiting)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert call.done()
        assert await call.code() == grpc.StatusCode.CANCELLED
        await until(lambda: world.servicer.cancelled)


async def test_call_is_cancelled_before_it_began(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)

    async with world.stub(four(work)[0]) as stub:
        call = stub.UnaryUnary(Item())
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() == grpc.StatusCode.CANCELLED
    assert world.servicer.seen == []


async def test_cancelling_who_waits_cancels_the_call(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await call
        return call

    async with world.stub(four(work)[0]) as stub:

        async def wait() -> None:
            await stub.UnaryUnary(Item(text="wait"))

        task = asyncio.create_task(wait())
        await until(lambda: world.servicer.waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: world.servicer.cancelled)


async def test_interceptor_that_cancels_the_call_cancels_it_for_the_caller(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await until(lambda: world.servicer.waiting)
        call.cancel()
        return call

    async with world.stub(four(work)[0]) as stub:
        call = stub.UnaryUnary(Item(text="wait"))
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        await until(lambda: world.servicer.cancelled)


async def test_context_variables_reach_inner_interceptors_and_not_the_caller(world: World) -> None:
    seen = []

    async def outer(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.append(held.get())
        held.set(f"outer of {kind}")
        call = await continuation(details, request)
        seen.append(held.get())
        return call

    async def inner(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.append(held.get())
        held.set(f"inner of {kind}")
        return await continuation(details, request)

    held.set("caller")
    async with world.stub(*four(outer), *four(inner)) as stub:
        assert await call_all(stub) == ANSWERS
    assert seen == [text for kind in KINDS for text in ("caller", f"outer of {kind}", f"inner of {kind}")]
    assert held.get() == "caller"


async def test_done_callbacks_run_when_the_call_is_over(world: World) -> None:
    async def work(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)

    done: list[Any] = []
    async with world.stub(*four(work)) as stub:
        early = stub.UnaryUnary(Item())
        early.add_done_callback(done.append)
        await early
        await until(lambda: done)
        early.add_done_callback(done.append)
        stream = stub.UnaryStream(Item())
        stream.add_done_callback(done.append)
        assert len([item async for item in stream]) == 3
        await until(lambda: len(done) == 3)
    assert done == [early, early, stream]
