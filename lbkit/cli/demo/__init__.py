"""``lbkit demo``: acts over real processes, each with a verdict."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import lbkit
from lbkit.cli import signals
from lbkit.cli.amounts import positive
from lbkit.cli.demo.acts import ACTS, Act, lose_registry
from lbkit.cli.demo.fleet import Fleet, StartError
from lbkit.cli.demo.records import Records
from lbkit.cli.demo.show import FRAME_S, Show, make_show, report
from lbkit.cli.demo.stage import Stage, errors
from lbkit.cli.demo.verdicts import Verdict
from lbkit.cli.load import Load, Plan
from lbkit.cli.output import show_warnings

BACKENDS = 4
POLICY = "weighted_round_robin"  # with equal weights it is round_robin
FEWEST_CALLS = 200  # to judge an act by
LIMIT_S = 20.0  # for the calls of one act, on a machine that is too slow for the rate


async def play(stage: Stage, show: Show, acts: Sequence[tuple[str, Act]]) -> list[Verdict]:
    """Run the acts one after the other, under load, and show them."""

    async def draw() -> None:
        while True:
            show.frame(stage)
            await asyncio.sleep(FRAME_S)

    verdicts: list[Verdict] = []
    async with asyncio.TaskGroup() as group:
        drawing = group.create_task(draw())
        calling = group.create_task(stage.load.run())
        for title, act in acts:
            show.event(title)
            verdict = await act(stage)
            verdicts.append(verdict)
            show.verdict(verdict)
        stage.load.stop()
        await calling
        drawing.cancel()
    return verdicts


async def run(
    fleet: Fleet, show: Show, plan: Plan, calls: int, seed: int
) -> tuple[list[Verdict], dict[str, Any]]:
    """Set the stage, play, and clear up.

    Returns:
        The verdicts, and the totals for the report.

    Raises:
        StartError: the registry or a backend did not start, or no etcd answers.
    """
    chance = random.Random(seed)
    async with fleet:
        await start_registry(fleet, show)
        async with lbkit.Channel(fleet.target, balancer=POLICY, random=chance) as channel:
            show.event(f"starting {BACKENDS} backends, each a process of its own, which registers itself")
            async with asyncio.TaskGroup() as group:
                starts = [group.create_task(fleet.start()) for _ in range(BACKENDS)]
            over: list[Any] = []
            load = Load(channel, plan, chance, over.append)
            records = Records(fleet.members, fleet.prefix)
            stage = Stage(fleet, records, channel, load, over, calls=calls, limit_s=LIMIT_S)
            stage.serving = sorted((start.result() for start in starts), key=lambda backend: backend.name)
            show.event("  ".join(f"{backend.name} {backend.address}" for backend in stage.serving))
            await channel.ready(LIMIT_S)
            await stage.until(lambda: all(map(stage.ready, stage.serving)), LIMIT_S)
            verdicts = await play(stage, show, acts_of(fleet))
    took_s = sorted(record.took_s for record in over)
    totals = {
        "calls": len(over),
        "failed": len(errors(over)),
        "seconds": round(show.elapsed_s(), 1),
        "p50_ms": round(percentile(took_s, 50) * 1000, 1),
        "p99_ms": round(percentile(took_s, 99) * 1000, 1),
    }
    return verdicts, totals


async def start_registry(fleet: Fleet, show: Show) -> None:
    """Start it, or see that the etcd answers which is to be used instead.

    Raises:
        StartError: that is not so.
    """
    await fleet.start_registry()
    whose = "a registry of its own, in memory" if fleet.registry is not None else "etcd"
    try:
        await Records(fleet.members, fleet.prefix).check()
    except lbkit.RpcError as error:
        why = "\n  ".join(error.details().splitlines())
        raise StartError(f"{whose} does not answer at {fleet.members}: {why}") from None
    show.event(f"{whose}: {fleet.target}")


def acts_of(fleet: Fleet) -> Sequence[tuple[str, Act]]:
    """Return the acts that can be played: nobody kills somebody else's etcd."""
    return [each for each in ACTS if fleet.registry is not None or each[1] is not lose_registry]


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the value that ``percent`` % of the values do not exceed; 0 if there are none."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0.0


