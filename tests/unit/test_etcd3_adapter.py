"""The adapter of etcd3 clients, on stubs like those that grpcio makes: blocking, and with threads of their own."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

import lbkit
from lbkit import RpcError, StatusCode
from lbkit.protos import etcd as pb
from lbkit_resolvers.etcd.adapter import Etcd3Resolver, _Etcd3Calls, _etcdrpc
from lbkit_resolvers.etcd.errors import EtcdError, Kind


class GrpcError(Exception):
    """What grpcio raises."""

    def __init__(self, code: StatusCode, details: str | None) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


class Unary:
    """A blocking method."""

    def __init__(self) -> None:
        self.future_: Future[Any] = Future()
        self.metadata: Any = None
        self.closed = False

    def future(self, request: Any, timeout: float, metadata: Any) -> Future[Any]:
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        self.metadata = metadata
        return self.future_


class Streaming:
    """A blocking method with streams: each request is answered by what ``answer`` makes of it."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.cancelled = threading.Event()
        self.closed = False

    def __call__(self, requests: Iterator[Any], metadata: Any) -> Any:
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        self._requests = requests
        return self

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            found = self.answer(request)
            if found is None:
                return
            yield found

    def cancel(self) -> None:
        self.cancelled.set()


def failing(error: Exception) -> Callable[[Any], Any]:
    def answer(request: Any) -> Any:
        raise error

    return answer


class World:
    """An etcd3 client, and the calls that the adapter makes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.range = Unary()
        self.watch = Streaming(lambda request: pb.WatchResponse(watch_id=request.create_request.watch_id))
        rpc = SimpleNamespace(
            WatchStub=lambda channel: SimpleNamespace(Watch=self.watch),
            RangeRequest=pb.RangeRequest,
            WatchRequest=pb.WatchRequest,
        )
        monkeypatch.setitem(sys.modules, "etcd3", SimpleNamespace(etcdrpc=rpc))
        monkeypatch.setitem(sys.modules, "etcd3.etcdrpc", rpc)
        self.client = SimpleNamespace(
            kvstub=SimpleNamespace(Range=self.range),
            leasestub=SimpleNamespace(),
            channel=None,
            metadata=(("token", "t"),),
            _url="10.0.0.1:2379",
        )
        self.calls = _Etcd3Calls(Etcd3Resolver(self.client, "svc/foo")._where, self.client)

    async def list(self) -> Any:
        return await self.calls.call("KV", "Range", pb.RangeRequest(key=b"svc/foo/"))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def later(action: Callable[..., object], *arguments: Any) -> None:
    """Do it in another thread, as grpcio does."""
    threading.Thread(target=action, args=arguments).start()


def test_targets_name_the_service_the_codec_and_the_clients_server(world: World) -> None:
    resolver = Etcd3Resolver(world.client, "svc/foo", codec="kratos", namespace="/x")
    assert str(resolver.target) == "etcd3://10.0.0.1:2379/svc/foo"
    assert resolver._where.prefix == b"/x/svc/foo/"
    with pytest.raises(lbkit.TargetError, match="Did you mean 'kratos'"):
        Etcd3Resolver(world.client, "svc/foo", codec="krato")
    with pytest.raises(lbkit.TargetError, match="has no name"):
        Etcd3Resolver(world.client, "")


async def test_a_call_waits_for_grpcios_thread_and_takes_the_token_along(world: World) -> None:
    later(world.range.future_.set_result, pb.RangeResponse(count=7))
    assert (await world.list()).count == 7
    assert world.range.metadata == (("hasleader", "true"), ("token", "t"))


async def test_a_failed_call_says_what_etcd_said(world: World) -> None:
    world.range.future_.set_exception(GrpcError(StatusCode.UNAVAILABLE, "etcdserver: no leader"))
    with pytest.raises(
        EtcdError, match=r"etcd 10\.0\.0\.1:2379: UNAVAILABLE: etcdserver: no leader"
    ) as caught:
        await world.list()
    assert caught.value.kind is Kind.LEADERLESS


async def test_a_token_that_has_expired_needs_a_new_client(world: World) -> None:
    world.range.future_.set_exception(GrpcError(StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"))
    with pytest.raises(EtcdError, match="an etcd3 client never renews its token") as caught:
        await world.list()
    assert caught.value.needs_people


async def test_an_error_that_is_no_status_is_told_too(world: World) -> None:
    world.range.future_.set_exception(KeyError("odd"))
    with pytest.raises(EtcdError, match=r"INTERNAL: KeyError\('odd'\)"):
        await world.list()


async def test_a_client_that_was_closed_is_unavailable(world: World) -> None:
    world.range.closed = world.watch.closed = True
    with pytest.raises(EtcdError, match="UNAVAILABLE: Cannot invoke RPC on closed channel!"):
        await world.list()
    with pytest.raises(EtcdError, match="UNAVAILABLE: Cannot invoke RPC on closed channel!"):
        await world.calls.stream("Watch", "Watch")


async def test_a_cancelled_call_is_cancelled_in_grpcio(world: World) -> None:
    listing = asyncio.ensure_future(world.list())
    await asyncio.sleep(0.01)
    listing.cancel()
    await asyncio.wait({listing})
    assert world.range.future_.cancelled()


async def test_a_stream_reads_and_writes(world: World) -> None:
    stream = await world.calls.stream("Watch", "Watch")
    for number in (3, 4):
        await stream.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(watch_id=number)))
        assert (await stream.read()).watch_id == number
    stream.cancel()
    assert world.watch.cancelled.is_set()


async def test_the_end_of_a_stream_is_told(world: World) -> None:
    world.watch.answer = lambda request: None
    stream = await world.calls.stream("Watch", "Watch")
    await stream.write(pb.WatchRequest())
    assert await stream.read() is lbkit.EOF
    stream.cancel()


async def test_what_a_stream_fails_with_is_told(world: World) -> None:
    world.watch.answer = failing(GrpcError(StatusCode.PERMISSION_DENIED, None))
    stream = await world.calls.stream("Watch", "Watch")
    await stream.write(pb.WatchRequest())
    with pytest.raises(RpcError) as caught:
        await stream.read()
    assert (caught.value.code(), caught.value.details()) == (StatusCode.PERMISSION_DENIED, "")
    stream.cancel()


async def test_who_gives_up_reading_leaves_nothing_behind(world: World) -> None:
    stream = await world.calls.stream("Watch", "Watch")
    reading = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.wait({reading})
    stream.cancel()  # ends the requests, and with them the thread


async def test_nobody_tells_that_a_member_moves(world: World) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await world.calls.moved()


@pytest.mark.parametrize(
    "error", [TypeError("Descriptors cannot be created directly.\nMore"), ImportError("none")]
)
def test_the_cure_is_told_where_etcd3_cannot_be_imported(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ImportError, match="PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python") as caught:
        _etcdrpc()
    assert "\n" not in str(caught.value)
    assert "lbkit[etcd3]" in str(caught.value) or isinstance(error, TypeError)
