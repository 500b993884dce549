"""Clients whose TLS is not as it must be, S16 and S18 of the catalogue: closed, with one line in the log, and soon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.limits import Limits
from tests.support.certificates import certificates
from tests.support.secured import client_tls, mutual_tls, secure_channel, secured
from tests.support.servers import PATIENCE_S, Item, unary, until
from tests.support.wire import settings_frame


@pytest.fixture(autouse=True)
def _debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lbkit.transport")


@asynccontextmanager
async def plain_client(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """A socket that speaks no TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes; it must do so by itself."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


def client_context(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates().ca)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def still_serves(backend: Any) -> None:
    async with secure_channel(backend) as channel:
        await unary(channel)(Item(), timeout=PATIENCE_S)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("spdy/3", "http/1.1")])
async def test_s18_a_client_without_alpn_h2_is_closed(
    protocols: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with secured() as backend:
        reader, writer = await asyncio.open_connection(
            "localhost", backend.port, ssl=client_context(*protocols)
        )
        writer.write(frames.PREFACE + settings_frame())
        assert await everything(reader) == b""
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await until(lambda: not backend.server._connections)
        assert "missing selected ALPN property: the client offers no 'h2'" in caplog.text
        await still_serves(backend)


@pytest.mark.parametrize(
    ("begins", "named"),
    [
        (frames.PREFACE + settings_frame(), "a gRPC client without TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "a client that speaks no TLS; it began with b'GET / HTTP/1.1"),
        (b"\x00", "a client that speaks no TLS"),
        (b"\x16\x03\x01\x00\x05hello", "the handshake failed"),
        (b"\x16\xff" * 100, "TLS: "),
    ],
)
async def test_s16_bytes_that_are_no_tls(begins: bytes, named: str, caplog: pytest.LogCaptureFixture) -> None:
    async with secured() as backend:
        async with plain_client(backend.port) as (reader, writer):
            writer.write(begins)
            assert (await everything(reader))[:1] in {b"\x15", b""}  # an alert, or nothing
        await until(lambda: not backend.server._connections)
        assert named in caplog.text
        assert "Traceback" not in caplog.text
        await still_serves(backend)


async def test_s16_a_client_that_says_nothing_is_dropped_in_time() -> None:
    async with secured(limits=Limits(handshake_timeout_s=0.1)) as backend:
        async with plain_client(backend.port) as (reader, _):
            assert await everything(reader) == b""
        assert backend.server.counters.exceeded["handshake_timeout_s"] == 1


async def test_s16_a_client_that_stops_in_the_middle_of_the_handshake_is_dropped_in_time() -> None:
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client_context("h2").wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    async with secured(limits=Limits(handshake_timeout_s=0.1)) as backend:
        async with plain_client(backend.port) as (reader, writer):
            writer.write(hello.read())
            assert (await everything(reader))[:1] == b"\x16"
        assert backend.server.counters.exceeded["handshake_timeout_s"] == 1


async def test_s16_a_client_that_never_reads_its_alert_is_dropped_in_time() -> None:
    async with (
        secured(limits=Limits(handshake_timeout_s=0.2)) as backend,
        plain_client(backend.port) as (_, writer),
    ):
        writer.write(frames.PREFACE)
        await until(lambda: backend.server._connections)
        await until(lambda: not backend.server._connections)


async def test_s16_handshakes_count_as_connections() -> None:
    async with (
        secured(limits=Limits(max_connections=2)) as backend,
        plain_client(backend.port),
        plain_client(backend.port),
    ):
        await until(lambda: len(backend.server._connections) == 2)
        async with plain_client(backend.port) as (reader, _):
            assert await everything(reader) == b""
        assert backend.server.counters.exceeded["max_connections"] == 1


@pytest.mark.parametrize("grace", [None, PATIENCE_S])
async def test_s16_a_server_stops_though_a_handshake_is_under_way(grace: float | None) -> None:
    async with secured() as backend, plain_client(backend.port):
        await until(lambda: backend.server._connections)
        async with asyncio.timeout(PATIENCE_S / 2):
            await backend.server.stop(grace)


async def test_s16_a_client_that_vanishes_in_the_handshake() -> None:
    async with secured() as backend:
        for _ in range(20):
            async with plain_client(backend.port) as (_, writer):
                writer.write(b"\x16\x03\x01")
                writer.transport.abort()
        await until(lambda: not backend.server._connections)
        await still_serves(backend)


async def test_s18_garbage_behind_the_handshake_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context("h2").wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with secured() as backend:
        async with plain_client(backend.port) as (reader, writer):
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
            tls.write(frames.PREFACE + settings_frame())
            writer.write(outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
            await everything(reader)
        await until(lambda: not backend.server._connections)
        assert "TLS: " in caplog.text
        await still_serves(backend)


async def test_s18_a_client_whose_certificate_is_refused_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cert, key = certificates().foreign_client
    async with secured(tls=mutual_tls()) as backend:
        async with secure_channel(backend, client_tls(cert=cert, key=key)) as channel:
            channel.get_state(try_to_connect=True)
            await until(lambda: "the client's certificate is signed by nobody we trust" in caplog.text)
        async with secure_channel(backend) as channel:
            channel.get_state(try_to_connect=True)
            await until(lambda: "the client has no certificate, and client_auth= is 'require'" in caplog.text)
