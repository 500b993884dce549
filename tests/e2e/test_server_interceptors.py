"""Server interceptors: grpc.aio's, observed to do the same there and here, and those of our own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
import pytest

import lbkit
from lbkit.testing import memory_channel
from tests.support.protos import kinds_pb2, kinds_pb2_grpc
from tests.support.servers import PATIENCE_S, Item, channel_to, failure, until

KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
PATHS = [f"/lbkit.tests.Kinds/{kind}" for kind in KINDS]

held: ContextVar[str] = ContextVar("held", default="")
POLLS = pytest.mark.may_leak("thread", "socket", reason="grpcio keeps polling for a while")


class Servicer(kinds_pb2_grpc.KindsServicer):
    """Answers with the context variable; streams twice."""

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        if request.text == "fail":
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("nothing there")
        if request.text == "raise":
            raise LookupError("secret")
        return Item(text=held.get())

    async def UnaryStream(self, request: Any, context: Any) -> Any:
        for _ in range(2):
            yield Item(text=held.get())

    async def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        count = len([request async for request in request_iterator])
        return Item(text=held.get(), number=count)

    async def StreamStream(self, request_iterator: Any, context: Any) -> Any:
        while (await context.read()) != grpc.aio.EOF:
            await context.write(Item(text=held.get()))


async def items(count: int) -> AsyncGenerator[Any, None]:
    for number in range(count):
        yield Item(number=number)


async def call_all(stub: Any) -> list[Any]:
    """Make a call of each kind; return the texts that they answered."""
    return [
        (await stub.UnaryUnary(Item(), timeout=PATIENCE_S)).text,
        [item.text async for item in stub.UnaryStream(Item(), timeout=PATIENCE_S)],
        (await stub.StreamUnary(items(2), timeout=PATIENCE_S)).text,
        [item.text async for item in stub.StreamStream(items(2), timeout=PATIENCE_S)],
    ]


def answered(text: str) -> list[Any]:
    return [text, [text, text], text, [text, text]]


@pytest.fixture(params=[pytest.param("grpc.aio", marks=POLLS), "lbkit"])
def serve(request: pytest.FixtureRequest) -> Any:
    """What runs a server of either implementation with interceptors, and gives a channel to it."""

    @asynccontextmanager
    async def run(*interceptors: Any, servicer: Any = None) -> AsyncGenerator[Any, None]:
        make: Any = lbkit.Server if request.param == "lbkit" else grpc.aio.server
        server = make(interceptors=interceptors)
        kinds_pb2_grpc.add_KindsServicer_to_server(servicer or Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with channel_to(port) as channel:
                yield channel
        finally:
            await server.stop(None)

    return run


def stub_of(channel: Any) -> Any:
    return kinds_pb2_grpc.KindsStub(channel)


# What is the same in both


class Tracing(grpc.aio.ServerInterceptor):
    """Notes what it sees, and sets the context variable to its name behind what is there."""

    def __init__(self, name: str, trace: list[Any]) -> None:
        self._name = name
        self._trace = trace

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self._trace.append((self._name, "before", handler_call_details.method))
        held.set(held.get() + self._name)
        handler = await continuation(handler_call_details)
        self._trace.append((self._name, "after", handler is not None))
        return handler


async def test_interceptors_choose_in_order_and_share_the_context_with_the_handler(serve: Any) -> None:
    trace: list[Any] = []
    async with serve(Tracing("a", trace), Tracing("b", trace)) as channel:
        assert await call_all(stub_of(channel)) == answered("ab")
    assert trace == [
        step
        for path in PATHS
        for step in (("a", "before", path), ("b", "before", path), ("b", "after", True), ("a", "after", True))
    ]


async def test_unknown_methods_pass_interceptors(serve: Any) -> None:
    trace: list[Any] = []
    async with serve(Tracing("a", trace)) as channel:
        error = await failure(channel.unary_unary("/no/where")(b""))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert trace == [("a", "before", "/no/where"), ("a", "after", False)]


async def test_metadata_are_given(serve: Any) -> None:
    seen = []

    class Reads(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            seen.append(dict(handler_call_details.invocation_metadata)["x-a"])
            return await continuation(handler_call_details)

    async with serve(Reads()) as channel:
        await stub_of(channel).UnaryUnary(Item(), metadata=(("x-a", "1"),))
    assert seen == ["1"]


async def test_one_aborting_handler_refuses_every_kind(serve: Any) -> None:
    class Refuses(grpc.aio.ServerInterceptor):
        def __init__(self) -> None:
            async def abort(request: Any, context: Any) -> None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

            self._handler: Any = grpc.unary_unary_rpc_method_handler(abort)

        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            return self._handler

    async with serve(Refuses()) as channel:
        stub = stub_of(channel)
        calls = [stub.UnaryUnary(Item()), stub.UnaryStream(Item()), stub.StreamUnary(items(1))]
        calls.append(stub.StreamStream(items(1)))
        for call in calls:
            assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
            assert await call.details() == "who are you?"


async def test_handlers_are_wrapped(serve: Any) -> None:
    class Wraps(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            handler = await continuation(handler_call_details)
            if handler.unary_unary is not None:
                inner = handler.unary_unary

                async def unary(request: Any, context: Any) -> Any:
                    response = await inner(request, context)
                    return Item(text=f"wrapped {response.text}")

                return grpc.unary_unary_rpc_method_handler(
                    unary, handler.request_deserializer, handler.response_serializer
                )
            if handler.unary_stream is not None:
                responses = handler.unary_stream

                async def stream(request: Any, context: Any) -> Any:
                    async for response in responses(request, context):
                        yield Item(text=f"wrapped {response.text}")

                return grpc.unary_stream_rpc_method_handler(
                    stream, handler.request_deserializer, handler.response_serializer
                )
            return handler

    async with serve(Tracing("a", []), Wraps()) as channel:
        for _ in range(2):
            assert await call_all(stub_of(channel)) == ["wrapped a", ["wrapped a"] * 2, "a", ["a", "a"]]


async def test_exception_of_an_interceptor_ends_the_call_with_unknown(serve: Any) -> None:
    class Fails(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            raise LookupError("no")

    async with serve(Fails()) as channel:
        for call in (stub_of(channel).UnaryUnary(Item()), stub_of(channel).StreamStream(items(1))):
            assert await call.code() == grpc.StatusCode.UNKNOWN


async def test_codes_that_handlers_set_stay(serve: Any) -> None:
    async with serve(Tracing("a", [])) as channel:
        error: Any = await failure(stub_of(channel).UnaryUnary(Item(text="fail")))
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nothing there")
        error = await failure(stub_of(channel).UnaryUnary(Item(text="raise")))
        assert error.code() == grpc.StatusCode.UNKNOWN


# Our own


class Around(lbkit.ServerInterceptor):
    """Notes what passes, and sets the context variable."""

    def __init__(self, name: str, trace: list[Any] | None = None) -> None:
        self._name = name
        self._trace = trace if trace is not None else []

    async def intercept(self, proceed: Any, request: Any, context: lbkit.ServicerContext) -> Any:
        self._trace.append((self._name, context.method, context.kind))
        held.set(held.get() + self._name)
        try:
            return await proceed(request, context)
        finally:
            self._trace.append((self._name, "end"))


class Plain:
    """A servicer of plain functions."""

    def UnaryUnary(self, request: Any, context: Any) -> Any:
        assert context.method == "/lbkit.tests.Kinds/UnaryUnary"
        return Item(text=held.get())

    def UnaryStream(self, request: Any, context: Any) -> Iterator[Any]:
        for _ in range(2):
            yield Item(text=held.get())

    def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        return Item(text=held.get(), number=len(list(request_iterator)))

    def StreamStream(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        for _ in request_iterator:
            yield Item(text=held.get())


@asynccontextmanager
async def served(*interceptors: Any, servicer: Any = None, **options: Any) -> AsyncGenerator[Any, None]:
    """A channel in memory to a server with interceptors."""
    server = lbkit.Server(interceptors=interceptors, **options)
    server.add(kinds_pb2, "Kinds", servicer or Servicer())
    async with memory_channel(server) as channel:
        yield channel


def kinds_of(channel: Any) -> Any:
    return channel.stub(kinds_pb2, "Kinds")


NAMES = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


@pytest.mark.parametrize("options", [{}, {"shared_workers": 2}], ids=["tasks", "workers"])
@pytest.mark.parametrize("servicer", [Servicer(), Plain()], ids=["coroutines", "plain functions"])
async def test_own_interceptors_surround_every_kind(servicer: Any, options: Any) -> None:
    trace: list[Any] = []
    async with served(Around("a", trace), Around("b", trace), servicer=servicer, **options) as channel:
        for _ in range(2):
            assert await call_all(kinds_of(channel)) == answered("ab")
    assert trace[:16] == [
        step
        for path, kind in zip(PATHS, NAMES, strict=True)
        for step in (("a", path, kind), ("b", path, kind), ("b", "end"), ("a", "end"))
    ]


@pytest.mark.parametrize("servicer", [Servicer(), Plain()], ids=["coroutines", "plain functions"])
async def test_both_kinds_of_interceptor_go_together(servicer: Any) -> None:
    trace: list[Any] = []
    surrounding = [Around("a", trace), Tracing("b", trace), Around("c", trace), Tracing("d", trace)]
    async with served(*surrounding, servicer=servicer) as channel:
        for _ in range(2):
            assert await call_all(kinds_of(channel)) == answered("bdac")
        assert (await failure(channel.unary_unary("/no/where")(b""))).code() is lbkit.StatusCode.UNIMPLEMENTED
    assert [step[0] for step in trace[:8]] == ["b", "d", "d", "b", "a", "c", "c", "a"]


async def test_own_interceptor_sees_unknown_methods_and_those_nobody_wrote() -> None:
    class Some:
        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            return request

    trace: list[Any] = []
    async with served(Around("a", trace), servicer=Some()) as channel:
        error = await failure(channel.unary_unary("/lbkit.tests.Kinds/UnaryUnari")(b""))
        assert error.code() is lbkit.StatusCode.UNIMPLEMENTED
        assert "did you mean" in error.details().lower()
    server = lbkit.Server(interceptors=[Around("b", trace)])
    kinds_pb2_grpc.add_KindsServicer_to_server(kinds_pb2_grpc.KindsServicer(), server)
    async with memory_channel(server) as channel:
        error = await failure(kinds_of(channel).UnaryUnary(Item()))
        assert error.details() == "/lbkit.tests.Kinds/UnaryUnary: the servicer does not implement it"
    assert [step[1] for step in trace[::2]] == ["/lbkit.tests.Kinds/UnaryUnari", PATHS[0]]


@pytest.mark.parametrize("kind", KINDS)
async def test_own_interceptor_refuses_a_call(kind: str) -> None:
    class Refuses(lbkit.ServerInterceptor):
        async def intercept(self, proceed: Any, request: Any, context: lbkit.ServicerContext) -> Any:
            await context.abort(lbkit.StatusCode.PERMISSION_DENIED, "not you", (("x-why", "because"),))

    async with served(Refuses()) as channel:
        call = getattr(kinds_of(channel), kind)(Item() if kind.startswith("Unary") else items(1))
        assert await call.code() is lbkit.StatusCode.PERMISSION_DENIED
        assert (await call.trailing_metadata())["x-why"] == "because"


async def test_interceptor_of_grpc_aio_aborts_by_the_call_being_served() -> None:
    class Refuses(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            call = lbkit.current_call()
            assert call is not None
            await call.abort(lbkit.StatusCode.PERMISSION_DENIED, "not you")

    async with served(Refuses()) as channel:
        error = await failure(kinds_of(channel).UnaryUnary(Item()))
        assert (error.code(), error.details()) == (lbkit.StatusCode.PERMISSION_DENIED, "not you")


async def test_own_interceptor_replaces_the_response() -> None:
    class Replaces(lbkit.ServerInterceptor):
        async def intercept(self, proceed: Any, request: Any, context: lbkit.ServicerContext) -> Any:
            assert (await proceed(request, context)).text == ""
            return Item(text="another")

    async with served(Replaces()) as channel:
        assert (await kinds_of(channel).UnaryUnary(Item())).text == "another"


@pytest.mark.parametrize("count", [0, 2])
async def test_wrong_number_of_requests_is_refused_behind_interceptors(count: int) -> None:
    async with served(Tracing("a", [])) as channel:
        call = channel.stream_unary(PATHS[0])(bytes_of(count))
        assert await call.code() is lbkit.StatusCode.UNIMPLEMENTED


async def bytes_of(count: int) -> AsyncGenerator[bytes, None]:
    for _ in range(count):
        yield b""


async def test_interceptors_of_the_blocking_api_wrap_plain_functions() -> None:
    class Wraps(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            handler = continuation(handler_call_details)
            if handler is None or handler.unary_unary is None:
                return handler
            inner = handler.unary_unary

            def work(request: Any, context: Any) -> Any:
                return Item(text=f"wrapped {inner(request, context).text}")

            return grpc.unary_unary_rpc_method_handler(
                work, handler.request_deserializer, handler.response_serializer
            )

    async with served(Tracing("a", []), Wraps(), Wraps(), servicer=Plain()) as channel:
        texts = await call_all(kinds_of(channel))
        assert texts == ["wrapped wrapped a", ["a", "a"], "a", ["a", "a"]]
        assert (await failure(channel.unary_unary("/no/where")(b""))).code() is lbkit.StatusCode.UNIMPLEMENTED
    with pytest.raises(TypeError, match="whose intercept_service is a plain function"):
        lbkit.Server(interceptors=[Wraps(), Around("a")])


@pytest.mark.parametrize("given", [object(), Around, 3])
def test_what_is_no_interceptor_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="'intercept_service'"):
        lbkit.Server(interceptors=[given])


async def test_stream_that_is_cancelled_closes_the_generator_behind_interceptors() -> None:
    closed: list[str] = []

    class Endless:
        async def UnaryStream(self, request: Any, context: Any) -> Any:
            held.set("inside")
            try:
                while True:
                    yield Item()
                    await asyncio.sleep(0)
            finally:
                closed.append(held.get())

    trace: list[Any] = []
    async with served(Around("a", trace), servicer=Endless()) as channel:
        call = kinds_of(channel).UnaryStream(Item())
        await call.read()
        call.cancel()
        await until(lambda: len(trace) == 2)
        assert closed == ["inside"]


async def test_handlers_that_are_registered_later_are_surrounded() -> None:
    trace: list[Any] = []
    server = lbkit.Server(interceptors=[Around("a", trace)])
    server.add(kinds_pb2, "Kinds", Plain())
    async with memory_channel(server) as channel:
        assert (await kinds_of(channel).UnaryUnary(Item())).text == "a"
        server.add(kinds_pb2, "Kinds", Servicer())
        assert (await kinds_of(channel).UnaryUnary(Item())).text == "a"


# One context for each call


class Setting:
    """Sets the variable in each kind of method; answers with what was there before."""

    def __init__(self) -> None:
        self.after: list[str] = []

    def _set(self, context: Any, name: str) -> Any:
        before = held.get()
        held.set(name)
        context.add_done_callback(lambda _: self.after.append(held.get()))
        return Item(text=before)

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        return self._set(context, "UnaryUnary")

    async def UnaryStream(self, request: Any, context: Any) -> Any:
        yield self._set(context, "UnaryStream")
        yield Item(text=held.get())

    async def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        answer = self._set(context, "StreamUnary")
        assert [item async for item in request_iterator]
        assert held.get() == "StreamUnary"
        return answer

    async def StreamStream(self, request_iterator: Any, context: Any) -> Any:
        yield self._set(context, "StreamStream")
        async for _ in request_iterator:
            yield Item(text=held.get())


@pytest.mark.parametrize("options", [{}, {"shared_workers": 1}], ids=["tasks", "workers"])
@pytest.mark.parametrize("interceptors", [[], [Around("a")], [Tracing("a", [])]], ids=["none", "own", "aio"])
async def test_context_of_a_call_is_its_own(interceptors: list[Any], options: Any) -> None:
    servicer = Setting()
    first = "a" if interceptors else ""
    held.set("client")
    server = lbkit.Server(interceptors=interceptors, **options)
    server.add(kinds_pb2, "Kinds", servicer)
    async with memory_channel(server) as channel:
        stub = kinds_of(channel)
        for _ in range(3):
            assert (await stub.UnaryUnary(Item())).text == first
            assert [item.text async for item in stub.UnaryStream(Item())] == [first, "UnaryStream"]
            assert (await stub.StreamUnary(items(1))).text == first
            stream = [item.text async for item in stub.StreamStream(items(1))]
            assert stream == [first, "StreamStream"]
        await until(lambda: len(servicer.after) == 12)
    assert servicer.after == list(KINDS) * 3
    assert held.get() == "client"


async def test_context_of_a_plain_function_is_a_copy() -> None:
    class Sets:
        def UnaryUnary(self, request: Any, context: Any) -> Any:
            before = held.get()
            held.set("thread")
            return Item(text=before)

    async with served(Around("a"), servicer=Sets()) as channel:
        assert [(await kinds_of(channel).UnaryUnary(Item())).text for _ in range(3)] == ["a"] * 3


async def test_calls_leave_nothing_to_the_collector() -> None:
    async with served(servicer=Servicer()) as channel:
        stub = kinds_of(channel)
        await stub.UnaryUnary(Item(), timeout=PATIENCE_S)
        gc.collect()
        gc.disable()
        try:
            before = sum(type(each).__name__ == "ServerCall" for each in gc.get_objects())
            for _ in range(10):
                await stub.UnaryUnary(Item(), timeout=PATIENCE_S)
            await asyncio.sleep(0)
            after = sum(type(each).__name__ == "ServerCall" for each in gc.get_objects())
        finally:
            gc.enable()
        assert after - before <= 1
