"""Calls through an HTTP CONNECT proxy (gRFC A1), and proxies that refuse, talk rubbish, or say nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.address import Address
from lbkit.testing import MemoryNetwork
from lbkit.transport.connector import SocketConnector
from lbkit.transport.proxy import Proxy, ProxyConnector, ProxyRules
from tests.support.secured import client_tls, secured
from tests.support.servers import (
    PATIENCE_S,
    QUICK,
    Backend,
    Item,
    echo,
    failure,
    fleet,
    listening,
    serving,
    shares,
    silence,
    unary,
    until,
)

NAME = "backend.invalid:50051"  # nobody on this machine can look it up (RFC 6761)


class ConnectProxy:
    """An HTTP proxy that knows names of its own.

    Args:
        names: what it connects to instead.
        answer: what it says when there is a tunnel.
    """

    def __init__(self, names: dict[str, str], answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.names = names
        self.answer = answer
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        far = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            where = head.split(b" ")[1].decode()
            host, _, port = self.names.get(where, where).rpartition(":")
            far_reader, far = await asyncio.open_connection(host, int(port))
            writer.write(self.answer)
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, far))
                group.create_task(pump(far_reader, writer))
        except (asyncio.IncompleteReadError, OSError, ExceptionGroup):
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


@asynccontextmanager
async def proxying(*arguments: Any, **options: Any) -> AsyncGenerator[tuple[ConnectProxy, str], None]:
    """Run a proxy; give it, and its URL."""
    proxy = ConnectProxy(*arguments, **options)
    async with listening(proxy.serve) as port:
        yield proxy, f"http://127.0.0.1:{port}"


async def call(target: str, **options: Any) -> Any:
    """Make one call on a channel of its own."""
    async with lbkit.Channel(target, backoff=QUICK, **options) as channel:
        return await unary(channel)(Item(number=7), timeout=PATIENCE_S)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy in the environment but the test's."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("target", [f"dns:///{NAME}", NAME, f"passthrough:///{NAME}", f"static:///{NAME}"])
async def test_the_proxy_looks_names_up(target: str) -> None:
    async with serving() as backend, proxying({NAME: backend.address}) as (proxy, url):
        assert (await call(target, proxy=url)).number == 7
        assert proxy.requests == [f"CONNECT {NAME} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()]


async def test_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as backend, proxying({NAME: backend.address}) as (proxy, url):
        monkeypatch.setenv("https_proxy", url)
        assert (await call(NAME)).number == 7
        assert len(proxy.requests) == 1
        assert (await call(f"static:///{backend.address}")).number == 7  # this machine: directly
        assert len(proxy.requests) == 1
        with pytest.raises(lbkit.RpcError):
            await call(NAME, proxy=False)
        assert len(proxy.requests) == 1


async def test_an_excepted_name_is_looked_up_here_and_reached_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as backend, proxying({}) as (proxy, url):
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.setenv("no_proxy", "invalid")
        with pytest.raises(lbkit.RpcError):
            await call(NAME)
        assert (await call(f"dns:///localhost:{backend.port}")).number == 7
        assert proxy.requests == []


async def test_a_wrong_environment_is_logged_and_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("https_proxy", "https://proxy.example:1")
    async with serving() as backend:
        assert (await call(f"static:///{backend.address}")).number == 7
    assert "no proxy is used: https_proxy: the proxy must be http://host:port" in caplog.text


def test_a_wrong_proxy_of_the_program_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be http://"):
        lbkit.Channel("static:///127.0.0.1:1", proxy="ftp://proxy.example")
    with pytest.raises(TypeError, match="False"):
        lbkit.Channel("static:///127.0.0.1:1", proxy=True)  # type: ignore[arg-type]


async def test_a_connector_of_the_programs_own_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says is about TCP; a proxy that is named is reached through the connector."""
    monkeypatch.setenv("https_proxy", "proxy.example:1")
    network = MemoryNetwork()
    server = Backend(echo).server
    network.add(server)
    await server.start()
    assert (await call(network.target.text, resolver=network, connector=network)).number == 7
    seen: list[str] = []

    class Watched(SocketConnector):
        async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
            seen.append(str(address))
            await super().connect(address, protocol)

    async with serving() as backend, proxying({NAME: backend.address}) as (_, url):
        assert (await call(NAME, connector=Watched(), proxy=url)).number == 7
        assert seen == [url.removeprefix("http://")]
    await server.stop()


async def test_all_backends_are_reached_through_it() -> None:
    async with fleet(3) as backends:
        names = {f"10.9.9.{number}:50051": each.address for number, each in enumerate(backends)}
        async with (
            proxying(names) as (proxy, url),
            lbkit.Channel(f"static:///{','.join(names)}", proxy=url) as channel,
        ):
            await channel.ready(PATIENCE_S)
            await until(lambda: len(proxy.requests) == 3)
            await until(lambda: all(each.state.name == "READY" for each in channel.subchannels()))
            await asyncio.sleep(0)
            assert set(await shares(unary(channel), 12)) == {"backend 0", "backend 1", "backend 2"}


