"""Figures F12 and F13: thousands of calls that are given up on one connection, which goes on to serve."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from tests.faults.fleet import Backend, Fleet
from tests.faults.load import milliseconds, tell
from tests.faults.node import EARLY
from tests.faults.uids import Ledger, check
from tests.support.servers import PATIENCE_S, Item, all_connected, unary

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]

CANCELS = 20_000
DEADLINES = 5_000
PART = 1_000  # of the deadlines
AT_ONCE = 50  # half as many as there are streams: a stream that was reset counts until its handler has ended
LONGEST_MS = 20
HASTY = 0.1  # of the calls are cancelled at any point, the others once their handlers run
HANDLER_MS = 50
LARGE = 3 * 2**20  # more than the windows begin with


async def from_workers(count: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do something so often, ``AT_ONCE`` at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def nothing_runs(backend: Backend) -> tuple[float, dict[str, Any]]:
    """Wait until no handler runs; return how long that took, and what the backend has seen."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (seen := await backend.ask())["running"]:
        assert loop.time() - began < PATIENCE_S, f"{seen['running']} handlers still run"
        await asyncio.sleep(0.01)
    return loop.time() - began, seen


async def large_calls_work(channel: lbkit.Channel) -> None:
    """Use the windows up several times: a byte of them that a cancelled call has taken away is missed in the end."""
    for _ in range(5):
        body = random.randbytes(LARGE)
        reply = await unary(channel)(Item(body=body), timeout=PATIENCE_S)
        assert reply.body.endswith(body)


async def test_f12_20_000_cancelled_calls_on_one_connection(tmp_path: Path) -> None:
    rng = random.Random(12)
    async with Fleet(1, tmp_path) as fleet, fleet.channel() as channel:
        (backend,) = fleet.backends
        await all_connected(channel, 1)
        method = unary(channel)
        ledger = Ledger()
        texts: Counter[str] = Counter()  # of what else they ended with
        body = EARLY + b"b" * 2000

        async def cancel_one(number: int) -> None:
            uid = str(number)
            call = method(
                Item(text=uid, number=rng.randint(0, 10 * LONGEST_MS), body=body), timeout=PATIENCE_S
            )
            try:
                if rng.random() > HASTY:
                    await call.initial_metadata()
                await asyncio.sleep(rng.uniform(0.0, LONGEST_MS / 1000))
                call.cancel()
                ledger.answers[uid] = (await call).text
            except asyncio.CancelledError:
                ledger.failures[uid] = StatusCode.CANCELLED
            except lbkit.RpcError as error:
                ledger.failures[uid] = StatusCode.of(error.code())
                texts[error.details()] += 1

        began = asyncio.get_running_loop().time()
        await from_workers(CANCELS, cancel_one)
        took = asyncio.get_running_loop().time() - began
        left_s, seen = await nothing_runs(backend)
        await large_calls_work(channel)
        found = check(ledger, {uid: times for uid, times in fleet.entries().items() if uid})
        codes = Counter(code.name for code in ledger.failures.values())
        tell(
            "F12 cancel storm on one connection",
            ledger.calls,
            sum(count for name, count in codes.items() if name != "CANCELLED"),
            f"{codes['CANCELLED']} cancelled, {len(ledger.answers)} answered first, in {took:.1f} s",
            f"the last handler ended {left_s * 1000:.0f} ms after (<= 1000)",
            f"{seen['cancelled']} handlers cancelled, {seen['counted'].get('resets', 0)} resets counted",
            f"{seen['connections']} connections, {found!s}, {dict(texts)}",
        )
        assert codes.keys() <= {"CANCELLED"}
        assert found.good
        assert left_s <= 1.0
        assert seen["connections"] == {backend.name: 1}
        assert not seen["exceeded"]
        assert channel.subchannels()[0].in_flight == 0


async def test_f13_5_000_deadlines_pass_at_both_ends() -> None:
    rng = random.Random(13)
    async with Fleet(1) as fleet, fleet.channel() as channel:
        (backend,) = fleet.backends
        await all_connected(channel, 1)
        method = unary(channel)
        loop = asyncio.get_running_loop()
        late: list[float] = []
        codes: Counter[str] = Counter()
        texts: Counter[str] = Counter()

        async def miss_one(number: int) -> None:
            timeout = rng.uniform(0.001, 0.020)
            began = loop.time()
            try:
                await method(Item(number=HANDLER_MS), timeout=timeout)
            except lbkit.RpcError as error:
                codes[StatusCode.of(error.code()).name] += 1
                if error.code() is not StatusCode.DEADLINE_EXCEEDED:
                    texts[error.details()] += 1
            else:
                codes["OK"] += 1
            late.append(loop.time() - began - timeout)

        began = loop.time()
        await from_workers(DEADLINES, miss_one)
        took = loop.time() - began
        left_s, seen = await nothing_runs(backend)
        await large_calls_work(channel)
        # A machine that stands still for a moment spoils one part of the storm, and not the middle one.
        parts = [sorted(late[first : first + PART]) for first in range(0, DEADLINES, PART)]
        middle = sorted(part[int(PART * 0.99)] for part in parts)[len(parts) // 2]
        late.sort()
        tell(
            "F13 deadline storm on one connection",
            DEADLINES,
            DEADLINES - codes["DEADLINE_EXCEEDED"],
            f"in {took:.1f} s, after the deadline by {milliseconds(late)} (p99 <= 20)",
            f"{seen['calls']} handlers began, {seen['cancelled']} cancelled, the last {left_s * 1000:.0f} ms after",
            f"{seen['counted'].get('resets', 0)} resets counted, {seen['counted'].get('late_frames', 0)} late frames",
            f"{seen['connections']} connections, {dict(texts)}",
        )
        assert codes == {"DEADLINE_EXCEEDED": DEADLINES}
        assert late[len(late) // 2] <= 0.02
        assert middle <= 0.1  # the p99; 20 ms on a quiet machine
        assert left_s <= 1.0
        assert seen["connections"] == {backend.name: 1}
        assert not seen["exceeded"]
