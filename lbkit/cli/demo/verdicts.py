"""What the demo expects of each act, and whether it is what was seen. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SHARE_TOLERANCE = 0.01  # turns are exact; this much is for calls on the fringe of the count
# Weighted turns are exact in whole rounds of them only: in a part of one a share is off by up to two calls.
WEIGHT_TOLERANCE = 0.015


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation.

    Attributes:
        what: what it is about.
        expected: the figure it should be, as text.
        seen: the figure it was.
        ok: whether that will do.
    """

    what: str
    expected: str
    seen: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one act."""

    number: int
    title: str
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether every expectation holds."""
        return all(check.ok for check in self.checks)

    def lines(self) -> list[str]:
        """Return the verdict and, indented, each expectation with its figures."""
        what = max(len(check.what) for check in self.checks)
        expected = max(len(check.expected) for check in self.checks)
        lines = [f"{'PASS' if self.ok else 'FAIL'}  act {self.number}: {self.title}"]
        for check in self.checks:
            mark = "" if check.ok else "   <- not as expected"
            text = f"{check.what:<{what}}   expected {check.expected:<{expected}}   seen {check.seen}"
            lines.append(f"      {text}{mark}")
        return lines


def even_shares(counts: Mapping[str, int], backends: Sequence[str]) -> Check:
    """Check that the calls went to these backends, to each as many as to any other, and to nobody else."""
    fair = 1 / len(backends)
    expected = f"{fair * 100:.1f} % each, +-{SHARE_TOLERANCE * 100:.0f}"
    return _shares(counts, dict.fromkeys(backends, fair), SHARE_TOLERANCE, expected)


def weighted_shares(counts: Mapping[str, int], weights: Mapping[str, float]) -> Check:
    """Check that each backend got calls in proportion to its weight, and nobody else any."""
    whole = sum(weights.values())
    fair = {name: weight / whole for name, weight in weights.items()}
    figures = " ".join(f"{share * 100:.1f}" for share in fair.values())
    return _shares(counts, fair, WEIGHT_TOLERANCE, f"{figures} %, +-{WEIGHT_TOLERANCE * 100:.1f}")


def _shares(counts: Mapping[str, int], fair: Mapping[str, float], tolerance: float, expected: str) -> Check:
    total = sum(counts.values())
    names = [*fair, *sorted(set(counts) - set(fair))]
    shares = {name: counts.get(name, 0) / total if total else 0.0 for name in names}
    ok = len(names) == len(fair) and all(abs(shares[name] - fair[name]) <= tolerance for name in names)
    figures = [f"{share * 100:.1f}" for share in shares.values()]
    # Who got what is of interest only if somebody got too much or too little.
    seen = " ".join(figures) if ok else "  ".join(map(" ".join, zip(names, figures, strict=True)))
    return Check(f"shares of {len(fair)}", expected, f"{seen} %", ok)


def same_subchannels(before: Iterable[object], after: Iterable[object]) -> Check:
    """Check that what was connected is still used: none was made anew."""
    there = set(before)
    kept = len(there & set(after))
    return Check("subchannels kept", str(len(there)), str(kept), kept == len(there))


def same_file(sent: tuple[int, str], received: tuple[int, str], error: str) -> Check:
    """Check that a file has come as it was sent.

    Args:
        sent: its size, and its sha256 in hexadecimal.
        received: these of what came.
        error: why not all came; empty if all did.
    """
    expected, seen = (f"{size / 2**20:.1f} MiB, sha256 {digest[:8]}" for size, digest in (sent, received))
    return Check("file", expected, error or seen, sent == received and not error)


def not_found(code: str, pieces: int) -> Check:
    """Check that a missing file is refused before anything is sent."""
    seen = code + (f" after {pieces} pieces" if pieces else " at once")
    return Check("missing file", "NOT_FOUND at once", seen, seen == "NOT_FOUND at once")


def enough_calls(seen: int, expected: int, limit_s: float) -> Check:
    """Check that the calls to judge by were made at all."""
    return Check("calls to judge by", f"{expected} within {limit_s:.0f} s", str(seen), seen >= expected)


def at_most(what: str, errors: Iterable[str], allowed: int, total: int, why: str = "") -> Check:
    """Check that no more calls failed than may."""
    errors = list(errors)
    seen = f"{len(errors)} of {total}" + (f" ({errors[-1]})" if len(errors) > allowed else "")
    expected = f"at most {allowed}" if allowed else "0"
    return Check(what, expected + (f" ({why})" if why else ""), seen, len(errors) <= allowed)


def soon(what: str, seen_s: float | None, limit_s: float) -> Check:
    """Check that something came about in time; None if it did not at all."""
    seen = "nothing" if seen_s is None else f"{seen_s * 1000:.1f} ms"
    return Check(what, f"within {limit_s:.0f} s", seen, seen_s is not None and seen_s <= limit_s)


def exit_by_itself(status: int | None, took_s: float, limit_s: float) -> Check:
    """Check that a process ended with status 0; None if it had not after ``took_s``."""
    seen = "still running" if status is None else f"{status} after {took_s * 1000:.0f} ms"
    return Check("exit status", f"0 within {limit_s:.0f} s", seen, status == 0 and took_s <= limit_s)