async def test_unix_sockets_need_none(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    backend = await Backend(echo).start(path)
    assert (await call(path, proxy="http://127.0.0.1:1")).number == 7
    await backend.server.stop()


async def test_credentials_are_sent_if_there_are_any() -> None:
    async with serving() as backend, proxying({NAME: backend.address}) as (proxy, url):
        await call(NAME, proxy=url.replace("//", "//ann:secret@"))
        assert b"\r\nProxy-Authorization: Basic YW5uOnNlY3JldA==\r\n" in proxy.requests[0]


async def test_what_comes_right_behind_the_answer_is_the_servers() -> None:
    """A server may speak first: its SETTINGS may be in the same packet as the proxy's answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = None
        try:
            await reader.readuntil(b"\r\n\r\n")
            far_reader, far = await asyncio.open_connection("127.0.0.1", backend.port)
            writer.write(b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n" + settings)
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, far))
                group.create_task(pump(far_reader, writer))
        except (asyncio.IncompleteReadError, OSError, ExceptionGroup):
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    settings = bytes(3) + b"\4\0" + bytes(4)
    async with serving() as backend, listening(serve) as port:
        assert (await call(NAME, proxy=f"http://127.0.0.1:{port}")).number == 7


# Proxies that do not do it


def refusing(answer: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            await reader.read()
        writer.transport.abort()

    return serve


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "said 'HTTP/1.1 407 Proxy Authentication"),
        (b"HTTP/1.1 403 Forbidden\r\nServer: x\r\n\r\n<html>", f"'HTTP/1.1 403 Forbidden' to CONNECT {NAME}"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP/1.1 502 Bad Gateway"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere\r\n\r\n", "HTTP/1.1 302 Found"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP: 'SSH-2.0-OpenSSH_9.2'"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000, "sent more than 16384 bytes of headers"),
    ],
)
async def test_its_answer_is_in_the_error(answer: bytes, text: str) -> None:
    async with listening(refusing(answer)) as port:
        error = await failure(call(NAME, proxy=f"http://127.0.0.1:{port}"))
        assert error.code() is StatusCode.UNAVAILABLE
        assert f"the proxy 127.0.0.1:{port} " in error.details()
        assert text in error.details()


async def test_refused_for_want_of_credentials_says_where_they_go_and_shows_none() -> None:
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    async with listening(refusing(answer)) as port:
        error = await failure(call(NAME, proxy=f"http://ann:secret@127.0.0.1:{port}"))
        assert "write http://user:password@host:port" in error.details()
        assert "secret" not in error.details()


async def test_one_that_cannot_be_reached_is_told_from_the_backend() -> None:
    error = await failure(call(NAME, proxy="http://127.0.0.1:1"))
    assert "the proxy 127.0.0.1:1 cannot be reached: connect call failed" in error.details() or (
        "the proxy 127.0.0.1:1 cannot be reached: connection refused" in error.details()
    )


async def test_one_that_hangs_up_says_so() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with listening(serve) as port:
        error = await failure(call(NAME, proxy=f"http://127.0.0.1:{port}"))
        assert f"the proxy 127.0.0.1:{port} closed the connection" in error.details()


async def test_one_that_says_nothing_is_given_the_time_of_an_attempt() -> None:
    async with silence() as port:
        error = await failure(call(NAME, proxy=f"http://127.0.0.1:{port}", connect_timeout=0.1))
        assert "got no connection within 0.1 s" in error.details()


@pytest.mark.parametrize("host", ["evil\r\nX-Injected: 1", "two words", "\udcff"])
async def test_an_address_that_would_break_the_request_is_refused(host: str) -> None:
    async with proxying({}) as (proxy, url):
        connector = ProxyConnector(SocketConnector(), ProxyRules(Proxy.parse(url)))
        with pytest.raises(OSError):
            await connector.connect(Address(host, 1), asyncio.BufferedProtocol)
        assert proxy.requests == []


async def test_names_with_other_letters_are_asked_for_as_idna() -> None:
    async with serving() as backend, proxying({"xn--bcher-kva.invalid:1": backend.address}) as (_, url):
        assert (await call("passthrough:///bücher.invalid:1", authority="x", proxy=url)).number == 7


async def test_parameters_of_a_dns_target_are_for_the_resolver() -> None:
    """It is looked up here then, and the addresses are reached through the proxy."""
    async with serving() as backend, proxying({}) as (proxy, url):
        assert (await call(f"dns:///localhost:{backend.port}?refresh=60s", proxy=url)).number == 7
        assert b"CONNECT 127.0.0.1:" in proxy.requests[0] or b"CONNECT [::1]:" in proxy.requests[0]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("backend.invalid", "backend.invalid:443"),
        ("[2001:db8::1]", "[2001:db8::1]:443"),
        ("2001:db8::1", "[2001:db8::1]:443"),
    ],
)
async def test_the_port_of_a_dns_target_is_443_unless_it_has_one(path: str, asked: str) -> None:
    async with serving() as backend, proxying({asked: backend.address}) as (proxy, url):
        async with lbkit.Channel(f"dns:///{path}", proxy=url) as channel:
            assert channel.authority == lbkit.Channel(f"dns:///{path}", proxy=False).authority
            assert (await unary(channel)(Item(number=7), timeout=PATIENCE_S)).number == 7
        assert proxy.requests[0].startswith(f"CONNECT {asked} ".encode())


async def test_tls_is_between_us_and_the_backend() -> None:
    """The proxy sees the name that it connects to, and then nothing but TLS."""
    async with secured() as backend, proxying({f"localhost:{backend.port}": backend.address}) as (proxy, url):
        target = f"dns:///localhost:{backend.port}"
        async with lbkit.Channel(target, tls=client_tls(), proxy=url) as channel:
            assert (await unary(channel)(Item(number=7), timeout=PATIENCE_S)).number == 7
        assert proxy.requests[0].startswith(f"CONNECT localhost:{backend.port} ".encode())
