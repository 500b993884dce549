"""lbkit's server in each of its modes: ``serve MODE``, where MODE is a number of shared workers, or of processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import lbkit
from tests.bench.peers.command import main
from tests.bench.peers.lbkit_peer import Echo, connect
from tests.support.protos import bench_pb2_grpc


def make_server(**options: Any) -> lbkit.Server:
    """Build an echo server."""
    server = lbkit.Server(**options)
    bench_pb2_grpc.add_BenchServicer_to_server(Echo(), server)
    return server


async def serve(workers: int) -> None:
    """Serve in this process for ever."""
    async with make_server(shared_workers=workers or None).serving("127.0.0.1:0") as server:
        tell(server.ports[0], [os.getpid()])
        await server.wait_for_termination()


def tell(port: int, pids: list[int]) -> None:
    """Print what the benchmark has to know."""
    print(json.dumps({"port": port, "pids": pids}), flush=True)


def children() -> list[int]:
    """The worker processes of this one."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


if __name__ == "__main__":
    if sys.argv[1] != "serve":
        main(None, connect)
    elif sys.argv[2] == "processes":
        lbkit.serve(
            make_server,
            "127.0.0.1:0",
            workers=int(sys.argv[3]),
            ready=lambda where: tell(int(where[0].rpartition(":")[2]), children()),
        )
    else:
        asyncio.run(serve(int(sys.argv[3])))
