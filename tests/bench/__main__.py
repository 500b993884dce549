"""Run the benchmark: ``python -m tests.bench [--quick] [--json PATH] [--only NAME] [--against CHECKOUT]``.

The exit status is 0 unless something broke; a slow number is shown, never a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import blocking, flows, imports, matrix, memory, plain, report, secured, servers, verdicts
from tests.bench.flow_load import DOWN, GZIP, MIB, TEXT, UP
from tests.bench.load import metadata_cost_us
from tests.bench.processes import BrokenError, Cores, run, serving

PARTS = (
    "imports",
    "matrix",
    "plain",
    "sync",
    "tls",
    "streams",
    "bulk",
    "gzip",
    "pick",
    "update",
    "interceptors",
    "memory",
    "servers",
)
_QUIET_CORES = 0.2  # interrupts of our own traffic are a part of it
_UNKNOWN = {
    "pick": lambda: verdicts.of_pick({}),
    "update": lambda: verdicts.of_update({}),
    "interceptors": lambda: verdicts.of_interceptors({}),
    "servers": lambda: verdicts.of_servers({}),
}


class Bench:
    """One run of the chosen parts: measures, prints, and keeps what the JSON file needs."""

    def __init__(self, quick: bool, against: Path | None = None) -> None:
        """Choose the cores and the lengths of the runs."""
        self.quick = quick
        self.against = against
        self.cores = Cores.choose()
        self.parts: dict[str, Any] = {}
        self.verdicts: list[verdicts.Verdict] = []
        self.broken: list[str] = []

    def imports(self) -> None:
        """Time the imports in fresh interpreters."""
        times, failures = imports.measure(3 if self.quick else 7)
        self.broken += failures
        self.parts["imports_ms"] = times
        self.verdicts += verdicts.of_imports(times)
        print("\nimport in a fresh interpreter, median")
        self._print([("module", "ms"), *((name, report.number(value)) for name, value in times.items())])

    def matrix(self) -> None:
        """Measure each client against each server."""
        cost = metadata_cost_us()
        rounds, seconds = (1, 0.7) if self.quick else (3, 1.0)
        chosen = matrix.cells(self.quick)
        results = matrix.measure(chosen, self.cores, rounds, seconds, _progress)
        self.parts["metadata_us"] = cost
        self.parts["matrix"] = list(matrix.as_json(results))
        self.verdicts += verdicts.of_matrix(results)
        for cell, found in results.items():
            if found.failure:
                self.broken.append(f"{cell.client} > {cell.server}: {found.failure}")
        print(f"\nunary echo of 100 bytes, medians of {rounds} x {seconds:.1f} s per cell")
        print(
            f"  each call has a deadline and fresh trace metadata ({cost:.1f} us of the client's CPU to make)"
        )
        print(f"  ratio of RPC/s: to {matrix.BASELINE} at both ends")
        print(f"  ratio of client us (CPU per call): to {matrix.BASELINE}'s client on the same server")
        print("  each ratio is the median of those within a round")
        omitted = [peer.name for peer in matrix.PEERS if peer.installed and not peer.balances]
        for line in report.matrix_lines(results, omitted):
            print(line)
        self.parts["other_cores"] = others = matrix.other_cores(results)
        self._warn(others)

    def plain(self) -> None:
        """Measure plain calls beside another checkout's, if there is one."""
        if self.against is None:
            return
        rounds, seconds = (1, 0.7) if self.quick else (7, 1.0)
        results = plain.measure(self.against, self.cores, rounds, seconds, _progress)
        self.parts["plain"] = list(matrix.as_json(results))
        self.verdicts += verdicts.of_plain(results)
        for cell, found in results.items():
            if found.failure:
                self.broken.append(f"plain calls of {cell.client}: {found.failure}")
        print(f"\nplain unary calls, lbkit at both ends, medians of {rounds} x {seconds:.1f} s")
        print(f"  the other: {self.against}")
        for line in report.plain_lines(results):
            print(line)
        self._warn(matrix.other_cores(results))

    def sync(self) -> None:
        """Measure the blocking clients."""
        rounds, seconds = (1, 0.7) if self.quick else (5, 1.0)
        results = blocking.measure(self.cores, rounds, seconds, _progress)
        self.parts["sync"] = list(blocking.as_json(results))
        self.verdicts += verdicts.of_blocking(results)
        for crowd, found in results.items():
            if found.failure:
                self.broken.append(f"{crowd.client} with {crowd.threads} threads: {found.failure}")
        print(
            f"\nblocking clients against one asyncio server of lbkit's, medians of {rounds} x {seconds:.1f} s"
        )
        print(f"  each ratio is the median of those within a round, to {blocking.THEIRS}'s")
        for line in report.blocking_lines(results):
            print(line)
        self._warn(matrix.other_cores(results))

    def tls(self) -> None:
        """Measure unary calls over TLS."""
        rounds, seconds = (1, 0.7) if self.quick else (5, 1.0)
        results = secured.measure(self.cores, rounds, seconds)
        self.parts["tls"] = list(matrix.as_json(results))
        self.verdicts += verdicts.of_tls(results)
        for cell, found in results.items():
            if found.failure:
                self.broken.append(f"{cell.client} over TLS: {found.failure}")
        print(f"\nunary echo of 100 bytes over TLS, 32 in flight, medians of {rounds} x {seconds:.1f} s")
        rows: list[tuple[str, ...]] = [("at both ends", "RPC/s", "client us")]
        for cell, found in results.items():
            figures = (found.middle("rate"), found.middle("client_us"))
            rows.append((cell.client, report.number(figures[0], 0), report.number(figures[1])))
        self._print(rows)
        self._warn(matrix.other_cores(results))

    def streams(self) -> None:
        """Measure streams of small messages."""
        rounds, seconds = (1, 0.7) if self.quick else (5, 1.0)
        results = flows.measure(flows.streams(self.quick), self.cores, rounds, seconds, _progress)
        self.verdicts += verdicts.of_streams(results)
        print(f"\nstreamed messages of 100 bytes, medians of {rounds} x {seconds:.1f} s")
        print("  stream: from the server; gather: from the client; chat: to the server and back")
        print("  async generators of protobuf messages to async iterators of them, with flow control")
        self._show("streams", results, "messages/s", 1.0, "message")

    def bulk(self) -> None:
        """Measure large messages."""
        rounds, seconds = (1, 0.5) if self.quick else (5, 1.0)
        results = flows.measure(flows.bulk(DOWN, UP), self.cores, rounds, seconds, _progress)
        self.verdicts += verdicts.of_bulk(results)
        print(f"\nunary calls with 1 MiB of raw bytes one way, medians of {rounds} x {seconds:.1f} s")
        self._show("bulk", results, "MB/s", MIB / 1e6, "MiB")

    def gzip(self) -> None:
        """Measure compressed messages."""
        rounds, seconds = (1, 0.5) if self.quick else (5, 1.0)
        results = flows.measure(flows.bulk(GZIP), self.cores, rounds, seconds, _progress)
        self.verdicts += verdicts.of_gzip(results)
        print(f"\nunary echo of {len(TEXT):,} bytes in gzip both ways, medians of {rounds} x {seconds:.1f} s")
        self._show("gzip", results, "RPC/s", 1.0, "call")

    def _show(self, name: str, results: flows.Results, unit: str, scale: float, per: str) -> None:
        self.parts[name] = list(flows.as_json(results))
        for flow, found in results.items():
            if found.failure:
                self.broken.append(f"{name} of {flow.peer}: {found.failure}")
        print(f"  each ratio is the median of those within a round, to {matrix.BASELINE}'s")
        for line in report.flow_lines(results, unit, scale, per):
            print(line)
        self._warn(flows.other_cores(results))

    def _warn(self, others: float | None) -> None:
        """Say when other work spoilt the figures."""
        if others is not None and others > _QUIET_CORES:
            print(f"\n  the machine was NOT QUIET: other work kept {others:.1f} cores busy; run it again")
            print("  (rates and latency are far off then, and CPU time is too high for everybody;")
            print(
                "  rates suffer most where one thread does the work: of a busy core, many threads get more)"
            )

    def pick(self) -> None:
        """Time a pick of round_robin."""
        found = run("tests.bench.peers.lbkit_pick", [], self.cores.client, timeout=60.0)
        self.parts["pick_ns"] = found
        self.verdicts += verdicts.of_pick(found)
        print("\none pick of round_robin")
        self._print([("endpoints", "ns"), *((size, report.number(value)) for size, value in found.items())])

    def update(self) -> None:
        """Time a large update of addresses."""
        module = "tests.bench.peers.lbkit_update"
        with contextlib.ExitStack() as stack:
            ports = []
            for part in ("0", "1"):
                serve = serving(module, self.cores.server, arguments=["--part", part])
                ports += [str(port) for _, port in stack.enter_context(serve)]
            found = run(module, ["measure", "--ports", ",".join(ports)], self.cores.client, timeout=150.0)
        self.parts["update"] = found
        self.verdicts += verdicts.of_update(found)
        print(f"\n{found['endpoints']} new endpoints in one update, each a server that answers")
        figures = {name: value for name, value in found.items() if name != "endpoints"}
        self._print([("figure", "ms"), *((name, report.number(value)) for name, value in figures.items())])

    def interceptors(self) -> None:
        """Measure what interceptors add to a call."""
        rounds = "9" if self.quick else "31"
        found = run("tests.bench.peers.lbkit_interceptors", [rounds], self.cores.client, timeout=120.0)
        self.parts["interceptors_us"] = found
        self.verdicts += verdicts.of_interceptors(found)
        print(
            "\nwhat interceptors that do nothing add to a unary call in memory, us of CPU time, both ends together"
        )
        print(f"  without: {report.number(found['none']['0'])} us")
        rows = [("side", *found["client"])]
        rows += [(side, *map(report.number, found[side].values())) for side in found if side != "none"]
        self._print(rows)

    def memory(self) -> None:
        """Measure idle connections."""
        count = 300 if self.quick else 1000
        found = memory.measure(self.cores, count)
        self.parts["idle_connection"] = found
        self.verdicts += verdicts.of_memory(found)
        print(f"\nresident memory of a connection that is idle after one call, kB, mean of {count}")
        rows: list[tuple[str, ...]] = [("implementation", "server", "client")]
        for name, entry in found.items():
            if entry["failure"]:
                self.broken.append(f"memory of {name}: {entry['failure']}")
            sides = [entry["server_bytes"], entry["client_bytes"]]
            rows.append((name, *(report.number(None if side is None else side / 1e3) for side in sides)))
        self._print(rows)

    def servers(self) -> None:
        """Measure the modes of a server."""
        rounds, seconds = (1, 0.5) if self.quick else (3, 0.7)
        found = servers.measure(self.cores, rounds, seconds, self.quick)
        self.parts["servers"] = found
        self.verdicts += verdicts.of_servers(found)
        print(
            f"\nmodes of a server, unary echo, 32 in flight, medians of {rounds} x {seconds:.1f} s, modes in turn"
        )
        rows: list[tuple[str, ...]] = [("mode", "RPC/s", "server us", "client us")]
        for name, entry in found.items():
            rows.append((name, *(report.number(entry[key]) for key in ("rate", "server_us", "client_us"))))
        self._print(rows)

    def _print(self, rows: list[tuple[str, ...]]) -> None:
        for line in report.table(rows):
            print(line)

    def run(self, names: list[str]) -> Iterator[str]:
        """Run the parts in order; a part that breaks does not keep the others from running."""
        for name in names:
            started = time.perf_counter()
            try:
                getattr(self, name)()
            except BrokenError as error:
                self.broken.append(f"{name}: {error}")
                self.verdicts += _UNKNOWN.get(name, lambda: ())()
            yield f"{name} took {time.perf_counter() - started:.0f} s"


