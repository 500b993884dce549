"""Figure F18: retries while backends fail never become a storm; and what must not be tried again never is."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from tests.faults.fleet import Fleet
from tests.faults.load import Load, kinds, tell
from tests.faults.node import EARLY
from tests.faults.uids import check
from tests.support.servers import all_connected

pytestmark = [pytest.mark.soak, pytest.mark.timeout(120)]

BACKENDS = 3
RATE = 400
SECONDS = 5
RATIO = 0.1
TOKENS = 10

RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.05s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def config(**more: Any) -> str:
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": RETRY}], **more})


THROTTLED = config(retryThrottling={"maxTokens": TOKENS, "tokenRatio": RATIO})
# What bounds the attempts, what the channel is given for it, and how many attempts n calls may make in all.
BOUNDS: dict[str, tuple[dict[str, Any], Any]] = {
    "tokens 10, ratio 0.1": ({"service_config": THROTTLED}, lambda n: n * (1 + RATIO) + TOKENS),
    "budget of 20 %": (
        {"service_config": config(), "retry_budget": lbkit.RetryBudget(0.2, minimum_per_s=0)},
        lambda n: n * 1.2 + 1,
    ),
    "budget of 20 % and 10/s": (
        {"service_config": config(), "retry_budget": lbkit.RetryBudget()},
        lambda n: n * 1.2 + 10 * (10 + SECONDS + 1),
    ),
}


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("failing", [1, BACKENDS])
async def test_f18_retries_stay_within_their_bound(tmp_path: Path, bound: str, failing: int) -> None:
    options, most = BOUNDS[bound]
    fleet = Fleet(BACKENDS, tmp_path)
    for backend in fleet.backends[:failing]:
        backend.node = replace(backend.node, fails=True)
    async with fleet, fleet.channel(**options) as channel:
        await all_connected(channel, BACKENDS)
        load = Load(channel, work_ms=1)
        async with load.at(RATE):
            await asyncio.sleep(SECONDS)
        entries = fleet.entries()
    attempts, calls = sum(entries.values()), len(load.calls)
    tell(
        f"F18 {failing} of {BACKENDS} fail, {bound}",
        calls,
        len(load.failed()),
        f"{attempts / calls:.3f} attempts for each call, at most {most(calls) / calls:.3f} allowed",
        f"{kinds(load.failed())}",
    )
    assert attempts <= most(calls)
    assert {call.code for call in load.failed()} <= {StatusCode.UNAVAILABLE}
    if failing == 1:
        assert attempts > calls  # it does try again


@pytest.mark.parametrize("early", [True, False])
async def test_f1_with_retries_what_had_begun_to_answer_is_never_executed_twice(
    tmp_path: Path, *, early: bool
) -> None:
    async with Fleet(BACKENDS, tmp_path) as fleet, fleet.channel(service_config=config()) as channel:
        await all_connected(channel, BACKENDS)
        load = Load(channel, body=EARLY if early else b"")
        async with load.at(RATE):
            await asyncio.sleep(1.0)
            await fleet.backends[0].kill()
            await asyncio.sleep(1.0)
        found = check(load.ledger, fleet.entries())
    tell(
        f"F1 with retryPolicy, {'headers first' if early else 'headers with the answer'}",
        len(load.calls),
        len(load.failed()),
        str(found),
    )
    assert not found.lost
    assert not found.wrong
    if early:
        assert not found.duplicated  # a server had begun to answer: gRFC A6 forbids it
    else:
        assert not load.failed()  # nothing had come back: tried again elsewhere
