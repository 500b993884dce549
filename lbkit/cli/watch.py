"""``lbkit watch``: what a channel would be told about a target, as it changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from lbkit.cli import answers, signals
from lbkit.cli.amounts import positive
from lbkit.cli.following import following, resolver_of, text_of
from lbkit.cli.output import say, show_warnings
from lbkit.masking import masked
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver


def _now() -> datetime:
    return datetime.now().astimezone()


class Lines:
    """Prints what happens for people: the time of day, and below it what it is about.

    Args:
        now: tells the time of day.
    """

    def __init__(self, now: Callable[[], datetime] = _now) -> None:
        self._now = now
        self._before: Resolution | None = None

    def update(self, resolution: Resolution) -> None:
        """Print the first answer, or what has changed since the one before."""
        if self._before is None:
            known = [f"+ {answers.listed(endpoint)}" for endpoint in resolution.endpoints]
            lines = [answers.heading(resolution), *known, *answers.other_lines(resolution)]
        else:
            lines = answers.difference_lines(answers.difference(self._before, resolution), resolution)
        self._before = resolution
        self._print(lines)

    def fail(self, error: Exception) -> None:
        """Print that no answer could be had, and whether there is one that stays in use."""
        kept = ""
        if self._before is not None:
            count = len(self._before.endpoints)
            kept = f"; {count} stay{'s' if count == 1 else ''} in use"
        self._print([f"! {text_of(error)}{kept}"])

    def again(self, resolution: Resolution) -> None:
        """Print that what stayed in use after an error still holds."""
        self._print([f"answers again, the same: {answers.heading(resolution)}"])

    def warn(self, text: str) -> None:
        """Print what was logged."""
        self._print([f"! {text}"])

    def end(self) -> None:
        """Print that nothing more will come."""
        self._print(["this never changes"])

    def _print(self, lines: list[str]) -> None:
        first, *rest = map(masked, lines)
        time = f"{self._now():%H:%M:%S.%f}"[:-3]
        say("\n".join((f"{time}  {first}", *(f"{'':14}{line}" for line in rest))))


class JsonLines(Lines):
    """Prints what happens for programs: an object in each line."""

    def update(self, resolution: Resolution) -> None:
        """Print the first answer, or what has changed since the one before."""
        before = self._before or Resolution(())
        self._before = resolution
        change = answers.difference(before, resolution)
        self._say("update", answers.difference_json(change, resolution))

    def fail(self, error: Exception) -> None:
        """Print that no answer could be had."""
        self._say("failure", {"text": text_of(error)})

    def again(self, resolution: Resolution) -> None:
        """Print that what stayed in use after an error still holds."""
        self._say("again", {"endpoints": len(resolution.endpoints), "source": resolution.source})

    def warn(self, text: str) -> None:
        """Print what was logged."""
        self._say("warning", {"text": text})

    def end(self) -> None:
        """Print that nothing more will come."""
        self._say("end", {})

    def _say(self, event: str, fields: dict[str, Any]) -> None:
        say(masked(json.dumps({"time": self._now().isoformat(), "event": event, **fields})))


async def watch(resolver: Resolver, out: Lines, seconds: float | None) -> int:
    """Print what a resolver says until the time is over, it has said everything, or the task is cancelled.

    Returns:
        The exit status: 1 if there never was an answer.
    """
    async with following(resolver, out.update, out.fail, out.again) as follower:
        try:
            async with asyncio.timeout(seconds):
                await follower.ended.wait()
            out.end()
        except (TimeoutError, asyncio.CancelledError):
            pass  # the time is over, or a signal came: both are how it ends
    return 1 if follower.latest is None else 0


@click.command
@click.argument("target")
@click.option("--seconds", type=float, callback=positive, help="How long to watch.  [default: until Ctrl-C]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object in each line.")
def command(target: str, seconds: float | None, as_json: bool) -> int:
    """Print what the resolver of TARGET says, and each change with its time: + added, - removed, ~ changed, ! failed.

    Exits with 0 if there ever was an answer, else with 1.
    """
    resolver = resolver_of(target)
    out = JsonLines() if as_json else Lines()
    show_warnings(out.warn)
    return signals.run(watch(resolver, out, seconds))