def main() -> int:
    """Run what the command line asks for."""
    description = "Measure lbkit beside its peers."
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=description)
    parser.add_argument("--quick", action="store_true", help="one round and fewer cells: about a minute")
    parser.add_argument("--json", type=Path, default=Path(".cache/bench.json"), help="where the figures go")
    parser.add_argument("--only", choices=PARTS, action="append", help="run this part; repeatable")
    parser.add_argument("--against", type=Path, help="a checkout of another version, for the part plain")
    arguments = parser.parse_args()
    if arguments.against is None and "plain" in (arguments.only or ()):
        parser.error("--only plain needs --against CHECKOUT, as git worktree makes one of an earlier version")
    facts = report.machine()
    bench = Bench(arguments.quick, arguments.against and arguments.against.resolve())
    bench.cores.take_client()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(bench.cores.describe())
    for line in bench.run(arguments.only or list(PARTS)):
        _progress(line)
    _progress("")
    print()
    for line in report.verdict_lines(bench.verdicts):
        print(line)
    report.write_json(arguments.json, facts, bench.parts, bench.verdicts)
    print(f"\nfigures: {arguments.json}")
    for failure in dict.fromkeys(bench.broken):
        print(f"BROKEN  {failure}", file=sys.stderr)
    return 1 if bench.broken else 0


def _progress(text: str) -> None:
    """Show what is going on, on one line, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
