"""How a command that runs for a while ends: tidily on the first signal, at once on the second."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any


def run(main: Coroutine[Any, Any, int], at_once: Callable[[], None] = lambda: None) -> int:
    """Run ``main`` on a new event loop; SIGINT or SIGTERM cancels it.

    Args:
        main: what to do.
        at_once: called on the second signal, just before the process ends there and then.

    Returns:
        What ``main`` returns; 128 + the signal's number if a signal cancelled it, as shells count.
    """
    caught: list[int] = []

    async def guarded() -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main)

        def stop(number: int) -> None:
            caught.append(number)
            if len(caught) > 1:
                at_once()
                os._exit(128 + number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            return await task
        except asyncio.CancelledError:
            if not caught:
                raise
            return 128 + caught[0]

    return asyncio.run(guarded())
