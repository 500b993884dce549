"""A blocking program sees the same on ``grpc.insecure_channel`` and on ``lbkit.sync.Channel``, with either server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

import lbkit
from lbkit import sync
from tests.support.blocking import Blocking, Item, nothing_left
from tests.support.protos import kinds_pb2_grpc
from tests.support.servers import GROWING_S, PATIENCE_S

pytestmark = pytest.mark.interop

HELD_S = 30.0  # for handlers that are let go by the test


class Servicer(Blocking):
    """Kinds that also fail, hang and stop half-way, as the request says."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.left = threading.Event()
        self.go = threading.Event()

    def UnaryUnary(self, request: Any, context: Any) -> Any:
        if request.text == "fail":
            context.set_trailing_metadata((("why", "because"),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        if request.text == "hang":
            self._hang(context)
        return super().UnaryUnary(request, context)

    def UnaryStream(self, request: Any, context: Any) -> Iterator[Any]:
        yield from super().UnaryStream(request, context)
        if request.text == "fail":
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "no more")
        if request.text == "hang":
            self._hang(context)

    def StreamUnary(self, requests: Any, context: Any) -> Any:
        first = next(requests, None)
        if first is not None and first.text == "early":
            return Item(text="enough")
        return Item(number=(0 if first is None else first.number) + sum(each.number for each in requests))

    def _hang(self, context: Any) -> None:
        context.add_callback(self.left.set)
        self.entered.set()
        self.go.wait(HELD_S)


@contextmanager
def grpcio_server(servicer: Any) -> Generator[int, None, None]:
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads)
        kinds_pb2_grpc.add_KindsServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            assert server.stop(None).wait(PATIENCE_S)


@contextmanager
def lbkit_server(servicer: Any) -> Generator[int, None, None]:
    server = sync.Server()
    kinds_pb2_grpc.add_KindsServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        assert server.stop(None).wait(PATIENCE_S)


def grpcio_channel(port: int) -> Any:
    return grpc.insecure_channel(f"127.0.0.1:{port}")


def lbkit_channel(port: int) -> Any:
    return sync.Channel(f"static:///127.0.0.1:{port}")


class World:
    """A servicer, and a stub for it."""

    def __init__(self, servicer: Servicer, channel: Any) -> None:
        self.servicer = servicer
        self.channel = channel
        self.stub: Any = kinds_pb2_grpc.KindsStub(channel)


@pytest.fixture(params=["grpcio", "lbkit"])
def client(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    return grpcio_channel if request.param == "grpcio" else lbkit_channel


@pytest.fixture(params=["grpcio", "lbkit"])
def world(request: pytest.FixtureRequest, client: Callable[[int], Any]) -> Iterator[World]:
    servicer = Servicer()
    serve = grpcio_server if request.param == "grpcio" else lbkit_server
    with nothing_left(), serve(servicer) as port, client(port) as channel:
        try:
            yield World(servicer, channel)
        finally:
            servicer.go.set()


def numbers(count: int) -> Iterator[Any]:
    return (Item(number=number) for number in range(count))


def test_generated_stub_makes_all_four_kinds_of_call(world: World) -> None:
    stub = world.stub
    assert stub.UnaryUnary(Item(text="a", number=1), timeout=PATIENCE_S).number == 2
    assert [item.number for item in stub.UnaryStream(Item(number=300))] == list(range(300))
    assert stub.StreamUnary(numbers(300)).number == sum(range(300))
    assert [item.number for item in stub.StreamStream(numbers(300))] == list(range(300))


def test_with_call_gives_the_response_and_the_call(world: World) -> None:
    response, call = world.stub.UnaryUnary.with_call(Item(text="a"), metadata=(("k", "v"),))
    assert response.text == "a"
    assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
    assert ("first", "a") in call.initial_metadata()
    assert ("last", "a") in call.trailing_metadata()
    assert not call.is_active()
    response, call = world.stub.StreamUnary.with_call(numbers(3))
    assert (response.number, call.code()) == (3, grpc.StatusCode.OK)


def test_future_is_a_future_and_a_call(world: World) -> None:
    future = world.stub.UnaryUnary.future(Item(text="hang"), timeout=HELD_S)
    assert isinstance(future, grpc.Future)
    assert isinstance(future, grpc.Call)
    assert world.servicer.entered.wait(PATIENCE_S)
    assert (future.done(), future.running(), future.is_active(), future.cancelled()) == (
        False,
        True,
        True,
        False,
    )
    assert 0 < future.time_remaining() <= HELD_S
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.01)
    called = threading.Event()
    seen: list[Any] = []

    def note(each: Any) -> None:
        seen.append(each)
        called.set()

    future.add_done_callback(note)
    world.servicer.go.set()
    assert future.result(timeout=PATIENCE_S).text == "hang"
    assert (future.exception(), future.traceback(), future.code()) == (None, None, grpc.StatusCode.OK)
    assert (future.done(), future.running(), future.is_active()) == (True, False, False)
    assert called.wait(PATIENCE_S)
    assert seen == [future]
    future.add_done_callback(seen.append)
    assert seen == [future, future]
    assert not future.add_callback(called.clear)


