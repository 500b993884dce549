"""How a client gets a byte stream to an address: the seam for other networks (in memory, through a proxy)."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Callable
from typing import Protocol

from lbkit.address import Address


class Connector(Protocol):
    """Opens one byte stream. ``lbkit.Channel`` takes one as ``connector=``."""

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol], /) -> None:
        """Connect, and hand the transport to a new ``protocol()`` through its ``connection_made``.

        One that also has ``private = True`` says that nobody can listen in or pretend to be the server: credentials
        of calls then need no TLS.

        Cancelled when the attempt takes too long.

        Raises:
            OSError: there is no connection to be had; the text goes into the call's status.
        """
        ...


class SocketConnector:
    """TCP and Unix sockets on the running event loop."""

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Connect to a host and port, to a path, or to an abstract name. asyncio sets TCP_NODELAY."""
        loop = asyncio.get_running_loop()
        if address.port is None:
            check_abstract(address)
            await loop.create_unix_connection(protocol, address.host)
        else:
            await loop.create_connection(protocol, address.host, address.port)


def connector_is_private(connector: Connector) -> bool:
    """Whether credentials may travel on its connections as they are."""
    return getattr(connector, "private", False) is True


def check_abstract(address: Address) -> None:
    """Refuse an abstract name where there are none; everything else passes.

    Raises:
        OSError: this system has none.
    """
    if address.port is None and address.host.startswith("\0") and sys.platform != "linux":
        raise OSError(errno.EAFNOSUPPORT, f"{address}: only Linux has abstract sockets; use unix:/path")
