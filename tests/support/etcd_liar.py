"""A server of etcd's services that lies, stalls or talks nonsense, as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import lbkit
from lbkit import StatusCode
from lbkit.protos import etcd
from tests.support.etcd_following import naming

HEADER = etcd.ResponseHeader(cluster_id=7, member_id=1, revision=10, raft_term=1)
GOOD = etcd.RangeResponse(
    header=HEADER, kvs=[etcd.KeyValue(key=b"s/a", value=naming("10.0.0.1:80"), mod_revision=5)], count=1
)
CREATED = etcd.WatchResponse(header=HEADER, created=True)

Script = Callable[[Any, lbkit.ServicerContext], Awaitable[Any]]
Watching = Callable[[AsyncIterator[Any], lbkit.ServicerContext], AsyncGenerator[Any, None]]


async def good_range(request: Any, context: lbkit.ServicerContext) -> Any:
    return GOOD


class Liar:
    """A server of etcd's services that does as the test says.

    Attributes:
        ranges, watches: how many it got.
        times: of the ranges, by the clock of the event loop.
        metadata: of every call.
        server: the one that it is served by.
    """

    def __init__(self) -> None:
        self.server = lbkit.Server()
        for service in ("KV", "Watch", "Auth"):
            self.server.add(etcd, service, self)
        self.range: Script = good_range
        self.watch: Watching = self.good_watch
        self.authenticate: Script | None = None
        self.ranges = self.watches = 0
        self.times: list[float] = []
        self.metadata: list[dict[str, Any]] = []
        self._over = asyncio.Event()

    async def good_watch(
        self, requests: AsyncIterator[Any], context: lbkit.ServicerContext
    ) -> AsyncGenerator[Any, None]:
        over = self._over  # as of now: the test may turn before it has heard of CREATED
        yield CREATED
        await over.wait()

    def turn(self, lists: Script) -> None:
        """Answer like that from now on, and end the watches."""
        self.range = lists
        self._over.set()
        self._over = asyncio.Event()

    async def Range(self, request: Any, context: lbkit.ServicerContext) -> Any:
        self.ranges += 1
        self.times.append(asyncio.get_running_loop().time())
        self.metadata.append(dict(context.invocation_metadata() or ()))
        return await self.range(request, context)

    async def Watch(self, requests: AsyncIterator[Any], context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        self.watches += 1
        self.metadata.append(dict(context.invocation_metadata() or ()))
        async for response in self.watch(requests, context):
            yield response

    async def Authenticate(self, request: Any, context: lbkit.ServicerContext) -> Any:
        assert self.authenticate is not None
        return await self.authenticate(request, context)


@asynccontextmanager
async def lying() -> AsyncGenerator[tuple[Liar, str], None]:
    """Run one; gives its address, too."""
    liar = Liar()
    port = liar.server.bind("127.0.0.1:0")
    await liar.server.start()
    try:
        yield liar, f"127.0.0.1:{port}"
    finally:
        await liar.server.stop(None)


def answering(response: etcd.RangeResponse) -> Script:
    async def answer(request: Any, context: lbkit.ServicerContext) -> Any:
        return response

    return answer


def refusing(code: StatusCode, text: str) -> Script:
    async def answer(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(code, text)

    return answer


def saying(*responses: etcd.WatchResponse, forever: bool = False) -> Watching:
    async def say(requests: AsyncIterator[Any], context: lbkit.ServicerContext) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            for response in responses:
                yield response
            if not forever:
                return

    return say
