"""Every implementation by its name: a server of the test service, and the cases that its client can run."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from tests.interop.messages import Settings
from tests.support.peers.protocol import listener

LOCAL = "127.0.0.1"
THREADS = 20
# Channels of their own: grpcio would share one connection between all of them in a process.
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))

_numbers = itertools.count()


def serving(implementation: str, host: str = LOCAL, port: int = 0) -> AbstractAsyncContextManager[int]:
    """Run a server; give its port."""
    name = f"{implementation}-{os.getpid()}-{next(_numbers)}"
    return _SERVERS[implementation](name, host, port)


async def run_case(implementation: str, case: str, addresses: Sequence[str], settings: Settings) -> None:
    """Run a case with a client for these addresses, of which grpclib knows one.

    Raises:
        CaseFailed: the peer did not do what the case asks for.
        Exception: a call that must not fail did.
    """
    cases = importlib.import_module(_CASES[implementation])
    connect = _CHANNELS[implementation]
    if implementation == "grpcio_blocking":
        await asyncio.to_thread(cases.run, case, lambda: connect(addresses), settings)
    else:
        await cases.run(case, lambda: connect(addresses), settings)


def cases_of(implementation: str) -> list[str]:
    """The cases that its client can run."""
    return list(importlib.import_module(_CASES[implementation]).CASES)


# Servers


@asynccontextmanager
async def _lbkit_server(name: str, host: str, port: int) -> AsyncGenerator[int, None]:
    import lbkit
    from tests.interop.servicers.aio import Servicer
    from tests.support.protos import grpc_testing_pb2_grpc

    server = lbkit.Server()
    grpc_testing_pb2_grpc.add_TestServiceServicer_to_server(Servicer(name), server)
    bound = server.bind(f"{host}:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def _grpcio_aio_server(name: str, host: str, port: int) -> AsyncGenerator[int, None]:
    import grpc.aio

    from tests.interop.servicers.aio import Servicer
    from tests.support.protos import grpc_testing_pb2_grpc

    server = grpc.aio.server(options=OPTIONS)
    grpc_testing_pb2_grpc.add_TestServiceServicer_to_server(Servicer(name), server)
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def _grpcio_blocking_server(name: str, host: str, port: int) -> AsyncGenerator[int, None]:
    import grpc

    from tests.interop.servicers.blocking import Servicer
    from tests.support.protos import grpc_testing_pb2_grpc

    with ThreadPoolExecutor(THREADS) as executor:
        server = grpc.server(executor, options=OPTIONS)
        grpc_testing_pb2_grpc.add_TestServiceServicer_to_server(Servicer(name), server)
        bound = server.add_insecure_port(f"{host}:{port}")
        server.start()
        try:
            yield bound
        finally:
            await asyncio.to_thread(server.stop(None).wait)


@asynccontextmanager
async def _grpclib_server(name: str, host: str, port: int) -> AsyncGenerator[int, None]:
    import grpclib
    from grpclib.server import Server

    from tests.interop.servicers.grpclib_api import Servicer

    server = Server([Servicer(name)])
    sock = listener(host, port)
    await server.start(sock=sock)
    try:
        yield sock.getsockname()[1]
    finally:
        server.close()
        with contextlib.suppress(grpclib.GRPCError):
            await server.wait_closed()


_SERVERS: dict[str, Callable[[str, str, int], AbstractAsyncContextManager[int]]] = {
    "lbkit": _lbkit_server,
    "grpcio_aio": _grpcio_aio_server,
    "grpcio_blocking": _grpcio_blocking_server,
    "grpclib": _grpclib_server,
}
IMPLEMENTATIONS = list(_SERVERS)


# Clients


def _lbkit_channel(addresses: Sequence[str]) -> Any:
    import lbkit

    return lbkit.Channel("static:///" + ",".join(addresses), balancer="pick_first")


def _grpcio_aio_channel(addresses: Sequence[str]) -> Any:
    import grpc.aio

    return grpc.aio.insecure_channel("ipv4:" + ",".join(addresses), options=OPTIONS)


def _grpcio_blocking_channel(addresses: Sequence[str]) -> Any:
    import grpc

    return grpc.insecure_channel("ipv4:" + ",".join(addresses), options=OPTIONS)


def _grpclib_channel(addresses: Sequence[str]) -> Any:
    from grpclib.client import Channel

    host, _, port = addresses[0].rpartition(":")
    return Channel(host, int(port))


_CHANNELS: dict[str, Callable[[Sequence[str]], Any]] = {
    "lbkit": _lbkit_channel,
    "grpcio_aio": _grpcio_aio_channel,
    "grpcio_blocking": _grpcio_blocking_channel,
    "grpclib": _grpclib_channel,
}
_CASES = {
    "lbkit": "tests.interop.cases.aio",
    "grpcio_aio": "tests.interop.cases.aio",
    "grpcio_blocking": "tests.interop.cases.blocking",
    "grpclib": "tests.interop.cases.grpclib_api",
}
