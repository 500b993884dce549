"""Plain unary calls of this checkout beside those of another: what it costs to have what a call does not use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from tests.bench.matrix import Cell, Measured, Results, measure_once
from tests.bench.processes import Cores, serving

OWN, OTHER = "this checkout", "the other"
CROWDS = ((3, 32), (1, 1))  # backends, and calls in flight
_MODULE = "tests.bench.peers.lbkit_peer"


def measure(
    other: Path, cores: Cores, rounds: int, seconds: float, progress: Callable[[str], None]
) -> Results:
    """Measure both at both ends, once per round and in turn.

    Args:
        other: the root of the other checkout. Its client, its server and its load are run, by this interpreter.
        cores: where they run.
        rounds: how often.
        seconds: how long each time.
        progress: is told what is going on.
    """
    homes = {OWN: None, OTHER: other}
    results: Results = {
        Cell(name, name, backends, in_flight): Measured() for backends, in_flight in CROWDS for name in homes
    }
    most = max(backends for backends, _ in CROWDS)
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(_MODULE, cores.server, most, home=home))
            for name, home in homes.items()
        }
        for number in range(rounds):
            for place, (cell, measured) in enumerate(results.items(), 1):
                progress(f"round {number + 1} of {rounds}, run {place} of {len(results)}")
                if not measured.failure:
                    options = ["--in-flight", str(cell.in_flight), "--seconds", str(seconds)]
                    used = servers[cell.server][: cell.backends]
                    measure_once(measured, _MODULE, options, used, cores, homes[cell.client])
    return results
