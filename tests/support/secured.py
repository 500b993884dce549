"""Servers and channels with TLS."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import lbkit
from tests.support.certificates import certificates
from tests.support.protos import kinds_pb2
from tests.support.servers import QUICK, Backend, Behaviour, echo


def server_tls(**changes: Any) -> lbkit.Tls:
    """Settings of a server for localhost."""
    known = certificates()
    settings: dict[str, Any] = {"cert": known.cert, "key": known.key, **changes}
    return lbkit.tls(**settings)


def mutual_tls(**changes: Any) -> lbkit.Tls:
    """Settings of a server that asks for certificates."""
    return server_tls(ca=certificates().ca, client_auth="require", **changes)


def client_tls(**changes: Any) -> lbkit.Tls:
    """Settings of a client that trusts it."""
    settings: dict[str, Any] = {"ca": certificates().ca, **changes}
    return lbkit.tls(**settings)


def known_client_tls(**changes: Any) -> lbkit.Tls:
    """Settings of a client that has a certificate."""
    known = certificates()
    return client_tls(cert=known.client_cert, key=known.client_key, **changes)


@asynccontextmanager
async def secured(
    behaviour: Behaviour = echo, *, tls: lbkit.Tls | None = None, servicer: object = None, **options: Any
) -> AsyncGenerator[Backend, None]:
    """Run one backend with TLS."""
    backend = Backend(behaviour, **options)
    if servicer is not None:
        backend.server.add(kinds_pb2, "Kinds", servicer)
    backend.port = backend.server.bind("127.0.0.1:0", tls=tls or server_tls())
    await backend.server.start()
    try:
        yield backend
    finally:
        await backend.server.stop(None)


def secure_channel(
    where: Backend | int, tls: lbkit.Tls | bool | None = None, *, host: str = "localhost", **options: Any
) -> lbkit.Channel:
    """A channel to it, that reconnects quickly."""
    port = where if isinstance(where, int) else where.port
    options = {"backoff": QUICK, "authority": f"{host}:{port}", **options}
    return lbkit.Channel(f"static:///127.0.0.1:{port}", tls=client_tls() if tls is None else tls, **options)
