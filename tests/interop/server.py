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
from tests.interop.security import Identity, shared


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags, which are the usual ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.server", allow_abbrev=False)
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, default="lbkit")
    parser.add_argument("--host", default=LOCAL, help="the address to listen at")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument("--use_tls", type=boolean, default=False)
    parser.add_argument("--tls_cert_file", help="by default one of the test CA, which is printed")
    parser.add_argument("--tls_key_file", help="its key")
    parser.add_argument("--max_concurrent_streams", type=int, help="of one connection")
    found = parser.parse_args(arguments)
    if bool(found.tls_cert_file) != bool(found.tls_key_file):
        parser.error("--tls_cert_file and --tls_key_file belong together")
    if found.tls_cert_file and not found.use_tls:
        parser.error("--tls_cert_file needs --use_tls=true")
    return found


def identity_of(flags: argparse.Namespace) -> Identity | None:
    """What the flags say to show; nothing for plaintext."""
    if not flags.use_tls:
        return None
    if flags.tls_cert_file:
        return Identity(flags.tls_cert_file, flags.tls_key_file)
    identity, trust = shared()
    print(f"clients need --ca_file={trust.ca}", flush=True)
    return identity


async def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    flags = parse(arguments)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    listening = serving(
        flags.implementation,
        flags.host,
        flags.port,
        identity=identity_of(flags),
        streams=flags.max_concurrent_streams,
    )
    async with listening as port:
        print(f"{flags.implementation} listens at {flags.host}:{port}", flush=True)
        await over.wait()


if __name__ == "__main__":
    asyncio.run(main())
