"""What a server does about clients that are gone, that are too lively, and that have nothing to ask (gRFC A8, A9, A18)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

import lbkit
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.testing import FaultProxy, memory_channel, virtual_time
from lbkit.transport.connection import limit_silence
from tests.support.servers import (
    PATIENCE_S,
    Backend,
    Item,
    RawPeer,
    channel_to,
    echo,
    failure,
    raw_client,
    request_fields,
    serving,
    unary,
    until,
)

PING = frame(frames.PING, 0, 0, b"12345678")
TWO_HOURS = 7200.0


async def hang(request: Any, context: lbkit.ServicerContext) -> Any:
    await asyncio.Event().wait()


def exceeded(backend: Backend) -> dict[str, int]:
    return dict(backend.server.counters.exceeded)


def pings(backend: Backend) -> int:
    return backend.server.counters.seen["keepalive_pings"]


# Keepalive


@virtual_time
async def test_a_silent_client_is_asked_after_two_hours() -> None:
    backend = Backend(echo)
    async with memory_channel(backend.server, idle_timeout=None) as channel:
        await unary(channel)(Item())
        await asyncio.sleep(TWO_HOURS - 1)
        assert pings(backend) == 0
        await asyncio.sleep(2)
        assert pings(backend) == 1
        await asyncio.sleep(10 * TWO_HOURS)
        assert pings(backend) == 10 or pings(backend) == 11
        await unary(channel)(Item())
        assert len(channel.network.dials) == 1
        assert not exceeded(backend)


@virtual_time
async def test_it_can_be_switched_off() -> None:
    backend = Backend(echo, keepalive=None)
    async with memory_channel(backend.server, idle_timeout=None) as channel:
        await unary(channel)(Item())
        await asyncio.sleep(100 * TWO_HOURS)
        assert pings(backend) == 0


async def test_s15_a_client_that_vanished_is_let_go_of_and_its_calls_are_cancelled() -> None:
    """Half-open TCP: nothing says that it is gone, nothing is sent to it, and its handler would run for ever."""
    cancelled = asyncio.Event()

    async def endless(request: Any, context: lbkit.ServicerContext) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with (
        serving(endless, keepalive=0.2, keepalive_timeout=0.3) as backend,
        FaultProxy(backend.address) as proxy,
        channel_to(proxy.address) as channel,
    ):
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        await until(lambda: backend.calls)
        proxy.blackhole()
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        await until(lambda: not backend.server._connections)
        assert exceeded(backend) == {"keepalive_timeout": 1}
        call.cancel()


async def test_a_client_that_answers_may_be_silent() -> None:
    async with (
        serving(echo, keepalive=0.05, keepalive_timeout=2.0) as backend,
        channel_to(backend) as channel,
    ):
        await unary(channel)(Item())
        await until(lambda: pings(backend) >= 5)
        await unary(channel)(Item())
        assert not exceeded(backend)
        assert len(backend.server._connections) == 1


@pytest.mark.parametrize("options", [{"keepalive": 0.0}, {"keepalive_timeout": -1.0}])
def test_times_must_make_sense(options: Any) -> None:
    with pytest.raises(ValueError, match="keepalive"):
        lbkit.Server(**options)


# TCP_USER_TIMEOUT

USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
needs_linux = pytest.mark.skipif(USER_TIMEOUT is None, reason="needs TCP_USER_TIMEOUT: Linux")


def user_timeout(connection: Any) -> int:
    """In milliseconds."""
    sock = connection._transport.get_extra_info("socket")
    return int(sock.getsockopt(socket.IPPROTO_TCP, USER_TIMEOUT))


@needs_linux
async def test_the_kernel_gives_up_as_soon_as_keepalive_on_both_sides() -> None:
    async with (
        serving(echo, keepalive_timeout=7.0) as backend,
        channel_to(backend, keepalive=60.0, keepalive_timeout=3.5) as channel,
    ):
        await unary(channel)(Item())
        (client,) = channel._dialler._connections
        (server,) = backend.server._connections
        assert user_timeout(client) == 3500
        assert user_timeout(server) == 7000


@needs_linux
async def test_without_keepalive_the_kernel_is_left_alone() -> None:
    async with serving(echo, keepalive=None) as backend, channel_to(backend) as channel:
        await unary(channel)(Item())
        (client,) = channel._dialler._connections
        (server,) = backend.server._connections
        assert (user_timeout(client), user_timeout(server)) == (0, 0)


@needs_linux
@pytest.mark.parametrize("seconds", [1e-9, 1e9, float("inf")])
async def test_any_time_is_within_what_the_kernel_takes(seconds: float) -> None:
    async with (
        serving(echo) as backend,
        channel_to(backend, keepalive=60.0, keepalive_timeout=seconds) as channel,
    ):
        await channel.ready(PATIENCE_S)
        (client,) = channel._dialler._connections
        assert user_timeout(client) == (1 if seconds < 1 else 2**31 - 1)


async def test_unix_sockets_and_other_systems_have_no_such_option(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"unix:{tmp_path}/s"
    backend = await Backend(echo).start(path)
    async with lbkit.Channel(path, keepalive=60.0) as channel:
        await unary(channel)(Item())
    await backend.server.stop()
    monkeypatch.setattr("lbkit.transport.connection._USER_TIMEOUT", None)
    async with serving() as tcp, channel_to(tcp, keepalive=60.0) as channel:
        await unary(channel)(Item())


def test_a_socket_that_is_gone_already_is_harmless() -> None:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return sock

    sock = socket.socket()
    sock.close()
    limit_silence(Transport(), 1.0)


# Enforcement


async def goaway_after(peer: RawPeer, *, sends: bytes, times: int = 50) -> tuple[int, bytes]:
    """Send the same again and again; return the number of times until a GOAWAY came, and its debug data."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        for number in range(1, times + 1):
            peer.writer.write(sends)
            while True:
                found = await asyncio.wait_for(peer.next_frame(), PATIENCE_S)
                if found.kind == frames.GOAWAY:
                    assert int.from_bytes(found.payload[4:8], "big") == ErrorCode.ENHANCE_YOUR_CALM
                    return number, found.payload[8:]
                if found.kind == frames.PING:
                    break
    return 0, b""


