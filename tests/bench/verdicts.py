"""The numbers that lbkit promises, each compared with what this run measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench import blocking, flows, plain, secured
from tests.bench.blocking import Crowd
from tests.bench.flow_load import CHAT, DOWN, GATHER, GZIP, STREAM, UP
from tests.bench.flows import Flow
from tests.bench.matrix import BASELINE, Cell, Measured, Results, ratios

BOTH_ENDS = "lbkit at both ends"
CLIENT_ONLY = "lbkit as the client"
ALONE = "lbkit alone"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise: what it says, with which side it holds, and how this run did."""

    promise: str
    scope: str
    figure: str
    met: bool | None

    @property
    def word(self) -> str:
        """Return ``met``, ``MISSED``, or ``not run`` when the figure was not measured."""
        return "not run" if self.met is None else "met" if self.met else "MISSED"


def of_matrix(results: Results) -> Iterator[Verdict]:
    """Judge the mixed matrix."""
    busy, busy_baseline = Cell("lbkit", "lbkit", 3, 32), Cell(BASELINE, BASELINE, 3, 32)
    yield _at_least(
        f"32 in flight, three backends: RPC/s >= 5x {BASELINE} at both ends",
        5.0,
        ratios(results, busy, busy_baseline, "rate"),
        _by_cpu(results.get(busy), results.get(busy_baseline)),
    )
    yield _at_most(
        f"one in flight, one backend: median latency <= 0.5x {BASELINE} at both ends",
        BOTH_ENDS,
        ratios(results, Cell("lbkit", "lbkit", 1, 1), Cell(BASELINE, BASELINE, 1, 1), "median_ms"),
    )
    yield _at_most(
        f"32 in flight, three backends of {BASELINE}: client CPU <= 0.5x {BASELINE}'s client",
        CLIENT_ONLY,
        ratios(results, Cell("lbkit", BASELINE, 3, 32), Cell(BASELINE, BASELINE, 3, 32), "client_us"),
    )


def of_plain(results: Results) -> Iterator[Verdict]:
    """Judge plain calls beside those of another checkout."""
    for backends, in_flight in plain.CROWDS:
        own, other = (Cell(name, name, backends, in_flight) for name in (plain.OWN, plain.OTHER))
        cpu = ratios(results, own, other, "both_us")
        yield _at_least(
            f"plain calls, {in_flight} in flight: RPC/s >= 0.9x those of the other checkout",
            0.9,
            ratios(results, own, other, "rate"),
            f"; CPU of both sides {median(cpu):.2f}x" if cpu else "",
        )


def of_blocking(results: blocking.Results) -> Iterator[Verdict]:
    """Judge the blocking clients."""
    for threads, least in ((16, 2.0), (1, 1.2)):
        own, other = Crowd(blocking.OWN, threads), Crowd(blocking.THEIRS, threads)
        plural = "s" if threads > 1 else ""
        yield _at_least(
            f"blocking calls from {threads} thread{plural}: RPC/s >= {least:g}x {blocking.THEIRS}'s on the same server",
            least,
            ratios(results, own, other, "rate"),
            "",
            CLIENT_ONLY,
        )


def of_tls(results: Results) -> Iterator[Verdict]:
    """Judge unary calls over TLS."""
    yield _at_least(
        f"over TLS, 32 in flight: RPC/s >= 6x {BASELINE} at both ends",
        6.0,
        ratios(results, secured.OWN, secured.THEIRS, "rate"),
        _by_cpu(results.get(secured.OWN), results.get(secured.THEIRS)),
    )


def of_streams(results: flows.Results) -> Iterator[Verdict]:
    """Judge the streams of small messages."""
    for kind, name in ((STREAM, "from the server"), (GATHER, "from the client"), (CHAT, "both ways")):
        own, other = Flow("lbkit", kind, 1), Flow(BASELINE, kind, 1)
        yield _at_least(
            f"100-byte messages streamed {name}: >= 10x {BASELINE}'s messages/s at both ends",
            10.0,
            ratios(results, own, other, "rate"),
            _by_cpu(results.get(own), results.get(other)),
        )


def of_bulk(results: flows.Results) -> Iterator[Verdict]:
    """Judge the large messages."""
    for kind, name in ((DOWN, "download"), (UP, "upload")):
        for in_flight in flows.BULK_IN_FLIGHT:
            own, other = Flow("lbkit", kind, in_flight), Flow(BASELINE, kind, in_flight)
            cpu = ratios(results, other, own, "both_us")
            yield _at_least(
                f"1 MiB {name}, {in_flight} in flight: MB/s >= 0.9x {BASELINE} at both ends",
                0.9,
                ratios(results, own, other, "rate"),
                f"; by CPU of both sides {median(cpu):.2f}x" if cpu else "",
            )


