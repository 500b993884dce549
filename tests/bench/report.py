"""The benchmark's output: an aligned table, the verdicts, and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import blocking, flows, matrix, plain
from tests.bench.matrix import BASELINE, Cell, Results
from tests.bench.verdicts import Verdict

_PACKAGES = ("lbkit", "grpcio", "grpclib", "h2", "protobuf")


def machine() -> dict[str, Any]:
    """Return what a reader must know to compare the figures with others."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": [round(value, 2) for value in os.getloadavg()],
        **{name: _version(name) for name in _PACKAGES},
    }


def matrix_lines(results: Results, omitted: Sequence[str]) -> Iterator[str]:
    """Give the lines of the mixed matrix, one block per number of backends and calls in flight."""
    for (backends, in_flight), group in groupby(results, key=lambda cell: (cell.backends, cell.in_flight)):
        plural = "s, round_robin" if backends > 1 else ""
        yield ""
        yield f"{backends} backend{plural}, {in_flight} in flight"
        header = ("server", "client", "RPC/s", "ratio", "client us", "ratio", "server us", "p50 ms", "p99 ms")
        yield from table([header, *(_row(results, cell) for cell in group)], left=2)
        if backends > 1 and omitted:
            yield f"  left out, no balancing in the client: {', '.join(omitted)}"


def flow_lines(results: flows.Results, unit: str, scale: float, per: str) -> Iterator[str]:
    """Give the lines of a table of flows.

    Args:
        results: what was measured.
        unit: what the rates are shown in.
        scale: that many make one of a sample's.
        per: what CPU time is told for.
    """
    cpu = f"us/{per}"
    header = (
        "implementation",
        "flow",
        "at once",
        unit,
        "ratio",
        f"client {cpu}",
        f"server {cpu}",
        "both",
        "ratio",
    )
    rows: list[tuple[str, ...]] = [header]
    for flow, measured in results.items():
        baseline = flows.baseline_of(flow)
        rate = measured.middle("rate")
        row = (flow.peer, flow.kind.lower(), str(flow.in_flight))
        if measured.failure:
            rows.append((*row, f"BROKEN: {measured.failure}"))
            continue
        rows.append(
            (
                *row,
                number(None if rate is None else rate * scale, 0),
                _ratio(matrix.ratios(results, flow, baseline, "rate")),
                number(measured.middle("client_us")),
                number(measured.middle("server_us")),
                number(measured.middle("both_us")),
                _ratio(matrix.ratios(results, flow, baseline, "both_us")),
            )
        )
    yield from table(rows, left=2)


def plain_lines(results: Results) -> Iterator[str]:
    """Give the lines of a table of two checkouts; ratios are to the other one's, within a round."""
    rows: list[tuple[str, ...]] = [
        ("checkout", "backends", "in flight", "RPC/s", "ratio", "client us", "server us", "both", "ratio")
    ]
    for cell, measured in results.items():
        row = (cell.client, str(cell.backends), str(cell.in_flight))
        if measured.failure:
            rows.append((*row, f"BROKEN: {measured.failure}"))
            continue
        other = Cell(plain.OTHER, plain.OTHER, cell.backends, cell.in_flight)
        rows.append(
            (
                *row,
                number(measured.middle("rate"), 0),
                _ratio(matrix.ratios(results, cell, other, "rate")),
                number(measured.middle("client_us")),
                number(measured.middle("server_us")),
                number(measured.middle("both_us")),
                _ratio(matrix.ratios(results, cell, other, "both_us")),
            )
        )
    yield from table(rows)


def blocking_lines(results: blocking.Results) -> Iterator[str]:
    """Give the lines of a table of blocking clients."""
    rows: list[tuple[str, ...]] = [
        ("client", "threads", "RPC/s", "ratio", "client us", "ratio", "p50 ms", "p99 ms")
    ]
    for crowd, measured in results.items():
        row = (crowd.client, str(crowd.threads))
        if measured.failure:
            rows.append((*row, f"BROKEN: {measured.failure}"))
            continue
        baseline = blocking.Crowd(blocking.THEIRS, crowd.threads)
        rows.append(
            (
                *row,
                number(measured.middle("rate"), 0),
                _ratio(matrix.ratios(results, crowd, baseline, "rate")),
                number(measured.middle("client_us")),
                _ratio(matrix.ratios(results, crowd, baseline, "client_us")),
                number(measured.middle("median_ms"), 2),
                number(measured.middle("p99_ms"), 2),
            )
        )
    yield from table(rows)


def table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Align cells: the first ``left`` columns to the left, figures to the right; a shorter row ends in free text."""
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[place]) for row in full) for place in range(len(rows[0]))]
    for row in rows:
        padded = [
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  " + "  ".join([*padded[: len(row)], *row[len(widths) :]]).rstrip()


def verdict_lines(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """Give one line per number that lbkit promises."""
    rows = [(verdict.word, verdict.scope, verdict.promise, verdict.figure) for verdict in verdicts]
    if rows:
        yield from table([("verdict", "holds with", "promise", "figure"), *rows], left=4)


def write_json(path: Path, facts: dict[str, Any], parts: dict[str, Any], verdicts: Sequence[Verdict]) -> None:
    """Write everything that was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": facts, **parts, "verdicts": [asdict(verdict) for verdict in verdicts]}
    path.write_text(json.dumps(report, indent=1) + "\n")


def number(value: float | None, digits: int = 1) -> str:
    """Write a figure, or a dash when it could not be measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _row(results: Results, cell: Cell) -> tuple[str, ...]:
    measured = results[cell]
    if measured.failure:
        return (cell.server, cell.client, f"BROKEN: {measured.failure}")
    both_baseline = Cell(BASELINE, BASELINE, cell.backends, cell.in_flight)
    same_server = Cell(BASELINE, cell.server, cell.backends, cell.in_flight)
    return (
        cell.server,
        cell.client,
        number(measured.middle("rate"), 0),
        _ratio(matrix.ratios(results, cell, both_baseline, "rate")),
        number(measured.middle("client_us")),
        _ratio(matrix.ratios(results, cell, same_server, "client_us")),
        number(measured.middle("server_us")),
        number(measured.middle("median_ms"), 2),
        number(measured.middle("p99_ms"), 2),
    )


def _ratio(values: Sequence[float]) -> str:
    return f"{median(values):.2f}x" if values else "-"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or sys.platform
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "unknown")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
