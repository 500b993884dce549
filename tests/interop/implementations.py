"""Every implementation by its name: a server of the test service, and the cases that its client can run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from tests.interop.messages import CaseFailed, Settings
from tests.interop.security import Identity, Trust
from tests.support.peers.protocol import listener

LOCAL = "127.0.0.1"
THREADS = 20
# Channels of their own: grpcio would share one connection between all of them in a process.
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))

_numbers = itertools.count()


class Listening(NamedTuple):
    """How a server listens.

    Attributes:
        name: what it calls itself.
        host: the address.
        port: 0 chooses a free one.
        identity: what it shows of itself by TLS; plaintext without.
        streams: how many calls a connection may have at once; the implementation's default for None.
    """

    name: str
    host: str
    port: int
    identity: Identity | None
    streams: int | None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    @property
    def options(self) -> list[tuple[str, int]]:
        """The same for grpcio."""
        streams = [] if self.streams is None else [("grpc.max_concurrent_streams", self.streams)]
        return [*OPTIONS, *streams]


class Dialling(NamedTuple):
    """Whom a client connects to.

    Attributes:
        addresses: of servers.
        trust: whom it believes by TLS; plaintext without.
        connections: how many it may make to one server; only lbkit's may make more than one.
    """

    addresses: Sequence[str]
    trust: Trust | None
    connections: int = 1

    @property
    def target(self) -> str:
        """The target for grpcio."""
        return "ipv4:" + ",".join(self.addresses)

    @property
    def options(self) -> list[tuple[str, int | str]]:
        """The same for grpcio."""
        override = self.trust.name if self.trust else ""
        return [*OPTIONS, *([("grpc.ssl_target_name_override", override)] if override else [])]


def serving(
    implementation: str,
    host: str = LOCAL,
    port: int = 0,
    *,
    identity: Identity | None = None,
    streams: int | None = None,
) -> AbstractAsyncContextManager[int]:
    """Run a server; give its port."""
    name = f"{implementation}-{os.getpid()}-{next(_numbers)}"
    return _SERVERS[implementation](Listening(name, host, port, identity, streams))


async def run_case(
    implementation: str,
    case: str,
    addresses: Sequence[str],
    settings: Settings,
    trust: Trust | None = None,
) -> None:
    """Run a case with a client for these addresses, of which grpclib knows one.

    Raises:
        CaseFailed: the peer did not do what the case asks for.
        Exception: a call that must not fail did.
    """
    to = Dialling(addresses, trust, connections=2 if case in _OURS_ALONE else 1)
    if implementation == "grpc_js":
        await _run_case_of_grpc_js(case, to, settings)
        return
    cases = importlib.import_module(_CASES[implementation])
    connect = functools.partial(_CHANNELS[implementation], to)
    if implementation == "grpcio_blocking":
        await asyncio.to_thread(cases.run, case, connect, settings)
    else:
        await cases.run(case, connect, settings)


def cases_of(implementation: str) -> list[str]:
    """The cases that its client can run."""
    # js/cases.js has those of grpcio.
    name = "grpcio_blocking" if implementation == "grpc_js" else implementation
    cases = list(importlib.import_module(_CASES[name]).CASES)
    return cases if name == "lbkit" else [case for case in cases if case not in _OURS_ALONE]


# Servers


@asynccontextmanager
async def _lbkit_server(at: Listening) -> AsyncGenerator[int, None]:
    import lbkit
    from tests.interop.servicers.aio import Servicer
    from tests.support.protos import grpc_testing_pb2_grpc

    server = lbkit.Server(max_concurrent_streams=at.streams)
    grpc_testing_pb2_grpc.add_TestServiceServicer_to_server(Servicer(at.name), server)
    tls = lbkit.tls(cert=at.identity.cert, key=at.identity.key) if at.identity else None
    bound = server.bind(at.address, tls=tls)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def _grpcio_aio_server(at: Listening) -> AsyncGenerator[int, None]:
    import grpc.aio

    from tests.interop.servicers.aio import Servicer
    from tests.support.protos import grpc_testing_pb2_grpc

    server = grpc.aio.server(options=at.options)
    grpc_testing_pb2_grpc.add_TestServiceServicer_to_server(Servicer(at.name), server)
    bound = _grpcio_port(server, at)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def _grpcio_blocking_server(at: Listening) -> AsyncGenerator[int, None]:
    import grpc

    from tests.interop.servicers.blocking import Servicer
    from tests.support.protos import grpc_testing_pb2_grpc

    with ThreadPoolExecutor(THREADS) as executor:
        server = grpc.server(executor, options=at.options)
        grpc_testing_pb2_grpc.add_TestServiceServicer_to_server(Servicer(at.name), server)
        bound = _grpcio_port(server, at)
        server.start()
        try:
            yield bound
        finally:
            await asyncio.to_thread(server.stop(None).wait)


def _grpcio_port(server: Any, at: Listening) -> int:
    import grpc

    if at.identity is None:
        return int(server.add_insecure_port(at.address))
    return int(server.add_secure_port(at.address, grpc.ssl_server_credentials([at.identity.pem()])))


@asynccontextmanager
async def _grpclib_server(at: Listening) -> AsyncGenerator[int, None]:
    import grpclib
    from grpclib.server import Server

    from tests.interop.servicers.grpclib_api import Servicer

    server = Server([Servicer(at.name)])
    sock = listener(at.host, at.port)
    await server.start(sock=sock, ssl=at.identity.context() if at.identity else None)
    try:
        yield sock.getsockname()[1]
    finally:
        server.close()
        with contextlib.suppress(grpclib.GRPCError):
            await server.wait_closed()


@asynccontextmanager
async def _grpc_js_server(at: Listening) -> AsyncGenerator[int, None]:
    from tests.support.peers import peer

    with peer("grpc_js") as process:
        answer = await process.ask(
            "interop_serve", address=at.address, identity=at.identity, streams=at.streams
        )
        yield int(answer["port"])


_SERVERS: dict[str, Callable[[Listening], AbstractAsyncContextManager[int]]] = {
    "lbkit": _lbkit_server,
    "grpcio_aio": _grpcio_aio_server,
    "grpcio_blocking": _grpcio_blocking_server,
    "grpclib": _grpclib_server,
    "grpc_js": _grpc_js_server,
}
IMPLEMENTATIONS = list(_SERVERS)


# Clients


def _lbkit_channel(to: Dialling) -> Any:
    import lbkit

    tls = lbkit.tls(ca=to.trust.ca, server_name=to.trust.name or None) if to.trust else None
    target = "static:///" + ",".join(to.addresses)
    return lbkit.Channel(target, balancer="pick_first", tls=tls, max_connections_per_backend=to.connections)


def _grpcio_aio_channel(to: Dialling) -> Any:
    import grpc
    import grpc.aio

    if to.trust is None:
        return grpc.aio.insecure_channel(to.target, options=to.options)
    return grpc.aio.secure_channel(
        to.target, grpc.ssl_channel_credentials(to.trust.pem()), options=to.options
    )


def _grpcio_blocking_channel(to: Dialling) -> Any:
    import grpc

    if to.trust is None:
        return grpc.insecure_channel(to.target, options=to.options)
    return grpc.secure_channel(to.target, grpc.ssl_channel_credentials(to.trust.pem()), options=to.options)


def _grpclib_channel(to: Dialling) -> Any:
    from grpclib.client import Channel
    from grpclib.config import Configuration

    host, _, port = to.addresses[0].rpartition(":")
    if to.trust is None:
        return Channel(host, int(port))
    config = Configuration(ssl_target_name_override=to.trust.name or None)
    return Channel(host, int(port), ssl=to.trust.context(), config=config)


async def _run_case_of_grpc_js(case: str, to: Dialling, settings: Settings) -> None:
    from tests.support.peers import peer

    with peer("grpc_js") as process:
        answer = await process.ask(
            "interop_case", case=case, addresses=to.addresses, settings=settings._asdict(), trust=to.trust
        )
    if answer["failed"]:
        raise CaseFailed(answer["failed"])


_CHANNELS: dict[str, Callable[[Dialling], Any]] = {
    "lbkit": _lbkit_channel,
    "grpcio_aio": _grpcio_aio_channel,
    "grpcio_blocking": _grpcio_blocking_channel,
    "grpclib": _grpclib_channel,
}
_OURS_ALONE = {"max_concurrent_streams_connection_scaling"}  # an experiment, or nothing yet, in the others
_CASES = {
    "lbkit": "tests.interop.cases.aio",
    "grpcio_aio": "tests.interop.cases.aio",
    "grpcio_blocking": "tests.interop.cases.blocking",
    "grpclib": "tests.interop.cases.grpclib_api",
}
