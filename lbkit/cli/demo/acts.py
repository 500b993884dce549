"""The four acts: what happens in each, and the figures that are judged."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from lbkit.cli.demo.fleet import Backend
from lbkit.cli.demo.stage import Stage, errors, shares
from lbkit.cli.demo.verdicts import Check, Verdict, at_most, enough_calls, even_shares, exit_by_itself, soon
from lbkit.cli.load import Record

NOTICED_WITHIN_S = 1.0
JOINED_WITHIN_S = 1.0
EXIT_WITHIN_S = 6.0


def _judge_calls(stage: Stage, records: Sequence[Record], backends: Sequence[Backend]) -> list[Check]:
    """Expect as many calls as were wanted, none failed, and even shares."""
    checks = [
        at_most("failed calls", errors(records), 0, len(records)),
        even_shares(shares(records), [backend.name for backend in backends]),
    ]
    if len(records) < stage.calls:
        checks.insert(0, enough_calls(len(records), stage.calls, stage.limit_s))
    return checks


async def equal_shares(stage: Stage) -> Verdict:
    """Act 1: everybody gets as much as everybody else."""
    records = await stage.next_calls()
    return Verdict(1, "equal shares over four backends", _judge_calls(stage, records, stage.on_list))


async def kill_one(stage: Stage) -> Verdict:
    """Act 2: ``kill -9`` of one, which stays in the list; only what was on its way there may be lost."""
    victim = stage.on_list[1]
    in_flight = stage.in_flight_on(victim)
    first, already_over = stage.load.started, len(stage.over)
    victim.signal(signal.SIGKILL)
    took_s = await stage.until(lambda: not stage.ready(victim), NOTICED_WITHIN_S)
    before = stage.load.started
    records = await stage.next_calls()
    during = [record for record in stage.over[already_over:] if record.number < before]
    there = [record for record in during if record.address == victim.address]
    late = sum(record.number >= first for record in there)  # sent before the end of the connection was read
    checks = [
        soon("death noticed", took_s, NOTICED_WITHIN_S),
        at_most("lost with it", errors(there), len(in_flight) + late, len(there), "on their way to it"),
        at_most("lost elsewhere", errors(set(during) - set(there)), 0, len(during) - len(there)),
        *_judge_calls(stage, records, [backend for backend in stage.on_list if backend is not victim]),
    ]
    return Verdict(2, f"kill -9 of {victim.name}, which stays in the list", checks)


async def add_one(stage: Stage) -> Verdict:
    """Act 3: the list loses the dead one and gains a new one."""
    newcomer = await stage.fleet.start()
    alive = [backend for backend in stage.on_list if backend.process.returncode is None]
    stage.announce([*alive, newcomer])
    took_s = await stage.until(lambda: bool(stage.in_flight_on(newcomer)), JOINED_WITHIN_S)
    records = await stage.next_calls()
    checks = [
        soon("first call to it", took_s, JOINED_WITHIN_S),
        *_judge_calls(stage, records, stage.on_list),
    ]
    return Verdict(3, f"{newcomer.name} joins", checks)


async def drain_one(stage: Stage) -> Verdict:
    """Act 4: SIGTERM of one; not a single call is lost, and its process ends by itself."""
    leaver = stage.on_list[0]
    clock = asyncio.get_running_loop().time
    already_over = len(stage.over)
    open_there = len(stage.in_flight_on(leaver))
    began = clock()
    leaver.signal(signal.SIGTERM)
    status: int | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(EXIT_WITHIN_S):
            await stage.until(lambda: not stage.ready(leaver), EXIT_WITHIN_S)
            status = await leaver.process.wait()
    took_s = clock() - began
    before = stage.load.started
    records = await stage.next_calls()
    during = [record for record in stage.over[already_over:] if record.number < before]
    checks = [
        at_most("failed as it drained", errors(during), 0, len(during), f"{open_there} were in flight to it"),
        exit_by_itself(status, took_s, EXIT_WITHIN_S),
        *_judge_calls(stage, records, [backend for backend in stage.on_list if backend is not leaver]),
    ]
    return Verdict(4, f"{leaver.name} drains on SIGTERM", checks)


ACTS: Sequence[tuple[str, Callable[[Stage], Awaitable[Verdict]]]] = (
    ("act 1: equal shares over four backends", equal_shares),
    ("act 2: kill -9 of one of them", kill_one),
    ("act 3: a new one joins", add_one),
    ("act 4: one drains gracefully", drain_one),
)
