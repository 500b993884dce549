"""Be the peer that the command line names."""

from __future__ import annotations

import asyncio
import importlib
import sys

from tests.interop.commands import Interop
from tests.support.peers.protocol import run

MODULES = {"grpclib": "grpclib_peer", "lbkit": "lbkit_peer"}  # the others are named as what they import


async def main(name: str) -> None:
    """Do what the lines of standard input say until it ends."""
    module = importlib.import_module(f"tests.support.peers.{MODULES.get(name, name)}")
    await run(module.Peer(), Interop(name))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
