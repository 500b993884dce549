"""Requests to an API server, over aiohttp. Imported when the first one is made: it takes a quarter of a second."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp

from lbkit_resolvers.kubernetes.config import Access
from lbkit_resolvers.kubernetes.events import Event, Lines, event_of, json_of
from lbkit_resolvers.kubernetes.failures import Failure, refused
from lbkit_resolvers.kubernetes.target import Service
from lbkit_resolvers.kubernetes.watching import Timing

_PAGE = 50  # slices in a page: up to 5000 endpoints, so that parsing them does not hold up the event loop
_MAX_PAGES = 200
_MAX_PAGE_BYTES = 32 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
# A connection whose other end is gone is noticed after 30 s, long before the watch is over.
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_LOOK_S = 1.0  # between two looks at whether the connection of a watch is there


class Page(NamedTuple):
    """A part of a list."""

    items: list[Any]
    version: str
    rest: str  # to ask for what follows; empty on the last


class Api:
    """One API server, for the EndpointSlices of one Service. Use it with ``async with``.

    Args:
        access: how to get in.
        service: whose slices.
        timing: the time-outs.

    Attributes:
        where: what the text of an error begins with.
    """

    def __init__(self, access: Access, service: Service, timing: Timing) -> None:
        self.namespace = service.namespace or access.namespace
        self.where = f"{urlsplit(access.server).netloc}, service {self.namespace}/{service.name}"
        self._access = access
        self._timing = timing
        self._url = f"{access.server}/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        self._selector = {"labelSelector": f"kubernetes.io/service-name={service.name}"}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._access.tls or False),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def everything(self) -> tuple[list[Any], str]:
        """Return all slices, and the version to watch from: one moment's truth, however many pages it takes.

        Raises:
            Failure: it was not to be had.
        """
        try:
            return await self._pages()
        except Failure as failure:
            if failure.status != 410:  # the list got too old while it was read
                raise
            return await self._pages()

    async def _pages(self) -> tuple[list[Any], str]:
        items: list[Any] = []
        rest = ""
        for _ in range(_MAX_PAGES):
            page = await self._page(rest)
            items += page.items
            rest = page.rest
            if not rest:
                return items, page.version
        raise Failure(
            f"{self.where}: the list does not end after {_MAX_PAGES} pages", wait_s=self._timing.slow_s
        )

    async def _page(self, rest: str) -> Page:
        query = {**self._selector, "limit": str(_PAGE), **({"continue": rest} if rest else {})}
        async with self._get(query, self._timing.request_s) as response:
            document = json_of(await _whole(response, _MAX_PAGE_BYTES, self.where), self.where)
        metadata = document.get("metadata") if isinstance(document, dict) else None
        items = document.get("items") if isinstance(document, dict) else None
        if not isinstance(metadata, dict) or not isinstance(items, list | None):
            raise Failure(f"{self.where}: the API server's answer is no list")
        version = metadata.get("resourceVersion")
        if not isinstance(version, str) or not version:
            raise Failure(f"{self.where}: the API server's list has no resourceVersion to watch from")
        return Page(items or [], version, str(metadata.get("continue") or ""))

    async def watch(
        self, version: str, seconds: float, opened: Callable[[], None]
    ) -> AsyncGenerator[Event, None]:
        """Give what changes after a version, for so many seconds from when ``opened`` is called.

        Raises:
            Failure: it ended otherwise; go on from the version of the last event, unless it is ``expired``.
        """
        asked = max(1, round(seconds))
        query = {
            **self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(asked),
        }
        lines = Lines(self.where)
        async with self._get(query, asked + self._timing.slack_s) as response:
            opened()
            _keep_alive(response)
            with _ending_with_its_connection(response):
                async for data in response.content.iter_any():
                    for line in lines.feed(data):
                        yield event_of(line, self.where, self.namespace)

    @asynccontextmanager
    async def _get(
        self, query: Mapping[str, str], seconds: float
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Ask; give the answer once it begins, at the latest after ``request_s``.

        What the body's reader raises comes out as a Failure too.
        """
        # accept-encoding: nothing is compressed, so that no small answer can become a large one.
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "lbkit"}
        header = await self._authorization()
        if header:
            headers["authorization"] = header
        answered = False
        try:
            async with (
                asyncio.timeout(self._timing.request_s) as beginning,
                self._session.get(
                    self._url,
                    params=query,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=seconds),
                    allow_redirects=False,
                    proxy=self._access.proxy or None,
                    server_hostname=self._access.server_name or None,
                ) as response,
            ):
                if response.status != 200:
                    await self._refuse(response)
                beginning.reschedule(None)
                answered = True
                yield response
        except TimeoutError:
            silent = f"{self.where}: the API server said nothing for too long"
            raise Failure(silent, passing=answered) from None
        except (aiohttp.ClientConnectorCertificateError, ssl.SSLError) as error:
            raise Failure(
                f"{self.where}: TLS failed: {error}; is the CA in the kubeconfig, or in the pod, that of this server?"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise Failure(f"{self.where}: cannot be reached: {error}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failure(f"{self.where}: the connection broke: {error!r}", passing=True) from None

    async def _authorization(self) -> str:
        try:
            return await asyncio.to_thread(self._access.token)
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(
                f"{self.where}: the token cannot be read: {error}", wait_s=self._timing.slow_s
            ) from None

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        body: Any = await response.content.read(_MAX_ERROR_BYTES)
        if response.content_type == "application/json":
            with suppress(Failure):
                body = json_of(body, self.where)
        raise refused(
            self.where,
            self.namespace,
            response.status,
            body.decode("utf-8", "replace") if isinstance(body, bytes) else body,
            response.headers.get("Retry-After"),
            self._timing.slow_s,
        )


async def _whole(response: aiohttp.ClientResponse, most: int, where: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for data in response.content.iter_any():
        parts.append(data)
        size += len(data)
        if size > most:
            raise Failure(f"{where}: the API server's list is longer than {most} bytes")
    return b"".join(parts)


@contextmanager
def _ending_with_its_connection(response: aiohttp.ClientResponse) -> Generator[None, None, None]:
    """See that reading ends when the connection is gone.

    aiohttp closes a connection on which it cannot understand the next chunk, and does not tell who reads from it.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        connection = response.connection
        if connection is not None and (connection.transport is None or connection.transport.is_closing()):
            response.content.set_exception(aiohttp.ServerDisconnectedError())
        timer = loop.call_later(_LOOK_S, look)

    timer = loop.call_later(_LOOK_S, look)
    try:
        yield
    finally:
        timer.cancel()


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    transport = response.connection.transport if response.connection else None
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None:  # it has ended already
        return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
