"""The embedded registry and a real etcd behind one interface, so that one suite holds both to the same contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import lbkit
from lbkit.protos import etcd as pb
from tests.support.servers import PATIENCE_S, channel_to

ALL = b"\0"

# Requests, by short names: a contract is easier read without their packages.
get = pb.RangeRequest
put = pb.PutRequest
delete = pb.DeleteRangeRequest
txn = pb.TxnRequest
compare = pb.Compare
compact = pb.CompactionRequest
grant = pb.LeaseGrantRequest
revoke = pb.LeaseRevokeRequest
ttl = pb.LeaseTimeToLiveRequest


def op(request: Any) -> pb.RequestOp:
    """One operation of a transaction."""
    field = {get: "request_range", put: "request_put", delete: "request_delete_range", txn: "request_txn"}
    return pb.RequestOp(**{field[type(request)]: request})


def create(key: bytes, range_end: bytes = b"", **options: Any) -> pb.WatchRequest:
    """Ask for a watch."""
    request = pb.WatchCreateRequest(key=key, range_end=range_end, **options)
    return pb.WatchRequest(create_request=request)


def cancel(number: int) -> pb.WatchRequest:
    """End a watch."""
    return pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=number))


def ask_progress() -> pb.WatchRequest:
    """Ask how far the stream is."""
    return pb.WatchRequest(progress_request=pb.WatchProgressRequest())


class Client:
    """A client of either.

    Attributes:
        address: where it is.
        kv, lease, cluster, maintenance, auth: stubs of the services.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = channel_to(address)
        self.kv: Any = self.channel.stub(pb, "KV")
        self.lease: Any = self.channel.stub(pb, "Lease")
        self.cluster: Any = self.channel.stub(pb, "Cluster")
        self.maintenance: Any = self.channel.stub(pb, "Maintenance")
        self.auth: Any = self.channel.stub(pb, "Auth")
        self._watch: Any = self.channel.stub(pb, "Watch")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def do(self, request: Any) -> Any:
        """Send a request of KV or Lease, whichever it is."""
        method = {
            get: self.kv.Range,
            put: self.kv.Put,
            delete: self.kv.DeleteRange,
            txn: self.kv.Txn,
            compact: self.kv.Compact,
            grant: self.lease.LeaseGrant,
            revoke: self.lease.LeaseRevoke,
            ttl: self.lease.LeaseTimeToLive,
        }[type(request)]
        return await method(request, timeout=PATIENCE_S)

    async def refused(self, request: Any) -> str:
        """Send a request that must fail; return its status as ``CODE text``."""
        try:
            answer = await self.do(request)
        except lbkit.RpcError as error:
            return f"{error.code().name} {error.details()}"
        raise AssertionError(f"it was not refused, the answer is {answer}")

    async def set(self, **pairs: str) -> int:
        """Put keys, one revision each; return the last one's."""
        revision = 0
        for key, value in pairs.items():
            revision = (await self.do(put(key=key.encode(), value=value.encode()))).header.revision
        return revision

    async def revision(self) -> int:
        """The current revision."""
        answer = await self.do(get(key=b"k", count_only=True))
        number: int = answer.header.revision
        return number

    async def clear(self) -> int:
        """Delete every key and every lease; return the revision."""
        for lease in (await self.lease.LeaseLeases(pb.LeaseLeasesRequest())).leases:
            await self.do(revoke(ID=lease.ID))
        await self.do(delete(key=ALL, range_end=ALL))
        return await self.revision()

    @asynccontextmanager
    async def watch(self, *requests: pb.WatchRequest, **options: Any) -> AsyncGenerator[Watching, None]:
        """Send requests on one Watch stream, and give it."""
        call = self._watch.Watch(**options)
        for request in requests:
            await call.write(request)
        try:
            yield Watching(call)
        finally:
            call.cancel()


class Watching:
    """A Watch stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, request: pb.WatchRequest) -> None:
        """Send a request."""
        await self.call.write(request)

    async def next(self) -> Any:
        """Wait for the next response."""
        async with asyncio.timeout(PATIENCE_S):
            response = await self.call.read()
        assert response is not lbkit.EOF, "the stream has ended"
        return response

    async def created(self, count: int = 1) -> Sequence[Any]:
        """Wait for the answers to so many watches that were asked for."""
        answers = [await self.next() for _ in range(count)]
        assert all(answer.created for answer in answers), answers
        return answers

    async def events(self, count: int) -> list[str]:
        """Wait for so many events: ``PUT key=value @revision`` or ``DELETE key @revision``, of whole revisions."""
        found: list[str] = []
        while len(found) < count:
            response = await self.next()
            assert not response.canceled, response
            found += [shown(event) for event in response.events]
        return found


def shown(event: Any) -> str:
    """An event in one line; what there was before, if it says so, in brackets."""
    before = f" [{event.prev_kv.value.decode()}]" if event.HasField("prev_kv") else ""
    key, revision = event.kv.key.decode(), event.kv.mod_revision
    if event.type == pb.Event.DELETE:
        return f"DELETE {key} @{revision}{before}"
    return f"PUT {key}={event.kv.value.decode()} @{revision}{before}"


def keys(answer: Any) -> list[str]:
    """The keys of a Range's answer."""
    return [kv.key.decode() for kv in answer.kvs]
