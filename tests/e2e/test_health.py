"""The health service, asked by the clients of grpcio; and channels that check the health of grpcio's servers (gRFC A17)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

import lbkit
from lbkit.protos import health as health_pb
from lbkit.services import health
from lbkit.testing import memory_channel
from tests.support.protos import kinds_pb2, kinds_pb2_grpc
from tests.support.servers import PATIENCE_S, Backend, Item, channel_to, failure, naming, shares, unary, until

SERVICE = "lbkit.tests.Kinds"
CHECKED = {"healthCheckConfig": {"serviceName": SERVICE}}
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

EVERYTHING = getattr(health_pb2, "HealthListRequest")()  # noqa: B009  # the stubs of pyright lack it


def asked(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


@asynccontextmanager
async def checked(*services: str) -> AsyncGenerator[tuple[health.Health, Any, lbkit.Server], None]:
    """Serve health, and give grpcio's stub on a channel of grpcio."""
    server = lbkit.Server()
    checks = health.add(server, *services)
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield checks, health_pb2_grpc.HealthStub(channel), server
    finally:
        await server.stop()


async def code_of(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_check_says_what_was_set_and_not_found_otherwise() -> None:
    async with checked(SERVICE) as (checks, stub, _):
        assert (await stub.Check(asked(), timeout=PATIENCE_S)).status == health.SERVING
        assert (await stub.Check(asked(SERVICE), timeout=PATIENCE_S)).status == health.SERVING
        checks.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await stub.Check(asked(SERVICE), timeout=PATIENCE_S)).status == health.NOT_SERVING
        assert await code_of(stub.Check(asked("other"), timeout=PATIENCE_S)) is grpc.StatusCode.NOT_FOUND


async def test_list_says_all_up_to_a_hundred() -> None:
    async with checked(SERVICE) as (checks, stub, _):
        checks.set("other", health.NOT_SERVING)
        listed = (await stub.List(EVERYTHING, timeout=PATIENCE_S)).statuses
        assert {name: each.status for name, each in listed.items()} == {"": 1, SERVICE: 1, "other": 2}
        for number in range(98):
            checks.set(f"more {number}", health.SERVING)
        call = stub.List(EVERYTHING, timeout=PATIENCE_S)
        assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_watch_says_unknown_until_set_and_then_each_change_once() -> None:
    async with checked() as (checks, stub, _):
        call = stub.Watch(asked(SERVICE), timeout=PATIENCE_S)
        assert (await call.read()).status == UNKNOWN
        checks.set(SERVICE, health.SERVING)
        assert (await call.read()).status == health.SERVING
        checks.set(SERVICE, health.SERVING)
        checks.set(SERVICE, health.NOT_SERVING)
        assert (await call.read()).status == health.NOT_SERVING
        call.cancel()
        await until(lambda: not checks._watchers)


async def test_status_may_be_set_from_any_thread() -> None:
    async with checked(SERVICE) as (checks, stub, _):
        call = stub.Watch(asked(SERVICE), timeout=PATIENCE_S)
        assert (await call.read()).status == health.SERVING
        thread = threading.Thread(target=checks.set, args=(SERVICE, health.NOT_SERVING))
        thread.start()
        assert (await call.read()).status == health.NOT_SERVING
        thread.join()
        call.cancel()


async def test_slow_watcher_gets_the_newest_status_only() -> None:
    server = lbkit.Server()
    checks = health.add(server, "shop")
    async with memory_channel(server) as channel:
        call = channel.stub(health_pb, "Health").Watch(health_pb.HealthCheckRequest(service="shop"))
        assert (await call.read()).status == health.SERVING
        for _ in range(1000):
            checks.set("shop", health.NOT_SERVING)
            checks.set("shop", health.SERVING)
        checks.set("shop", health.NOT_SERVING)
        assert (await call.read()).status == health.NOT_SERVING
        checks.set("shop", health.SERVING)
        assert (await call.read()).status == health.SERVING
        call.cancel()


async def test_graceful_shutdown_is_for_good() -> None:
    async with checked(SERVICE) as (checks, stub, _):
        checks.enter_graceful_shutdown()
        checks.set(SERVICE, health.SERVING)
        for name in ("", SERVICE):
            assert (await stub.Check(asked(name), timeout=PATIENCE_S)).status == health.NOT_SERVING


@pytest.mark.parametrize("status", [health.SERVICE_UNKNOWN, 4, -1, "SERVING", None])
def test_what_is_no_status_is_refused(status: Any) -> None:
    with pytest.raises(ValueError, match=r"health\.SERVING or health\.NOT_SERVING"):
        health.Health().set("shop", status)


