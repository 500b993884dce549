"""Channels and servers in memory: the real protocol, flow control and endings as on TCP, and no sockets."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

import lbkit
from lbkit.testing import MemoryNetwork, memory_channel, virtual_time
from lbkit.transport.memory import HIGH_WATER, WIRE_BYTES, MemoryTransport, join
from tests.support.servers import Backend, Item, echo, failure, naming, shares, unary, until

FIRST, SECOND = "10.0.0.1:50051", "10.0.0.2:50051"


def backends(count: int, **options: Any) -> list[lbkit.Server]:
    """Servers that answer with their names, not started."""
    return [Backend(naming(f"b{number}"), **options).server for number in range(count)]


async def test_calls_are_balanced_over_all_servers() -> None:
    async with memory_channel(*backends(3)) as channel:
        call = unary(channel)
        await channel.ready(5.0)
        await until(lambda: states(channel) == ["READY"] * 3)
        assert await shares(call, 30) == {"b0": 10, "b1": 10, "b2": 10}
        assert channel.network.addresses == [FIRST, SECOND, "10.0.0.3:50051"]


@virtual_time
async def test_virtual_time_needs_no_time() -> None:
    """Hours of waiting, a deadline and a back-off among them."""
    loop = asyncio.get_running_loop()

    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(request.number)
        return request

    async with memory_channel(Backend(slow).server) as channel:
        call = unary(channel)
        assert (await call(Item(number=7200))).number == 7200
        assert loop.time() == pytest.approx(7200, abs=1)
        error = await failure(call(Item(number=7200), timeout=60.0))
        assert error.code() is lbkit.StatusCode.DEADLINE_EXCEEDED
        assert loop.time() == pytest.approx(7260, abs=1)


@virtual_time
async def test_a_cut_ends_calls_and_the_channel_connects_again() -> None:
    started = asyncio.Event()

    async def hang(request: Any, context: Any) -> Any:
        if request.text == "hang":
            started.set()
            await asyncio.Event().wait()
        return request

    async with memory_channel(Backend(hang).server) as channel:
        call = unary(channel)
        running = asyncio.ensure_future(call(Item(text="hang")))
        await started.wait()
        assert channel.network.cut() == 1
        error = await failure(running)
        assert error.code() is lbkit.StatusCode.UNAVAILABLE
        assert "connection reset by peer" in error.details()
        assert (await call(Item(number=3))).number == 3
        assert channel.network.dials == [FIRST, FIRST]


@virtual_time
async def test_one_server_is_cut_and_refuses_while_the_others_serve() -> None:
    async with memory_channel(*backends(2)) as channel:
        call = unary(channel)
        await channel.ready(5.0)
        await asyncio.sleep(1.0)
        channel.network.refuse(FIRST)
        assert channel.network.cut(FIRST) == 1
        await asyncio.sleep(1.0)
        assert states(channel) == ["TRANSIENT_FAILURE", "READY"]
        assert await shares(call, 10) == {"b1": 10}
        channel.network.admit(FIRST)
        await asyncio.sleep(300.0)
        assert await shares(call, 10) == {"b0": 5, "b1": 5}


@virtual_time
async def test_refused_connections_name_the_error() -> None:
    async with memory_channel(*backends(1)) as channel:
        channel.network.refuse(FIRST, errno.EHOSTUNREACH)
        error = await failure(unary(channel)(Item()))
        assert "no route to host" in error.details().lower()


@virtual_time
async def test_servers_come_and_go() -> None:
    servers = backends(2)
    network = MemoryNetwork()
    assert network.add(servers[0], "10.1.0.1:1") == "10.1.0.1:1"
    await servers[0].start()
    async with lbkit.Channel("memory:///x", resolver=network, connector=network) as channel:
        call = unary(channel)
        assert await shares(call, 4) == {"b0": 4}
        network.add(servers[1], lbkit.Endpoint(["10.1.0.2:1", "10.1.0.3:1"], weight=2.0))
        await servers[1].start()
        await asyncio.sleep(300.0)  # it was not running at the first try
        assert await shares(call, 10) == {"b0": 5, "b1": 5}
        network.remove("10.1.0.1:1")
        await asyncio.sleep(1.0)
        assert await shares(call, 10) == {"b1": 10}
    for server in servers:
        await server.stop()


@virtual_time
async def test_connector_serves_targets_of_every_kind() -> None:
    (server,) = backends(1)
    network = MemoryNetwork()
    network.add(server, "10.1.0.1:1")
    await server.start()
    async with lbkit.Channel("static:///10.1.0.1:1", connector=network) as channel:
        assert (await unary(channel)(Item())).text == "b0"
    async with lbkit.Channel("static:///10.1.0.9:1", connector=network) as channel:
        assert "connection refused" in (await failure(unary(channel)(Item()))).details()
    await server.stop()


@virtual_time
async def test_server_drains_without_losing_a_call() -> None:
    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(2.0)
        return request

    backend = Backend(slow)
    async with memory_channel(backend.server) as channel:
        call = unary(channel)
        await channel.ready(5.0)
        running = [asyncio.ensure_future(call(Item(number=number))) for number in range(10)]
        await asyncio.sleep(1.0)
        await backend.server.stop(grace=5.0)
        assert [(await each).number for each in running] == list(range(10))
        assert (await failure(call(Item()))).code() is lbkit.StatusCode.UNAVAILABLE


@virtual_time
async def test_large_messages_pass_through_the_windows() -> None:
    text = "x" * 3_000_000
    async with memory_channel(Backend(echo).server) as channel:
        answers = await asyncio.gather(*(unary(channel)(Item(text=text, number=n)) for n in range(4)))
        assert [(len(each.text), each.number) for each in answers] == [(3_000_000, n) for n in range(4)]


async def test_server_needs_no_address_only_with_a_network() -> None:
    with pytest.raises(RuntimeError, match="bind"):
        await lbkit.Server().start()
    server = lbkit.Server()
    factory = server.protocol_factory()
    with pytest.raises(ConnectionRefusedError):
        factory()
    await server.start()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        factory()


async def test_a_server_that_was_started_is_refused() -> None:
    (server,) = backends(1)
    server.protocol_factory()
    await server.start()
    with pytest.raises(RuntimeError, match="started once"):
        async with memory_channel(server):
            pass
    await server.stop()


def test_two_servers_at_one_address_are_refused() -> None:
    network = MemoryNetwork()
    first, second = backends(2)
    network.add(first, FIRST)
    with pytest.raises(ValueError, match="is a server at"):
        network.add(second, FIRST)


async def test_sockets_and_memory_serve_side_by_side() -> None:
    (server,) = backends(1)
    network = MemoryNetwork()
    network.add(server)
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with lbkit.Channel(network.target.text, connector=network, resolver=network) as channel:
        assert await shares(unary(channel), 2) == {"b0": 2}
    async with lbkit.Channel(f"static:///127.0.0.1:{port}") as channel:
        assert await shares(unary(channel), 2) == {"b0": 2}
    await server.stop()


# The transport by itself.


class End(asyncio.BufferedProtocol):
    """Notes what happens to it."""

    def __init__(self, size: int = 65536) -> None:
        self.buffer = bytearray(size)
        self.received = b""
        self.events: list[str] = []
        self.error: Exception | None = None
        self.fails = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, MemoryTransport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.fails:
            raise ValueError("cannot read that")
        self.received += bytes(self.buffer[:nbytes])

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.error = exc

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


async def ends(size: int = 65536) -> tuple[End, End]:
    near, far = End(size), End(size)
    join(
        asyncio.get_running_loop(),
        lambda: near,
        lambda: far,
        client_name=("127.0.0.1", 50000),
        server_name=("10.0.0.1", 1),
    )
    return near, far


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_bytes_arrive_in_order_and_not_at_once() -> None:
    near, far = await ends(size=7)
    near.transport.write(b"0123456789")
    near.transport.write(memoryview(b"abcdef"))
    assert far.received == b""
    await turns()
    assert far.received == b"0123456789abcdef"
    far.transport.write(b"back")
    await turns()
    assert near.received == b"back"
    near.transport.abort()
    await turns()


async def test_ends_know_each_other() -> None:
    near, far = await ends()
    assert near.transport.get_extra_info("peername") == ("10.0.0.1", 1)
    assert far.transport.get_extra_info("peername") == ("127.0.0.1", 50000)
    assert near.transport.get_extra_info("sockname") == ("127.0.0.1", 50000)
    assert near.transport.get_extra_info("socket") is None
    near.transport.abort()
    await turns()


async def test_reader_that_pauses_stops_the_writer() -> None:
    near, far = await ends()
    far.transport.pause_reading()
    assert not far.transport.is_reading()
    near.transport.write(bytes(WIRE_BYTES))
    assert (near.transport.get_write_buffer_size(), near.events) == (0, [])
    near.transport.write(bytes(HIGH_WATER))
    assert (near.transport.get_write_buffer_size(), near.events) == (HIGH_WATER, [])
    near.transport.write(b"!")
    assert near.events == ["pause"]
    await turns()
    assert far.received == b""
    far.transport.resume_reading()
    await turns()
    assert near.events == ["pause", "resume"]
    assert len(far.received) == WIRE_BYTES + HIGH_WATER + 1
    near.transport.abort()
    await turns()


async def test_close_delivers_what_was_written_and_then_the_end() -> None:
    near, far = await ends()
    near.transport.write(b"goodbye")
    near.transport.close()
    near.transport.write(b"too late")
    assert near.transport.is_closing()
    await turns()
    assert (far.received, far.events, far.error) == (b"goodbye", ["eof", "lost"], None)
    assert (near.events, near.error) == (["lost"], None)


async def test_close_waits_for_a_reader_that_pauses() -> None:
    near, far = await ends()
    far.transport.pause_reading()
    near.transport.write(b"goodbye")
    near.transport.close()
    await turns()
    assert (near.events, far.events) == ([], [])
    far.transport.resume_reading()
    await turns()
    assert (far.received, far.events, near.events) == (b"goodbye", ["eof", "lost"], ["lost"])


async def test_end_of_the_stream_waits_for_a_reader_that_pauses() -> None:
    near, far = await ends()
    far.transport.pause_reading()
    near.transport.close()
    await turns()
    assert (near.events, far.events) == (["lost"], [])
    far.transport.resume_reading()
    await turns()
    assert far.events == ["eof", "lost"]


async def test_closing_on_unread_bytes_resets_the_other_end() -> None:
    near, far = await ends()
    near.transport.pause_reading()
    far.transport.write(b"nobody reads this")
    await turns()
    near.transport.close()
    await turns()
    assert (near.events, near.error) == (["lost"], None)
    assert (far.events, type(far.error)) == (["lost"], ConnectionResetError)


async def test_writing_to_an_end_that_is_gone_breaks_the_pipe() -> None:
    near, far = await ends()
    near.transport.abort()
    far.transport.write(b"anybody there?")
    await turns()
    assert far.events == ["lost"]
    assert isinstance(far.error, (BrokenPipeError, ConnectionResetError))


async def test_abort_drops_what_the_wire_did_not_take() -> None:
    near, far = await ends()
    near.transport.write(bytes(WIRE_BYTES + 1000))
    near.transport.abort()
    await turns()
    assert (len(far.received), far.events) == (WIRE_BYTES, ["eof", "lost"])
    assert near.events == ["lost"]


async def test_cut_loses_what_is_under_way_at_both_ends() -> None:
    near, far = await ends()
    near.transport.write(b"never arrives")
    far.transport.write(b"nor this")
    near.transport.cut()
    await turns()
    for end in (near, far):
        assert (end.received, end.events, type(end.error)) == (b"", ["lost"], ConnectionResetError)


async def test_both_ends_close_at_once() -> None:
    near, far = await ends()
    near.transport.close()
    far.transport.close()
    await turns()
    assert (near.events, far.events) == (["lost"], ["lost"])


@pytest.mark.may_leak("exception", reason="the loop is told what the protocol raised")
async def test_protocol_that_fails_loses_its_connection() -> None:
    near, far = await ends()
    far.fails = True
    near.transport.write(b"what is this")
    await turns()
    assert (far.events, type(far.error)) == (["lost"], ValueError)
    assert near.events[-1] == "lost"


def states(channel: lbkit.Channel) -> list[str]:
    return [subchannel.state.name for subchannel in channel.subchannels()]