def own_command() -> str:
    """Return how to run this command again: its name alone only if that is on the PATH."""
    beside = Path(sys.executable).with_name("lbkit")
    if shutil.which("lbkit"):
        return "lbkit"
    return os.path.relpath(beside) if beside.exists() else f"{sys.executable} -m lbkit"


def closing_lines(verdicts: Sequence[Verdict], totals: dict[str, Any], plan: Plan) -> list[str]:
    """Return the totals, the outcome, and what to try next."""
    failed = f"{totals['failed']} failed"
    passed = sum(verdict.ok for verdict in verdicts)
    low, high = (seconds * 1000 for seconds in plan.work_s)
    command = own_command()
    if totals["failed"] and passed == len(verdicts):
        failed = f"{totals['failed']} lost with the backend that was killed"
    work = f"the backend's own work is {low:.0f} to {high:.0f} ms"
    latency = f"p50 {totals['p50_ms']} ms, p99 {totals['p99_ms']} ms ({work})"
    lines = [
        "",
        f"{totals['calls']} calls in {totals['seconds']} s, {failed}; {latency}",
        f"{'PASS' if passed == len(verdicts) else 'FAIL'}  {passed} of {len(verdicts)} acts as expected",
        "",
        "try next, each in a terminal of its own; then stop one of the backends with Ctrl-C:",
        f"  {command} registry",
        f"  {command} backend --register etcd://127.0.0.1:2379/greeter --name ann",
        f"  {command} backend --register etcd://127.0.0.1:2379/greeter --name bob",
        f"  {command} watch etcd://127.0.0.1:2379/greeter",
        f"  {command} client etcd://127.0.0.1:2379/greeter",
        f"a real etcd works in place of `{command} registry`, here too: {command} demo --registry 127.0.0.1:2379",
    ]
    if Path("docker-compose.yml").exists():
        lines.append("or: docker compose up --build")
    return lines


@click.command
@click.option(
    "--seconds",
    callback=positive,
    default=15.0,
    show_default=True,
    help="About how long it takes, but for the start.",
)
@click.option("--rate", callback=positive, default=400.0, show_default=True, help="Calls a second.")
@click.option("--seed", type=int, help="Repeats the same choices.  [default: another each time]")
@click.option(
    "--registry",
    "etcd",
    metavar="HOST:PORT",
    help="A real etcd to register with.  [default: a registry of its own, in memory]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON; what happens goes to stderr.")
def command(seconds: float, rate: float, seed: int | None, etcd: str | None, as_json: bool) -> int:
    """Balance over four backends, evenly and by weight, download a file, kill one, add one, drain one.

    They register themselves, and at last the registry is killed. Judges in each act what the callers notice.

    Exits with 0 if all is as expected, else with 1.
    """
    if etcd is not None and not re.fullmatch(r"[^\s@/?#]+", etcd):
        raise click.BadParameter(
            "write host:port, or several with commas between them", param_hint="--registry"
        )
    plan = Plan(rate)
    calls = max(FEWEST_CALLS, int(rate * seconds / len(ACTS)))
    if seed is None:
        seed = random.randrange(10**6)
    fleet = Fleet(etcd)
    show = make_show(as_json=as_json)
    show_warnings(show.note)
    show.line(f"lbkit demo: {BACKENDS} backends, {rate:g} calls/s over {POLICY}, seed {seed}")
    outcome: list[tuple[list[Verdict], dict[str, Any]]] = []

    async def main() -> int:
        outcome.append(await run(fleet, show, plan, calls, seed))
        return 0 if all(verdict.ok for verdict in outcome[0][0]) else 1

    def at_once() -> None:
        fleet.kill()
        show.close()

    status, failure = 1, ""
    try:
        status = signals.run(main(), at_once)
    except* (StartError, lbkit.Error) as group:
        failure = str(group.exceptions[0])  # what is raised in here becomes a group again
    finally:
        show.close()
    if failure:
        raise click.ClickException(failure)
    if not outcome:
        registry_too = ", and the registry" if fleet.registry is not None else ""
        show.line(f"interrupted; all {len(fleet.backends)} backends are gone{registry_too}")
        return status
    verdicts, totals = outcome[0]
    for text in closing_lines(verdicts, totals, plan):
        show.line(text)
    if as_json:
        print(report(verdicts, {**totals, "rate": rate, "seed": seed}))
    return status
