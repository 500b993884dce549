"""TLS with other people's: grpcio (both of its APIs), grpclib, and the openssl command."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import grpclib.client
import grpclib.server
import pytest
from grpclib.const import Cardinality, Handler

import lbkit
from lbkit.compat.credentials import (
    channel_credentials_of,
    ssl_channel_credentials,
    ssl_server_credentials,
    tls_of,
)
from tests.interop.implementations import OPTIONS
from tests.support.certificates import certificates
from tests.support.protos import kinds_pb2
from tests.support.secured import known_client_tls, mutual_tls, secure_channel, secured, server_tls
from tests.support.servers import PATH, PATIENCE_S, Item, failure, unary
from tests.support.tied import tied

pytestmark = pytest.mark.interop

NAME = PATH.decode()
LARGE = 2 * 1024 * 1024
MUTUAL = pytest.mark.parametrize("mutual", [False, True], ids=["server only", "mutual"])


def pem(name: str) -> bytes:
    found: bytes = getattr(certificates(), name).read_bytes()
    return found


def their_client(mutual: bool) -> grpc.ChannelCredentials:
    if not mutual:
        return grpc.ssl_channel_credentials(pem("ca"))
    return grpc.ssl_channel_credentials(pem("ca"), pem("client_key"), pem("client_cert"))


def their_server(mutual: bool) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(pem("key"), pem("cert"))], pem("ca") if mutual else None, mutual)


def our_server(mutual: bool) -> lbkit.Tls:
    return mutual_tls() if mutual else server_tls()


async def who(request: Any, context: Any) -> Any:
    """Answer with the client's name, and what came."""
    names = context.peer_identities() or [b"nobody"]
    return Item(text=names[0].decode(), body=request.body)


def who_blocking(request: Any, context: Any) -> Any:
    names = context.peer_identities() or [b"nobody"]
    return Item(text=names[0].decode(), body=request.body)


def handlers(behaviour: Any) -> Any:
    method = grpc.unary_unary_rpc_method_handler(behaviour, Item.FromString, Item.SerializeToString)
    return grpc.method_handlers_generic_handler("lbkit.tests.Kinds", {"UnaryUnary": method})


def check(answer: Any, mutual: bool) -> None:
    assert answer.text == ("client.example" if mutual else "nobody")
    assert len(answer.body) == LARGE


# Their clients, our server


@MUTUAL
async def test_client_grpcio_aio(mutual: bool) -> None:
    async with secured(who, tls=our_server(mutual)) as backend:
        target = f"localhost:{backend.port}"
        async with grpc.aio.secure_channel(target, their_client(mutual), options=OPTIONS) as channel:
            call = channel.unary_unary(NAME, Item.SerializeToString, Item.FromString)
            for _ in range(20):
                check(await call(Item(body=bytes(LARGE)), timeout=PATIENCE_S), mutual)


@MUTUAL
async def test_client_grpcio_blocking(mutual: bool) -> None:
    def run(port: int) -> None:
        with grpc.secure_channel(f"localhost:{port}", their_client(mutual), options=OPTIONS) as channel:
            call = channel.unary_unary(NAME, Item.SerializeToString, Item.FromString)
            check(call(Item(body=bytes(LARGE)), timeout=PATIENCE_S), mutual)

    async with secured(who, tls=our_server(mutual)) as backend:
        await asyncio.to_thread(run, backend.port)


async def test_client_grpcio_without_a_certificate_is_refused() -> None:
    async with secured(who, tls=our_server(True)) as backend:
        target = f"localhost:{backend.port}"
        async with grpc.aio.secure_channel(target, their_client(False), options=OPTIONS) as channel:
            call = channel.unary_unary(NAME, Item.SerializeToString, Item.FromString)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(Item(), timeout=PATIENCE_S)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@MUTUAL
async def test_client_grpclib(mutual: bool) -> None:
    context = ssl.create_default_context(cafile=certificates().ca)
    context.set_alpn_protocols(["h2"])
    if mutual:
        context.load_cert_chain(certificates().client_cert, certificates().client_key)
    async with (
        secured(who, tls=our_server(mutual)) as backend,
        grpclib.client.Channel("localhost", backend.port, ssl=context) as channel,
    ):
        call = grpclib.client.UnaryUnaryMethod(channel, NAME, Item, Item)
        check(await call(Item(body=bytes(LARGE)), timeout=PATIENCE_S), mutual)


# Their servers, our client


