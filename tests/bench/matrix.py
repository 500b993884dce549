"""The mixed matrix: each client against each server, alternating, medians of the rounds."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from tests.bench.load import Sample
from tests.bench.processes import BrokenError, Cores, run, serving

BASELINE = "grpcio.aio"
BACKENDS = (1, 3)
_TIMEOUT_S = 30.0  # for a run of a second or two


@dataclass(frozen=True, slots=True)
class Peer:
    """One implementation: its name in tables, its module here and the package that it needs."""

    name: str
    module: str
    package: str
    serves: bool = True
    balances: bool = True

    @property
    def path(self) -> str:
        """The module to run."""
        return f"tests.bench.peers.{self.module}"

    @property
    def installed(self) -> bool:
        """Tell whether the package can be found, without importing it."""
        return importlib.util.find_spec(self.package) is not None


ON_H2 = "lbkit on h2"  # the same, but for the engine

PEERS = (
    Peer("lbkit", "lbkit_peer", "lbkit"),
    Peer(BASELINE, "grpcio_aio", "grpc"),
    Peer("grpcio blocking", "grpcio_blocking", "grpc", serves=False),
    Peer("grpclib", "grpclib_peer", "grpclib", balances=False),
    Peer(ON_H2, "lbkit_h2", "h2"),
)

_MODULES = {peer.name: peer.path for peer in PEERS}


@dataclass(frozen=True, slots=True)
class Cell:
    """One pairing: a client, the implementation of its backends, how many of them, how many calls at once."""

    client: str
    server: str
    backends: int
    in_flight: int


@dataclass(slots=True)
class Measured:
    """The samples of one cell, one per round; a failure instead when it broke."""

    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    def middle(self, value: str) -> float | None:
        """Return the median of one value of the samples; None when there is none."""
        found = [getattr(sample, value) for sample in self.samples]
        return median(found) if found and None not in found else None


Results = dict[Cell, Measured]
Key = TypeVar("Key", bound=Hashable)


def cells(quick: bool) -> list[Cell]:
    """List what is measured, in the order of the table; ``quick`` keeps what the verdicts need and a little more."""
    clients = [peer for peer in PEERS if peer.installed]
    servers = [peer for peer in clients if peer.serves]
    listed = [
        Cell(client.name, server.name, backends, in_flight)
        for backends in BACKENDS
        for in_flight in (1, 32)
        for server in servers
        for client in clients
        if backends == 1 or client.balances
        if (client.name == ON_H2)
        == (server.name == ON_H2)  # for what the engine costs, one pairing is enough
    ]
    return [cell for cell in listed if _essential(cell)] if quick else listed


def _essential(cell: Cell) -> bool:
    if (cell.backends, cell.in_flight) == (3, 32):
        return True
    return (cell.backends, cell.in_flight) == (1, 1) and cell.client == cell.server


def measure(
    chosen: Sequence[Cell], cores: Cores, rounds: int, seconds: float, progress: Callable[[str], None]
) -> Results:
    """Measure every cell once per round, so that a change of the machine's mood falls on all of them.

    Servers of all kinds run through all rounds; each run has a client process of its own.
    """
    results: Results = {cell: Measured() for cell in chosen}
    with contextlib.ExitStack() as stack:
        servers: dict[str, list[tuple[int, int]]] = {}
        for name in dict.fromkeys(cell.server for cell in chosen):
            try:
                servers[name] = stack.enter_context(serving(_MODULES[name], cores.server, max(BACKENDS)))
            except BrokenError as error:
                for cell in chosen:
                    if cell.server == name:
                        results[cell].failure = str(error)
        for number in range(rounds):
            for place, cell in enumerate(chosen, 1):
                progress(f"round {number + 1} of {rounds}, cell {place} of {len(chosen)}")
                if not results[cell].failure:
                    used = servers[cell.server][: cell.backends]
                    options = ["--in-flight", str(cell.in_flight), "--seconds", str(seconds)]
                    measure_once(results[cell], _MODULES[cell.client], options, used, cores)
    return results


def measure_once(
    into: Measured,
    module: str,
    options: Sequence[str],
    used: Sequence[tuple[int, int]],
    cores: Cores,
    home: Path | None = None,
) -> None:
    """Run one client process against servers, each a pid and a port; add its sample, or its failure."""
    arguments = [
        *("load", *options),
        *("--pids", ",".join(str(pid) for pid, _ in used)),
        *("--ports", ",".join(str(port) for _, port in used)),
    ]
    try:
        found = run(module, arguments, cores.client, _TIMEOUT_S, home)
        into.samples.append(Sample.from_json(found))
    except BrokenError as error:
        into.failure = str(error)


def ratios(results: Mapping[Key, Measured], cell: Key, against: Key, value: str) -> list[float]:
    """Divide one value of a cell by another cell's, round by round: both saw the machine in the same mood.

    The round in which other processes took least comes first.
    """
    if cell not in results or against not in results:
        return []
    rounds = zip(results[cell].samples, results[against].samples, strict=False)
    pairs = sorted(rounds, key=lambda pair: sum(sample.other_cores or 0.0 for sample in pair))
    values = [(getattr(one, value), getattr(other, value)) for one, other in pairs]
    return [one / other for one, other in values if one is not None and other]


def other_cores(results: Mapping[Any, Measured]) -> float | None:
    """Return the median number of cores that other processes kept busy meanwhile: 0 on a quiet machine."""
    found = [sample.other_cores for measured in results.values() for sample in measured.samples]
    known = [value for value in found if value is not None]
    return median(known) if known else None


def as_json(results: Results) -> Iterator[dict[str, Any]]:
    """Give one JSON object per cell, with every sample."""
    for cell, measured in results.items():
        yield {
            "client": cell.client,
            "server": cell.server,
            "backends": cell.backends,
            "in_flight": cell.in_flight,
            "failure": measured.failure or None,
            "samples": [sample.as_json() for sample in measured.samples],
        }
