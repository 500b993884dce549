"""The demo as a live picture on a terminal, drawn with rich."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lbkit.cli.demo.fleet import Process
from lbkit.cli.demo.show import Show, progress_bar
from lbkit.cli.demo.stage import Look, Stage, errors, shares
from lbkit.cli.demo.verdicts import Verdict

_WINDOW_S = 1.0  # the shares and the rate drawn are those of the last second
_BAR_WIDTH = 32  # of a share of one half; more is cut off
_PROGRESS_WIDTH = 48
_STYLES = {"ready": "green", "connecting": "yellow", "idle": "yellow", "transient failure": "red"}


class LiveShow(Show):
    """Draws shares as bars, subchannel states, rate and failures; verdicts scroll away above."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._console = Console(file=out, highlight=False)
        self._bar = "━" if self._console.encoding.startswith("utf") else "="
        self._act = ""
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def line(self, text: str) -> None:
        """Print a line that stays, above the picture."""
        self._console.print(Text(text))

    def event(self, text: str) -> None:
        """Make it the picture's heading."""
        self._act = text
        self._live.update(Text(text, style="bold"), refresh=True)

    def verdict(self, verdict: Verdict) -> None:
        """Print it above the picture."""
        first, *rest = verdict.lines()
        self._console.print(
            Text(f"{self.elapsed_s():5.1f} s  {first}", style="green" if verdict.ok else "bold red")
        )
        for text, check in zip(rest, verdict.checks, strict=True):
            self._console.print(Text(f"         {text}", style="" if check.ok else "bold red"))

    def frame(self, stage: Stage) -> None:
        """Draw the picture anew."""
        recent = stage.over_in_last(_WINDOW_S)
        counts = shares(recent)
        looks = stage.looks()
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in (
            "backend",
            "address",
            "state",
            "weight",
            "open",
            f"share of the last {_WINDOW_S:.0f} s",
        ):
            table.add_column(
                heading, justify="right" if heading in {"weight", "open"} else "left", no_wrap=True
            )
        for backend in stage.fleet.backends:
            look = looks.get(backend.address)
            share = counts[backend.name] / counts.total() if counts else 0.0
            table.add_row(*self._row(backend, look, share))
        failed = len(errors(stage.over))
        rate = len(recent) / _WINDOW_S
        heading = f"{self.elapsed_s():5.1f} s  {rate:4.0f} calls/s  {len(stage.over)} calls  {failed} failed"
        parts: list[Text | Table] = [Text(""), Text(self._act, style="bold"), Text(heading), table]
        if stage.download is not None:
            parts.append(Text(progress_bar(stage.download, self._bar, _PROGRESS_WIDTH), style="cyan"))
        self._live.update(Group(*parts), refresh=True)

    def close(self) -> None:
        """Take the picture away."""
        self._live.stop()

    def _row(self, backend: Process, look: Look | None, share: float) -> tuple[Text, ...]:
        state = look.state if look is not None else "not in the list"
        gone = not backend.running
        process = Text(backend.name, style="strike dim" if gone else "")
        bar = self._bar * min(round(share * 2 * _BAR_WIDTH), _BAR_WIDTH)
        return (
            process,
            Text(backend.address),
            Text(state, style=_STYLES.get(state, "dim")),
            Text(f"{look.weight:g}" if look is not None else ""),
            Text(str(look.in_flight if look is not None else 0)),
            Text(f"{share:6.1%} {bar}", style="cyan"),
        )
