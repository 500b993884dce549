"""Calls over TLS: every kind, large messages, both versions; certificates that are replaced; who the client is."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.limits import Limits
from lbkit.testing import memory_channel
from tests.support.certificates import NAMES, certificates
from tests.support.protos import kinds_pb2
from tests.support.secured import (
    client_tls,
    known_client_tls,
    mutual_tls,
    secure_channel,
    secured,
    server_tls,
)
from tests.support.servers import PATIENCE_S, Item, failure, raw, unary, until

MIB = 1024 * 1024


async def one_call(channel: lbkit.Channel, **options: Any) -> Any:
    return await unary(channel)(Item(text="x"), timeout=PATIENCE_S, **options)


def pinned(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates().ca)
    context.minimum_version = context.maximum_version = version
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


# Calls


async def test_a_thousand_unary_calls() -> None:
    async with secured() as backend, secure_channel(backend) as channel:
        call = unary(channel)
        for _ in range(10):
            answers = await asyncio.gather(
                *[call(Item(number=number), timeout=10.0) for number in range(100)]
            )
            assert [each.number for each in answers] == list(range(100))
        assert backend.calls == 1000


async def test_streams_of_all_kinds() -> None:
    async def gather(requests: AsyncIterator[Any], context: Any) -> Any:
        return Item(number=sum([each.number async for each in requests]))

    async def spread(request: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(request.number):
            yield Item(number=number)

    async def chat(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for each in requests:
            yield each

    servicer = SimpleNamespace(StreamUnary=gather, UnaryStream=spread, StreamStream=chat)
    async with secured(servicer=servicer) as backend, secure_channel(backend) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        items = [Item(number=number) for number in range(1000)]
        assert (await stub.StreamUnary(iter(items))).number == 499_500
        assert [each.number async for each in stub.UnaryStream(Item(number=1000))] == list(range(1000))
        assert [each.number async for each in stub.StreamStream(iter(items))] == list(range(1000))


@pytest.mark.parametrize("engine", ["native", "h2"])
async def test_large_messages_both_ways(engine: str) -> None:
    limits = Limits(max_message=16 * MIB)
    body = bytes(range(256)) * (8 * 4096)
    async with (
        secured(limits=limits, engine=engine) as backend,
        secure_channel(backend, limits=limits, engine=engine) as channel,
    ):
        answers = await asyncio.gather(*[unary(channel)(Item(body=body), timeout=30.0) for _ in range(3)])
        assert all(each.body == body for each in answers)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls(version: ssl.TLSVersion) -> None:
    seen: list[Any] = []

    async def look(request: Any, context: lbkit.ServicerContext) -> Any:
        seen.append(context.auth_context())
        return Item(body=request.body)

    tls = lbkit.tls(context=pinned(version))
    async with secured(look) as backend, secure_channel(backend, tls) as channel:
        assert len((await unary(channel)(Item(body=bytes(MIB)), timeout=PATIENCE_S)).body) == MIB
    assert seen[0]["ssl_tls_version"] == [version.name.replace("_", ".").encode()]


async def test_a_server_refuses_tls_1_1_and_ciphers_that_http2_forbids() -> None:
    context = pinned(ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    async with secured() as backend, secure_channel(backend, lbkit.tls(context=context)) as channel:
        error = await failure(one_call(channel))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "no cipher in common" in error.details()


async def test_the_scheme_of_requests_is_https_and_their_authority_that_of_the_channel() -> None:
    seen: list[Any] = []

    async def look(request: Any, context: Any) -> Any:
        seen.extend(field for field in context._head.fields if field[0] in {b":scheme", b":authority"})
        return request

    async with secured(look) as backend:
        async with secure_channel(backend, client_tls(server_name="a.test.example")) as channel:
            await one_call(channel)
        assert seen == [(b":scheme", b"https"), (b":authority", f"localhost:{backend.port}".encode())]


@pytest.mark.parametrize(
    ("authority", "server_name"),
    [
        ("localhost:{}", None),
        ("localhost", None),
        ("127.0.0.1:{}", None),
        ("[::1]:{}", None),
        ("b.test.example:443", None),
        ("wrong.example:{}", "localhost"),
    ],
)
async def test_the_name_that_is_verified(authority: str, server_name: str | None) -> None:
    async with secured() as backend:
        name = authority.format(backend.port)
        async with secure_channel(backend, client_tls(server_name=server_name), authority=name) as channel:
            await one_call(channel)


async def test_backends_behind_one_name_are_all_verified_by_it() -> None:
    stranger = server_tls(**dict(zip(("cert", "key"), certificates().nameless, strict=True)))
    async with secured() as good, secured(tls=stranger) as bad:
        target = f"static:///127.0.0.1:{bad.port},127.0.0.1:{good.port}"
        async with lbkit.Channel(target, tls=client_tls(), authority="localhost") as channel:
            for _ in range(10):
                await unary(channel)(Item(), wait_for_ready=True, timeout=PATIENCE_S)
        assert (good.calls, bad.calls) == (10, 0)


async def test_tls_over_unix_sockets(tmp_path: Path) -> None:
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", SimpleNamespace(UnaryUnary=lambda request, context: request))
    server.bind(f"unix:{tmp_path}/s", tls=server_tls())
    await server.start()
    async with lbkit.Channel(f"unix:{tmp_path}/s", tls=client_tls()) as channel:
        await one_call(channel)
    await server.stop()


async def test_pem_as_bytes_and_a_file_with_certificate_and_key(tmp_path: Path) -> None:
    known = certificates()
    both = tmp_path / "both.pem"
    both.write_bytes(known.cert.read_bytes() + known.key.read_bytes())
    for tls in (
        lbkit.tls(cert=known.cert.read_bytes(), key=known.key.read_bytes()),
        lbkit.tls(cert=str(both)),
        lbkit.tls(cert=both.read_bytes()),
    ):
        async with (
            secured(tls=tls) as backend,
            secure_channel(backend, lbkit.tls(ca=known.ca.read_bytes())) as channel,
        ):
            await one_call(channel)


async def test_a_context_of_the_callers_own() -> None:
    known = certificates()
    made = 0

    def make() -> ssl.SSLContext:
        nonlocal made
        made += 1
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(known.cert, known.key)
        return context

    async with secured(tls=lbkit.tls(context=make)) as backend:
        before = made
        for _ in range(3):
            async with secure_channel(backend) as channel:
                await one_call(channel)
        assert made == before + 3


async def test_a_context_function_that_fails_refuses_connections_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = certificates()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(known.cert, known.key)
    answers: list[Any] = [context]

    def make() -> Any:
        if not answers:
            raise LookupError("none left")
        return answers.pop()

    async with secured(tls=lbkit.tls(context=make)) as backend, secure_channel(backend) as channel:
        error = await failure(one_call(channel))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "during the handshake" in error.details()
        assert "a connection is refused: TLS: tls(context=) raised LookupError: none left" in caplog.text
        answers.append("no context")
        waiting = one_call(channel, wait_for_ready=True)
        await until(lambda: "returned a str, not an ssl.SSLContext" in caplog.text)
        answers.extend([context] * 3)
        await waiting


async def test_system_authorities_do_not_trust_ours() -> None:
    async with secured() as backend, secure_channel(backend, True) as channel:
        assert "signed by nobody we trust" in (await failure(one_call(channel))).details()


# Who the client is


async def test_identity_of_a_client_with_a_certificate() -> None:
    seen: list[Any] = []

    async def look(request: Any, context: lbkit.ServicerContext) -> Any:
        seen.append((context.auth_context(), context.peer_identities(), context.peer_identity_key()))
        return request

    async with (
        secured(look, tls=mutual_tls()) as backend,
        secure_channel(backend, known_client_tls()) as channel,
    ):
        await one_call(channel)
        await one_call(channel)
    properties, identities, key = seen[0]
    assert properties["transport_security_type"] == [b"ssl"]
    assert properties["security_level"] == [b"TSI_PRIVACY_AND_INTEGRITY"]
    assert properties["x509_common_name"] == [b"client one"]
    assert properties["peer_spiffe_id"] == [b"spiffe://example/client"]
    assert properties["x509_pem_cert"][0].split() == certificates().client_cert.read_bytes().split()
    assert key == "x509_subject_alternative_name"
    assert identities == [b"client.example", b"spiffe://example/client", b"10.0.0.1", b"who@client.example"]
    assert seen[1][0] is properties  # found out once for the connection


async def test_identity_in_a_plain_function() -> None:
    seen: list[Any] = []

    def look(request: Any, context: lbkit.BlockingContext) -> Any:
        seen.append((context.peer_identity_key(), context.peer_identities(), context.auth_context()))
        return request

    async with (
        secured(servicer=SimpleNamespace(UnaryUnary=look), tls=mutual_tls()) as backend,
        secure_channel(backend, known_client_tls()) as channel,
    ):
        await one_call(channel)
    assert seen[0][0] == "x509_subject_alternative_name"
    assert b"client.example" in seen[0][1]


async def test_a_requested_certificate_may_be_missing_but_not_bad() -> None:
    seen: list[Any] = []

    async def look(request: Any, context: lbkit.ServicerContext) -> Any:
        seen.append(context.peer_identities())
        return request

    tls = server_tls(ca=certificates().ca, client_auth="request")
    async with secured(look, tls=tls) as backend:
        for settings in (client_tls(), known_client_tls()):
            async with secure_channel(backend, settings) as channel:
                await one_call(channel)
        cert, key = certificates().foreign_client
        async with secure_channel(backend, client_tls(cert=cert, key=key)) as channel:
            assert (
                "does not trust the authority of our certificate"
                in (await failure(one_call(channel))).details()
            )
    assert seen[0] is None
    assert b"client.example" in seen[1]


async def test_a_connection_without_tls_says_so() -> None:
    seen: list[Any] = []

    class Servicer:
        async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
            seen.append((context.auth_context(), context.peer_identities(), context.peer_identity_key()))
            return request

    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Servicer())
    async with memory_channel(server) as channel:
        await one_call(channel)
    insecure = {"transport_security_type": [b"insecure"], "security_level": [b"TSI_SECURITY_NONE"]}
    assert seen == [(insecure, None, None)]


# Rotation


class Rotation:
    """A server's certificate and key where they are replaced."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.names: list[bytes] = []

    def install(self, cert: Path, key: Path) -> None:
        """Replace both, as one renames files into place."""
        for source, place in ((cert, self.cert), (key, self.key)):
            temporary = place.with_suffix(".new")
            shutil.copy(source, temporary)
            temporary.rename(place)

    @property
    def tls(self) -> lbkit.Tls:
        return lbkit.tls(cert=self.cert, key=self.key)


