"""Channelz, read with the client of grpcio-channelz, about channels and servers of this process."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

import lbkit
from lbkit.inventory import Trace
from lbkit.protos import channelz as channelz_pb
from lbkit.services import channelz
from lbkit.testing import memory_channel
from tests.support.servers import (
    PATIENCE_S,
    Backend,
    Item,
    all_connected,
    channel_to,
    failure,
    raw,
    unary,
    until,
)

State = channelz_pb2.ChannelConnectivityState


@asynccontextmanager
async def looking() -> AsyncGenerator[tuple[Any, lbkit.Server], None]:
    """Serve channelz, and give grpcio's stub for it."""
    server = lbkit.Server()
    channelz.add(server)
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub_of: Any = channelz_pb2_grpc.ChannelzStub  # annotated for blocking channels only
            yield stub_of(channel), server
    finally:
        await server.stop()


async def moody(request: Any, context: lbkit.ServicerContext) -> Any:
    """Fail, or wait to be cancelled, or answer: as the request says."""
    if request.text == "fail":
        await context.abort(lbkit.StatusCode.ABORTED, "as told")
    if request.text == "wait":
        await asyncio.sleep(PATIENCE_S)
    return request


def recent(timestamp: Any) -> bool:
    """Whether a time is about now."""
    return bool(abs(timestamp.ToNanoseconds() / 1e9 - time.time()) < PATIENCE_S)


async def make_calls(call: Any) -> None:
    """Three go well, one fails, one is cancelled by its deadline."""
    for _ in range(3):
        await call(Item(), timeout=PATIENCE_S)
    await failure(call(Item(text="fail"), timeout=PATIENCE_S))
    await failure(call(Item(text="wait"), timeout=0.02))


async def test_channel_subchannel_and_sockets_are_described() -> None:
    backend = await Backend(moody).start()
    async with looking() as (stub, _), channel_to(backend) as channel:
        await make_calls(unary(channel))
        request = channelz_pb2.GetTopChannelsRequest(start_channel_id=channel.number)
        (shown,) = (await stub.GetTopChannels(request)).channel
        alone = await stub.GetChannel(channelz_pb2.GetChannelRequest(channel_id=channel.number))
        assert alone.channel.ref == shown.ref
        data = shown.data
        assert (shown.ref.name, data.target) == (channel.target, channel.target)
        assert data.state.state == State.READY
        assert (data.calls_started, data.calls_succeeded, data.calls_failed) == (5, 3, 2)
        assert recent(data.last_call_started_timestamp)
        described = [event.description for event in data.trace.events]
        assert described == ["CONNECTING", "CONNECTING", "READY", "READY"]
        assert data.trace.num_events_logged == 4
        assert all(recent(event.timestamp) for event in data.trace.events)
        (ref,) = shown.subchannel_ref
        assert ref.name == backend.address
        found = await stub.GetSubchannel(channelz_pb2.GetSubchannelRequest(subchannel_id=ref.subchannel_id))
        below = found.subchannel.data
        assert (below.calls_started, below.calls_succeeded, below.calls_failed) == (5, 3, 2)
        assert (below.state.state, below.target) == (State.READY, backend.address)
        assert [event.description for event in below.trace.events] == ["CONNECTING", "READY"]
        (socket_ref,) = found.subchannel.socket_ref
        got = await stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=socket_ref.socket_id))
        assert got.socket.remote.tcpip_address.port == backend.port
        assert got.socket.remote.tcpip_address.ip_address == socket.inet_aton("127.0.0.1")
        assert got.socket.data.streams_started == 5
        # And the other end of it.
        await until(lambda: backend.server.call_counts().failed == 2)
        server = (await stub.GetServer(channelz_pb2.GetServerRequest(server_id=backend.server.number))).server
        data = server.data
        assert (data.calls_started, data.calls_succeeded, data.calls_failed) == (5, 3, 2)
        assert recent(data.last_call_started_timestamp)
        sockets = channelz_pb2.GetServerSocketsRequest(server_id=backend.server.number)
        (theirs,) = (await stub.GetServerSockets(sockets)).socket_ref
        other = await stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=theirs.socket_id))
        assert other.socket.remote == got.socket.local
        assert other.socket.local == got.socket.remote
        (listening,) = server.listen_socket
        assert listening.name == backend.address
        request = channelz_pb2.GetSocketRequest(socket_id=listening.socket_id)
        assert (await stub.GetSocket(request)).socket.local.tcpip_address.port == backend.port
    await backend.server.stop()


async def test_failures_are_traced_as_warnings() -> None:
    async with looking() as (stub, _), channel_to("127.0.0.1:1") as channel:
        await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        request = channelz_pb2.GetChannelRequest(channel_id=channel.number)
        events = (await stub.GetChannel(request)).channel.data.trace.events
        warning = next(each for each in events if each.severity == channelz_pb2.ChannelTraceEvent.CT_WARNING)
        assert warning.description == "TRANSIENT_FAILURE: connection refused"
        assert warning.subchannel_ref.subchannel_id == channel.subchannels()[0].number  # type: ignore[attr-defined]


