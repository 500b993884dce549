"""The blocking clients side by side, each against the same asyncio server of lbkit's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.matrix import Measured, measure_once
from tests.bench.processes import Cores, serving

OWN, THEIRS = "lbkit.sync", "grpcio blocking"
THREADS = (1, 16)
_MODULES = {OWN: "tests.bench.peers.lbkit_sync", THEIRS: "tests.bench.peers.grpcio_blocking"}


@dataclass(frozen=True, slots=True)
class Crowd:
    """Which client, with how many threads."""

    client: str
    threads: int


Results = dict[Crowd, Measured]


def measure(cores: Cores, rounds: int, seconds: float, progress: Callable[[str], None]) -> Results:
    """Measure every crowd once per round, the clients in turn; each run has a process of its own."""
    results: Results = {Crowd(client, threads): Measured() for threads in THREADS for client in _MODULES}
    with serving("tests.bench.peers.lbkit_peer", cores.server) as servers:
        for count in range(rounds):
            for place, (crowd, measured) in enumerate(results.items(), 1):
                progress(f"round {count + 1} of {rounds}, crowd {place} of {len(results)}")
                if not measured.failure:
                    options = ["--in-flight", str(crowd.threads), "--seconds", str(seconds)]
                    measure_once(measured, _MODULES[crowd.client], options, servers, cores)
    return results


def as_json(results: Results) -> Iterator[dict[str, Any]]:
    """Give one JSON object per crowd, with every sample."""
    for crowd, measured in results.items():
        samples = [sample.as_json() for sample in measured.samples]
        yield {**asdict(crowd), "failure": measured.failure or None, "samples": samples}