def of_gzip(results: flows.Results) -> Iterator[Verdict]:
    """Judge compressed messages."""
    for in_flight in flows.BULK_IN_FLIGHT:
        own, other = Flow("lbkit", GZIP, in_flight), Flow(BASELINE, GZIP, in_flight)
        cpu = ratios(results, other, own, "both_us")
        yield _at_least(
            f"100 kB in gzip both ways, {in_flight} in flight: RPC/s >= {BASELINE}'s at both ends",
            1.0,
            ratios(results, own, other, "rate"),
            f"; by CPU of both sides {median(cpu):.2f}x" if cpu else "",
        )


def of_memory(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Verdict]:
    """Judge the memory of idle connections, in bytes."""
    size = found.get("lbkit", {}).get("server_bytes")
    yield _limit("idle connection <= 40 kB on the server", None if size is None else size / 1e3, 40.0, "kB")


def of_imports(times: Mapping[str, float]) -> Iterator[Verdict]:
    """Judge the import times, in milliseconds."""
    own, other = times.get("lbkit"), times.get("grpc.aio")
    promise = "import lbkit takes no longer than import grpc.aio"
    if own is None or other is None:
        yield Verdict(promise, ALONE, "-", None)
    else:
        yield Verdict(promise, ALONE, f"{own:.0f} ms against {other:.0f} ms", own <= other)


def of_pick(found: Mapping[str, float]) -> Iterator[Verdict]:
    """Judge the times of a pick, in nanoseconds by number of endpoints."""
    yield _limit("round_robin pick among 1000 endpoints <= 1 us", found.get("1000"), 1000.0, "ns")


def of_interceptors(found: Mapping[str, Mapping[str, float]]) -> Iterator[Verdict]:
    """Judge what interceptors add to a call, in microseconds by side and number of them."""
    for side in ("client", "server"):
        added = found.get(side)
        each = None if added is None else (added["5"] - added["1"]) / 4
        yield _limit(f"each interceptor of a {side} after the first <= 1.5 us per call", each, 1.5, "us")


def of_servers(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Verdict]:
    """Judge the modes of a server.

    What a supervisor adds shows with one process: of four, each gets as many connections as it happens to accept, and the
    fewer are busy, the less a call costs.
    """
    pairs = zip(
        *(found.get(f"1 process, {how}", {}).get("samples", []) for how in ("supervised", "independent")),
        strict=True,
    )
    yield _at_most(
        "a supervisor: CPU of the servers per call, its own included, <= 1.05x that without one",
        ALONE,
        [supervised["server_us"] / alone["server_us"] for supervised, alone in pairs],
        1.05,
    )


def of_update(found: Mapping[str, float]) -> Iterator[Verdict]:
    """Judge the large update, in milliseconds."""
    update = "10 000 endpoints in one update:"
    yield _limit(f"{update} picker in <= 100 ms", found.get("first picker that covers all"), 100.0, "ms")
    yield _limit(
        f"{update} the loop never blocked > 20 ms, up to the first answer",
        found.get("longest turn until the first answer"),
        20.0,
        "ms",
    )
    yield _limit(
        f"{update} nor until all are connected, the garbage collector apart",
        found.get("longest turn until all are connected, without the garbage collector"),
        20.0,
        "ms",
    )


def _at_least(
    promise: str, least: float, values: Sequence[float], note: str, scope: str = BOTH_ENDS
) -> Verdict:
    figure = f"{_spread(values)}{note}"
    return Verdict(promise, scope, figure, median(values) >= least if values else None)


def _by_cpu(one: Measured | None, other: Measured | None) -> str:
    """Say what the ratio of rates would be if CPU alone set them, with a core for either side."""
    sides = [_busier_side_us(measured) for measured in (one, other)]
    return f"; by CPU alone {sides[1] / sides[0]:.1f}x" if sides[0] and sides[1] else ""


def _busier_side_us(measured: Measured | None) -> float | None:
    if measured is None:
        return None
    client, server = measured.middle("client_us"), measured.middle("server_us")
    return None if client is None or server is None else max(client, server)


def _at_most(promise: str, scope: str, values: Sequence[float], most: float = 0.5) -> Verdict:
    return Verdict(promise, scope, _spread(values), median(values) <= most if values else None)


def _limit(promise: str, value: float | None, limit: float, unit: str) -> Verdict:
    if value is None:
        return Verdict(promise, ALONE, "-", None)
    return Verdict(promise, ALONE, f"{value:,.1f} {unit}", value <= limit)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}x"
    span = f"{min(values):.2f} to {max(values):.2f}"
    return f"{median(values):.2f}x ({span}, {values[0]:.2f} in the quietest round)"
