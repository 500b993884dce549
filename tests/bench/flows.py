"""Flows: streams of small messages, and large unary ones; one implementation at both ends, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench import matrix
from tests.bench.flow_load import DOWN, GZIP, STREAMS, UP
from tests.bench.matrix import BASELINE, ON_H2, PEERS, Measured, measure_once
from tests.bench.processes import BrokenError, Cores, serving

STREAMS_AT_ONCE = (1, 8)
BULK_IN_FLIGHT = (1, 4)

# What the modules of an implementation begin with.
_NAMES = {"lbkit": "lbkit", BASELINE: "grpcio", ON_H2: "lbkit_h2"}
_MODULES = {DOWN: "bulk", UP: "bulk", GZIP: "gzip", **dict.fromkeys(STREAMS, "streams")}


@dataclass(frozen=True, slots=True)
class Flow:
    """What flows, between both ends of which implementation, on how many streams at once."""

    peer: str
    kind: str
    in_flight: int

    @property
    def path(self) -> str:
        """The module to run."""
        return f"tests.bench.peers.{_NAMES[self.peer]}_{_MODULES[self.kind]}"


Results = dict[Flow, Measured]


def streams(quick: bool) -> list[Flow]:
    """List the streams that are measured; ``quick`` keeps what the verdict needs."""
    numbers = STREAMS_AT_ONCE[:1] if quick else STREAMS_AT_ONCE
    return [Flow(peer, kind, number) for kind in STREAMS for number in numbers for peer in _peers()]


def bulk(*kinds: str) -> list[Flow]:
    """List the large messages that are measured, of these kinds."""
    return [
        Flow(peer, kind, number)
        for kind in kinds
        for number in BULK_IN_FLIGHT
        for peer in _peers()
        if peer != ON_H2
    ]


def baseline_of(flow: Flow) -> Flow:
    """Return the same of the implementation that others are compared with."""
    return Flow(BASELINE, flow.kind, flow.in_flight)


def measure(
    chosen: Sequence[Flow], cores: Cores, rounds: int, seconds: float, progress: Callable[[str], None]
) -> Results:
    """Measure every flow once per round, the implementations in turn; as the matrix does it."""
    results: Results = {flow: Measured() for flow in chosen}
    with contextlib.ExitStack() as stack:
        servers: dict[str, list[tuple[int, int]]] = {}
        for path in dict.fromkeys(flow.path for flow in chosen):
            try:
                servers[path] = stack.enter_context(serving(path, cores.server))
            except BrokenError as error:
                for flow in chosen:
                    if flow.path == path:
                        results[flow].failure = str(error)
        for number in range(rounds):
            for place, flow in enumerate(chosen, 1):
                progress(f"round {number + 1} of {rounds}, flow {place} of {len(chosen)}")
                if not results[flow].failure:
                    options = ["--kind", flow.kind, "--in-flight", str(flow.in_flight)]
                    options += ["--seconds", str(seconds)]
                    measure_once(results[flow], flow.path, options, servers[flow.path], cores)
    return results


def _peers() -> list[str]:
    """Name those who are compared; in a round they come one right after the other."""
    return [peer.name for peer in PEERS if peer.name in _NAMES and peer.installed]


def other_cores(results: Results) -> float | None:
    """Return how many cores other processes kept busy, by those samples that show it best.

    A dozen runnable threads of grpcio's crowd other work out of a core while they run, so that it is not seen; an
    implementation with one thread shares the core with it.
    """
    found = [matrix.other_cores({flow: measured}) for flow, measured in results.items()]
    return max((value for value in found if value is not None), default=None)


def as_json(results: Results) -> Iterator[dict[str, Any]]:
    """Give one JSON object per flow, with every sample."""
    for flow, measured in results.items():
        samples = [sample.as_json() for sample in measured.samples]
        yield {**asdict(flow), "failure": measured.failure or None, "samples": samples}
