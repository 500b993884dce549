"""Stubs and servicers: from descriptors, and those that grpcio's plug-in generated, unchanged."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import lbkit
from lbkit import StatusCode
from tests.support.protos import (
    helloworld_pb2,
    helloworld_pb2_grpc,
    kinds_pb2,
    kinds_pb2_grpc,
)
from tests.support.servers import PATIENCE_S, Item, channel_to, failure, raw


class Greeter(helloworld_pb2_grpc.GreeterServicer):
    async def SayHello(self, request: Any, context: Any) -> Any:
        return helloworld_pb2.HelloReply(message=f"Hello, {request.name}!")


class Kinds(kinds_pb2_grpc.KindsServicer):
    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        if request.text == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")
        return request

    async def UnaryStream(self, request: Any, context: Any) -> Any:
        for number in range(request.number):
            yield Item(number=number)

    async def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        return Item(number=sum([request.number async for request in request_iterator]))

    async def StreamStream(self, request_iterator: Any, context: Any) -> Any:
        async for request in request_iterator:
            await context.write(request)


@asynccontextmanager
async def running(server: lbkit.Server) -> AsyncGenerator[lbkit.Channel, None]:
    """Start a server and give a channel to it."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with channel_to(port) as channel:
            yield channel
    finally:
        await server.stop(None)


# Generated code


async def test_generated_stub_and_servicer_work_unchanged() -> None:
    server = lbkit.Server()
    helloworld_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    async with running(server) as channel:
        greeter = helloworld_pb2_grpc.GreeterStub(channel)
        reply = await greeter.SayHello(helloworld_pb2.HelloRequest(name="Ann"), timeout=PATIENCE_S)
        assert reply == helloworld_pb2.HelloReply(message="Hello, Ann!")


async def items(count: int) -> AsyncGenerator[Any, None]:
    for number in range(count):
        yield Item(number=number)


async def call_all_four_kinds(stub: Any) -> None:
    """Make a call of each kind, and look at what comes back."""
    assert await stub.UnaryUnary(Item(text="x"), timeout=PATIENCE_S) == Item(text="x")
    error = await failure(stub.UnaryUnary(Item(text="abort"), timeout=PATIENCE_S))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    call = stub.UnaryStream(Item(number=3), timeout=PATIENCE_S)
    assert [item.number async for item in call] == [0, 1, 2]
    assert await stub.StreamUnary(items(4), timeout=PATIENCE_S) == Item(number=6)
    call = stub.StreamStream(items(3), timeout=PATIENCE_S)
    assert [item.number async for item in call] == [0, 1, 2]


async def test_generated_stub_and_servicer_of_all_four_kinds() -> None:
    server = lbkit.Server()
    kinds_pb2_grpc.add_KindsServicer_to_server(Kinds(), server)
    async with running(server) as channel:
        await call_all_four_kinds(kinds_pb2_grpc.KindsStub(channel))