async def test_stopping_server_tells_watchers_and_does_not_wait_for_them() -> None:
    async with checked(SERVICE) as (_, stub, server):
        call = stub.Watch(asked(SERVICE), timeout=PATIENCE_S)
        assert (await call.read()).status == health.SERVING
        async with asyncio.timeout(PATIENCE_S):
            stopping = asyncio.create_task(server.stop(grace=60.0))
            assert (await call.read()).status == health.NOT_SERVING
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            await stopping


async def test_observer_that_raises_does_not_keep_a_server_up(caplog: pytest.LogCaptureFixture) -> None:
    server = lbkit.Server()
    told: list[str] = []
    server.on_stopping(lambda: 1 // 0)
    server.on_stopping(lambda: told.append("stopping"))
    server.bind("127.0.0.1:0")
    await server.start()
    await server.stop()
    await server.stop()
    assert told == ["stopping"]
    assert "an on_stopping callback raised" in caplog.text


# Channels that check


async def start_with_health(backend: Backend) -> health.Health:
    checks = health.add(backend.server, SERVICE)
    await backend.start()
    return checks


async def test_backend_that_does_not_serve_gets_no_calls_until_it_does() -> None:
    backends = [Backend(naming(name)) for name in ("one", "two")]
    checks = [await start_with_health(backend) for backend in backends]
    try:
        async with channel_to(*backends, service_config=CHECKED) as channel:
            call = unary(channel)
            await until_spread(call, {"one", "two"})
            checks[0].set(SERVICE, health.NOT_SERVING)
            await until_spread(call, {"two"})
            before = backends[0].calls
            assert await shares(call, 50) == {"two": 50}
            assert backends[0].calls == before
            checks[1].set(SERVICE, health.NOT_SERVING)
            await until(lambda: channel.get_state() is lbkit.ConnectivityState.TRANSIENT_FAILURE)
            error = await failure(call(Item(), timeout=PATIENCE_S))
            assert error.code() is lbkit.StatusCode.UNAVAILABLE
            assert "connected, but its health check says NOT_SERVING" in error.details()
            waiting = call(Item(), timeout=PATIENCE_S, wait_for_ready=True)
            checks[0].set(SERVICE, health.SERVING)
            assert (await waiting).text == "one"
    finally:
        for backend in backends:
            await backend.server.stop()


async def until_spread(call: Any, names: set[str]) -> None:
    """Make calls until exactly these backends answer."""
    async with asyncio.timeout(PATIENCE_S):
        while set(await shares(call, 10)) != names:
            pass


async def test_backend_that_stops_is_left_before_its_connection_ends() -> None:
    backends = [Backend(naming(name)) for name in ("one", "two")]
    for backend in backends:
        await start_with_health(backend)
    try:
        async with channel_to(*backends, service_config=CHECKED) as channel:
            call = unary(channel)
            await until_spread(call, {"one", "two"})
            stopping = asyncio.create_task(backends[0].server.stop(grace=PATIENCE_S))
            counts: Counter[str] = Counter()
            while not stopping.done():
                counts += await shares(call, 10)  # fails the test if one fails
            await stopping
            assert await shares(call, 10) == {"two": 10}
    finally:
        for backend in backends:
            await backend.server.stop()


class Kinds(kinds_pb2_grpc.KindsServicer):
    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        return request


async def test_health_of_grpcios_servicer_is_followed() -> None:
    server = grpc.aio.server()
    servicer: Any = getattr(grpc_health, "aio").HealthServicer()  # noqa: B009  # the stubs of pyright lack it
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    kinds_pb2_grpc.add_KindsServicer_to_server(Kinds(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with channel_to(port, service_config=CHECKED) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
            error = await failure(call(Item(), timeout=PATIENCE_S))
            assert "SERVICE_UNKNOWN" in error.details()
            await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            assert (await call(Item(number=1), timeout=PATIENCE_S, wait_for_ready=True)).number == 1
            await servicer.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
            await until(lambda: channel.get_state() is lbkit.ConnectivityState.TRANSIENT_FAILURE)
            await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            assert (await call(Item(number=2), timeout=PATIENCE_S, wait_for_ready=True)).number == 2
    finally:
        await server.stop(None)


async def test_grpcio_checks_our_health() -> None:
    backend = Backend()
    checks = await start_with_health(backend)
    config = json.dumps({**CHECKED, "loadBalancingConfig": [{"round_robin": {}}]})
    options = (("grpc.service_config", config),)
    try:
        async with grpc.aio.insecure_channel(f"ipv4:{backend.address}", options=options) as channel:
            call: Any = kinds_pb2_grpc.KindsStub(channel).UnaryUnary
            await call(Item(), timeout=PATIENCE_S, wait_for_ready=True)
            checks.set(SERVICE, health.NOT_SERVING)
            state = grpc.ChannelConnectivity.READY
            async with asyncio.timeout(PATIENCE_S):
                while state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state()
    finally:
        await backend.server.stop()
