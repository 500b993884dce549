"""``lbkit backend``: one backend to balance over."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

import lbkit
from lbkit.cli.amounts import not_negative
from lbkit.cli.output import show_warnings
from lbkit.masking import masked
from lbkit.protos import demo
from lbkit.services import health

_LONGEST_WORK_S = 60.0
_PIECE_BYTES = 2**20
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Echo:
    """Says what was said to it, after as much work as it was asked for.

    Args:
        name: what it calls itself in replies.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    async def Say(self, request: demo.SayRequest, context: lbkit.ServicerContext) -> demo.SayReply:  # noqa: N802
        """Serve one call."""
        if request.work_s > 0:
            await asyncio.sleep(min(request.work_s, _LONGEST_WORK_S))
        return demo.SayReply(text=request.text, backend=self._name)


class Files:
    """Serves the files of a folder, but none of folders in it.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # Not async: it runs in a thread, where it may wait for the disk.
    def Download(  # noqa: N802
        self, request: demo.DownloadRequest, context: lbkit.BlockingContext
    ) -> Iterator[demo.Piece]:
        """Serve one download."""
        # The name is looked up, and never made a path of: no name leads out of the folder.
        files = {path.name: path for path in self._folder.iterdir() if path.is_file()}
        if request.name not in files:
            context.abort(lbkit.StatusCode.NOT_FOUND, f"there is no file {request.name!r}")
        with files[request.name].open("rb") as file:
            while data := file.read(_PIECE_BYTES):
                yield demo.Piece(data=data)


class Entry(NamedTuple):
    """Where a backend is to be registered, and as what.

    Attributes:
        target: the registry and the name.
        instance: what it is told.
        propagation_s: seconds that clients get to hear that it leaves, while it still takes calls.
    """

    target: str
    instance: lbkit.Instance
    propagation_s: float


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it ends, however that ends. Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we got here
        sys.exit(1)


async def serve(listen: str, name: str, grace: float, files: Path | None, entry: Entry | None) -> None:
    """Serve until SIGTERM or SIGINT, and then until the calls in flight are over.

    Args:
        listen: where.
        name: what it calls itself.
        grace: seconds that calls get at the end.
        files: a folder to serve, too.
        entry: how clients find it; None for by its address.

    Raises:
        AddressError: ``listen`` cannot be read.
        TargetError, UnknownPluginError, RegistrationError: it cannot be registered there, or not as that.
        OSError: the address cannot be had.
    """
    server = lbkit.Server()
    port = server.bind(listen)
    address = f"{listen.rpartition(':')[0]}:{port}" if port else listen
    name = name or f"{socket.gethostname()}:{port}"
    server.add(demo, "Echo", Echo(name))
    health.add(server)
    if files is not None:
        server.add(demo, "Files", Files(files))
    async with server.serving(grace=grace):
        # What start-up made stays: full collections, which stop all calls, need not look at it again and again.
        gc.collect()
        gc.freeze()
        registration = None
        if entry is not None:
            registration = await server.register(
                entry.target, entry.instance, propagation=entry.propagation_s
            )
        print(f"{name} is ready on {address}", flush=True)
        telling = asyncio.create_task(_tell(name, registration)) if registration is not None else None
        await server.wait_for_termination()
        if telling is not None:
            telling.cancel()
    print(f"{name} has stopped", flush=True)


async def _tell(name: str, registration: lbkit.Registration) -> None:
    """Print that it can be found, as soon as it can. Why it cannot yet is logged."""
    with suppress(lbkit.RegistrationError):  # it leaves before that
        await registration.registered()
        where = masked(registration.registrar.target.text)
        print(f"{name} is registered as {registration.instance.address} with {where}", flush=True)


@click.command
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="Port 0 takes a free one."
)
@click.option("--name", default="", help="What it calls itself.  [default: host name and port]")
@click.option(
    "--grace",
    callback=not_negative,
    default=5.0,
    show_default=True,
    metavar="S",
    help="Seconds that calls get at the end.",
)
@click.option(
    "--files",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder whose files it serves, too.",
)
@click.option(
    "--register",
    metavar="TARGET",
    help="The registry and the name that clients find it by, as etcd://127.0.0.1:2379/greeter.",
)
@click.option(
    "--advertise",
    default="",
    metavar="HOST[:PORT]",
    help="Where clients reach it.  [default: where it listens; if that is everywhere, the address of the "
    "interface that leads to the registry]",
)
@click.option("--id", "identity", default="", help="Stays over a restart.  [default: the address]")
@click.option("--weight", default=1.0, show_default=True, help="Its share, for weighted policies.")
@click.option("--zone", default="", help="Its locality, for zone-aware policies.")
@click.option(
    "--propagation",
    callback=not_negative,
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds that clients get to hear that it leaves, before it drains.",
)
@click.option("--parent", type=int, hidden=True, help="Die with the process that started this one.")
def command(
    listen: str,
    name: str,
    grace: float,
    files: Path | None,
    register: str | None,
    advertise: str,
    identity: str,
    weight: float,
    zone: str,
    propagation: float,
    parent: int | None,
) -> None:
    """Serve the Echo service that `lbkit client` calls.

    SIGTERM or Ctrl-C: it leaves its registry, takes no new calls, those in flight finish. A second time: at once.
    """
    if parent is not None:
        die_with(parent)
    show_warnings()
    if register is None and (advertise or identity or zone):
        raise click.UsageError("--advertise, --id and --zone are for a registry: say which with --register")
    try:
        instance = lbkit.Instance(
            with_port(advertise),
            id=identity,
            weight=weight,
            zone=zone,
            metadata={"name": name} if name else {},
        )
        entry = Entry(register, instance, propagation) if register is not None else None
        asyncio.run(serve(listen, name, grace, files, entry))
    except (lbkit.Error, ImportError) as error:  # of packages that a registrar needs, too
        raise click.UsageError(masked(str(error))) from None
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from None


def with_port(address: str) -> str:
    """Return ``host:port`` for a host without a port: 0, for which the server puts in the one it has."""
    has_port = ":" in address and not address.endswith("]")
    return address if has_port or not address else f"{address}:0"
