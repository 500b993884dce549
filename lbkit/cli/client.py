"""``lbkit client``: calls a service for as long as it runs, and says who answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import click

import lbkit
from lbkit.cli import signals
from lbkit.cli.amounts import positive
from lbkit.cli.load import Load, Plan, Record, first_line
from lbkit.cli.output import say, show_warnings
from lbkit.masking import masked

REPORT_EVERY_S = 2.0
_PATIENCE_S = 0.1  # before it says what calls wait for


class Tally:
    """Counts what has happened since the last line, and altogether."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self._shares: Counter[str] = Counter()
        self._errors: list[str] = []
        self._since = time.perf_counter()

    def note(self, record: Record) -> None:
        """Count one call that is over."""
        if record.error is None:
            self.answered += 1
            self._shares[record.backend] += 1
        else:
            self.failed += 1
            self._errors.append(first_line(record.error))

    def report(self) -> str:
        """Say what has happened since the last report, and begin anew."""
        shares, errors = self._shares, self._errors
        now = time.perf_counter()
        total = shares.total()
        text = f"{time.strftime('%H:%M:%S')} {total / (now - self._since):6.0f} calls/s  {len(errors)} failed"
        if total:
            parts = [f"{name} {count / total:.1%}" for name, count in sorted(shares.items())]
            text += f"  {len(parts)} backends: {'  '.join(parts)}"
        if errors:
            text += f"\n         the last failure: {errors[-1]}"
        self._shares, self._errors, self._since = Counter(), [], now
        return text


async def call(target: str, balancer: str, plan: Plan, seconds: float | None) -> int:
    """Call until the time is over or the task is cancelled.

    Returns:
        The exit status: 1 if no call was answered.
    """
    tally = Tally()

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            say(masked(tally.report()))
            try:
                await channel.ready(_PATIENCE_S)
            except lbkit.RpcError as error:
                why = [line for line in error.details().splitlines() if "hint:" not in line]  # it does wait
                waiting = f"         {len(load.running)} calls wait:"
                say(masked("\n         ".join((waiting, *why))))

    async with lbkit.Channel(target, balancer=balancer) as channel:
        load = Load(channel, plan, random.Random(), tally.note)
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                group.create_task(load.run())
                group.create_task(report())
        except (TimeoutError, asyncio.CancelledError):
            pass  # the time is over, or a signal came: both are how it ends
        finally:
            say(f"{tally.answered} calls answered, {tally.failed} failed")
    return 0 if tally.answered else 1


@click.command
@click.argument("target")
@click.option("--rate", callback=positive, default=100.0, show_default=True, help="Calls a second.")
@click.option("--balancer", default="round_robin", show_default=True, help="The policy: see `lbkit plugins`.")
@click.option("--seconds", type=float, callback=positive, help="How long to call.  [default: until Ctrl-C]")
def command(target: str, rate: float, balancer: str, seconds: float | None) -> int:
    """Call the Echo service of the backends that TARGET names, and print each one's share every 2 s.

    TARGET is scheme:///name, as static:///127.0.0.1:50051,127.0.0.1:50052, dns:///name:port or
    etcd://127.0.0.1:2379/name. Calls wait while no backend is up.
    """
    show_warnings()
    try:
        return signals.run(call(target, balancer, Plan(rate, wait_for_ready=True), seconds))
    except (lbkit.Error, ImportError) as error:  # of packages that a resolver needs, too
        raise click.UsageError(masked(str(error))) from None
