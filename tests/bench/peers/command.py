"""The command line that all peer modules share: ``serve``, ``load`` and ``idle``."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable

from tests.bench.load import Connect, Job, Sample, idle_bytes, measure

Serve = Callable[[Callable[[int], None]], Awaitable[None]]


def main(
    serve: Serve | None, connect: Connect | None, blocking: Callable[[Job], Sample] | None = None
) -> None:
    """Do what the command line says, with what the peer can do.

    Args:
        serve: Run the echo server for ever; call the argument with the port once it listens.
        connect: Open a channel over ports of this machine and give its stub.
        blocking: Do a whole job, in place of ``connect``.
    """
    arguments = _parse()
    if arguments.command == "serve" and serve is not None:
        asyncio.run(_serve(serve))
    elif arguments.command == "load":
        job = _job(arguments)
        if blocking is not None:
            sample = blocking(job)
        else:
            assert connect is not None
            sample = asyncio.run(measure(connect, job))
        print(json.dumps(sample.as_json()), flush=True)
    elif arguments.command == "idle" and connect is not None:
        found = asyncio.run(idle_bytes(connect, arguments.ports[0], arguments.count))
        print(json.dumps({"bytes": found}), flush=True)
    else:
        raise SystemExit(f"this peer cannot {arguments.command}")


async def _serve(serve: Serve) -> None:
    await serve(lambda port: print(json.dumps({"port": port}), flush=True))


def arguments_of() -> Job:
    """Return the job that the command line describes."""
    return _job(_parse())


def _job(arguments: argparse.Namespace) -> Job:
    return Job(
        ports=arguments.ports,
        in_flight=arguments.in_flight,
        seconds=arguments.seconds,
        warm_up=arguments.warm_up,
        server_pids=arguments.pids,
        kind=arguments.kind,
    )


def integers(text: str) -> tuple[int, ...]:
    """Read numbers that are separated by commas."""
    return tuple(int(part) for part in text.split(","))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One side of a benchmark run.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run an echo server on a free port of 127.0.0.1")
    load = commands.add_parser("load", help="call servers and print one JSON line")
    load.add_argument("--ports", type=integers, required=True)
    load.add_argument(
        "--pids", type=integers, required=True, help="processes whose CPU time counts as the server's"
    )
    load.add_argument("--in-flight", type=int, required=True)
    load.add_argument("--kind", default="", help="what to do, where a peer can do several things")
    load.add_argument("--seconds", type=float, default=1.0)
    load.add_argument("--warm-up", type=float, default=0.3)
    idle = commands.add_parser("idle", help="measure the memory of idle channels and print one JSON line")
    idle.add_argument("--ports", type=integers, required=True)
    idle.add_argument("--count", type=int, default=1000)
    return parser.parse_args()
