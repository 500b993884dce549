"""The supervisor of workers, in virtual time, over processes that do as the test says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from lbkit import CrashLoopError
from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.processes.supervisor import Supervisor
from lbkit.testing import virtual_time

GRACE_S = 10.0
START_S = 30.0
BACKOFF = BackoffPolicy(initial_s=0.2, jitter=0.0, maximum_s=5.0)


class FakeProcess:
    """A worker's process.

    Attributes:
        told: what the supervisor told it, in order.
    """

    def __init__(
        self, pid: int, serves: Callable[[], None], asked: Callable[[], None], exited: Callable[[int], None]
    ) -> None:
        self.pid: int | None = pid
        self.told: list[str] = []
        self.serves = serves
        self.asked = asked
        self._exited: Callable[[int], None] | None = exited

    def exited(self, status: int) -> None:
        """End, if it has not yet."""
        exited, self._exited = self._exited, None
        if exited is not None:
            exited(status)

    def drain(self) -> None:
        self.told.append("drain")

    def abort(self) -> None:
        self.told.append("abort")

    def kill(self) -> None:
        self.told.append("kill")


class Fleet:
    """A supervisor, and all processes that it has started."""

    def __init__(self, count: int) -> None:
        self.made: list[FakeProcess] = []
        self.ready = 0
        self.supervisor = Supervisor(
            self._start,
            count,
            grace=GRACE_S,
            start_timeout=START_S,
            max_losses=3,
            backoff=Backoff(BACKOFF, random.Random(1)),
            ready=self._ready,
        )
        self.run = asyncio.create_task(self.supervisor.run())

    def _start(
        self, serves: Callable[[], None], asked: Callable[[], None], exited: Callable[[int], None]
    ) -> FakeProcess:
        self.made.append(FakeProcess(len(self.made) + 1, serves, asked, exited))
        return self.made[-1]

    def _ready(self) -> None:
        self.ready += 1

    @property
    def told(self) -> list[list[str]]:
        """What each process was told."""
        return [process.told for process in self.made]


@asynccontextmanager
async def fleet(count: int) -> AsyncGenerator[Fleet, None]:
    """Run a supervisor whose first workers serve."""
    made = Fleet(count)
    await asyncio.sleep(0)
    for process in list(made.made):
        process.serves()
    assert made.ready == 1
    try:
        yield made
    finally:
        made.supervisor.stop()
        for process in made.made:
            process.exited(0)
        await asyncio.gather(made.run, return_exceptions=True)


@virtual_time
async def test_all_are_told_to_drain_and_it_ends_when_they_have() -> None:
    async with fleet(2) as it:
        it.supervisor.stop()
        assert it.told == [["drain"], ["drain"]]
        it.made[0].exited(0)
        await asyncio.sleep(0)
        assert not it.run.done()
        it.made[1].exited(0)
        await it.run


@virtual_time
async def test_who_does_not_end_in_time_is_killed() -> None:
    async with fleet(1) as it:
        it.supervisor.stop()
        await asyncio.sleep(GRACE_S)
        assert it.told == [["drain"]]
        await asyncio.sleep(GRACE_S)
        assert it.told == [["drain", "kill"]]
        it.made[0].exited(-9)
        await it.run


@virtual_time
async def test_told_to_stop_twice_it_has_calls_ended_at_once() -> None:
    async with fleet(1) as it:
        it.supervisor.stop()
        it.supervisor.stop()
        assert it.told == [["drain", "abort"]]


@virtual_time
async def test_a_lost_worker_is_replaced_after_a_back_off() -> None:
    async with fleet(2) as it:
        it.made[0].exited(7)
        await asyncio.sleep(0.19)
        assert len(it.made) == 2
        await asyncio.sleep(0.02)
        assert len(it.made) == 3


@virtual_time
async def test_too_many_losses_within_a_minute_are_a_crash_loop() -> None:
    async with fleet(1) as it:
        for _ in range(3):
            it.made[-1].exited(7)
            await asyncio.sleep(10.0)
            it.made[-1].serves()
        it.made[-1].exited(7)
        with pytest.raises(CrashLoopError, match=r"4 workers were lost within a minute; .* exit status 7"):
            await it.run


@virtual_time
async def test_losses_that_are_long_ago_do_not_count() -> None:
    async with fleet(1) as it:
        for _ in range(20):
            it.made[-1].exited(7)
            await asyncio.sleep(25.0)
            it.made[-1].serves()
        assert not it.run.done()


@virtual_time
async def test_a_worker_that_does_not_serve_in_time_is_a_loss() -> None:
    async with fleet(1) as it:
        it.made[0].exited(7)
        await asyncio.sleep(START_S)
        assert it.told == [[], []]
        await asyncio.sleep(1.0)
        assert it.told == [[], ["kill"], []]


@virtual_time
async def test_renewed_one_after_the_other_each_drains_when_another_serves() -> None:
    async with fleet(2) as it:
        it.supervisor.renew()
        assert len(it.made) == 3
        assert it.told[:2] == [[], []]
        it.made[2].serves()
        assert it.told == [[], ["drain"], []]
        it.made[1].exited(0)
        assert it.told == [[], ["drain"], [], []]
        it.made[3].serves()
        assert it.told == [["drain"], ["drain"], [], []]
        it.made[0].exited(0)
        assert len(it.made) == 4


@virtual_time
async def test_a_worker_that_somebody_asks_to_end_drains_when_another_serves() -> None:
    async with fleet(2) as it:
        it.made[0].asked()
        assert len(it.made) == 3
        assert it.told == [[], [], []]
        it.made[2].serves()
        assert it.told == [["drain"], [], []]
        it.made[0].asked()  # and again: it does already
        it.made[0].exited(0)
        assert len(it.made) == 3


@pytest.mark.parametrize("first", ["the supervisor", "the workers"])
def test_a_signal_to_all_processes_of_the_service_takes_no_worker_before_stop(first: str) -> None:
    """As service managers send it, in whatever order it comes through."""

    @virtual_time
    async def body() -> None:
        async with fleet(2) as it:
            if first == "the supervisor":
                it.supervisor.prepare_to_stop()
            for process in it.made[:2]:
                process.asked()
            if first == "the workers":
                it.supervisor.prepare_to_stop()
                it.made[2].serves()  # one had been started
                assert it.told[2] == ["drain"]
            it.supervisor.renew()
            assert it.told[:2] == [[], []]
            assert len(it.made) == (2 if first == "the supervisor" else 3)
            it.made[0].exited(7)  # but who is lost until then is missed
            await asyncio.sleep(1.0)
            assert it.made[-1].told == []
            it.supervisor.stop()
            assert it.told[1] == it.told[-1] == ["drain"]

    body()
