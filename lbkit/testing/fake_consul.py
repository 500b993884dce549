"""A Consul agent for tests: the part of its HTTP API that finds and registers services, and its failures on demand."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from lbkit.address import Address
from lbkit.testing.consul_catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    Catalog,
    CatalogError,
    Service,
    seconds_of,
)

Fault = int | Literal["silence", "garbage", "half", "reset"]

_NODE = {
    "ID": "00000000-0000-0000-0000-000000000001",
    "Node": "fake",
    "Address": "127.0.0.1",
    "Datacenter": "dc1",
}
_WAIT_S, _LONGEST_WAIT_S = 300.0, 600.0  # of blocking queries: what Consul does unasked, and at most
_OF_ERRORS = {"X-Consul-Index": "1", "X-Consul-Knownleader": "false", "X-Consul-Lastcontact": "0"}
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_STATES = {"pass": PASSING, "warn": WARNING, "fail": CRITICAL}


class ConsulRequest(NamedTuple):
    """One request that the fake has got.

    Attributes:
        method: ``GET`` or ``PUT``.
        path: decoded.
        query: names and values, in order.
        headers: by name, as sent.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]

    def get(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None."""
        return next((value for key, value in self.query if key == name), None)


class FakeConsul:
    """A running agent; ``fake_consul`` makes it.

    Attributes:
        address: of its HTTP API, ``127.0.0.1:port``.
        requests: everything that it was asked, in order.
        leader: whether the servers have one (``X-Consul-KnownLeader``). Without, only stale queries are answered.
        last_contact_s: how old stale answers are (``X-Consul-LastContact``).
        fault: what every request gets instead of an answer, while it is not None: an HTTP status, ``"silence"``
            (who still waits when that is over is answered then, as by a process that was stopped and goes on),
            ``"garbage"``, ``"half"`` of an answer, or ``"reset"`` of the connection.
        send_index: False leaves ``X-Consul-Index`` out.
        token: what requests must bring in ``X-Consul-Token``; empty for nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.address = ""
        self.requests: list[ConsulRequest] = []
        self.leader = True
        self.last_contact_s = 0.0
        self.send_index = True
        self.token = ""
        self._fault: Fault | None = None
        self._transports: Callable[[], Iterable[asyncio.Transport]] = tuple
        self._loop = loop
        self._news = asyncio.Event()
        self._catalog = Catalog(loop, self._wake)

    def target(self, service: str, query: str = "") -> str:
        """Return the target of a service, for channels and servers."""
        return f"consul://{self.address}/{service}{'?' if query else ''}{query}"

    def put(
        self,
        service: str,
        address: str,
        *,
        id: str = "",
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        weights: tuple[int, int] = (1, 1),
        state: str = PASSING,
        **fields: Any,
    ) -> None:
        """Register an instance that nobody has to keep alive, in place of one with the same id.

        Args:
            service: its name.
            address: ``host:port``.
            id: of the instance; the service and the address if empty.
            tags: of the service.
            meta: ``Service.Meta``.
            weights: while it passes, and while it warns.
            state: ``passing``, ``warning`` or ``critical``.
            fields: more, or others, as in the body of ``/v1/agent/service/register``.
        """
        host, port = Address.parse(address)
        record: dict[str, Any] = {
            "ID": id or f"{service}-{address}",
            "Name": service,
            "Address": host,
            "Port": port,
            "Tags": tags if isinstance(tags, str) else [*tags],  # a text is refused
            "Meta": meta,
            "Weights": dict(zip(("Passing", "Warning"), weights, strict=True)),
            "Check": {"Name": "by hand", "Status": state},
        }
        self._catalog.register({**record, **fields})

    def set_state(self, id: str, state: str) -> None:
        """Set the check of an instance to ``passing``, ``warning`` or ``critical``."""
        self._catalog.set_check(f"service:{id}", state)

    def remove(self, id: str) -> None:
        """Deregister an instance, if there is one."""
        self._catalog.deregister(id)

    def service(self, id: str) -> dict[str, Any] | None:
        """Return an instance as the agent tells of it, or None."""
        found = self._catalog.services.get(id)
        return None if found is None else found.record

    def restart(self) -> None:
        """Forget all services and start the index over, as an agent in dev mode; all connections break.

        So do queries that are on their way to it: one that came later, with an index from before, would block.
        """
        self._catalog.start_over()
        for transport in self._transports():
            transport.abort()

    @property
    def fault(self) -> Fault | None:
        """See the class."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._wake()

    def _wake(self) -> None:
        """Have blocking queries look again."""
        self._news.set()
        self._news = asyncio.Event()

    def _headers(self, index: int) -> dict[str, str]:
        headers = {
            "X-Consul-Knownleader": str(self.leader).lower(),
            "X-Consul-Lastcontact": str(round(self.last_contact_s * 1000)),
        }
        return {**headers, "X-Consul-Index": str(index)} if self.send_index else headers

    async def _blocked(self, name: str, request: ConsulRequest) -> None:
        """Wait as a blocking query does: for a later index than it has, a fault, or the end of its time."""
        text = request.get("index") or "0"
        if not text.isdigit():
            raise CatalogError(400, "Invalid index")
        if not (asked := int(text)):
            return
        wait_s = min(seconds_of(request.get("wait") or f"{_WAIT_S}s"), _LONGEST_WAIT_S)
        until = self._loop.time() + wait_s
        while self._catalog.index_of(name) <= asked and self._fault is None:
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                return

    async def _health(self, name: str, request: ConsulRequest) -> _Reply:
        if not name:
            raise CatalogError(400, "Missing service name")
        if request.get("filter"):
            raise CatalogError(400, "the fake has no ?filter")
        if (passing := request.get("passing") or "1") not in _BOOLEANS:
            raise CatalogError(400, "Invalid value for ?passing")
        if request.get("stale") is not None and request.get("consistent") is not None:
            raise CatalogError(400, "Cannot specify ?stale with ?consistent, conflicting semantics.")
        await self._blocked(name, request)
        if self._fault is not None:
            return _Reply(500)  # nobody sees it
        if (request.get("dc") or _NODE["Datacenter"]) != _NODE["Datacenter"]:
            return _Reply(500, "No path to datacenter", _OF_ERRORS)
        if not self.leader and request.get("stale") is None:
            return _Reply(500, "No cluster leader", _OF_ERRORS)
        tags = [value for key, value in request.query if key == "tag"]
        only = request.get("passing") is not None and _BOOLEANS[passing]
        found = self._catalog.instances(name, tags, passing=only)
        body = json.dumps([_entry(service) for service in found], indent=1)
        return _Reply(200, body, self._headers(self._catalog.index_of(name)))

    async def answer(self, request: ConsulRequest, body: str) -> _Reply:
        """Do what a request asks. For the HTTP server."""
        try:
            return await self._do(request, body)
        except CatalogError as refusal:
            return _Reply(refusal.status, str(refusal))

    async def _do(self, request: ConsulRequest, body: str) -> _Reply:
        if self.token and request.headers.get("X-Consul-Token") != self.token:
            raise CatalogError(403, "Permission denied")
        match request.method, request.path.removeprefix("/v1/").split("/", 3):
            case "GET", ["health", "service", *name]:
                return await self._health("/".join(name), request)
            case "GET", ["status", "leader"]:
                return _Reply(200, json.dumps(self.address if self.leader else ""))
            case "GET", ["agent", "service", *name]:
                return _Reply(200, json.dumps(self._catalog.service("/".join(name)).record))
            case "PUT", ["agent", "service", "register"]:
                self._catalog.register(_parsed(body))
            case "PUT", ["agent", "service", "deregister", name]:
                self._catalog.deregister(name)
            case "PUT", ["agent", "check", ("pass" | "warn" | "fail") as verb, name]:
                self._catalog.set_check(name, _STATES[verb])
            case _:
                raise CatalogError(404, f"the fake has no {request.method} {request.path}")
        return _Reply(200)

    def stop(self) -> None:
        """Stop all timers. For ``fake_consul``."""
        self._catalog.start_over()


class _Reply(NamedTuple):
    status: int
    body: str = ""
    headers: Mapping[str, str] = {}


def _parsed(body: str) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise CatalogError(400, f"Request decode failed: {error}") from None
    if not isinstance(found, dict):
        raise CatalogError(400, "Request decode failed: no object")
    return found


def _entry(service: Service) -> dict[str, Any]:
    indexes = {"CreateIndex": service.index, "ModifyIndex": service.index}
    return {
        "Node": {**_NODE, "Meta": {"consul-network-segment": ""}, **indexes},
        "Service": {**service.record, **indexes},
        "Checks": [
            {"Node": _NODE["Node"], "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": PASSING},
            *(
                {
                    "Node": _NODE["Node"],
                    "CheckID": check.id,
                    "Name": check.name,
                    "Status": check.state,
                    "ServiceID": service.id,
                    "ServiceName": service.name,
                }
                for check in service.checks
            ),
        ],
    }


@asynccontextmanager
async def fake_consul(*, tls: ssl.SSLContext | None = None) -> AsyncGenerator[FakeConsul, None]:
    """Run a fake agent on loopback, on the running event loop.

    Like this::

        async with fake_consul() as consul:
            consul.put("greeter", "127.0.0.1:50051")
            async with lbkit.Channel(consul.target("greeter")) as channel:
                ...

    It has blocking queries with their index and wait, tags, ``passing``, TTL checks, ``/v1/agent/service/...``,
    ``/v1/agent/check/...`` and ``/v1/status/leader``, and is held to a real Consul by the tests that both run.

    Args:
        tls: of the server, for HTTPS.

    Raises:
        ImportError: aiohttp is not installed; says what to install.
    """
    try:
        from aiohttp import web
    except ImportError:
        raise ImportError("fake_consul() needs aiohttp: pip install 'lbkit[consul]'") from None
    fake = FakeConsul(asyncio.get_running_loop())

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen = ConsulRequest(
            request.method, unquote(request.rel_url.raw_path), tuple(request.query.items()), request.headers
        )
        fake.requests.append(seen)
        body = await request.text()
        while True:
            reply = _Reply(200) if fake.fault is not None else await fake.answer(seen, body)
            if fake.fault is None:
                return web.Response(
                    status=reply.status,
                    text=reply.body,
                    headers=reply.headers,
                    content_type="application/json",
                )
            if fake.fault != "silence":
                return await _break(fake.fault, request)
            await fake._news.wait()

    async def _break(fault: Fault, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(fault, int):
            return web.Response(status=fault, text="as the test wants it", headers=_OF_ERRORS)
        if fault == "garbage":
            return web.Response(body=b'[{"Node": \xff\x00', headers=fake._headers(7))
        response = web.StreamResponse(headers={"Content-Length": "100", **fake._headers(7)})
        if fault == "half":
            await response.prepare(request)
            await response.write(b'[{"Node": {"Node": "half')
        assert request.transport is not None
        request.transport.abort() if fault == "reset" else request.transport.close()
        return response

    server = web.Server(handle, handler_cancellation=True)
    fake._transports = lambda: [each.transport for each in server.connections if each.transport is not None]
    runner = web.ServerRunner(server, shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.address = f"{host}:{port}"
        yield fake
    finally:
        fake.stop()
        await runner.cleanup()
