"""HTTP CONNECT: byte streams through a proxy (gRFC A1, RFC 9110 9.3.6), and which addresses need one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

from lbkit.address import Address
from lbkit.errors import AddressError
from lbkit.transport.connection import describe_os_error
from lbkit.transport.connector import Connector

# Where a proxy may stand, the first that is set counts. grpc's own name first, then what all programs look at.
_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
_DEFAULT_PORT = 80
_MOST_HEAD_BYTES = 16 * 1024  # of a proxy's answer


class Proxy(NamedTuple):
    """Where a proxy listens, and what it wants to see in ``proxy-authorization``; empty for nothing."""

    address: Address
    authorization: str = ""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read ``http://user:password@host:port``; without a scheme, http is meant, without a port, 80.

        Raises:
            ValueError: it cannot be read, or is not http.
        """
        from urllib.parse import unquote, urlsplit  # 3 ms to import, and few programs have a proxy

        url = urlsplit(text if "://" in text else f"http://{text}")
        if url.scheme != "http":
            raise ValueError(f"the proxy must be http://host:port, not {url.scheme}://")
        host = url.hostname or ""
        try:
            port = _DEFAULT_PORT if url.port is None else url.port
            address = Address.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except (AddressError, ValueError) as error:  # without the text: it may hold a password
            raise ValueError(f"the proxy must be http://host:port: {error}") from None
        if url.username is None:
            return cls(address)
        from base64 import b64encode

        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        return cls(address, "Basic " + b64encode(pair.encode()).decode())


