"""The services of etcd v3 that a registry has, as servicers of an lbkit server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from lbkit.protos import etcd
from lbkit.registry.refusals import AUTH_NOT_ENABLED, NO_LEADER, Refusal
from lbkit.registry.watches import WatchStream
from lbkit.service import ServicerContext

if TYPE_CHECKING:
    from lbkit.registry.registry import Registry

VERSION = "3.5.0"  # whose behaviour it is; clients look at it

_MOST_ANSWERS = 100  # to one stream, that wait to be sent; then its requests wait

Q = TypeVar("Q")
A = TypeVar("A")


class _Servicer:
    """What all have.

    Args:
        registry: whose they are.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def _answer(self, context: ServicerContext, method: Callable[[Q], A], request: Q) -> A:
        """Do what a request says, or end the call with why not."""
        if self._registry.leaderless and _needs_leader(request, context):
            await context.abort(*NO_LEADER)
        try:
            return method(request)
        except Refusal as refusal:
            await context.abort(refusal.code, str(refusal))


def _needs_leader(request: object, context: ServicerContext) -> bool:
    """Whether it is no read that any member answers by itself, or asks for a leader all the same."""
    alone = isinstance(request, etcd.RangeRequest) and request.serializable
    return not alone or context.invocation_metadata().get("hasleader") == "true"


