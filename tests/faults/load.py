"""Calls at an even pace, each with an id of its own, and how they went; and how figures are told."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import lbkit
from lbkit import StatusCode
from tests.faults.uids import Ledger
from tests.support.protos import kinds_pb2
from tests.support.servers import Item

WORK_MS = 20
TIMEOUT_S = 5.0


class Call(NamedTuple):
    """How one call went. Times in seconds.

    Attributes:
        uid: its id.
        began: when, by the event loop's clock.
        took: how long it took.
        backend: who answered, or where it was last when it failed: a name or an address.
        code: None if it ended well.
        details: of the status.
    """

    uid: str
    began: float
    took: float
    backend: str
    code: StatusCode | None
    details: str = ""

    @property
    def ended(self) -> float:
        """When it ended."""
        return self.began + self.took


class Load:
    """Makes calls, and writes down in ``calls`` and ``ledger`` how they went.

    Args:
        channel: what they are made on.
        work_ms: how long a backend is to work on each.
        body: of each request.
        options: those of each call; a ``timeout`` of 5 s if there is none.
    """

    def __init__(
        self, channel: lbkit.Channel, *, work_ms: int = WORK_MS, body: bytes = b"", **options: Any
    ) -> None:
        self.calls: list[Call] = []
        self.ledger = Ledger()
        self.running = 0
        self._stub = channel.stub(kinds_pb2, "Kinds")
        self._work_ms = work_ms
        self._body = body
        self._options = {"timeout": TIMEOUT_S, **options}
        self._made = 0
        self._loop = asyncio.get_running_loop()

    async def call(self) -> None:
        """Make one unary call."""
        request = self._next()
        began = self._loop.time()
        self.running += 1
        try:
            reply = await self._stub.UnaryUnary(request, **self._options)
        except lbkit.RpcError as error:
            self._failed(request.text, began, error)
        else:
            self._answered(request.text, began, reply)
        finally:
            self.running -= 1

    async def stream(self) -> None:
        """Make one server-streaming call, and read it to its end."""
        request = self._next()
        began = self._loop.time()
        self.running += 1
        reply = None
        try:
            async for item in self._stub.UnaryStream(request, **self._options):
                if item.text != request.text:
                    reply = item
                    break
                reply = item
        except lbkit.RpcError as error:
            self._failed(request.text, began, error)
        else:
            self._answered(request.text, began, reply or Item())
        finally:
            self.running -= 1

    @asynccontextmanager
    async def at(self, rate: float, *, streams: bool = False) -> AsyncIterator[None]:
        """Make calls at an even pace, ``rate`` a second, until the end of the block; then wait for the last."""
        over = asyncio.Event()

        async def pace() -> None:
            async with asyncio.TaskGroup() as group:
                due = self._loop.time()
                while not over.is_set():
                    group.create_task(self.stream() if streams else self.call())
                    due += 1 / rate
                    await asyncio.sleep(due - self._loop.time())

        task = self._loop.create_task(pace())
        try:
            yield
        finally:
            over.set()
            await task

    def failed(self, since: float = 0.0) -> list[Call]:
        """The calls that failed and began at ``since`` or later."""
        return [call for call in self.calls if call.code is not None and call.began >= since]

    def answered_by(self, backend: str, since: float = 0.0) -> list[Call]:
        """The calls that a backend answered, oldest answer first, from ``since`` on."""
        found = [call for call in self.calls if call.backend == backend and call.ended >= since]
        return sorted(found, key=lambda call: call.ended)

    def _next(self) -> Any:
        self._made += 1
        return Item(text=f"{id(self):x}-{self._made}", number=self._work_ms, body=self._body)

    def _answered(self, uid: str, began: float, reply: Any) -> None:
        self.ledger.answers[uid] = reply.text
        name = reply.body.decode(errors="replace")
        self.calls.append(Call(uid, began, self._loop.time() - began, name, None))

    def _failed(self, uid: str, began: float, error: lbkit.RpcError) -> None:
        code = StatusCode.of(error.code())
        self.ledger.failures[uid] = code
        attempts = error.attempts
        backend = attempts[-1].backend if attempts else ""
        took = self._loop.time() - began
        self.calls.append(Call(uid, began, took, backend, code, error.details()))


def tell(figure: str, calls: int, failed: int, *measured: str) -> None:
    """Print a figure: how many, how many failed, and what was measured."""
    rate = f"{failed / calls:.3%}" if failed else f"under {min(1.0, 3 / calls):.3%} with 95 % confidence"
    print(f"\n{figure}: n={calls}, {failed} failed ({rate})" + "".join(f"; {each}" for each in measured))


def milliseconds(took: Iterable[float]) -> str:
    """The median, the 99th percentile and the worst of some times."""
    ordered = sorted(took)
    if not ordered:
        return "none"
    at = [ordered[math.ceil(part * len(ordered)) - 1] * 1000 for part in (0.5, 0.99, 1.0)]
    return f"median {at[0]:.1f} ms, p99 {at[1]:.1f}, worst {at[2]:.1f}"


def kinds(calls: Iterable[Call]) -> dict[str, int]:
    """How often calls ended in which way."""
    return dict(Counter(f"{call.code.name}: {call.details}" for call in calls if call.code is not None))