@pytest.mark.parametrize("name", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"])
async def test_method_nobody_wrote_is_unimplemented(name: str) -> None:
    server = lbkit.Server()
    kinds_pb2_grpc.add_KindsServicer_to_server(kinds_pb2_grpc.KindsServicer(), server)
    async with running(server) as channel:
        error = await failure(raw(channel, f"/lbkit.tests.Kinds/{name}")(b"", timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNIMPLEMENTED
        assert "does not implement it" in error.details()


async def test_generated_servicer_may_be_plain_functions() -> None:
    class Plain(helloworld_pb2_grpc.GreeterServicer):
        def SayHello(self, request: Any, context: Any) -> Any:
            if not request.name:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "who are you?")
            return helloworld_pb2.HelloReply(message=f"Hello, {request.name}!")

    server = lbkit.Server()
    helloworld_pb2_grpc.add_GreeterServicer_to_server(Plain(), server)
    async with running(server) as channel:
        greeter: Any = helloworld_pb2_grpc.GreeterStub(channel)
        reply = await greeter.SayHello(helloworld_pb2.HelloRequest(name="Ann"), timeout=PATIENCE_S)
        assert reply == helloworld_pb2.HelloReply(message="Hello, Ann!")
        error = await failure(greeter.SayHello(helloworld_pb2.HelloRequest(), timeout=PATIENCE_S))
        assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "who are you?")


# Generic handlers


class Anything(grpc.GenericRpcHandler):
    """Serves every path below ``/any.Service/``, with what the test gives."""

    def __init__(self, behaviour: Any) -> None:
        self.asked: list[Any] = []
        self._behaviour = behaviour

    def service(self, handler_call_details: Any) -> Any:
        self.asked.append(handler_call_details)
        if handler_call_details.method == "/any.Service/Broken":
            raise LookupError("the handler is broken")
        if handler_call_details.method.startswith("/any.Service/"):
            return grpc.unary_unary_rpc_method_handler(self._behaviour)
        return None


async def test_generic_handler_serves_what_is_not_known_by_name() -> None:
    async def behaviour(request: bytes, context: Any) -> bytes:
        return request.upper()

    handler = Anything(behaviour)
    server = lbkit.Server()
    server.add_generic_rpc_handlers((handler,))
    async with running(server) as channel:
        call = raw(channel, "/any.Service/Method")
        assert await call(b"raw", metadata=[("x-a", "1")]) == b"RAW"
        assert handler.asked[0].method == "/any.Service/Method"
        assert ("x-a", "1") in handler.asked[0].invocation_metadata
        error = await failure(raw(channel, "/other.Service/Method")(b""))
        assert error.code() is StatusCode.UNIMPLEMENTED


async def test_generic_handler_may_give_a_plain_function() -> None:
    server = lbkit.Server()
    server.add_generic_rpc_handlers((Anything(lambda request, context: request.upper()),))
    server.add(kinds_pb2, "Kinds", Kinds())
    async with running(server) as channel:
        assert await raw(channel, "/any.Service/Method")(b"raw", timeout=PATIENCE_S) == b"RAW"
        assert await channel.stub(kinds_pb2, "Kinds").UnaryUnary(Item(text="x")) == Item(text="x")


async def test_generic_handler_that_raises_fails_its_calls_only(caplog: pytest.LogCaptureFixture) -> None:
    async def behaviour(request: bytes, context: Any) -> bytes:
        return request

    server = lbkit.Server()
    server.add_generic_rpc_handlers((Anything(behaviour),))
    async with running(server) as channel:
        error = await failure(raw(channel, "/any.Service/Broken")(b""))
        assert error.code() is StatusCode.UNKNOWN
        assert "LookupError" in error.details()
        assert "is broken" not in error.details()
        assert await raw(channel, "/any.Service/Method")(b"x") == b"x"
    assert any(record.exc_info for record in caplog.records)


# From descriptors


@pytest.mark.parametrize("name", ["Greeter", "helloworld.Greeter", None])
async def test_stub_and_servicer_from_descriptors(name: str | None) -> None:
    server = lbkit.Server()
    server.add(helloworld_pb2, name, Greeter())
    async with running(server) as channel:
        stub = channel.stub(helloworld_pb2, name)
        reply = await stub.SayHello(helloworld_pb2.HelloRequest(name="Bob"))
        assert reply.message == "Hello, Bob!"
        assert "helloworld.Greeter" in repr(stub)


async def test_servicer_may_be_any_object_and_methods_any_async_callable() -> None:
    class Callable:
        async def __call__(self, greeting: str, request: Any, context: Any) -> Any:
            return helloworld_pb2.HelloReply(message=f"{greeting}, {request.name}!")

    class Servicer:
        SayHello = staticmethod(functools.partial(Callable(), "Moin"))

    server = lbkit.Server()
    server.add(helloworld_pb2, "Greeter", Servicer())
    async with running(server) as channel:
        reply = await channel.stub(helloworld_pb2).SayHello(helloworld_pb2.HelloRequest(name="Cy"))
        assert reply.message == "Moin, Cy!"


async def test_stub_and_servicer_of_all_four_kinds_from_descriptors() -> None:
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Kinds())
    async with running(server) as channel:
        await call_all_four_kinds(channel.stub(kinds_pb2))


def test_unknown_service_is_said_with_the_nearest() -> None:
    channel = lbkit.Channel("static:///127.0.0.1:1")
    with pytest.raises(LookupError, match=r"Did you mean 'Greeter'\?"):
        channel.stub(helloworld_pb2, "Greter")
    with pytest.raises(LookupError, match="It has: Greeter"):
        lbkit.Server().add(helloworld_pb2, "Other", Greeter())


def test_module_that_is_no_pb2_is_refused() -> None:
    with pytest.raises(TypeError, match="_pb2"):
        lbkit.Channel("static:///127.0.0.1:1").stub(pytest)


def test_unknown_method_of_a_stub_names_the_known_ones() -> None:
    stub = lbkit.Channel("static:///127.0.0.1:1").stub(helloworld_pb2)
    with pytest.raises(AttributeError, match=r"no method 'SayHi'. It has: SayHello"):
        _ = stub.SayHi


def test_object_without_any_of_the_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="SayHello"):
        lbkit.Server().add(helloworld_pb2, "Greeter", object())


async def test_paths_that_clients_make_up_are_not_all_remembered() -> None:
    async def behaviour(request: bytes, context: Any) -> bytes:
        return request

    server = lbkit.Server()
    server.add_generic_rpc_handlers((Anything(behaviour),))
    async with running(server) as channel:
        for number in range(1100):
            assert await raw(channel, f"/any.Service/Method{number}")(b"x") == b"x"
    assert len(server._handlers._of_generic._known) <= 1024
