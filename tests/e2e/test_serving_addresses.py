"""What a server says about where it listens, and what it leaves behind there."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

import lbkit
from lbkit.http2 import frames
from lbkit.transport.state import HANDSHAKE
from tests.support.protos import kinds_pb2
from tests.support.servers import Item, channel_to, echo, raw_client, serving, unary, until


class Kinds:
    UnaryUnary = staticmethod(echo)


def server() -> lbkit.Server:
    made = lbkit.Server()
    made.add(kinds_pb2, "Kinds", Kinds())
    return made


async def test_server_knows_its_ports_while_it_listens(tmp_path: Path) -> None:
    made = server()
    async with made.serving("127.0.0.1:0", f"unix:{tmp_path}/s", "127.0.0.1:0"):
        first, unix, second = made.ports
        assert unix == 0
        for port in (first, second):
            async with channel_to(port) as channel:
                assert await unary(channel)(Item(text="a")) == Item(text="a")
    assert made.ports == ()


@pytest.mark.parametrize("started", [True, False])
async def test_file_of_a_unix_socket_goes_when_the_server_stops(tmp_path: Path, started: bool) -> None:
    path = tmp_path / "s"
    made = server()
    made.bind(f"unix:{path}")
    if started:
        await made.start()
    assert path.is_socket()
    await made.stop()
    assert not path.exists()


async def test_file_of_another_server_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old, new = server(), server()
    old.bind(f"unix:{path}")
    await old.start()
    path.unlink()
    new.bind(f"unix:{path}")
    await new.start()
    await old.stop()
    async with lbkit.Channel(f"unix:{path}") as channel:
        assert await unary(channel)(Item(text="new")) == Item(text="new")
    await new.stop()
    assert not path.exists()


async def test_socket_that_a_service_manager_has_bound_is_served() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    made = server()
    port = made.bind_socket(sock)
    async with made.serving(), channel_to(port) as channel:
        assert await unary(channel)(Item(text="a")) == Item(text="a")
    assert sock.fileno() == -1


async def test_connection_made_while_the_server_stops_is_up_before_it_hears_of_it() -> None:
    """A client that hears GOAWAY together with SETTINGS takes the backend for one that is down: calls fail."""
    async with serving() as backend, raw_client(backend.port) as client:
        await until(lambda: len(backend.server.connections()) == 1)
        (connection,) = backend.server.connections()
        connection.drain_gracefully()  # the client's preface may not have come yet
        kinds = []
        async with asyncio.timeout(5.0):
            while (found := await client.next_frame()).kind != frames.GOAWAY:
                kinds.append(found.kind)
        acknowledged = [each for each in client.received if each.kind == frames.PING]
        assert kinds[0] == frames.SETTINGS
        assert found.kind == frames.GOAWAY
        assert connection.state != HANDSHAKE
        assert len(acknowledged) <= 1


async def test_client_that_says_nothing_does_not_hold_a_stop_up() -> None:
    async with serving() as backend:
        reader, writer = await asyncio.open_connection("127.0.0.1", backend.port)
        await until(backend.server.connections)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await backend.server.stop(30.0)
        assert loop.time() - began < 15.0
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        assert await reader.read() is not None