@asynccontextmanager
async def grpcio_aio_server(mutual: bool) -> AsyncGenerator[int, None]:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handlers(who),))
    port = server.add_secure_port("127.0.0.1:0", their_server(mutual))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def grpcio_blocking_server(mutual: bool) -> AsyncGenerator[int, None]:
    with ThreadPoolExecutor(4) as executor:
        server = grpc.server(executor, options=OPTIONS)
        server.add_generic_rpc_handlers((handlers(who_blocking),))
        port = server.add_secure_port("127.0.0.1:0", their_server(mutual))
        server.start()
        try:
            yield port
        finally:
            await asyncio.to_thread(server.stop(None).wait)


class GrpclibServicer:
    async def _answer(self, stream: Any) -> None:
        request = await stream.recv_message()
        peer = stream.peer.cert() or {}
        names = [value for _, value in peer.get("subjectAltName", ())] or ["nobody"]
        await stream.send_message(Item(text=names[0], body=request.body))

    def __mapping__(self) -> dict[str, Handler]:
        return {NAME: Handler(self._answer, Cardinality.UNARY_UNARY, Item, Item)}


@asynccontextmanager
async def grpclib_server(mutual: bool) -> AsyncGenerator[int, None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates().cert, certificates().key)
    context.set_alpn_protocols(["h2"])
    if mutual:
        context.load_verify_locations(certificates().ca)
        context.verify_mode = ssl.CERT_REQUIRED
    server = grpclib.server.Server([GrpclibServicer()])
    await server.start("127.0.0.1", 0, ssl=context)
    listener: Any = server._server
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@MUTUAL
@pytest.mark.parametrize("serve", [grpcio_aio_server, grpcio_blocking_server, grpclib_server])
async def test_server(serve: Any, mutual: bool) -> None:
    async with serve(mutual) as port, secure_channel(port, known_client_tls() if mutual else None) as channel:
        for _ in range(20):
            check(await unary(channel)(Item(body=bytes(LARGE)), timeout=PATIENCE_S), mutual)


