"""Calls at a steady rate, and what became of each: the client of ``lbkit demo`` and ``lbkit client``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import lbkit
from lbkit.protos import demo

_CATCH_UP_S = 0.1  # turns that are later than this are not made up for: a stall ends in no burst


@dataclass(slots=True, eq=False)
class Record:
    """One call.

    Attributes:
        number: how many calls were started before it.
        started_s: when, on the event loop's clock.
        call: the call.
        backend: who answered, by its own account.
        took_s: from start to end.
        error: why there was no answer.
    """

    number: int
    started_s: float
    call: lbkit.UnaryUnaryCall
    backend: str = ""
    took_s: float = 0.0
    error: lbkit.RpcError | None = None

    @property
    def address(self) -> str | None:
        """Where it was sent, the last time if twice; None while it waits for a backend."""
        return self.call.backend


@dataclass(frozen=True, slots=True)
class Plan:
    """What to call.

    Attributes:
        rate: calls a second, whether answers come or not.
        work_s: least and most that a call asks of the backend, in seconds.
        bound: calls in flight, at most; while there are as many, none is started.
        timeout_s: of each call.
        wait_for_ready: whether calls wait for a backend when none is up.
    """

    rate: float
    work_s: tuple[float, float] = (0.005, 0.045)
    bound: int = 200
    timeout_s: float = 10.0
    wait_for_ready: bool = False


class Load:
    """Makes the calls of a plan, one after the other, until stopped.

    Args:
        channel: what to call on.
        plan: what to call.
        random: decides how much work each call asks for.
        note: told of every call that is over.
    """

    def __init__(
        self,
        channel: lbkit.Channel,
        plan: Plan,
        random: random.Random,
        note: Callable[[Record], None],
    ) -> None:
        self.started = 0
        self.running: dict[Record, None] = {}  # oldest first
        self._say = channel.stub(demo, "Echo").Say
        self._plan = plan
        self._random = random
        self._note = note
        self._stopping = False
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Start calls, each when it is its turn; after ``stop`` wait for those that run."""
        loop = asyncio.get_running_loop()
        plan = self._plan
        turn = loop.time()
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                now = loop.time()
                turn = max(turn, now - _CATCH_UP_S)
                while turn <= now and len(self.running) < plan.bound:
                    turn += 1 / plan.rate
                    group.create_task(self._finish(self._start(now)))
                await asyncio.sleep(max(turn - now, 0.001))

    def stop(self) -> None:
        """Start no more calls."""
        self._stopping = True

    async def until_over(self, count: int) -> None:
        """Wait until ``count`` calls have been started, counted from the first, and all of them are over."""
        while self.started < count or (self.running and next(iter(self.running)).number < count):
            self._progress.clear()
            await self._progress.wait()

    def _start(self, now: float) -> Record:
        call = self._say(
            demo.SayRequest(text="hello", work_s=self._random.uniform(*self._plan.work_s)),
            timeout=self._plan.timeout_s,
            wait_for_ready=self._plan.wait_for_ready,
        )
        record = Record(self.started, now, call)
        self.started += 1
        self.running[record] = None
        return record

    async def _finish(self, record: Record) -> None:
        try:
            record.backend = (await record.call).backend
        except lbkit.RpcError as error:
            record.error = error
        finally:
            record.took_s = asyncio.get_running_loop().time() - record.started_s
            del self.running[record]
            self._progress.set()
        self._note(record)


def first_line(error: lbkit.RpcError) -> str:
    """Return the error's code and the first line of its text."""
    return f"{error.code().name}: {error.details()}".partition("\n")[0]
