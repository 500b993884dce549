"""``lbkit resolve``: what a channel would be told about a target."""

from __future__ import annotations

import asyncio
import json
import time

import click

from lbkit.cli import answers, signals
from lbkit.cli.amounts import positive
from lbkit.cli.following import following, resolver_of, text_of
from lbkit.cli.output import show_warnings, to_stderr
from lbkit.errors import ResolverError
from lbkit.masking import masked
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver


async def resolve(resolver: Resolver, timeout_s: float) -> Resolution:
    """Return the first answer of a resolver.

    Raises:
        ResolverError: there is none in time, or ever.
        Exception: what the resolver has to say instead; a channel's calls would fail with that.
    """
    answer: asyncio.Future[Resolution] = asyncio.get_running_loop().create_future()

    def update(resolution: Resolution) -> None:
        if not answer.done():
            answer.set_result(resolution)

    def fail(error: Exception) -> None:
        if not answer.done():
            answer.set_exception(error)

    async with following(resolver, update, fail) as follower:
        ending = asyncio.create_task(follower.ended.wait())
        ending.add_done_callback(
            lambda task: None if task.cancelled() else fail(ResolverError("it ended without an answer"))
        )
        try:
            await asyncio.wait({answer}, timeout=timeout_s)
        finally:
            ending.cancel()
    fail(ResolverError(f"no answer within {timeout_s:g} s"))
    return answer.result()


@click.command
@click.argument("target")
@click.option(
    "--timeout",
    callback=positive,
    default=5.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for an answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(target: str, timeout: float, as_json: bool) -> int:
    """Print what the resolver of TARGET answers: addresses with what is known about them, and where it is from.

    Exits with 0 if there is an answer, though it be that there is nobody; else with 1 and the resolver's error.
    """
    resolver = resolver_of(target)
    show_warnings()

    async def main() -> int:
        began = time.perf_counter()
        try:
            resolution = await resolve(resolver, timeout)
        except Exception as error:  # a stranger's code may raise anything
            to_stderr(masked(f"{target}: {text_of(error)}"))
            return 1
        took_s = time.perf_counter() - began
        if as_json:
            fields = {"target": target, "took_s": round(took_s, 6), **answers.as_json(resolution)}
            print(masked(json.dumps(fields, indent=2)))
        else:
            known = [answers.listed(endpoint) for endpoint in resolution.endpoints]
            heading = f"{answers.heading(resolution)}, in {took_s * 1000:.1f} ms"
            print(masked("\n  ".join((heading, *known, *answers.other_lines(resolution)))))
        return 0

    return signals.run(main())
