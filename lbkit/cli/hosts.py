"""A resolver plug-in for ``lbkit client``: a host name, and every address that it has.

It is what finds the replicas of a service in the compose demo, and an example of how little a resolver is. It asks
the system's own look-up, so it knows no time-to-live and no SRV records: the ``dns`` resolver will, once it is here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import lbkit

REFRESH_S = 2.0

_log = logging.getLogger("lbkit.cli")


@lbkit.resolver("hosts")
async def resolve(target: lbkit.Target) -> AsyncIterator[list[str]]:
    """Serves ``hosts:///name:port``: the name is looked up again every two seconds."""
    host, port = lbkit.Address.parse(target.path)
    while True:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:  # the last answer stays in use: nobody has the name just now
            _log.warning("%s: %s", target, error.strerror)
        else:
            yield sorted({str(lbkit.Address(str(where[0]), port)) for *_, where in found})
        await asyncio.sleep(REFRESH_S)