def test_trace_keeps_the_last_events_and_counts_all() -> None:
    trace = Trace()
    for number in range(250):
        trace.add(float(number), "READY")
    assert trace.count == 250
    assert [event.when for event in trace.events()] == [float(number) for number in range(150, 250)]


async def test_lists_come_in_pages() -> None:
    channels = [lbkit.Channel(f"static:///127.0.0.1:{port}") for port in range(1, 6)]
    async with looking() as (stub, server):
        seen: list[int] = []
        start = channels[0].number
        while True:
            request = channelz_pb2.GetTopChannelsRequest(start_channel_id=start, max_results=2)
            answer = await stub.GetTopChannels(request)
            assert len(answer.channel) <= 2
            seen += [each.ref.channel_id for each in answer.channel]
            if answer.end:
                break
            start = seen[-1] + 1
        assert seen == [channel.number for channel in channels]
        assert answer.channel[0].data.state.state == State.IDLE  # never used, and no trace yet
        servers = await stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=server.number))
        assert [each.ref.server_id for each in servers.server] == [server.number]
        assert servers.end
    for channel in channels:
        await channel.close()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GetChannel", channelz_pb2.GetChannelRequest(channel_id=1 << 40)),
        ("GetSubchannel", channelz_pb2.GetSubchannelRequest(subchannel_id=1 << 40)),
        ("GetSocket", channelz_pb2.GetSocketRequest(socket_id=1 << 40)),
        ("GetServer", channelz_pb2.GetServerRequest(server_id=1 << 40)),
        ("GetServerSockets", channelz_pb2.GetServerSocketsRequest(server_id=1 << 40)),
    ],
)
async def test_what_is_gone_is_not_found(method: str, request_: Any) -> None:
    async with looking() as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(request_)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert str(1 << 40) in (caught.value.details() or "")


async def test_unix_and_memory_sockets_are_described(tmp_path: Path) -> None:
    server = lbkit.Server()
    channelz.add(server)
    server.bind(f"unix:{tmp_path}/it")
    await server.start()
    async with lbkit.Channel(f"unix:{tmp_path}/it") as channel:
        stub = channel.stub(channelz_pb, "Channelz")
        (ref,) = (
            await stub.GetServer(channelz_pb.GetServerRequest(server_id=server.number))
        ).server.listen_socket
        assert ref.name == f"{tmp_path}/it"
        found = await stub.GetSocket(channelz_pb.GetSocketRequest(socket_id=ref.socket_id))
        assert found.socket.local.uds_address.filename == f"{tmp_path}/it"
    await server.stop()
    server = lbkit.Server()
    channelz.add(server)
    async with memory_channel(server) as channel:
        stub = channel.stub(channelz_pb, "Channelz")
        answer = await stub.GetServerSockets(channelz_pb.GetServerSocketsRequest(server_id=server.number))
        request = channelz_pb.GetSocketRequest(socket_id=answer.socket_ref[0].socket_id)
        assert (await stub.GetSocket(request)).socket.remote.tcpip_address.ip_address == b"\x7f\x00\x00\x01"


async def test_nothing_that_is_listed_is_kept_alive() -> None:
    async with looking() as (stub, _):
        channel = lbkit.Channel("static:///127.0.0.1:1")
        number = channel.number
        del channel
        gc.collect()  # it has cycles
        answer = await stub.GetTopChannels(channelz_pb2.GetTopChannelsRequest(start_channel_id=number))
        assert not answer.channel


async def test_retried_attempts_count_for_subchannels_and_calls_for_channels() -> None:
    backend = await Backend(moody).start()
    policy = {"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
              "retryableStatusCodes": ["ABORTED"]}  # fmt: skip
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    async with channel_to(backend, service_config=config) as channel:
        await all_connected(channel, 1)
        await failure(unary(channel)(Item(text="fail"), timeout=PATIENCE_S))
        subchannel: Any = channel.subchannels()[0]
        assert (channel.calls_started, channel.calls_failed) == (1, 1)
        assert (subchannel.calls_started, subchannel.calls_failed) == (3, 3)
    await backend.server.stop()


async def test_calls_of_a_server_are_counted_however_they_end() -> None:
    async def stuck(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.sleep(PATIENCE_S)

    backend = await Backend(stuck, max_concurrent_rpcs=1).start()
    async with channel_to(backend) as channel:
        running = unary(channel)(Item())
        await until(lambda: backend.calls)
        await failure(unary(channel)(Item()))  # one too many
        await failure(raw(channel, "/no.such/Method")(b""))
        running.cancel()
        await until(lambda: backend.server.call_counts().failed == 3)
        assert backend.server.call_counts()[:3] == (3, 0, 3)
    await backend.server.stop()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (("127.0.0.1", 5), "tcpip_address"),
        (("::1", 5, 0, 0), "tcpip_address"),
        (("fe80::1%eth0", 5, 0, 2), "tcpip_address"),
        (("a place in memory", 5), "other_address"),
        ("/run/it", "uds_address"),
        (b"\0abstract", "uds_address"),
        (None, "uds_address"),
    ],
)
def test_every_kind_of_socket_name_is_shown(name: Any, kind: str) -> None:
    assert channelz.address_of(name).WhichOneof("address") == kind
