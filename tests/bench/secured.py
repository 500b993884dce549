"""Unary calls over TLS, each implementation at both ends."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench.matrix import BASELINE, Cell, Measured, Results, measure_once
from tests.bench.processes import Cores, serving
from tests.support.certificates import certificates

PATHS = "LBKIT_BENCH_CERTIFICATES"  # in the environment of the peers
OWN, THEIRS = Cell("lbkit", "lbkit", 1, 32), Cell(BASELINE, BASELINE, 1, 32)
_MODULES = {OWN: "tests.bench.peers.lbkit_tls", THEIRS: "tests.bench.peers.grpcio_tls"}


def measure(cores: Cores, rounds: int, seconds: float) -> Results:
    """Measure both once per round, in turn; each run has processes of its own."""
    known = certificates()
    os.environ[PATHS] = f"{known.ca}:{known.cert}:{known.key}"
    results: Results = {cell: Measured() for cell in _MODULES}
    for _ in range(rounds):
        for cell, module in _MODULES.items():
            with serving(module, cores.server) as servers:
                options = ["--in-flight", str(cell.in_flight), "--seconds", str(seconds)]
                measure_once(results[cell], module, options, servers, cores)
    return results


def pem() -> tuple[bytes, bytes, bytes]:
    """Give the authority's certificate, the server's, and its key. Called by the peers."""
    ca, cert, key = (Path(path).read_bytes() for path in os.environ[PATHS].split(":"))
    return ca, cert, key
