"""lbkit's own client and server, with unary calls that carry 100 kB in gzip both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import lbkit
from tests.bench.flow_load import GZIP, SERVICE, back, measure_bulk
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.bench.peers.lbkit_bulk import raw


async def serve(ready: Callable[[int], None]) -> None:
    """Run the server for ever."""
    server = lbkit.Server(compression="gzip")
    server.add_registered_method_handlers(SERVICE, {GZIP: raw(back)})
    port = server.bind("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


async def measure(job: Job) -> Sample:
    """Do one job over one channel."""
    (port,) = job.ports
    target = f"static:///127.0.0.1:{port}"
    async with lbkit.Channel(target, balancer="round_robin", compression="gzip") as channel:
        return await measure_bulk(channel.unary_unary(f"/{SERVICE}/{job.kind}"), job)


if __name__ == "__main__":
    main(serve, None, lambda job: asyncio.run(measure(job)))
