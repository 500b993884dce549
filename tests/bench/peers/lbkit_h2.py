"""lbkit's own client and server on the h2 engine, with unary calls."""

from __future__ import annotations

import os

from tests.bench.peers.command import main
from tests.bench.peers.lbkit_peer import connect, serve

if __name__ == "__main__":
    os.environ["LBKIT_HTTP2_ENGINE"] = "h2"  # read when a channel or a server is made
    main(serve, connect)