async def test_the_fourth_ping_is_too_many() -> None:
    """The first is free, two strikes are forgiven; clients of gRPC compare the text."""
    async with serving() as backend, raw_client(backend.port) as peer:
        assert await goaway_after(peer, sends=PING) == (4, b"too_many_pings")
        assert exceeded(backend) == {"ping_strikes": 1}


async def test_a_server_may_take_more_of_them() -> None:
    options: Any = {"keepalive_min_interval": 0.001, "keepalive_without_calls": True}
    async with serving(**options) as backend, raw_client(backend.port) as peer:
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert await goaway_after(peer, sends=PING, times=1) == (0, b"")
        assert not exceeded(backend)


async def test_that_is_for_clients_with_calls_unless_said_otherwise() -> None:
    async with serving(hang, keepalive_min_interval=0.001) as backend:
        async with raw_client(backend.port) as peer:
            assert (await goaway_after(peer, sends=PING))[1] == b"too_many_pings"
        async with raw_client(backend.port) as peer:
            peer.writer.write(peer.headers(1, request_fields(), end=False))
            for _ in range(20):
                await asyncio.sleep(0.005)
                assert await goaway_after(peer, sends=PING, times=1) == (0, b"")
    assert exceeded(backend) == {"ping_strikes": 1}


@virtual_time
async def test_one_ping_in_five_minutes_is_what_servers_take() -> None:
    """And so our client's keepalive is not struck at that pace, nor what measures the path."""
    backend = Backend(hang)
    async with memory_channel(backend.server, keepalive=300.5, keepalive_timeout=20.0) as channel:
        call = unary(channel)(Item())
        await asyncio.sleep(86_400)
        assert channel.counters.seen["keepalive_pings"] > 200
        assert not exceeded(backend)
        call.cancel()


@pytest.mark.native_engine(reason="h2 does not measure the path")
async def test_large_downloads_measure_the_path_without_a_strike() -> None:
    async def large(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(body=bytes(3 << 20))

    async with serving(large, limits=lbkit.Limits(ping_strikes=0)) as backend, channel_to(backend) as channel:
        for _ in range(10):
            await unary(channel)(Item(), timeout=PATIENCE_S)
        assert backend.server.counters.seen["pings"] > 0
        assert not exceeded(backend)


# Idle connections


@virtual_time
async def test_a_connection_without_calls_is_let_go_of() -> None:
    backend = Backend(echo, max_connection_idle=60.0)
    async with memory_channel(backend.server, balancer="pick_first") as channel:
        await unary(channel)(Item())
        await asyncio.sleep(59)
        assert len(backend.server._connections) == 1
        await asyncio.sleep(60 / 4 + 2)
        assert len(backend.server._connections) == 0
        assert channel.get_state() is lbkit.ConnectivityState.IDLE
        await unary(channel)(Item())
        assert len(channel.network.dials) == 2


async def test_it_says_why_in_two_phases() -> None:
    async with serving(max_connection_idle=0.1) as backend, raw_client(backend.port) as client:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await asyncio.wait_for(client.next_frame(), PATIENCE_S)
    said = [each.payload for each in client.received if each.kind == frames.GOAWAY]
    assert [payload[8:] for payload in said] == [b"max_idle"] * 2
    assert [int.from_bytes(payload[:4], "big") for payload in said] == [frames.MAX_STREAM_ID, 0]


@virtual_time
async def test_calls_keep_a_connection_however_long_they_are_and_however_far_apart() -> None:
    async def slow(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.sleep(request.number)
        return request

    backend = Backend(slow, max_connection_idle=60.0)
    async with memory_channel(backend.server, balancer="pick_first") as channel:
        await unary(channel)(Item(number=1000))
        for _ in range(20):
            await asyncio.sleep(59)
            await unary(channel)(Item())
        assert len(channel.network.dials) == 1


@virtual_time
async def test_stopping_meanwhile_is_no_matter() -> None:
    backend = Backend(hang, max_connection_idle=60.0)
    async with memory_channel(backend.server) as channel:
        call = asyncio.ensure_future(unary(channel)(Item()))
        await asyncio.sleep(1)
        await backend.server.stop(500.0)
        await failure(call)


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_idle_times_must_make_sense(wrong: float) -> None:
    with pytest.raises(ValueError, match="max_connection_idle"):
        lbkit.Server(max_connection_idle=wrong)
