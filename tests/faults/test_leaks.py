"""Figure F15: two hundred channels are opened and closed, half of them to nobody, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest

import lbkit
from tests.faults.load import tell
from tests.support.servers import PATIENCE_S, Backend, Item, channel_to, failure, unary, until

FDS = Path("/proc/self/fd")
CHANNELS = 200
CALLS = 5

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not FDS.exists(), reason="needs /proc")]


def left() -> tuple[int, int, int]:
    """How many descriptors, threads and tasks there are."""
    return len(list(FDS.iterdir())), threading.active_count(), len(asyncio.all_tasks())


async def use(number: int, backend: Backend, dead: int) -> None:
    """Open a channel, use it, and close it in one way or another, with a call in flight too."""
    channel = channel_to(backend if number % 2 else dead, keepalive=1.0)
    call = unary(channel)
    if number % 2:
        for _ in range(CALLS):
            await call(Item(number=number), timeout=PATIENCE_S)
        running = call(Item(text="wait"), timeout=PATIENCE_S)
        await asyncio.sleep(0.001)
    else:
        error = await failure(call(Item(), timeout=PATIENCE_S))
        assert error.code() is lbkit.StatusCode.UNAVAILABLE
        running = call(Item(), wait_for_ready=True)
    await channel.close(0.01 if number % 3 else None)
    await failure(running)


async def behave(request: Item, context: lbkit.ServicerContext) -> Item:
    """Answer, or wait for the end."""
    if request.text == "wait":
        await asyncio.Event().wait()
    return request


async def test_f15_closed_channels_leave_nothing(unused_tcp_port: int) -> None:
    backend = await Backend(behave).start()
    await use(1, backend, unused_tcp_port)  # loads what is loaded at first use
    await until(lambda: len(asyncio.all_tasks()) == 1)
    gc.collect()
    before = left()
    for number in range(0, CHANNELS, 10):
        await asyncio.gather(*(use(number + each, backend, unused_tcp_port) for each in range(10)))
    gc.collect()
    await until(lambda: left() == before)
    after = left()
    tell("F15 channels opened and closed", CHANNELS, 0, f"descriptors, threads, tasks: {before} then {after}")
    assert after == before
    await backend.server.stop(None)
    await until(lambda: left()[0] < before[0])  # the listening socket
