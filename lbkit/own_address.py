"""Which of its addresses a server that listens on every interface is to be found at."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from lbkit.errors import RegistrationError

_ANY_V4 = "0.0.0.0"  # noqa: S104 -- to be compared with
ANY = frozenset({_ANY_V4, "::"})  # hosts to listen on, and none to connect to


async def own_address(authority: str, host: str) -> str:
    """Return the address of the interface that leads to a registry, as other machines there see it.

    Called by registrations whose instance leaves it open. Sends nothing but what looking up the name of the registry
    takes: connecting a datagram socket has the kernel choose the way, and no more.

    Args:
        authority: that of a registry's target: ``host:port``, several with commas, or nothing for this machine.
        host: what the server listens on, ``0.0.0.0`` or ``::``; the first stands for IPv4 only.

    Raises:
        RegistrationError: no way leads there, or none of the names can be looked up; says what to write.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET if host == _ANY_V4 else socket.AF_UNSPEC
    for each in authority.rpartition("@")[2].split(","):
        name, colon, port = each.rpartition(":")
        if not colon or not port.isdigit():
            name, port = each, "1"  # any will do
        with suppress(OSError, UnicodeError):
            found = await loop.getaddrinfo(
                name.strip("[]") or "localhost", int(port), family=family, type=socket.SOCK_DGRAM
            )
            for family_, kind, _, _, where in found:
                with suppress(OSError), socket.socket(family_, kind) as sock:
                    sock.connect(where)
                    return str(sock.getsockname()[0])
    raise RegistrationError(
        f"the server listens on every interface, and none leads to {authority!r}; say which address clients are to "
        f"use: instance=lbkit.Instance('10.0.0.7:0')"
    )