@pytest.mark.parametrize("serve", [grpcio_aio_server, grpclib_server])
async def test_server_that_refuses_us(serve: Any) -> None:
    async with serve(True) as port, secure_channel(port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is lbkit.StatusCode.UNAVAILABLE
        # Some say why before they hang up.
        assert "client certificate" in error.details()


# grpcio's objects with ours


@MUTUAL
async def test_channel_credentials_of_grpcio_are_translated(mutual: bool) -> None:
    async with (
        grpcio_aio_server(mutual) as port,
        secure_channel(port, tls_of(their_client(mutual))) as channel,
    ):
        check(await unary(channel)(Item(body=bytes(LARGE)), timeout=PATIENCE_S), mutual)


async def test_credentials_made_by_functions_of_grpcios_names() -> None:
    theirs = [(pem("key"), pem("cert"))], pem("ca"), True
    async with secured(who, tls=ssl_server_credentials(*theirs)) as backend:
        tls = ssl_channel_credentials(pem("ca"), pem("client_key"), pem("client_cert"))
        async with secure_channel(backend, tls) as channel:
            check(await unary(channel)(Item(body=bytes(LARGE)), timeout=PATIENCE_S), mutual=True)


class Plugin(grpc.AuthMetadataPlugin):
    """Says what it was asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[Any] = []

    def __call__(self, context: Any, callback: Any) -> None:
        self.asked.append((context.service_url, context.method_name))
        callback((("asked", "1"),), self.error)


async def metadata_seen(request: Any, context: Any) -> Any:
    return Item(
        text=",".join(f"{k}={v}" for k, v in context.invocation_metadata() if k in {"asked", "authorization"})
    )


@pytest.mark.may_leak("thread", reason="grpcio calls the plug-in in a thread of its core")
async def test_call_credentials_of_grpcio_mean_the_same_on_both_channels() -> None:
    plugin = Plugin()
    calls = grpc.composite_call_credentials(
        grpc.metadata_call_credentials(plugin), grpc.access_token_call_credentials("secret")
    )
    async with secured(metadata_seen) as backend:
        target = f"localhost:{backend.port}"
        async with grpc.aio.secure_channel(target, their_client(False), options=OPTIONS) as theirs:
            call: Any = theirs.unary_unary(NAME, Item.SerializeToString, Item.FromString)
            first = await call(Item(), timeout=PATIENCE_S, credentials=calls)
        async with secure_channel(backend) as ours:
            second = await unary(ours)(Item(), timeout=PATIENCE_S, credentials=calls)
        both = grpc.composite_channel_credentials(their_client(False), calls)
        tls, credentials = channel_credentials_of(both)
        async with secure_channel(backend, tls, call_credentials=credentials) as ours:
            third = await unary(ours)(Item(), timeout=PATIENCE_S)
    assert first.text == second.text == third.text == "asked=1,authorization=Bearer secret"
    assert plugin.asked == [(f"https://localhost:{backend.port}/lbkit.tests.Kinds", "UnaryUnary")] * 3


async def test_a_plugin_of_grpcio_that_fails_ends_the_call() -> None:
    calls = grpc.metadata_call_credentials(Plugin(ValueError("no token")))
    async with secured() as backend, secure_channel(backend) as channel:
        error = await failure(unary(channel)(Item(), credentials=calls))
        assert error.code() is lbkit.StatusCode.UNAUTHENTICATED
        assert "ValueError: no token" in error.details()


def test_other_channel_credentials_are_refused() -> None:
    credentials: Any = grpc.local_channel_credentials()
    with pytest.raises(TypeError, match=r"use lbkit.tls\(ca="):
        tls_of(credentials)
    with pytest.raises(TypeError, match=r"compat\.credentials\.tls_of"):
        lbkit.Channel("localhost:1", tls=credentials)


def test_server_credentials_of_grpcio_are_refused_with_the_cure() -> None:
    with pytest.raises(TypeError, match=r"grpcio does not show what is in it\. Use lbkit\.tls"):
        lbkit.Server().add_secure_port("127.0.0.1:0", their_server(False))


async def test_add_secure_port_takes_ours() -> None:
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", type("Servicer", (), {"UnaryUnary": staticmethod(who)})())
    port = server.add_secure_port("127.0.0.1:0", server_tls())
    await server.start()
    async with secure_channel(port) as channel:
        check(await unary(channel)(Item(body=bytes(LARGE)), timeout=PATIENCE_S), mutual=False)
    await server.stop()


# The openssl command


async def openssl(*arguments: str, say: bytes = b"") -> str:
    """Run it; give what it prints."""
    process = await asyncio.create_subprocess_exec(
        "openssl", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        return (await process.communicate(say))[0].decode(errors="replace")


@pytest.mark.parametrize(
    ("alpn", "selected"),
    [(["-alpn", "h2"], "ALPN protocol: h2"), (["-alpn", "http/1.1,h2"], "ALPN protocol: h2"),
     (["-alpn", "http/1.1"], "No ALPN negotiated"), ([], "No ALPN negotiated")],
)  # fmt: skip
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_client(alpn: list[str], selected: str, version: str) -> None:
    async with secured() as backend:
        said = await openssl(
            "s_client", "-connect", f"127.0.0.1:{backend.port}", "-CAfile", str(certificates().ca),
            "-verify_return_error", version, *alpn,
        )  # fmt: skip
    assert selected in said
    assert "Verify return code: 0 (ok)" in said


async def test_openssl_client_of_old_is_refused() -> None:
    async with secured() as backend:
        said = await openssl(
            "s_client", "-connect", f"127.0.0.1:{backend.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"
        )
    assert "Cipher is (NONE)" in said


@asynccontextmanager
async def openssl_server(*arguments: str) -> AsyncGenerator[int, None]:
    """Run ``openssl s_server``; give its port."""
    process = await asyncio.create_subprocess_exec(
        *tied(["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(certificates().cert), "-key",
        str(certificates().key), *arguments]), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (line := await process.stdout.readline()).startswith(b"ACCEPT"):
                pass
        yield int(line.rpartition(b":")[2])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_openssl_server_without_alpn() -> None:
    async with openssl_server() as port, secure_channel(port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert "missing selected ALPN property: the server selected nothing" in error.details()


async def test_openssl_server_of_http1() -> None:
    async with openssl_server("-alpn", "http/1.1") as port, secure_channel(port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert "does not speak HTTP/2 (ALPN h2) on this port" in error.details()


async def test_openssl_server_with_alpn_that_speaks_no_http2() -> None:
    async with openssl_server("-alpn", "h2") as port, secure_channel(port, connect_timeout=0.3) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert "connected, but got no HTTP/2 SETTINGS within 0.3 s" in error.details()


async def test_openssl_server_that_wants_a_certificate() -> None:
    async with (
        openssl_server("-alpn", "h2", "-Verify", "1", "-CAfile", str(certificates().ca)) as port,
        secure_channel(port) as channel,
    ):
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert "asks for a client certificate" in error.details()
