"""Figure F16: a process forks with calls in flight. The parent's go on, and the child is told what it may not use."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.faults.fleet import ROOT, Fleet
from tests.faults.forking import CALLS, CHILDREN
from tests.faults.load import tell

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork"),
]


async def test_f16_a_fork_harms_neither_parent_nor_child() -> None:
    async with Fleet(1) as fleet:
        arguments = ["-m", "tests.faults.forking", fleet.backends[0].address]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(40.0):
            output, _ = await process.communicate()
        seen = await fleet.backends[0].ask()
    assert process.returncode == 0
    said = json.loads(output)
    tell(
        f"F16 fork with {CALLS} calls in flight",
        CALLS,
        CALLS - said["ended_well"],
        f"children: {said['forked']}",
        f"spawned: {said['spawned']}",
        f"{seen['calls']} calls on {sum(seen['connections'].values())} connections",
    )
    assert said["ended_well"] == CALLS
    assert said["forked"] == [["ForkedError at once", "from a child"]] * CHILDREN
    assert said["spawned"] == ["from a child"]
    assert said["after"] == "the parent goes on"
    assert seen["calls"] == CALLS + CHILDREN + 1 + 1
    assert sum(seen["connections"].values()) == 1 + CHILDREN + 1
