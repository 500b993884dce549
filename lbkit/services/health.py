"""grpc.health.v1: whether a server and its services take calls, asked once (Check, List) or followed (Watch).

Kubernetes' gRPC probes, Envoy, ``lbkit probe`` and clients with health checking (gRFC A17) ask for it::

    checks = health.add(server, "shop.Orders")
    checks.set("shop.Orders", health.NOT_SERVING)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from lbkit.protos import health as pb
from lbkit.server import Server
from lbkit.service import ServicerContext
from lbkit.status import StatusCode

UNKNOWN = pb.HealthCheckResponse.UNKNOWN
SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN
_SETTABLE = frozenset((UNKNOWN, SERVING, NOT_SERVING))
_MOST_LISTED = 100  # as in grpc-go: List is for people and dashboards


class Health:
    """The servicer, and where a program says how its services are. Safe to use from any thread.

    Args:
        services: full names that are SERVING to begin with; the server as a whole, whose name is ``""``, is.
    """

    def __init__(self, *services: str) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = dict.fromkeys(("", *services), SERVING)
        self._watchers: dict[str, set[_Watcher]] = {}
        self._leaving = False  # NOT_SERVING for good
        self._stopping = False  # and nobody is told any more

    def set(self, service: str, status: int) -> None:
        """Say how a service is, and tell who watches it. Ignored after ``enter_graceful_shutdown``.

        Args:
            service: its full name; ``""`` for the server as a whole. Need not be known before.
            status: ``SERVING``, ``NOT_SERVING`` or ``UNKNOWN``, of this module or of grpcio-health-checking.

        Raises:
            ValueError: another status.
        """
        if status not in _SETTABLE:
            raise ValueError(f"status {status!r} of {service!r}: use health.SERVING or health.NOT_SERVING")
        with self._lock:
            if not self._leaving:
                self._set(service, status)

    def enter_graceful_shutdown(self) -> None:
        """Have every service be NOT_SERVING from now on, whatever ``set`` says, while calls are still served.

        ``Server.stop`` does it. Call it some seconds earlier where clients should find out before that.
        """
        with self._lock:
            self._leaving = True
            for service in self._statuses:
                self._set(service, NOT_SERVING)

    def stop(self) -> None:
        """Do that, and end every Watch once it has been told: its stream would keep the server up."""
        self.enter_graceful_shutdown()
        with self._lock:
            self._stopping = True
            for watchers in self._watchers.values():
                for watcher in watchers:
                    watcher.wake()

    def _set(self, service: str, status: int) -> None:
        """Set a status under the lock."""
        self._statuses[service] = status
        for watcher in self._watchers.get(service, ()):
            watcher.wake()

    # The methods of the service, named as in the .proto

    async def Check(self, request: pb.HealthCheckRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Answer with the status of a service; NOT_FOUND if nobody has set one."""
        status = self._statuses.get(request.service)
        if status is None:
            text = f"no status of {request.service!r} here: Health.set() was never called for it"
            await context.abort(StatusCode.NOT_FOUND, text)
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: pb.HealthListRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Answer with the status of each service; RESOURCE_EXHAUSTED if there are more than a hundred."""
        with self._lock:
            statuses = dict(self._statuses)
        if len(statuses) > _MOST_LISTED:
            text = f"{len(statuses)} services, List gives {_MOST_LISTED} at most; use Check"
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, text)
        return pb.HealthListResponse(
            statuses={name: pb.HealthCheckResponse(status=status) for name, status in statuses.items()}
        )

    async def Watch(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: ServicerContext
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """Give the status now and after each change; who reads slowly gets the newest, and not all between."""
        service = request.service
        watcher = _Watcher()
        with self._lock:
            self._watchers.setdefault(service, set()).add(watcher)
        told = None
        try:
            while True:
                watcher.changed.clear()  # first, so that no change is lost between here and the wait
                stopping = self._stopping
                status = self._statuses.get(service, SERVICE_UNKNOWN)
                if status != told:
                    told = status
                    yield pb.HealthCheckResponse(status=status)
                elif stopping:
                    await context.abort(StatusCode.UNAVAILABLE, "the server is stopping")
                else:
                    await watcher.changed.wait()
        finally:
            with self._lock:
                watchers = self._watchers[service]
                watchers.discard(watcher)
                if not watchers:  # names are the clients' choice: keeping all would be a leak
                    del self._watchers[service]


class _Watcher:
    """One Watch call; may be woken from any thread."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        with suppress(RuntimeError):  # the loop was closed, and the call with it
            self._loop.call_soon_threadsafe(self.changed.set)


def add(server: Server, *services: str) -> Health:
    """Serve grpc.health.v1 on a server; when that begins to stop, everything is NOT_SERVING.

    Args:
        server: before it is started.
        services: full names that are SERVING to begin with, beside ``""``, the server as a whole.
    """
    health = Health(*services)
    server.add(pb, "Health", health)
    server.on_stopping(health.stop)
    return health
