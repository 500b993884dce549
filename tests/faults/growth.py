"""What a process holds, looked at between rounds of calls, and how it grows with them."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import combinations
from pathlib import Path
from statistics import median

STATM = Path("/proc/self/statm")
FDS = Path("/proc/self/fd")
_PER = 1000  # calls that growth is told for
_SHOWN = 10
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc


class History:
    """What was held at several moments, each with no call running and the litter taken out.

    It holds its own notes in arrays: an object in each of them would look like a leak.

    Attributes:
        calls: how many were made until then.
        resident_kb: memory in RAM, without what the allocator could give back.
        blocks: of the interpreter's allocator: each object is one or more.
        counted: tasks, descriptors, threads and connections, which must stay the same; and how often they were.
    """

    def __init__(self) -> None:
        self.calls = array("d")
        self.resident_kb = array("d")
        self.blocks = array("d")
        self.counted: Counter[tuple[int, int, int, int]] = Counter()

    def look(self, calls: int, connections: int = 0) -> None:
        """Take the litter out, and note what this process holds after so many calls."""
        gc.collect()
        if _TRIM is not None:  # what is free inside the heap is nobody's leak
            _TRIM(0)
        self.calls.append(calls)
        self.resident_kb.append(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1000)
        self.blocks.append(sys.getallocatedblocks())
        fds = sum(1 for _ in FDS.iterdir())
        self.counted[len(asyncio.all_tasks()), fds, threading.active_count(), connections] += 1

    def slope(self, values: array[float]) -> float:
        """Return by how much these values grow in 1000 calls: the median of what each two looks say (Theil and Sen).

        A step up, as of an allocator that takes another piece from the system, bends it less than a line through all.
        """
        looks = list(zip(self.calls, values, strict=True))
        return _PER * median(
            (more - less) / (later - sooner) for (sooner, less), (later, more) in combinations(looks, 2)
        )

    def grows(self, values: array[float], *, most: float, noise: float) -> bool:
        """Whether these values grow by ``most`` in 1000 calls or faster, and in all by more than ``noise``.

        On a busy machine the calls are few, and what comes and goes with none of them looks steep.
        """
        slope = self.slope(values)
        return slope >= most and slope * (self.calls[-1] - self.calls[0]) / _PER > noise


async def culprits(work: Callable[[], Awaitable[object]]) -> str:
    """Do something twice, and say which lines allocated what is left of the second time, most first."""
    tracemalloc.start()
    try:
        await work()
        gc.collect()
        before = tracemalloc.take_snapshot()
        await work()
        gc.collect()
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    own = tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)
    # By line: what was there before and only changed places is none.
    grown = after.filter_traces([own]).compare_to(before.filter_traces([own]), "lineno")
    lines = []
    for each in grown[:_SHOWN]:
        where = " ".join(line.strip() for line in each.traceback.format())
        lines.append(f"{each.size_diff:+} bytes in {each.count_diff:+} blocks: {where}")
    return "\n".join(lines)