class ProxyRules:
    """Which proxy an address is reached through. Unix sockets never are.

    Args:
        proxy: the proxy.
        exceptions: what is reached without: None for nothing, else as in ``no_proxy`` (then neither is this machine):
            names with all below them (``example.com``, ``.example.com``), IP addresses and networks
            (``10.0.0.0/8``), each with a port if need be, or ``*``; separated by commas.
    """

    def __init__(self, proxy: Proxy, exceptions: str | None = None) -> None:
        self._proxy = proxy
        self._exceptions = None if exceptions is None else _split(exceptions)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> ProxyRules | None:
        """Read ``grpc_proxy``, ``https_proxy`` or ``http_proxy``, and ``no_grpc_proxy`` or ``no_proxy``.

        Raises:
            ValueError: the proxy cannot be read; says which variable.
        """
        name, text = _first(environment, _VARIABLES)
        if not text:
            return None
        try:
            proxy = Proxy.parse(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return cls(proxy, _first(environment, _EXCEPTIONS)[1])

    def proxy_for(self, address: Address) -> Proxy | None:
        """Return the proxy for an address, or for a name that the proxy is to look up."""
        if address.port is None or self._is_exception(address.host.lower().rstrip("."), address.port):
            return None
        return self._proxy

    def _is_exception(self, host: str, port: int) -> bool:
        if self._exceptions is None:
            return False
        from ipaddress import ip_address, ip_network  # 5 ms to import

        try:
            ip = ip_address(host)
        except ValueError:
            ip = None
        if host == "localhost" or (ip is not None and ip.is_loopback):
            return True
        for pattern, only in self._exceptions:
            if only is not None and only != port:
                continue
            if pattern == "*":
                return True
            if ip is None:
                if host == pattern.removeprefix(".") or host.endswith("." + pattern.removeprefix(".")):
                    return True
                continue
            try:
                if ip in ip_network(pattern, strict=False):
                    return True
            except ValueError:
                continue  # a name
        return False


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """Return the first variable that is set, in lower or upper case, and its value."""
    for name in names:
        for spelt in (name, name.upper()):
            # A web server that runs CGI scripts puts the client's header "Proxy" there (CVE-2016-5385).
            if spelt == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
                continue
            if value := environment.get(spelt, "").strip():
                return spelt, value
    return "", ""


def _split(exceptions: str) -> list[tuple[str, int | None]]:
    """Take a list like ``no_proxy`` apart: patterns, each with its port or None."""
    found: list[tuple[str, int | None]] = []
    for item in exceptions.lower().split(","):
        pattern, port = item.strip(), None
        host, colon, number = pattern.rpartition(":")
        if colon and number.isdigit() and (":" not in host or host.endswith("]")):
            pattern, port = host, int(number)
        if pattern := pattern.removeprefix("[").removesuffix("]").removeprefix("*."):
            found.append((pattern, port))
    return found


class ProxyConnector:
    """Reaches addresses through a proxy where the rules say so. Names are looked up by the proxy.

    Args:
        connector: reaches the proxy, and what needs none.
        rules: which proxy for which address.
    """

    def __init__(self, connector: Connector, rules: ProxyRules) -> None:
        self._connector = connector
        self._rules = rules

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Connect, and hand over the transport when the proxy has opened the tunnel.

        Raises:
            OSError: the proxy cannot be reached, refuses, or does not speak HTTP; says which.
        """
        proxy = self._rules.proxy_for(address)
        if proxy is None:
            await self._connector.connect(address, protocol)
            return
        tunnel = _Tunnel(proxy, address, protocol)
        try:
            try:
                await self._connector.connect(proxy.address, lambda: tunnel)
            except OSError as error:
                text = f"the proxy {proxy.address} cannot be reached: {describe_os_error(error)}"
                raise OSError(text) from error
            await tunnel.opened
        except BaseException:  # cancelled too: no socket is left behind
            tunnel.abort()
            raise


class _Tunnel(asyncio.BufferedProtocol):
    """Asks a proxy for a tunnel, and leaves when there is one."""

    def __init__(self, proxy: Proxy, address: Address, make: Callable[[], asyncio.BufferedProtocol]) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proxy = proxy
        self._address = address
        self._make = make
        self._transport: asyncio.Transport | None = None
        self._head = bytearray(_MOST_HEAD_BYTES)
        self._filled = 0

    def abort(self) -> None:
        """Give up."""
        if not self.opened.cancel() and not self.opened.cancelled():
            self.opened.exception()  # nobody else will look at it
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)
        try:
            request = _request(self._address, self._proxy.authorization)
        except OSError as error:
            self._fail(error)
        else:
            self._transport.write(request)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the rest of the room that there is for the answer."""
        return memoryview(self._head)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Read the answer, up to its empty line; what follows comes through the tunnel already."""
        self._filled += nbytes
        answer = bytes(self._head[: self._filled])
        head, end, rest = answer.partition(b"\r\n\r\n")
        first = head.partition(b"\r\n")[0].decode("latin-1")
        version, _, status = first.partition(" ")
        if self._filled >= 5 and not version.startswith("HTTP/"):
            self._refuse(f"does not speak HTTP: {first[:40]!r}")
        elif end and status.startswith("2"):
            self._leave(rest)
        elif end:
            hint = "; write http://user:password@host:port" if status.startswith("407") else ""
            self._refuse(f"said {first[:200]!r} to CONNECT {self._address}{hint}")
        elif self._filled == len(self._head):
            self._refuse(f"sent more than {_MOST_HEAD_BYTES} bytes of headers")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail, if there was no answer yet."""
        self._transport = None
        self._refuse("closed the connection" if exc is None else describe_os_error(exc))

    def _leave(self, rest: bytes) -> None:
        transport = self._transport
        if transport is None or self.opened.done():
            return
        self._transport = None
        self.opened.set_result(None)
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        while rest and not transport.is_closing():
            room = cast("memoryview[int]", protocol.get_buffer(len(rest)))
            size = min(len(room), len(rest))
            room[:size] = rest[:size]
            rest = rest[size:]
            protocol.buffer_updated(size)

    def _refuse(self, what: str) -> None:
        self._fail(OSError(f"the proxy {self._proxy.address} {what}"))

    def _fail(self, error: OSError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)


def _request(address: Address, authorization: str) -> bytes:
    """Return the bytes of a CONNECT request.

    Raises:
        OSError: the address cannot stand there.
    """
    try:
        host = address.host if address.host.isascii() else address.host.encode("idna").decode()
    except UnicodeError as error:
        raise OSError(f"{address}: {error}") from None
    where = str(Address(host, address.port))
    if not where.isprintable() or " " in where:
        raise OSError(f"{address} cannot be asked of a proxy")
    credentials = f"Proxy-Authorization: {authorization}\r\n" if authorization else ""
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{credentials}\r\n".encode("ascii")
