"""Shared workers: calls fare as they do with a task each."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.dispatch import workers as module
from lbkit.dispatch.workers import Workers
from tests.support.servers import Item, calling, channel_to, failure, kinds, serving, unary, until

MODES = pytest.mark.parametrize("shared_workers", [None, 1, 4])
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="")


@MODES
async def test_each_call_has_context_variables_of_its_own(shared_workers: int | None) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        before = NAME.get()
        NAME.set(request.text)
        await asyncio.sleep(0)
        after = NAME.get()
        return Item(text=f"{before}>{after}")

    async with calling(behaviour, shared_workers=shared_workers) as call:
        answers = await asyncio.gather(*(call(Item(text=str(number))) for number in range(20)))
        answers += [await call(Item(text=str(number))) for number in range(20, 25)]
    assert [answer.text for answer in answers] == [f">{number}" for number in range(25)]


@MODES
async def test_calls_that_wait_never_keep_others_waiting(shared_workers: int | None) -> None:
    go_on = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        if request.number:
            await go_on.wait()
        return request

    async with calling(behaviour, shared_workers=shared_workers) as call:
        waiting = [call(Item(number=1)) for _ in range(12)]
        for number in range(5):
            assert (await call(Item(text=str(number)), timeout=5.0)).text == str(number)
        go_on.set()
        assert len(await asyncio.gather(*waiting)) == 12


@MODES
async def test_cancelled_call_cancels_its_handler_and_no_other(shared_workers: int | None) -> None:
    ended: list[str] = []
    go_on = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            ended.append(request.text)
            raise
        return request

    async with serving(behaviour, shared_workers=shared_workers) as backend, channel_to(backend) as channel:
        calls = [unary(channel)(Item(text=str(number))) for number in range(8)]
        await until(lambda: backend.calls == 8)
        for each in calls[::2]:
            each.cancel()
        await until(lambda: len(ended) == 4)
        go_on.set()
        assert [(await each).text for each in calls[1::2]] == ["1", "3", "5", "7"]
        assert [(await unary(channel)(Item(text="more"))).text for _ in range(8)] == ["more"] * 8
        assert sorted(ended) == ["0", "2", "4", "6"]


@MODES
async def test_handler_that_cancels_itself_harms_no_later_call(shared_workers: int | None) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        task = asyncio.current_task()
        assert task is not None
        if request.text == "and waits":
            task.cancel()
            await asyncio.sleep(0)
        if request.text == "and returns":
            task.cancel()
        return request

    async with calling(behaviour, shared_workers=shared_workers) as call:
        for _ in range(3):
            assert (await failure(call(Item(text="and waits")))).code() is StatusCode.CANCELLED
            assert (await call(Item(text="and returns"))).text == "and returns"
            await asyncio.gather(*(call(Item(text="fine")) for _ in range(6)))


@MODES
async def test_timeouts_and_task_groups_inside_a_handler_work(shared_workers: int | None) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
            return Item(number=sum(task.result() for task in tasks))

    async with calling(behaviour, shared_workers=shared_workers) as call:
        answers = await asyncio.gather(*(call(Item()) for _ in range(6)))
    assert [answer.number for answer in answers] == [3] * 6


@MODES
async def test_handler_that_raises_ends_its_call_only(shared_workers: int | None) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        if request.number % 2:
            raise ValueError("odd")
        return request

    async with calling(behaviour, shared_workers=shared_workers) as call:
        answers = await asyncio.gather(*(call(Item(number=n)) for n in range(10)), return_exceptions=True)
    codes = [each.code() if isinstance(each, lbkit.RpcError) else None for each in answers]
    assert codes == [None, StatusCode.UNKNOWN] * 5


@MODES
async def test_streams_of_both_directions_flow(shared_workers: int | None) -> None:
    class Kinds:
        async def StreamStream(self, requests: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
            async for request in requests:
                yield request

    async with kinds(Kinds(), shared_workers=shared_workers) as stub:

        async def one() -> list[int]:
            call = stub.StreamStream(Item(number=number) for number in range(50))
            return [item.number async for item in call]

        assert await asyncio.gather(*(one() for _ in range(6))) == [list(range(50))] * 6


async def test_workers_are_made_when_needed_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: set[Any] = set()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)
        return request

    async with calling(behaviour, shared_workers=2) as call:
        for _ in range(10):
            await call(Item())
        assert len(tasks) == 1
        await asyncio.gather(*(call(Item()) for _ in range(2)))
        assert len(tasks) == 2


async def test_worker_is_replaced_after_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECYCLE_CALLS", 3)
    tasks: list[Any] = []

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        tasks.append(asyncio.current_task())
        return request

    async with calling(behaviour, shared_workers=1) as call:
        for _ in range(9):
            await call(Item())
    assert [tasks.count(task) for task in dict.fromkeys(tasks)] == [3, 3, 3]


async def test_job_cancelled_before_it_began_never_runs() -> None:
    ran: list[int] = []
    workers = Workers(asyncio.get_running_loop(), 1, set())

    async def work(number: int) -> None:
        ran.append(number)

    jobs = [workers.run(work(number)) for number in range(4)]
    jobs[0].cancel()
    jobs[2].cancel()
    await until(lambda: len(ran) == 2)
    assert ran == [1, 3]
    workers.close()
    await asyncio.wait(workers.tasks)


async def test_worker_cancelled_from_outside_is_replaced_and_its_queue_runs() -> None:
    ran: list[int] = []
    workers = Workers(asyncio.get_running_loop(), 1, set())

    async def work(number: int) -> None:
        ran.append(number)

    workers.run(work(0))
    await until(lambda: ran == [0])
    (task,) = workers.tasks
    await asyncio.sleep(0)
    workers.run(work(1))  # it is woken for this one
    task.cancel()
    await until(lambda: ran == [0, 1])
    assert task.cancelled()
    await until(lambda: task not in workers.tasks)
    (other,) = workers.tasks
    other.cancel()  # while it is idle
    await asyncio.wait({other})
    workers.run(work(2))
    await until(lambda: ran == [0, 1, 2])
    workers.close()
    await asyncio.wait(set(workers.tasks))


async def test_stop_waits_for_a_handler_that_a_worker_runs() -> None:
    held, ended = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        held.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            ended.set()

    async with serving(behaviour, shared_workers=2) as backend, channel_to(backend) as channel:
        call = unary(channel)(Item())
        await held.wait()
        await backend.server.stop(None)
        assert ended.is_set()
        assert (await failure(call)).code() is StatusCode.UNAVAILABLE
    gc.collect()


@pytest.mark.parametrize("name", ["shared_workers", "max_concurrent_rpcs"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_numbers_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}: it must be a whole number from 1 on"):
        lbkit.Server(**{name: value})
