"""The servicers that come with grpcio run on an lbkit server, unchanged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_channelz.v1 import channelz, channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

import lbkit
from lbkit import foreign
from tests.support.protos import kinds_pb2, kinds_pb2_grpc
from tests.support.servers import PATIENCE_S, Item, channel_to, failure

Health: Any = getattr(health, "aio").HealthServicer  # noqa: B009  # the stubs of pyright lack it
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = kinds_pb2.DESCRIPTOR.services_by_name["Kinds"].full_name


@asynccontextmanager
async def channel_of(server: lbkit.Server) -> AsyncGenerator[Any, None]:
    """Start a server and give a channel to it."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with channel_to(port) as channel:
            yield channel
    finally:
        await server.stop(None)


# grpcio-health-checking


@asynccontextmanager
async def health_of(servicer: Any) -> AsyncGenerator[Any, None]:
    """Serve a health servicer, and give a stub."""
    server = lbkit.Server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    async with channel_of(server) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


async def test_health_is_checked() -> None:
    servicer = Health()
    await servicer.set("one", NOT_SERVING)
    async with health_of(servicer) as stub:
        assert (await stub.Check(asked(), timeout=PATIENCE_S)).status == SERVING
        assert (await stub.Check(asked("one"), timeout=PATIENCE_S)).status == NOT_SERVING
        assert (await failure(stub.Check(asked("two")))).code() is lbkit.StatusCode.NOT_FOUND


async def test_health_is_watched() -> None:
    servicer = Health()
    async with health_of(servicer) as stub:
        call = stub.Watch(asked(), timeout=PATIENCE_S)
        assert (await call.read()).status == SERVING
        await servicer.enter_graceful_shutdown()
        assert (await call.read()).status == NOT_SERVING
        call.cancel()


async def test_health_servicer_of_plain_functions_is_checked() -> None:
    async with health_of(health.HealthServicer()) as stub:
        assert (await stub.Check(asked(), timeout=PATIENCE_S)).status == SERVING
        assert (await failure(stub.Check(asked("two")))).code() is lbkit.StatusCode.NOT_FOUND


# grpcio-reflection


REFLECTED = [SERVICE, reflection.SERVICE_NAME]


def enable_as_for_grpc_aio(server: Any) -> None:
    foreign.register("Server", lbkit.Server)
    enable: Any = reflection.enable_server_reflection
    enable(REFLECTED, server)


def enable_plain_functions(server: Any) -> None:
    servicer = reflection.ReflectionServicer(REFLECTED)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


@pytest.mark.parametrize("enable", [enable_as_for_grpc_aio, enable_plain_functions])
async def test_reflection_lists_and_describes_services(enable: Callable[[lbkit.Server], None]) -> None:
    server = lbkit.Server()
    enable(server)
    async with channel_of(server) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(timeout=PATIENCE_S)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = (await call.read()).list_services_response.service
        assert [service.name for service in listed] == sorted(REFLECTED)
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
        described = (await call.read()).file_descriptor_response.file_descriptor_proto
        assert kinds_pb2.DESCRIPTOR.serialized_pb in described
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF


# grpcio-channelz


async def test_channelz_is_served() -> None:
    server: Any = lbkit.Server()
    foreign.register("Server", lbkit.Server)
    channelz.add_channelz_servicer(server)
    async with channel_of(server) as channel:
        stub: Any = channelz_pb2_grpc.ChannelzStub(channel)
        answer = await stub.GetServers(channelz_pb2.GetServersRequest(), timeout=PATIENCE_S)
        assert answer.end
        error = await failure(stub.GetServer(channelz_pb2.GetServerRequest(server_id=1 << 40)))
        assert error.code() is lbkit.StatusCode.NOT_FOUND


# grpcio-status


def rich_status() -> Any:
    status = status_pb2.Status(code=lbkit.StatusCode.FAILED_PRECONDITION.number, message="not now")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="CLOSED", domain="shop"))
    return status


class Rich(kinds_pb2_grpc.KindsServicer):
    """Ends every call with a rich status, one way or the other."""

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        status: Any = rpc_status.to_status(rich_status())
        if request.text == "abort":
            await context.abort(status.code, status.details, status.trailing_metadata)
        await context.abort_with_status(status)


async def is_rich(call: Any) -> None:
    error: Any = await failure(call)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert rpc_status.from_call(error) == rich_status()
    assert await rpc_status.aio.from_call(call) == rich_status()


@pytest.mark.parametrize("way", ["abort", "abort_with_status"])
async def test_rich_status_is_given_and_read(way: str) -> None:
    server = lbkit.Server()
    kinds_pb2_grpc.add_KindsServicer_to_server(Rich(), server)
    async with channel_of(server) as channel:
        await is_rich(kinds_pb2_grpc.KindsStub(channel).UnaryUnary(Item(text=way), timeout=PATIENCE_S))


@pytest.mark.may_leak("thread", reason="grpcio keeps polling for a while")
async def test_rich_status_of_a_server_of_grpcio_is_read() -> None:
    server = grpc.aio.server()
    kinds_pb2_grpc.add_KindsServicer_to_server(Rich(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with channel_to(port) as channel:
            await is_rich(kinds_pb2_grpc.KindsStub(channel).UnaryUnary(Item(), timeout=PATIENCE_S))
    finally:
        await server.stop(None)
