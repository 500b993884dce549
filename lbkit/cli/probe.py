"""``lbkit probe``: the health check of compose files and Kubernetes manifests, in exec form."""

from __future__ import annotations

import asyncio
import sys
import time

import click

from lbkit.address import Address
from lbkit.errors import AddressError, ConnectError
from lbkit.transport.client import ClientConnection, open_connection
from lbkit.transport.connector import SocketConnector
from lbkit.transport.setup import ConnectionSetup


class _Owner:
    """Looks on: one connection that nobody calls on needs no care."""

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        """Do nothing."""


async def probe(address: Address, timeout_s: float) -> None:
    """Connect as a subchannel does, up to READY, and hang up.

    Not through a channel: that looks up plug-ins, and backs off and tries again, where a probe wants one answer.

    Raises:
        ConnectError: it does not become READY; the text says why.
    """
    connection = await open_connection(
        address, _Owner(), connector=SocketConnector(), setup=ConnectionSetup(), timeout_s=timeout_s
    )
    connection.drain()
    await connection.closed


@click.command
@click.argument("address")
@click.option("--timeout", default=1.0, show_default=True, metavar="S", help="Seconds that it may take.")
def command(address: str, timeout: float) -> int:
    """Exit with 0 if ADDRESS (host:port) completes an HTTP/2 handshake, else with 1."""
    began = time.perf_counter()
    try:
        asyncio.run(probe(Address.parse(address), timeout))
    except AddressError as error:
        raise click.UsageError(str(error)) from None
    except ConnectError as error:
        print(f"{address}: {error}", file=sys.stderr)
        return 1
    print(f"{address}: ready, {(time.perf_counter() - began) * 1000:.1f} ms")
    return 0
