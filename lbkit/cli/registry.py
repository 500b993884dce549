"""``lbkit registry``: an etcd for development."""

from __future__ import annotations

import asyncio

import click

import lbkit
from lbkit.cli.backend import die_with
from lbkit.registry import Registry
from lbkit.services import health, reflection


async def serve(listen: str, history: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        listen: where.
        history: how many revisions back can be read and watched from.

    Raises:
        AddressError: ``listen`` cannot be read.
        OSError: it cannot be had.
    """
    registry = Registry(history=history)
    server = registry.make_server()
    port = server.bind(listen)
    registry.address = f"{listen.rpartition(':')[0]}:{port}" if port else listen
    health.add(server)
    reflection.add(server)
    async with server.serving(grace=0.0):
        registry.open()
        print(f"registry is ready on {registry.address}", flush=True)
        print(
            "It speaks etcd v3 and keeps everything in memory: for development, not for production.",
            flush=True,
        )
        await server.wait_for_termination()
        registry.close()
    print("registry has stopped", flush=True)


@click.command
@click.option(
    "--listen",
    default="127.0.0.1:2379",
    show_default=True,
    metavar="HOST:PORT",
    help="Port 0 takes a free one.",
)
@click.option(
    "--history",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many revisions back can be watched from.",
)
@click.option("--parent", type=int, hidden=True, help="Die with the process that started this one.")
def command(listen: str, history: int, parent: int | None) -> None:
    """Run a registry in memory that speaks etcd v3, for etcd:// targets and etcdctl.

    Everything in it is gone when it ends. In production, run etcd.
    """
    if parent is not None:
        die_with(parent)
    try:
        asyncio.run(serve(listen, history))
    except lbkit.AddressError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from None
