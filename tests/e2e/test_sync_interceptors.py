"""Blocking interceptors: what is written for grpcio is observed to do the same there and here."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

import lbkit
from lbkit import sync
from tests.support.protos import kinds_pb2_grpc
from tests.support.servers import PATIENCE_S, Item


class Servicer(kinds_pb2_grpc.KindsServicer):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def UnaryUnary(self, request: Any, context: Any) -> Any:
        self.seen.append(dict(context.invocation_metadata()).get("x-by"))
        if request.text == "fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")
        return request

    def UnaryStream(self, request: Any, context: Any) -> Iterator[Any]:
        self.seen.append(dict(context.invocation_metadata()).get("x-by"))
        for number in range(3):
            yield Item(number=number)

    def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        self.seen.append(dict(context.invocation_metadata()).get("x-by"))
        return Item(number=sum(request.number for request in request_iterator))

    def StreamStream(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        self.seen.append(dict(context.invocation_metadata()).get("x-by"))
        yield from request_iterator


class World:
    """Channels of one implementation, to a server of grpcio."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.servicer = Servicer()

    @contextmanager
    def stub(self, *interceptors: Any) -> Generator[Any, None, None]:
        with ThreadPoolExecutor(4) as threads:
            server = grpc.server(threads)
            kinds_pb2_grpc.add_KindsServicer_to_server(self.servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            try:
                with self._channel(port, interceptors) as channel:
                    yield kinds_pb2_grpc.KindsStub(channel)
            finally:
                server.stop(None).wait(PATIENCE_S)

    @contextmanager
    def _channel(self, port: int, interceptors: Any) -> Generator[Any, None, None]:
        target = f"static:///127.0.0.1:{port}"
        if self.name == "grpcio":
            with grpc.insecure_channel(f"127.0.0.1:{port}") as plain:
                yield grpc.intercept_channel(plain, *interceptors)
        elif self.name == "lbkit":
            with sync.Channel(target, interceptors=interceptors) as channel:
                yield channel
        else:
            with sync.Channel(target) as ours:
                wrapped: Any = ours
                yield grpc.intercept_channel(wrapped, *interceptors)


@pytest.fixture(params=["grpcio", "lbkit", "lbkit in grpc.intercept_channel"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def items(count: int) -> Iterator[Any]:
    return (Item(number=number) for number in range(count))


def every(work: Any) -> Any:
    """An interceptor that does the same for all kinds."""
    names = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
    bases = tuple(getattr(grpc, f"{name}ClientInterceptor") for name in names)
    methods = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    return type("Every", bases, {f"intercept_{name}": lambda _, *given: work(*given) for name in methods})()


class Details(grpc.ClientCallDetails):
    """What a program makes of its own, as grpcio has no class for it to use."""

    def __init__(self, given: Any, metadata: Any) -> None:
        self.method = given.method
        self.timeout = given.timeout
        self.metadata = metadata
        self.credentials = given.credentials


def call_all(stub: Any) -> list[Any]:
    return [
        stub.UnaryUnary(Item(text="x"), timeout=PATIENCE_S).text,
        [item.number for item in stub.UnaryStream(Item(), timeout=PATIENCE_S)],
        stub.StreamUnary(items(4), timeout=PATIENCE_S).number,
        [item.number for item in stub.StreamStream(items(3), timeout=PATIENCE_S)],
    ]


ANSWERS = ["x", [0, 1, 2], 6, [0, 1, 2]]


def test_interceptors_surround_calls_in_order(world: World) -> None:
    trace: list[Any] = []

    def named(name: str) -> Any:
        def work(continuation: Any, details: Any, request: Any) -> Any:
            trace.append((name, details.method, threading.current_thread().name))
            call = continuation(Details(details, ((*(details.metadata or ()), ("x-by", name)))), request)
            trace.append(name)
            return call

        return every(work)

    with world.stub(named("outer"), named("inner")) as stub:
        assert call_all(stub) == ANSWERS
    me = threading.current_thread().name
    assert trace == [
        step
        for kind in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
        for path in (f"/lbkit.tests.Kinds/{kind}",)
        for step in (("outer", path, me), ("inner", path, me), "inner", "outer")
    ]
    assert world.servicer.seen == ["inner"] * 4


def test_call_is_over_when_continuation_returns_and_is_made_again(world: World) -> None:
    codes = []

    def retry(continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        codes.append(call.code())
        return continuation(details, Item(text="again")) if call.code() != grpc.StatusCode.OK else call

    with world.stub(every(retry)) as stub:
        assert stub.UnaryUnary(Item(text="fail")).text == "again"
        response, call = stub.UnaryUnary.with_call(Item(text="fail"))
        assert response.text == call.result().text == "again"
        assert call.code() == grpc.StatusCode.OK
    assert codes == [grpc.StatusCode.NOT_FOUND] * 2


def test_error_of_the_call_surfaces(world: World) -> None:
    def work(continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)

    with world.stub(every(work), every(work)) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            stub.UnaryUnary(Item(text="fail"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        future = stub.UnaryUnary.future(Item(text="fail"))
        with pytest.raises(grpc.RpcError):
            future.result(PATIENCE_S)
        assert stub.UnaryUnary.future(Item(text="y")).result(PATIENCE_S).text == "y"


def test_exception_of_an_interceptor_surfaces_and_is_a_call_to_the_one_before(world: World) -> None:
    seen = []

    def looks(continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        seen.append((type(call.exception()), call.done(), call.cancelled(), call.running(), call.cancel()))
        call.add_done_callback(seen.append)
        return call

    def raises(continuation: Any, details: Any, request: Any) -> Any:
        raise LookupError("no")

    with world.stub(every(looks), every(raises)) as stub:
        with pytest.raises(LookupError):
            stub.UnaryUnary(Item())
        with pytest.raises(LookupError):
            stub.StreamUnary.with_call(items(1))
        future = stub.UnaryUnary.future(Item())
        with pytest.raises(LookupError):
            future.result()
    assert seen[::2] == [(LookupError, True, False, False, False)] * 3


def test_stream_is_replaced_by_a_generator(world: World) -> None:
    def doubles(continuation: Any, details: Any, request: Any) -> Any:
        return (Item(number=2 * item.number) for item in continuation(details, request))

    class Streams(grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
        def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return doubles(continuation, client_call_details, request)

        def intercept_stream_stream(
            self, continuation: Any, client_call_details: Any, request_iterator: Any
        ) -> Any:
            return doubles(continuation, client_call_details, request_iterator)

    with world.stub(Streams()) as stub:
        assert call_all(stub) == ["x", [0, 2, 4], 6, [0, 2, 4]]


# Ours


def test_response_instead_of_a_call_and_another_method() -> None:
    def work(continuation: Any, details: Any, request: Any) -> Any:
        if request.text == "cached":
            return Item(text="from the cache")
        return continuation(details._replace(method="/no/where"), request)

    with World("lbkit").stub(every(work)) as stub:
        assert stub.UnaryUnary(Item(text="cached")).text == "from the cache"
        for _ in range(2):
            with pytest.raises(lbkit.RpcError) as caught:
                stub.UnaryUnary(Item())
            assert caught.value.code() is lbkit.StatusCode.UNIMPLEMENTED


def test_call_that_cannot_be_made_tells_why() -> None:
    seen = []

    def work(continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details._replace(metadata=(("Upper", "case"),)), request)
        seen.append((call.code(), call.details()))
        return call

    with World("lbkit").stub(every(work)) as stub, pytest.raises(lbkit.MetadataError):
        stub.UnaryUnary(Item())
    assert seen[0][0] is lbkit.StatusCode.UNKNOWN
    assert "Upper" in seen[0][1]


def test_what_is_no_blocking_interceptor_is_refused() -> None:
    class Later(lbkit.ClientInterceptor):
        async def intercept(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return None

    for given, why in (
        (object(), "with a method"),
        (grpc.UnaryUnaryClientInterceptor, "with a method"),
        (Later(), "for lbkit.Channel"),
    ):
        with pytest.raises(TypeError, match=why):
            sync.Channel("static:///127.0.0.1:1", interceptors=[given])