def test_future_that_is_cancelled_says_so_and_the_server_hears_of_it(world: World) -> None:
    future = world.stub.UnaryUnary.future(Item(text="hang"))
    assert world.servicer.entered.wait(PATIENCE_S)
    future.cancel()
    assert future.cancelled()
    assert future.done()
    with pytest.raises(grpc.FutureCancelledError):
        future.result(timeout=PATIENCE_S)
    with pytest.raises(grpc.FutureCancelledError):
        future.exception(timeout=PATIENCE_S)
    assert future.code() == grpc.StatusCode.CANCELLED
    assert world.servicer.left.wait(PATIENCE_S)


def test_failed_call_raises_what_except_clauses_for_grpcio_catch(world: World) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        world.stub.UnaryUnary(Item(text="fail"))
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not today")
    assert ("why", "because") in error.trailing_metadata()
    with pytest.raises(grpc.RpcError):
        world.stub.UnaryUnary.with_call(Item(text="fail"))
    failed = world.stub.UnaryUnary.future(Item(text="fail"))
    assert failed.exception(timeout=PATIENCE_S).code() == grpc.StatusCode.FAILED_PRECONDITION
    assert failed.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert not failed.cancelled()
    with pytest.raises(grpc.RpcError):
        failed.result()


def test_stream_raises_its_error_behind_its_responses(world: World) -> None:
    call = world.stub.UnaryStream(Item(text="fail", number=3))
    assert [next(call).number, next(call).number, next(call).number] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.OUT_OF_RANGE, "no more")
    assert (call.code(), call.details()) == (grpc.StatusCode.OUT_OF_RANGE, "no more")


def test_stream_that_is_cancelled_raises_cancelled(world: World) -> None:
    call = world.stub.UnaryStream(Item(text="hang", number=1))
    assert next(call).number == 0
    assert world.servicer.entered.wait(PATIENCE_S)
    call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.CANCELLED
    assert call.code() == grpc.StatusCode.CANCELLED
    assert world.servicer.left.wait(PATIENCE_S)


def test_stream_that_is_forgotten_is_cancelled(world: World) -> None:
    call = world.stub.UnaryStream(Item(text="hang", number=1))
    assert next(call).number == 0
    assert world.servicer.entered.wait(PATIENCE_S)
    del call
    assert world.servicer.left.wait(PATIENCE_S)


@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream"])
def test_deadline_ends_the_call_here_and_on_the_server(world: World, kind: str) -> None:
    for timeout in GROWING_S:
        with pytest.raises(grpc.RpcError) as caught:
            list(getattr(world.stub, kind)(Item(text="hang"), timeout=timeout))
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        if world.servicer.entered.is_set():
            break
    assert world.servicer.left.wait(PATIENCE_S)


def test_iterator_of_requests_that_raises_fails_the_call(world: World) -> None:
    def broken() -> Iterator[Any]:
        yield Item(number=1)
        raise ValueError("out of requests")

    with pytest.raises(grpc.RpcError) as caught:
        world.stub.StreamUnary(broken())
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.UNKNOWN
    with pytest.raises(grpc.RpcError):
        list(world.stub.StreamStream(broken()))


def test_early_answer_does_not_wait_for_an_iterator_that_blocks(world: World) -> None:
    hold = threading.Event()

    def requests() -> Iterator[Any]:
        yield Item(text="early")
        hold.wait(HELD_S)

    try:
        assert world.stub.StreamUnary(requests(), timeout=PATIENCE_S).text == "enough"
    finally:
        hold.set()


def test_requests_and_responses_alternate(world: World) -> None:
    # Each request is made of the response before it: nothing may wait for more than that.
    answers: list[int] = []
    came = threading.Semaphore(1)

    def requests() -> Iterator[Any]:
        for number in range(20):
            assert came.acquire(timeout=PATIENCE_S)
            assert len(answers) == number
            yield Item(number=number)

    for response in world.stub.StreamStream(requests(), timeout=HELD_S):
        answers.append(response.number)
        came.release()
    assert answers == list(range(20))


def test_state_of_the_channel_can_be_watched(world: World) -> None:
    grpc.channel_ready_future(world.channel).result(timeout=PATIENCE_S)
    seen: list[Any] = []
    told = threading.Event()

    def watch(state: Any) -> None:
        seen.append(state)
        told.set()

    world.channel.subscribe(watch)
    assert told.wait(PATIENCE_S)
    assert seen == [grpc.ChannelConnectivity.READY]
    world.channel.unsubscribe(watch)


def test_wait_for_ready_waits_and_others_fail_at_once(client: Callable[[int], Any]) -> None:
    servicer = Servicer()
    with grpcio_server(servicer) as port:
        pass  # nobody listens there any more
    with nothing_left(), client(port) as channel:
        stub = kinds_pb2_grpc.KindsStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.UnaryUnary(Item(), timeout=PATIENCE_S)
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError) as caught:
            stub.UnaryUnary(Item(), timeout=0.2, wait_for_ready=True)
        error = caught.value
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_running_calls_end_when_the_channel_is_closed(world: World) -> None:
    future = world.stub.UnaryUnary.future(Item(text="hang"))
    assert world.servicer.entered.wait(PATIENCE_S)
    world.channel.close()
    assert future.code() == grpc.StatusCode.CANCELLED
    with pytest.raises((ValueError, lbkit.ChannelClosedError)):  # theirs, ours
        world.stub.UnaryUnary(Item())
