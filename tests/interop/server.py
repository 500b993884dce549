"""Serve the test service: ``python -m tests.interop.server --port=0 [--implementation=grpcio_aio]``.

Prints where it listens, and serves until SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence

from tests.interop.flags import boolean
from tests.interop.implementations import IMPLEMENTATIONS, LOCAL, serving


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags, which are the usual ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.server", allow_abbrev=False)
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, default="lbkit")
    parser.add_argument("--host", default=LOCAL, help="the address to listen at")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument("--use_tls", type=boolean, default=False, help="false is all there is")
    found = parser.parse_args(arguments)
    if found.use_tls:
        parser.error("--use_tls=true: only plaintext is tested")
    return found


async def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    flags = parse(arguments)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    async with serving(flags.implementation, flags.host, flags.port) as port:
        print(f"{flags.implementation} listens at {flags.host}:{port}", flush=True)
        await over.wait()


if __name__ == "__main__":
    asyncio.run(main())
