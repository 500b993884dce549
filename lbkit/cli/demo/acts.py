"""The acts: what happens in each, and the figures that are judged."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import lbkit
from lbkit.cli.demo.fleet import LEASE_S, Process
from lbkit.cli.demo.stage import Progress, Stage, errors, shares
from lbkit.cli.demo.verdicts import (
    Check,
    Verdict,
    at_most,
    enough_calls,
    even_shares,
    exit_by_itself,
    not_found,
    same_file,
    same_subchannels,
    soon,
    weighted_shares,
)
from lbkit.cli.load import Record, first_line
from lbkit.protos import demo

NEWS_WITHIN_S = 10.0  # milliseconds, as is seen; so much is for a machine that has much else to do
EXPIRED_WITHIN_S = LEASE_S + NEWS_WITHIN_S
EXIT_WITHIN_S = 15.0
WEIGHTS = (1, 1, 2, 4)
FILE_BYTES = 32 * 2**20
READ_IN_S = 1.5  # slowly, to be watched; what is not read yet waits at the backend


def _judge_calls(stage: Stage, records: Sequence[Record], backends: Sequence[Process]) -> list[Check]:
    """Expect as many calls as were wanted, none failed, and even shares."""
    return _judge(stage, records, even_shares(shares(records), [backend.name for backend in backends]))


def _judge(stage: Stage, records: Sequence[Record], spread: Check) -> list[Check]:
    """Expect as many calls as were wanted, none failed, and spread as they should be."""
    checks = [at_most("failed calls", errors(records), 0, len(records)), spread]
    if len(records) < stage.calls:
        checks.insert(0, enough_calls(len(records), stage.calls, stage.limit_s))
    return checks


async def equal_shares(stage: Stage) -> Verdict:
    """Act 1: everybody gets as much as everybody else."""
    records = await stage.next_calls()
    return Verdict(1, "equal shares over four backends", _judge_calls(stage, records, stage.serving))


async def weigh(stage: Stage) -> Verdict:
    """Act 2: weights are put into the registry; shares follow, and connections stay. Then all are equal again."""
    backends = stage.serving
    before = stage.channel.subchannels()
    took_s = await stage.weigh(WEIGHTS)
    records = await stage.next_calls()
    weights = {backend.name: float(weight) for backend, weight in zip(backends, WEIGHTS, strict=True)}
    checks = [
        soon("weights in use", took_s, NEWS_WITHIN_S),
        *_judge(stage, records, weighted_shares(shares(records), weights)),
        same_subchannels(before, stage.channel.subchannels()),
    ]
    await stage.weigh([1.0] * len(backends))
    return Verdict(2, f"weights {':'.join(map(str, WEIGHTS))}, put into the registry", checks)


def _make_file(file: Path) -> str:
    """Write a file of which no part is like another; return its hash."""
    content = os.urandom(FILE_BYTES)
    file.write_bytes(content)
    return sha256(content).hexdigest()


async def download(stage: Stage) -> Verdict:
    """Act 3: a file through the same channel, while the calls go on."""
    file = stage.fleet.folder / "demo.bin"
    sent = await asyncio.to_thread(_make_file, file)
    files = stage.channel.stub(demo, "Files")
    digest, done, pieces, error = sha256(), 0, 0, ""
    already_over = len(stage.over)
    call = files.Download(demo.DownloadRequest(name=file.name), timeout=stage.limit_s)
    try:
        async for piece in call:
            digest.update(piece.data)
            done += len(piece.data)
            stage.download = Progress(done, FILE_BYTES)
            await asyncio.sleep(READ_IN_S * len(piece.data) / FILE_BYTES)
    except lbkit.RpcError as failure:
        error = first_line(failure)
    stage.download = None
    during = stage.over[already_over:]
    # There is a file at that path, but no such name in the folder.
    missing = files.Download(
        demo.DownloadRequest(name=f"../{file.parent.name}/{file.name}"), timeout=stage.limit_s
    )
    with suppress(lbkit.RpcError):
        async for _ in missing:
            pieces += 1
    checks = [
        same_file((FILE_BYTES, sent), (done, digest.hexdigest()), error),
        not_found((await missing.code()).name, pieces),
        at_most("failed calls", errors(during), 0, len(during)),
    ]
    file.unlink()
    source = next((backend.name for backend in stage.serving if backend.address == call.backend), "nobody")
    return Verdict(3, f"{FILE_BYTES // 2**20} MiB from {source}, as calls go on", checks)


async def kill_one(stage: Stage) -> Verdict:
    """Act 4: ``kill -9`` of one, which stays listed until its lease ends; only what was on its way there may be lost."""
    victim = stage.serving.pop(1)
    in_flight = stage.in_flight_on(victim)
    first, already_over = stage.load.started, len(stage.over)
    clock = asyncio.get_running_loop().time
    victim.signal(signal.SIGKILL)
    killed_s = clock()
    took_s = await stage.until(lambda: not stage.ready(victim), NEWS_WITHIN_S)
    before = stage.load.started
    records = await stage.next_calls()
    during = [record for record in stage.over[already_over:] if record.number < before]
    there = [record for record in during if record.address == victim.address]
    late = sum(record.number >= first for record in there)  # sent before the end of the connection was read
    gone = await stage.until(lambda: not stage.listed(victim), killed_s + EXPIRED_WITHIN_S - clock())
    checks = [
        soon("death noticed", took_s, NEWS_WITHIN_S),
        at_most("lost with it", errors(there), len(in_flight) + late, len(there), "on their way to it"),
        at_most("lost elsewhere", errors(set(during) - set(there)), 0, len(during) - len(there)),
        *_judge_calls(stage, records, stage.serving),
        soon("off the list", None if gone is None else clock() - killed_s, EXPIRED_WITHIN_S),
    ]
    return Verdict(4, f"kill -9 of {victim.name}, and its lease of {LEASE_S} s ends", checks)


async def add_one(stage: Stage) -> Verdict:
    """Act 5: a new one starts, and registers itself."""
    newcomer = await stage.fleet.start()
    stage.serving.append(newcomer)
    took_s = await stage.until(lambda: bool(stage.in_flight_on(newcomer)), NEWS_WITHIN_S)
    records = await stage.next_calls()
    checks = [
        soon("first call to it", took_s, NEWS_WITHIN_S),
        *_judge_calls(stage, records, stage.serving),
    ]
    return Verdict(5, f"{newcomer.name} registers itself", checks)


async def drain_one(stage: Stage) -> Verdict:
    """Act 6: SIGTERM of one; it leaves the list first, not a single call is lost, and its process ends by itself."""
    leaver = stage.serving.pop(0)
    clock = asyncio.get_running_loop().time
    already_over = len(stage.over)
    open_there = len(stage.in_flight_on(leaver))
    began = clock()
    leaver.signal(signal.SIGTERM)
    left_s = await stage.until(lambda: not stage.listed(leaver), NEWS_WITHIN_S)
    alive = leaver.running
    status: int | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(EXIT_WITHIN_S):
            status = await leaver.ended()
    took_s = clock() - began
    before = stage.load.started
    records = await stage.next_calls()
    during = [record for record in stage.over[already_over:] if record.number < before]
    checks = [
        soon("off the list, still up", left_s if alive else None, NEWS_WITHIN_S),
        at_most("failed as it drained", errors(during), 0, len(during), f"{open_there} were in flight to it"),
        exit_by_itself(status, took_s, EXIT_WITHIN_S),
        *_judge_calls(stage, records, stage.serving),
    ]
    return Verdict(6, f"{leaver.name} leaves on SIGTERM: off the list, then drained", checks)


async def lose_registry(stage: Stage) -> Verdict:
    """Act 7: ``kill -9`` of the registry. The last list stays in use, so nobody notices."""
    registry = stage.fleet.registry
    assert registry is not None, "there is no such act with somebody else's etcd"
    before = stage.channel.subchannels()
    registry.signal(signal.SIGKILL)
    took_s = await stage.until(lambda: stage.channel.discovery().error is not None, NEWS_WITHIN_S)
    records = await stage.next_calls()
    checks = [
        soon("loss noticed", took_s, NEWS_WITHIN_S),
        *_judge_calls(stage, records, stage.serving),
        same_subchannels(before, stage.channel.subchannels()),
    ]
    return Verdict(7, "kill -9 of the registry: calls go on", checks)


Act: TypeAlias = Callable[[Stage], Awaitable[Verdict]]

ACTS: Sequence[tuple[str, Act]] = (
    ("act 1: equal shares over four backends", equal_shares),
    (f"act 2: weights {':'.join(map(str, WEIGHTS))}", weigh),
    ("act 3: download of a file, slowly, to be watched", download),
    ("act 4: kill -9 of one of them", kill_one),
    ("act 5: a new one registers itself", add_one),
    ("act 6: one leaves gracefully", drain_one),
    ("act 7: kill -9 of the registry", lose_registry),
)