class KV(_Servicer):
    """The keys."""

    async def Range(self, request: etcd.RangeRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Read."""
        return await self._answer(context, self._registry.keys.range, request)

    async def Put(self, request: etcd.PutRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Write."""
        return await self._answer(context, self._registry.keys.put, request)

    async def DeleteRange(self, request: etcd.DeleteRangeRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Delete."""
        return await self._answer(context, self._registry.keys.delete, request)

    async def Txn(self, request: etcd.TxnRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Compare, then do one thing or the other."""
        return await self._answer(context, self._registry.keys.txn, request)

    async def Compact(self, request: etcd.CompactionRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Forget history."""
        return await self._answer(context, self._registry.keys.compact, request)


class Watch(_Servicer):
    """The watches."""

    async def Watch(self, requests: AsyncIterator[etcd.WatchRequest], context: ServicerContext) -> None:  # noqa: N802
        """Serve the watches of one stream, until the client ends the call."""
        watching = Watching(self._registry, context)
        self._registry.watchings.add(watching)
        reader = asyncio.create_task(watching.read(requests))
        try:
            await watching.write()
        finally:
            self._registry.watchings.discard(watching)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader


class Watching:
    """One Watch call: requests come in one task, and responses leave in another, so that neither waits for the other."""

    def __init__(self, registry: Registry, context: ServicerContext) -> None:
        self._registry = registry
        self._context = context
        self._watches = WatchStream(registry.store, registry.header)
        self._answers: deque[etcd.WatchResponse] = deque()
        self._asked = False  # for progress, and not answered yet
        self._quiet = False  # it is time to say so to watches that follow progress
        self._broken: Exception | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._wants_leader = context.invocation_metadata().get("hasleader") == "true"

    @property
    def count(self) -> int:
        """How many watches it has."""
        return len(self._watches)

    @property
    def waiting(self) -> int:
        """How many answers are still to be sent."""
        return len(self._answers)

    def wake(self) -> None:
        """Have it look at what there is to tell."""
        self._changed.set()

    async def read(self, requests: AsyncIterator[etcd.WatchRequest]) -> None:
        """Take requests, for as long as there is room for their answers; what is wrong with one ends the call."""
        try:
            await self._read(requests)
        except Exception as error:  # raised where the call is: in ``write``
            self._broken = error
            self._changed.set()

    async def _read(self, requests: AsyncIterator[etcd.WatchRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("request_union")
            if kind == "create_request":
                self._answers.append(self._watches.create(request.create_request))
            elif kind == "cancel_request":
                answer = self._watches.cancel(request.cancel_request.watch_id)
                if answer is not None:
                    self._answers.append(answer)
            elif kind == "progress_request":
                self._asked = len(self._watches) > 0  # etcd says nothing of a stream without watches
            self._changed.set()
            while len(self._answers) >= _MOST_ANSWERS:
                self._room.clear()
                await self._room.wait()

    async def write(self) -> None:
        """Send what there is to tell."""
        loop = asyncio.get_running_loop()
        interval = self._registry.progress_interval
        timer = loop.call_later(interval, self._time_is_up)
        write = self._context.write
        try:
            while True:
                self._changed.clear()
                if self._broken is not None:
                    raise self._broken
                if self._registry.leaderless and self._wants_leader:
                    await self._context.abort(*NO_LEADER)
                while self._answers:
                    await write(self._answers.popleft())
                    self._room.set()
                for response in self._watches.due():
                    await write(response)
                if self._asked and self._watches.all_told():
                    self._asked = False
                    await write(self._watches.progress())
                if self._quiet:
                    self._quiet = False
                    timer = loop.call_later(interval, self._time_is_up)
                    for response in self._watches.quiet():
                        await write(response)
                await self._changed.wait()
        finally:
            timer.cancel()

    def _time_is_up(self) -> None:
        self._quiet = True
        self._changed.set()


class Lease(_Servicer):
    """The leases."""

    async def LeaseGrant(self, request: etcd.LeaseGrantRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Make one."""
        lease = await self._answer(context, self._registry.grant, request)
        return etcd.LeaseGrantResponse(header=self._registry.header(), ID=lease.id, TTL=lease.ttl_s)

    async def LeaseRevoke(self, request: etcd.LeaseRevokeRequest, context: ServicerContext) -> Any:  # noqa: N802
        """End one, and delete its keys."""
        await self._answer(context, self._registry.keys.revoke, request.ID)
        return etcd.LeaseRevokeResponse(header=self._registry.header())

    async def LeaseKeepAlive(  # noqa: N802
        self, requests: AsyncIterator[etcd.LeaseKeepAliveRequest], context: ServicerContext
    ) -> AsyncIterator[etcd.LeaseKeepAliveResponse]:
        """Give leases their whole time again, one for each request; a TTL of 0 says that there is no such lease."""
        async for request in requests:
            if self._registry.leaderless:
                await context.abort(*NO_LEADER)
            try:
                ttl_s = self._registry.keep(request.ID)
            except Refusal:
                ttl_s = 0
            yield etcd.LeaseKeepAliveResponse(header=self._registry.header(), ID=request.ID, TTL=ttl_s)

    async def LeaseTimeToLive(  # noqa: N802
        self, request: etcd.LeaseTimeToLiveRequest, context: ServicerContext
    ) -> Any:
        """Say how long one has, and which keys; a TTL of -1 says that there is no such lease."""
        return await self._answer(context, self._registry.time_to_live, request)

    async def LeaseLeases(self, request: etcd.LeaseLeasesRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Say which there are."""
        return await self._answer(context, self._registry.all_leases, request)


class Cluster(_Servicer):
    """The members: one."""

    async def MemberList(self, request: etcd.MemberListRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Say who there is."""
        return await self._answer(context, self._registry.members, request)


class Maintenance(_Servicer):
    """How it is."""

    async def Status(self, request: etcd.StatusRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Say so."""
        return self._registry.status()

    async def Alarm(self, request: etcd.AlarmRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Say that all is well: ``etcdctl endpoint health`` asks."""
        return etcd.AlarmResponse(header=self._registry.header())


class Auth(_Servicer):
    """Who may do what: everybody everything."""

    async def Authenticate(self, request: etcd.AuthenticateRequest, context: ServicerContext) -> Any:  # noqa: N802
        """Refuse, as an etcd without authentication does."""
        await context.abort(*AUTH_NOT_ENABLED)


SERVICES = (KV, Watch, Lease, Cluster, Maintenance, Auth)
