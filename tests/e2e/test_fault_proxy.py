"""The proxy of ``lbkit.testing`` breaks connections in the way it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from lbkit.testing import FaultProxy
from tests.support.servers import PATIENCE_S, listening, until

QUIET_S = 0.05


class Peer:
    """A server that sends back what it gets; notes how its connections end."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            self.ends.append("eof")
            await reader.read()
        except ConnectionError as error:
            self.ends.append(type(error).__name__)
        finally:
            writer.transport.abort()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def echoes(self, text: bytes) -> bool:
        """Whether the same comes back within a moment."""
        self.writer.write(text)
        return await self.hears(text)

    async def hears(self, text: bytes, within_s: float = QUIET_S) -> bool:
        """Whether this comes within some time."""
        try:
            async with asyncio.timeout(within_s):
                return await self.reader.readexactly(len(text)) == text
        except TimeoutError:
            return False


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[FaultProxy, Client, Peer], None]:
    """A client, through a proxy, to a server that echoes."""
    peer = Peer()
    async with listening(peer.serve) as port, FaultProxy(f"127.0.0.1:{port}") as proxy:
        host, _, number = proxy.address.rpartition(":")
        client = Client(*await asyncio.open_connection(host, int(number)))
        client.writer.write(b"hello")
        assert await client.hears(b"hello", PATIENCE_S)
        try:
            yield proxy, client, peer
        finally:
            client.writer.transport.abort()


@pytest.mark.parametrize("directions", [(), ("up",), ("down",)])
async def test_what_is_held_back_arrives_after_it_has_healed(directions: tuple[str, ...]) -> None:
    async with connected() as (proxy, client, _):
        proxy.blackhole(*directions)  # type: ignore[arg-type]
        assert not await client.echoes(b"one")
        assert not await client.echoes(b"two")
        proxy.heal()
        assert await client.hears(b"onetwo", PATIENCE_S)


async def test_new_connections_get_nowhere_meanwhile() -> None:
    async with connected() as (proxy, _, _):
        proxy.blackhole()
        host, _, number = proxy.address.rpartition(":")
        late = Client(*await asyncio.open_connection(host, int(number)))
        assert not await late.echoes(b"late")
        proxy.heal()
        assert await late.hears(b"late", PATIENCE_S)
        assert proxy.accepted == 2
        late.writer.transport.abort()


async def test_everything_can_be_late() -> None:
    async with connected() as (proxy, client, _):
        proxy.delay(0.1)
        began = time.monotonic()
        client.writer.write(b"late")
        assert await client.hears(b"late", PATIENCE_S)
        assert time.monotonic() - began >= 0.2  # there and back


async def test_it_can_be_as_slow_as_a_byte_now_and_then() -> None:
    async with connected() as (proxy, client, _):
        proxy.rate(50.0)
        began = time.monotonic()
        client.writer.write(bytes(10))
        assert await client.hears(bytes(10), PATIENCE_S)
        assert time.monotonic() - began >= 10 / 50.0


async def test_a_rate_is_kept_to() -> None:
    async with connected() as (proxy, client, _):
        proxy.rate(100_000.0)
        began = time.monotonic()
        client.writer.write(bytes(20_000))
        assert await client.hears(bytes(20_000), PATIENCE_S)
        assert time.monotonic() - began >= 0.2


async def test_a_reset_is_one_at_both_ends() -> None:
    async with connected() as (proxy, client, peer):
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
        await until(lambda: peer.ends == ["ConnectionResetError"])


async def test_a_half_closed_connection_goes_on_in_the_other_direction() -> None:
    async with connected() as (proxy, client, peer):
        proxy.half_close("down")
        assert await client.reader.read() == b""
        assert peer.ends == []
        client.writer.write(b"still heard, and answered in vain")
        await client.writer.drain()
        client.writer.write_eof()
        await until(lambda: peer.ends == ["eof"])
    async with connected() as (proxy, client, peer):
        proxy.half_close("up")
        await until(lambda: peer.ends == ["eof"])


async def test_a_server_that_refuses_closes_the_clients_connection() -> None:
    async with FaultProxy("127.0.0.1:1") as proxy:
        host, _, number = proxy.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(number))
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