async def server_name_seen(port: int) -> str:
    """The common name in the certificate that a server shows."""
    context = ssl.create_default_context(cafile=certificates().ca)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    (name,) = [
        value
        for part in writer.get_extra_info("peercert")["subject"]
        for key, value in part
        if key == "commonName"
    ]
    writer.close()
    await writer.wait_closed()
    return str(name)


async def test_a_server_shows_a_new_certificate_without_a_restart_and_loses_no_call(tmp_path: Path) -> None:
    rotation = Rotation(tmp_path)
    rotation.install(certificates().cert, certificates().key)
    async with secured(tls=rotation.tls) as backend, secure_channel(backend) as channel:
        done = 0
        stop = asyncio.Event()

        async def call_on() -> None:
            nonlocal done
            while not stop.is_set():
                await one_call(channel)
                done += 1

        running = [asyncio.create_task(call_on()) for _ in range(4)]
        assert await server_name_seen(backend.port) == "server one"
        for number in range(3):
            rotation.install(*certificates().authority.issue(f"renewed {number}"))
            assert await server_name_seen(backend.port) == f"renewed {number}"
        before = done
        await until(lambda: done > before + 10)
        stop.set()
        await asyncio.gather(*running)


async def test_a_client_shows_a_new_certificate_on_its_next_connection(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def look(request: Any, context: lbkit.ServicerContext) -> Any:
        seen.append(context.auth_context()["x509_common_name"])
        return request

    rotation = Rotation(tmp_path)
    rotation.install(certificates().client_cert, certificates().client_key)
    tls = client_tls(cert=rotation.cert, key=rotation.key)
    async with (
        secured(look, tls=mutual_tls(), max_connection_age=0.05) as backend,
        secure_channel(backend, tls) as channel,
    ):
        await one_call(channel)
        rotation.install(*certificates().authority.issue("client two", NAMES))
        async with asyncio.timeout(PATIENCE_S):
            while seen[-1] != [b"client two"]:
                await one_call(channel)


async def test_a_bad_new_certificate_leaves_the_last_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rotation = Rotation(tmp_path)
    rotation.install(certificates().cert, certificates().key)
    async with secured(tls=rotation.tls) as backend:
        cert = rotation.cert.read_bytes()
        rotation.cert.write_bytes(cert[: len(cert) // 2])  # half-written
        for _ in range(3):
            assert await server_name_seen(backend.port) == "server one"
        assert caplog.text.count("the last good certificates stay in use") == 1
        rotation.cert.unlink()
        assert await server_name_seen(backend.port) == "server one"
        assert "no such file or directory" in caplog.text
        fresh = certificates().authority.issue("renewed")
        shutil.copy(fresh[0], rotation.cert)  # not its key yet
        assert await server_name_seen(backend.port) == "server one"
        assert "the key is not that of the certificate" in caplog.text
        shutil.copy(fresh[1], rotation.key)
        assert await server_name_seen(backend.port) == "renewed"


# Ending


async def test_a_graceful_stop_lets_calls_finish() -> None:
    begun = asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.05)
        return request

    async with secured(slow) as backend, secure_channel(backend) as channel:
        call = one_call(channel)
        running = asyncio.ensure_future(call)
        await begun.wait()
        await backend.server.stop(grace=PATIENCE_S)
        await running


async def test_back_pressure_reaches_a_writer() -> None:
    written = 0

    async def pour(request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        nonlocal written
        for _ in range(200):
            yield Item(body=bytes(64 * 1024))
            written += 1

    async with (
        secured(servicer=SimpleNamespace(UnaryStream=pour)) as backend,
        secure_channel(backend) as channel,
    ):
        responses = aiter(channel.stub(kinds_pb2, "Kinds").UnaryStream(Item()))
        assert len((await anext(responses)).body) == 64 * 1024
        before = -1
        while before != written:  # until nothing moves any more
            before = written
            await asyncio.sleep(0.02)
        assert written < 100
        assert len([each async for each in responses]) == 199


async def test_raw_bytes_pass_unchanged() -> None:
    async with secured() as backend, secure_channel(backend) as channel:
        request = Item(text="x" * 300).SerializeToString()
        assert await raw(channel)(request, timeout=PATIENCE_S) == request
