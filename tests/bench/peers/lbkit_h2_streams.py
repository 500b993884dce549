"""lbkit's own client and server on the h2 engine, with streams."""

from __future__ import annotations

import asyncio
import os

from tests.bench.peers.command import main
from tests.bench.peers.lbkit_streams import measure, serve

if __name__ == "__main__":
    os.environ["LBKIT_HTTP2_ENGINE"] = "h2"  # read when a channel or a server is made
    main(serve, None, lambda job: asyncio.run(measure(job)))
