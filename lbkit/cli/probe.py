"""``lbkit probe``: the health check of compose files and Kubernetes manifests, in exec form."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from functools import partial

import click

from lbkit.address import Address
from lbkit.cli.amounts import positive
from lbkit.errors import AddressError, ConnectError
from lbkit.health_watch import UNCHECKED, HealthWatch, make_checks
from lbkit.transport.client import ClientConnection, open_connection
from lbkit.transport.connector import SocketConnector
from lbkit.transport.setup import ConnectionSetup
from lbkit.wire.requests import request_prefix


class _Question:
    """Waits for the first answer, or for the end of the connection it was to come on."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        """Take the end of the connection for an answer."""
        self.report(False, reason)

    def report(self, healthy: bool, reason: str) -> None:
        """Take the answer; the reason is empty if all is well."""
        if not self.answer.done():
            self.answer.set_result("" if healthy else reason)


async def probe(address: Address, service: str, timeout_s: float) -> None:
    """Connect as a subchannel does, ask whether the backend serves, and hang up.

    Not through a channel: that looks up plug-ins, and backs off and tries again, where a probe wants one answer.

    Args:
        address: of the backend.
        service: to ask about; a backend without a health service passes if it is empty.
        timeout_s: for all of it.

    Raises:
        ConnectError: it does not connect, does not answer, or does not serve; the text says why.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    question = _Question()
    connection = await open_connection(
        address, question, connector=SocketConnector(), setup=ConnectionSetup(), timeout_s=timeout_s
    )
    prefix = partial(request_prefix, authority=str(address), scheme="http", user_agent="lbkit-probe")
    checks = make_checks(service, prefix, clock=loop, random=random.Random())
    assert checks is not None, "a name was given"
    checks.complained = True  # it says so itself
    watch = HealthWatch(checks, connection, question.report)
    watch.start()
    try:
        async with asyncio.timeout_at(until):
            reason = await question.answer
    except TimeoutError:
        reason = f"connected, but the health check was not answered within {timeout_s:.1f} s"
    unchecked = watch.state == UNCHECKED
    watch.stop()
    connection.drain()
    await connection.closed
    if unchecked and service:
        reason = f"there is no health service to ask about {service!r}"
    if reason:
        raise ConnectError(reason)


@click.command
@click.argument("address")
@click.option("--service", default="", help="The service to ask about.  [default: the server as a whole]")
@click.option(
    "--timeout",
    callback=positive,
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds that it may take.",
)
def command(address: str, service: str, timeout: float) -> int:
    """Exit with 0 if ADDRESS (host:port) says that it serves, else with 1.

    It is asked through grpc.health.v1; a backend without that service passes once it is connected.
    """
    began = time.perf_counter()
    try:
        asyncio.run(probe(Address.parse(address), service, timeout))
    except AddressError as error:
        raise click.UsageError(str(error)) from None
    except ConnectError as error:
        print(f"{address}: {error}", file=sys.stderr)
        return 1
    print(f"{address}: ready, {(time.perf_counter() - began) * 1000:.1f} ms")
    return 0
