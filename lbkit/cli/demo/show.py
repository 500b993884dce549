"""How the demo is shown: plain lines here, live in ``live``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from lbkit.cli.demo.stage import Progress, Stage
from lbkit.cli.demo.verdicts import Verdict

FRAME_S = 0.125  # between two live pictures
_PROGRESS_WIDTH = 32


class Show:
    """Prints what happens as plain lines, each with the time since the start.

    Args:
        out: where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._began = time.perf_counter()
        self._quarters = 0  # of a download, when it was last drawn

    def line(self, text: str) -> None:
        """Print a line that stays."""
        print(text, file=self._out, flush=True)

    def event(self, text: str) -> None:
        """Say what is happening now."""
        self.line(f"{self.elapsed_s():5.1f} s  {text}")

    def note(self, text: str) -> None:
        """Say what stays to be read, whatever else happens: a warning."""
        self.line(f"{self.elapsed_s():5.1f} s  {text}")

    def verdict(self, verdict: Verdict) -> None:
        """Say what came of an act."""
        first, *rest = verdict.lines()
        self.event(first)
        for text in rest:
            self.line(f"         {text}")

    def frame(self, stage: Stage) -> None:
        """Draw the present state: here, each further quarter of a download. Called every ``FRAME_S``."""
        quarters = 4 * stage.download.done // stage.download.total if stage.download is not None else 0
        if stage.download is not None and quarters > self._quarters:
            self.event(progress_bar(stage.download, "#", _PROGRESS_WIDTH))
        self._quarters = quarters

    def close(self) -> None:
        """Leave the terminal as it was. A second time does nothing."""

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._began


def progress_bar(progress: Progress, mark: str, width: int) -> str:
    """Return a bar of so many characters, and the figure."""
    part = progress.done / progress.total
    bar = mark * int(part * width)
    return f"[{bar:<{width}}] {part:4.0%} of {progress.total / 2**20:.0f} MiB"


def make_show(*, as_json: bool) -> Show:
    """Return the live show on a terminal that can draw it, else plain lines: on stderr if stdout is for JSON."""
    if as_json:
        return Show(sys.stderr)
    if not sys.stdout.isatty() or os.environ.get("CI") or os.environ.get("TERM", "dumb") == "dumb":
        return Show(sys.stdout)
    try:
        from lbkit.cli.demo.live import LiveShow
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        return Show(sys.stdout)
    return LiveShow(sys.stdout)


def report(verdicts: Sequence[Verdict], totals: dict[str, Any]) -> str:
    """Return the whole outcome as JSON."""
    acts = [
        {
            "act": verdict.number,
            "title": verdict.title,
            "ok": verdict.ok,
            "checks": [
                {"what": check.what, "expected": check.expected, "seen": check.seen, "ok": check.ok}
                for check in verdict.checks
            ],
        }
        for verdict in verdicts
    ]
    return json.dumps({"ok": all(verdict.ok for verdict in verdicts), "acts": acts, **totals}, indent=2)
