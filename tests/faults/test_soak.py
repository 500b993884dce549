"""Figure F14: a minute of steady load fails no call, and what the process holds does not grow with their number.

Clients and servers share the process, so that a leak of either shows. A leak goes on for as long as calls do: what
looks like one gets as much time again to prove it, as an allocator that takes another piece from the system must not
be taken for one.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode, interceptors
from tests.faults.growth import FDS, STATM, History, culprits
from tests.faults.load import tell
from tests.support.protos import kinds_pb2
from tests.support.secured import client_tls, server_tls
from tests.support.servers import PATIENCE_S, Item, all_connected, target_of

BACKENDS = 3
WORKERS = 32
ROUND_S = 1.0
WARM_UP_S = 20.0
FITTED_S = 30.0
MAX_WINDOWS = 4  # caches fill, and the allocator takes what it needs once, for a hundred thousand calls or so
RESIDENT_MOST = 0.5  # kB that 1000 calls may add
BLOCKS_MOST = 10.0  # of the interpreter's allocator: an object in a hundred calls
RESIDENT_NOISE = 20.0  # kB: five pages
BLOCKS_NOISE = 100.0  # what a call that is just over may leave for the next, 32 times
# Each connection remembers the last 1000 resets, and is to be full when growth is measured.
RESETS = 1200 * BACKENDS
TEXT = "a request of some length " * 80  # worth compressing
STREAMED = 3

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (STATM.exists() and FDS.exists()), reason="needs /proc"),
]


class BusyError(Exception):
    """What every tenth call meets at its first attempt, where calls are tried again."""


RETRY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.001s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Kinds:
    """Echo. If it is ``busy``, calls whose number is a multiple of ten get an answer at their second attempt only."""

    def __init__(self, *, busy: bool, attempts: Counter[str]) -> None:
        self._busy = busy
        self._attempts = attempts

    def _enter(self, request: Any, context: lbkit.ServicerContext) -> None:
        self._attempts["entered"] += 1
        if self._busy and request.number % 10 == 0:
            if not any(key == "grpc-previous-rpc-attempts" for key, _ in context.invocation_metadata()):
                raise BusyError("come back later")
            self._attempts["tried again"] += 1

    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        self._enter(request, context)
        return request

    async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> AsyncGenerator[Any, None]:
        self._enter(request, context)
        for _ in range(STREAMED):
            yield request

    async def StreamStream(
        self, request_iterator: Any, context: lbkit.ServicerContext
    ) -> AsyncGenerator[Any, None]:
        async for request in request_iterator:
            self._enter(request, context)
            yield request


class Calls:
    """Keeps the workers busy, and counts how calls end.

    Attributes:
        resets: calls that were cancelled in their middle, half of all until ``RESETS`` were. Later few are, anywhere.
    """

    def __init__(self, channel: lbkit.Channel) -> None:
        self._stub = channel.stub(kinds_pb2, "Kinds")
        self._numbers = itertools.count(1)
        self.made = 0
        self.resets = 0
        self.failures: Counter[str] = Counter()

    async def go_on(self, seconds: float) -> None:
        """Make calls for so long, and wait for the last."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._work(until) for _ in range(WORKERS)))

    async def _work(self, until: float) -> None:
        while time.monotonic() < until:
            number = next(self._numbers)
            request = Item(number=number, text=TEXT)
            try:
                if number % 20 == 7:
                    good = await self._stream(request)
                elif number % 2 and self.resets < RESETS:
                    good = await self._reset(request)
                elif number % 20 == 1:
                    good = await self._cancelled(request)
                else:
                    good = await self._stub.UnaryUnary(request, timeout=PATIENCE_S) == request
            except lbkit.RpcError as error:
                self.failures[f"{error.code().name}: {error.details()}"] += 1
            else:
                self.failures.update([] if good else ["another answer"])
            self.made += 1

    async def _stream(self, request: Any) -> bool:
        found = [item async for item in self._stub.UnaryStream(request, timeout=PATIENCE_S)]
        return found == [request] * STREAMED

    async def _reset(self, request: Any) -> bool:
        """Cancel what goes on at both sides, and would for ever."""
        self.resets += 1
        call = self._stub.StreamStream(timeout=PATIENCE_S)
        await call.write(request)
        answer = await call.read()
        call.cancel()
        return answer == request and await call.code() is StatusCode.CANCELLED

    async def _cancelled(self, request: Any) -> bool:
        """Cancel in the middle: before, at, or after the answer."""
        call = self._stub.UnaryUnary(request, timeout=PATIENCE_S)
        for _ in range(request.number % 5):
            await asyncio.sleep(0)
        call.cancel()
        return await call.code() in {StatusCode.CANCELLED, StatusCode.OK}


