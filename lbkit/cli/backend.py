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
from pathlib import Path

import click

import lbkit
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


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it ends, however that ends. Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we got here
        sys.exit(1)


async def serve(listen: str, name: str, grace: float, files: Path | None) -> None:
    """Serve until SIGTERM or SIGINT, and then until the calls in flight are over.

    Args:
        listen: where.
        name: what it calls itself.
        grace: seconds that calls get at the end.
        files: a folder to serve, too.

    Raises:
        AddressError: ``listen`` cannot be read.
        OSError: it cannot be had.
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
        print(f"{name} is ready on {address}", flush=True)
        await server.wait_for_termination()
    print(f"{name} has stopped", flush=True)


@click.command
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="Port 0 takes a free one."
)
@click.option("--name", default="", help="What it calls itself.  [default: host name and port]")
@click.option(
    "--grace", default=5.0, show_default=True, metavar="S", help="Seconds that calls get at the end."
)
@click.option(
    "--files",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder whose files it serves, too.",
)
@click.option("--parent", type=int, hidden=True, help="Die with the process that started this one.")
def command(listen: str, name: str, grace: float, files: Path | None, parent: int | None) -> None:
    """Serve the Echo service that `lbkit client` calls.

    SIGTERM or Ctrl-C: no new calls, those in flight finish. A second time: at once.
    """
    if parent is not None:
        die_with(parent)
    try:
        asyncio.run(serve(listen, name, grace, files))
    except lbkit.AddressError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from None
