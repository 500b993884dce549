"""A server that stops gracefully under load costs no call that it took, whoever is the client."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, unpack_u32
from lbkit_resolvers.manual import Manual
from tests.support.peers import GRPCIO, PeerProcess
from tests.support.peers.protocol import WORKERS
from tests.support.servers import (
    PATIENCE_S,
    QUICK,
    Item,
    all_connected,
    channel_to,
    raw_client,
    request_fields,
    serving,
    unary,
    until,
)
from tests.support.wire import data_frame

pytestmark = pytest.mark.interop

# grpclib stops at once, and knows one host.
grpcio_only = pytest.mark.parametrize("foreign", GRPCIO, indirect=True)
ENOUGH = 100
NOTHING = bytes(5)  # an empty message


class Load:
    """Calls of ours by several tasks, one after the other, until there are enough."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.done: Counter[str | None] = Counter()
        self.failed: list[lbkit.RpcError] = []
        self.enough = False

    async def work(self) -> None:
        """Call."""
        while not self.enough:
            running = self.call(Item(), timeout=PATIENCE_S)
            try:
                await running
                self.done[running.backend] += 1
            except lbkit.RpcError as error:
                self.failed.append(error)

    async def more(self, backend: str) -> None:
        """Wait until a backend has answered another hundred calls."""
        so_far = self.done[backend]
        await until(lambda: self.done[backend] >= so_far + ENOUGH)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Call until the end of the block."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self.work())
            try:
                yield
            finally:
                self.enough = True


class Pair:
    """Two servers of a foreign implementation, the first of which is to stop."""

    def __init__(self, foreign: PeerProcess) -> None:
        self.foreign = foreign

    async def start(self) -> None:
        """Start them."""
        self.before = 0
        self.ports = [int((await self.foreign.ask("serve"))["port"]) for _ in range(2)]
        self.leaving, self.staying = (f"127.0.0.1:{port}" for port in self.ports)
        self.before = await self.handled()

    async def hold(self, channel: lbkit.Channel) -> list[Any]:
        """Start a call on each, which goes on until they are told to release it."""
        await all_connected(channel, 2)
        held = [unary(channel)(Item(text="hold"), timeout=PATIENCE_S) for _ in range(2)]
        for running in held:
            await running.initial_metadata()
        assert {running.backend for running in held} == {self.leaving, self.staying}
        return held

    async def handled(self) -> int:
        """The calls that their handlers have seen since the start."""
        return int((await self.foreign.ask("seen"))["handled"]) - self.before


@pytest_asyncio.fixture
async def pair(foreign: PeerProcess) -> Pair:
    """Two servers of a foreign implementation, started."""
    pair = Pair(foreign)
    await pair.start()
    return pair


@grpcio_only
async def test_grpcio_server_out_of_discovery_stops_without_a_failed_call(pair: Pair) -> None:
    backends = Manual("graceful-stops")
    backends.update([pair.leaving, pair.staying])
    async with lbkit.Channel(backends.target, backoff=QUICK) as channel:
        held = await pair.hold(channel)
        load = Load(unary(channel))
        async with load.running():
            await load.more(pair.leaving)
            (gone,) = [each for each in channel.subchannels() if str(each.endpoint) == pair.leaving]
            backends.update([pair.staying])
            await until(lambda: gone.in_flight == 1)  # the held call alone
            await pair.foreign.ask("drain", port=pair.ports[0])
            await load.more(pair.staying)
            assert not any(running.done() for running in held)
            await pair.foreign.ask("release")
            await load.more(pair.staying)
        assert load.failed == []
        assert [await running for running in held] == [Item(text="hold")] * 2
        assert await pair.handled() == sum(load.done.values()) + len(held)


# Not grpc.aio's server, which also forgets a call now and then that it took just before it stopped.
@pytest.mark.parametrize("foreign", ["grpcio_blocking"], indirect=True)
async def test_grpcio_server_that_stops_loses_none_of_the_calls_that_it_took(pair: Pair) -> None:
    async with channel_to(*pair.ports) as channel:
        held = await pair.hold(channel)
        load = Load(unary(channel))
        async with load.running():
            await load.more(pair.leaving)
            await pair.foreign.ask("drain", port=pair.ports[0])
            await until(lambda: ready(channel) == [pair.staying])
            await load.more(pair.staying)
            assert not any(running.done() for running in held)
            await pair.foreign.ask("release")
            so_far = load.done[pair.leaving]
            await load.more(pair.staying)
            assert load.done[pair.leaving] == so_far
        assert [await running for running in held] == [Item(text="hold")] * 2
        # All that was handled was answered, once. What grpcio had read but not begun it ends with CANCELLED, below the
        # last stream of its GOAWAY, so that no client may repeat it: https://github.com/grpc/grpc/issues/41785
        assert await pair.handled() == sum(load.done.values()) + len(held)
        refused = (StatusCode.CANCELLED, "CANCELLED", pair.leaving)
        assert {(error.code(), error.details(), error.backend) for error in load.failed} <= {refused}


@grpcio_only
async def test_our_server_that_stops_fails_none_of_grpcios_calls(foreign: PeerProcess) -> None:
    held, go_on = asyncio.Event(), asyncio.Event()

    async def hold_the_first(request: Any, context: lbkit.ServicerContext) -> Any:
        if not held.is_set():
            held.set()
            await go_on.wait()
        return request

    async with serving(hold_the_first) as leaving, serving() as staying:
        await foreign.ask("load_begin", ports=[leaving.port, staying.port])
        await until(lambda: min(leaving.calls, staying.calls) >= ENOUGH)
        stopping = asyncio.create_task(leaving.server.stop(PATIENCE_S))
        so_far = staying.calls
        await until(lambda: staying.calls >= so_far + ENOUGH)
        assert not stopping.done()
        go_on.set()
        async with asyncio.timeout(PATIENCE_S):
            await stopping
        answer = await foreign.ask("load_end")
        assert answer == {"done": leaving.calls + staying.calls, "failed": []}


async def test_request_above_our_last_goaway_does_not_run() -> None:
    """Grpcio may answer the PING between the GOAWAYs first, and then write what it had numbered before."""
    go_on = asyncio.Event()

    async def hold(request: Any, context: lbkit.ServicerContext) -> Any:
        await go_on.wait()
        return request

    async with serving(hold) as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, request_fields()) + data_frame(1, NOTHING, end=True))
        await until(lambda: backend.calls)
        stopping = asyncio.create_task(backend.server.stop(PATIENCE_S))
        async with asyncio.timeout(PATIENCE_S):
            while (await client.next_frame()).kind != frames.PING:  # answered in there
                pass
            client.writer.write(client.headers(3, request_fields()) + data_frame(3, NOTHING, end=True))
            while (found := await client.next_frame()).kind != frames.RST_STREAM:
                pass
        assert (found.stream_id, unpack_u32(found.payload)[0]) == (3, ErrorCode.REFUSED_STREAM)
        goaways = [each for each in client.received if each.kind == frames.GOAWAY]
        assert [unpack_u32(each.payload)[0] for each in goaways] == [frames.MAX_STREAM_ID, 1]
        go_on.set()
        await stopping
        assert backend.calls == 1


def ready(channel: lbkit.Channel) -> list[str]:
    """The backends that calls may be sent to."""
    return [
        str(each.endpoint) for each in channel.subchannels() if each.state is lbkit.ConnectivityState.READY
    ]
