"""Servers that TLS cannot be had of, as asked for: C29 of the catalogue of bad servers.

Each is UNAVAILABLE with the cause and the cure, and is tried again no faster than the back-off says.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import ConnectivityState, StatusCode
from lbkit.transport.connector import SocketConnector
from tests.support.certificates import certificates
from tests.support.secured import (
    client_tls,
    known_client_tls,
    mutual_tls,
    secure_channel,
    secured,
    server_tls,
)
from tests.support.servers import Item, channel_to, failure, listening, serving, silence, unary, until

SLOW = lbkit.BackoffPolicy(initial_s=30.0, maximum_s=30.0)


async def details_of(channel: lbkit.Channel) -> str:
    """The text of a call that must be UNAVAILABLE."""
    error = await failure(unary(channel)(Item(), timeout=10.0))
    assert error.code() is StatusCode.UNAVAILABLE
    return error.details()


async def refused(where: Any, tls: lbkit.Tls | None = None, **options: Any) -> str:
    """Make a channel, and give the text of its first call's failure."""
    async with secure_channel(where, tls, **options) as channel:
        return await details_of(channel)


@asynccontextmanager
async def foreign_server(*protocols: str) -> AsyncGenerator[int, None]:
    """A server that does TLS, with these protocols offered by ALPN, and says nothing; give its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates().cert, certificates().key)
    if protocols:
        context.set_alpn_protocols(list(protocols))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await writer.start_tls(context)
            await reader.read()
        writer.close()

    async with listening(serve) as port:
        yield port


async def test_c29_an_authority_that_we_do_not_trust() -> None:
    async with secured() as backend:
        text = await refused(backend, client_tls(ca=certificates().other.ca))
    assert "signed by nobody we trust ('test CA'); pass that authority as ca= to lbkit.tls" in text


async def test_c29_a_certificate_that_has_expired() -> None:
    cert, key = certificates().expired
    async with secured(tls=server_tls(cert=cert, key=key)) as backend:
        text = await refused(backend)
    assert "TLS: the server's certificate expired on " in text
    assert "renew it there" in text


async def test_c29_a_certificate_for_other_names() -> None:
    cert, key = certificates().nameless
    async with secured(tls=server_tls(cert=cert, key=key)) as backend:
        text = await refused(backend)
    assert "not for 'localhost': it is for 'elsewhere.example', 'www.elsewhere.example'" in text
    assert "lbkit.tls(server_name=...)" in text


async def test_c29_a_certificate_for_another_address() -> None:
    async with secured() as backend:
        assert "not for '127.0.0.9': it is for 'localhost'," in await refused(backend, host="127.0.0.9")


async def test_c29_a_server_that_asks_for_a_certificate() -> None:
    async with secured(tls=mutual_tls()) as backend:
        assert "asks for a client certificate; pass cert= and key= to lbkit.tls" in await refused(backend)


async def test_c29_a_server_that_does_not_trust_our_certificate() -> None:
    cert, key = certificates().foreign_client
    async with secured(tls=mutual_tls()) as backend:
        text = await refused(backend, client_tls(cert=cert, key=key))
    assert "the server does not trust the authority of our certificate" in text


async def test_c29_a_client_certificate_that_has_expired() -> None:
    cert, key = certificates().expired
    async with secured(tls=mutual_tls()) as backend:
        text = await refused(backend, client_tls(cert=cert, key=key))
    assert "the server says that our certificate has expired" in text


async def test_c29_tls_to_a_server_without() -> None:
    async with serving() as backend:
        text = await refused(backend)
    assert "the server closed the connection during the handshake; it may speak no TLS on this port" in text


async def test_c29_tls_to_a_server_that_speaks_first() -> None:
    async with silence(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00") as port:
        text = await refused(port)
    assert "the server speaks no TLS on this port; it began with b'\\x00\\x00\\x00\\x04" in text
    assert "leave tls= out" in text


async def test_c29_no_tls_to_a_server_with() -> None:
    async with secured() as backend, channel_to(backend) as channel:
        text = await details_of(channel)
    assert "a TLS alert: it expects TLS, use tls=" in text


async def test_c29_no_tls_to_a_server_that_hangs_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.close()

    async with listening(serve) as port, channel_to(port) as channel:
        assert "before HTTP/2 began; if it expects TLS, use tls=" in await details_of(channel)


async def test_c29_a_server_that_hangs_up_behind_the_handshake() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates().cert, certificates().key)
    context.set_alpn_protocols(["h2"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.start_tls(context)
        await reader.readexactly(24)
        writer.close()

    async with listening(serve) as port:
        text = await refused(port)
    assert "before HTTP/2 began; if it asks for a client certificate, pass cert= and key=" in text


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
async def test_c29_s18_a_server_without_alpn(protocols: tuple[str, ...]) -> None:
    async with foreign_server(*protocols) as port:
        text = await refused(port)
    assert "missing selected ALPN property" in text
    assert "have it offer 'h2'" in text


async def test_c29_no_version_in_common() -> None:
    ours = ssl.create_default_context(cafile=certificates().ca)
    ours.maximum_version = ssl.TLSVersion.TLSv1_2
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificates().cert, certificates().key)
    theirs.minimum_version = ssl.TLSVersion.TLSv1_3
    async with secured(tls=lbkit.tls(context=theirs)) as backend:
        assert "no version of TLS in common" in await refused(backend, lbkit.tls(context=ours))


async def test_c29_files_that_cannot_be_used(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate\n")
    async with secured() as backend:
        text = await refused(backend, lbkit.tls(ca=tmp_path / "missing.pem"))
        assert f"ca='{tmp_path}/missing.pem': no such file or directory" in text
        assert "no CA certificate in PEM" in await refused(backend, lbkit.tls(ca=garbage))


async def test_c29_a_name_that_no_certificate_can_have() -> None:
    async with secured() as backend:
        assert "use server_name=" in await refused(backend, host="a" * 70)


async def test_c29_a_missing_file_that_comes_is_found(tmp_path: Path) -> None:
    ca = tmp_path / "late.pem"
    async with secured() as backend, secure_channel(backend, lbkit.tls(ca=ca)) as channel:
        await details_of(channel)
        ca.write_bytes(certificates().ca.read_bytes())
        await unary(channel)(Item(), wait_for_ready=True, timeout=10.0)


# Back-off


@pytest.mark.parametrize(
    "make", [lambda: client_tls(ca=certificates().other.ca), lambda: lbkit.tls(ca="/missing.pem"), client_tls]
)
async def test_c29_calls_do_not_hurry_the_back_off(make: Callable[[], lbkit.Tls]) -> None:
    tls = make()
    server = server_tls() if tls != client_tls() else mutual_tls()
    dials = 0

    class Counting(SocketConnector):
        async def connect(self, address: Any, protocol: Any) -> None:
            nonlocal dials
            dials += 1
            await super().connect(address, protocol)

    async with (
        secured(tls=server) as backend,
        secure_channel(backend, tls, connector=Counting(), backoff=SLOW) as channel,
    ):
        for _ in range(100):
            assert "next try in" in await details_of(channel)
    assert dials <= 1


async def test_c29_a_handshake_that_never_ends_counts_as_connecting() -> None:
    async with silence() as port:
        text = await refused(port, connect_timeout=0.1)
    assert "connected, but got no TLS handshake within 0.1 s" in text


async def test_c29_a_channel_that_is_closed_in_the_handshake_leaves_nothing() -> None:
    async with silence() as port, secure_channel(port) as channel:
        channel.get_state(try_to_connect=True)
        await until(
            lambda: channel.subchannels() and channel.subchannels()[0].state is ConnectivityState.CONNECTING
        )


async def test_c29_a_connection_that_breaks_later_is_made_again() -> None:
    async with secured(tls=mutual_tls()) as backend, secure_channel(backend, known_client_tls()) as channel:
        await unary(channel)(Item(), timeout=10.0)
        for connection in list(backend.server._connections):
            connection.abort("the test says so")
        await until(lambda: channel.get_state() is not ConnectivityState.READY)
        await unary(channel)(Item(), wait_for_ready=True, timeout=10.0)
        assert backend.calls == 2