@asynccontextmanager
async def everything(attempts: Counter[str], loaded: bool) -> AsyncGenerator[lbkit.Channel, None]:
    """Run the backends, and give a channel to them; ``loaded`` with all that a call may have."""
    timings: Counter[str] = Counter()

    def record(timing: interceptors.Timing) -> None:
        timings[timing.code.name] += 1

    server: dict[str, Any] = {}
    client: dict[str, Any] = {}
    if loaded:
        mapping = interceptors.ErrorMapping({BusyError: StatusCode.UNAVAILABLE})
        server = {"interceptors": [interceptors.ServerTiming(record), mapping]}
        client = {
            "authority": "localhost",
            "tls": client_tls(),
            "compression": "gzip",
            "interceptors": [interceptors.ClientTiming(record)],
            "service_config": RETRY,
            "retry_budget": lbkit.RetryBudget(),
        }
    async with AsyncExitStack() as stack:
        ports = []
        for _ in range(BACKENDS):
            each = lbkit.Server(**server)
            each.add(kinds_pb2, "Kinds", Kinds(busy=loaded, attempts=attempts))
            ports.append(each.bind("127.0.0.1:0", tls=server_tls() if loaded else None))
            await each.start()
            stack.push_async_callback(each.stop, 1.0)
        channel = lbkit.Channel(target_of(*ports), balancer="round_robin", **client)
        await stack.enter_async_context(channel)
        await all_connected(channel, BACKENDS)
        yield channel


async def rounds(calls: Calls, seconds: float, connections: Callable[[], int]) -> History:
    """Make calls for so long, and look at what is held after each round of them."""
    found = History()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await calls.go_on(ROUND_S)
        await asyncio.sleep(0)
        found.look(calls.made, connections())
    return found


def grows(held: History) -> bool:
    """Whether memory or objects seem to grow with the calls."""
    return held.grows(held.resident_kb, most=RESIDENT_MOST, noise=RESIDENT_NOISE) or held.grows(
        held.blocks, most=BLOCKS_MOST, noise=BLOCKS_NOISE
    )


@pytest.mark.parametrize("loaded", [False, True], ids=["plain", "TLS, interceptors, gzip and retries"])
async def test_f14_what_is_held_does_not_grow_with_the_calls(loaded: bool) -> None:
    attempts: Counter[str] = Counter()
    async with everything(attempts, loaded) as channel:
        calls = Calls(channel)

        def connections() -> int:
            return sum(each.state is lbkit.ConnectivityState.READY for each in channel.subchannels())

        began = time.monotonic()
        while calls.resets < RESETS or time.monotonic() < began + WARM_UP_S:
            await calls.go_on(ROUND_S)
        fitted = await rounds(calls, FITTED_S, connections)
        windows = 1
        while grows(fitted) and windows < MAX_WINDOWS:
            fitted = await rounds(calls, FITTED_S, connections)
            windows += 1
        resident, blocks = fitted.slope(fitted.resident_kb), fitted.slope(fitted.blocks)
        took = time.monotonic() - began
        tell(
            f"F14 {'TLS, interceptors, gzip and retries' if loaded else 'plain calls'}",
            calls.made,
            sum(calls.failures.values()),
            f"{calls.made / took:.0f}/s for {took:.0f} s ({windows} x {FITTED_S:.0f} s fitted) from {WORKERS} workers",
            f"{attempts['tried again']} tried again",
            f"resident memory {fitted.resident_kb[0] / 1000:.1f} to {fitted.resident_kb[-1] / 1000:.1f} MB, "
            f"{resident:+.3f} kB in 1000 calls (< {RESIDENT_MOST:g})",
            f"{blocks:+.2f} blocks in 1000 calls (< {BLOCKS_MOST:g})",
            f"tasks, descriptors, threads, connections: {dict(fitted.counted)}",
            f"{dict(calls.failures)}",
        )
        if grows(fitted):
            where = await culprits(lambda: calls.go_on(ROUND_S))
            pytest.fail(f"{resident:.2f} kB and {blocks:.1f} blocks in 1000 calls; one round left\n{where}")
    assert not calls.failures
    assert [connections for _, _, _, connections in fitted.counted] == [BACKENDS]
    assert bool(attempts["tried again"]) == loaded
