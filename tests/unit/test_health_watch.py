"""Health checking on the client (gRFC A17): the table, the two messages, and the states of a subchannel, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

import lbkit
from lbkit.health_watch import (
    ASKING,
    BROKE,
    HEALTHY,
    INPUT_NAMES,
    PAUSING,
    RETRY,
    SERVES,
    SERVES_NOT,
    STATE_NAMES,
    STOP,
    STOPPED,
    TRANSITIONS,
    UNCHECKED,
    UNHEALTHY,
    UNKNOWN_METHOD,
    decode_response,
    encode_request,
)
from lbkit.protos import health as pb
from lbkit.services import health
from lbkit.testing import MemoryChannel, memory_channel
from lbkit.wire.faults import WireFault
from tests.support.protos import kinds_pb2
from tests.support.servers import Item, until
from tests.support.virtual_loop import run_virtual

CHECKED = {"healthCheckConfig": {"serviceName": "shop"}}
READY = lbkit.ConnectivityState.READY
CONNECTING = lbkit.ConnectivityState.CONNECTING
TRANSIENT_FAILURE = lbkit.ConnectivityState.TRANSIENT_FAILURE

EXPECTED = {
    **{(state, SERVES): HEALTHY for state in (ASKING, HEALTHY, UNHEALTHY)},
    **{(state, SERVES_NOT): UNHEALTHY for state in (ASKING, HEALTHY, UNHEALTHY)},
    **{(state, UNKNOWN_METHOD): UNCHECKED for state in (ASKING, HEALTHY, UNHEALTHY)},
    **{(state, BROKE): PAUSING for state in (ASKING, HEALTHY, UNHEALTHY)},
    (PAUSING, RETRY): ASKING,
    **{(state, STOP): STOPPED for state in range(len(STATE_NAMES))},
    **{(STOPPED, event): STOPPED for event in range(len(INPUT_NAMES))},
}


@pytest.mark.parametrize("state", range(len(STATE_NAMES)), ids=lambda n: STATE_NAMES[n])
@pytest.mark.parametrize("event", range(len(INPUT_NAMES)), ids=lambda n: INPUT_NAMES[n])
def test_every_pair_moves_as_written(state: int, event: int) -> None:
    assert TRANSITIONS[state * len(INPUT_NAMES) + event] == EXPECTED.get((state, event))


def test_table_has_no_other_rows() -> None:
    assert len(TRANSITIONS) == len(STATE_NAMES) * len(INPUT_NAMES)


@pytest.mark.parametrize("name", ["", "shop", "läden", "a" * 127, "a" * 128, "a" * 20000])
def test_request_is_what_protobuf_writes(name: str) -> None:
    assert encode_request(name) == health_pb2.HealthCheckRequest(service=name).SerializeToString()


@pytest.mark.parametrize("status", [0, 1, 2, 3, 77, 300])
def test_response_is_read_as_protobuf_does(status: int) -> None:
    assert decode_response(health_pb2.HealthCheckResponse(status=status).SerializeToString()) == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x08\x01\x08\x02", 2),  # the last one counts
        (b"\x10\x07\x08\x01", 1),
        (b"\x12\x03abc\x08\x01", 1),
        (b"\x11" + bytes(8) + b"\x08\x01", 1),
        (b"\x15" + bytes(4) + b"\x08\x01", 1),
    ],
)
def test_fields_of_later_versions_are_passed_over(data: bytes, status: int) -> None:
    assert decode_response(data) == status


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x80", b"\x0b", b"\x12\x05abc", b"\x11abc", b"\x80" * 11])
def test_broken_response_is_refused(data: bytes) -> None:
    with pytest.raises(WireFault):
        decode_response(data)


def test_random_bytes_are_read_or_refused() -> None:
    source = random.Random(17)
    for _ in range(2000):
        data = source.randbytes(source.randrange(12))
        try:
            decode_response(data)
        except WireFault:
            continue


# A subchannel, through a real connection in memory


class Kinds:
    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        return request


class Scripted:
    """A health service that answers each Watch with the next of a list of functions."""

    def __init__(self, *plays: Callable[[Any], AsyncIterator[Any]]) -> None:
        self.plays = list(plays)
        self.asked: list[tuple[float, str]] = []

    async def Watch(self, request: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        self.asked.append((round(asyncio.get_running_loop().time(), 3), request.service))
        async for answer in self.plays.pop(0)(context):
            yield answer


async def serving(context: Any) -> AsyncIterator[Any]:
    yield pb.HealthCheckResponse(status=health.SERVING)
    await asyncio.Event().wait()


async def silent(context: Any) -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield None


async def failing(context: Any) -> AsyncIterator[Any]:
    await context.abort(lbkit.StatusCode.INTERNAL, "no idea")
    yield None


async def served_for_a_while(context: Any) -> AsyncIterator[Any]:
    yield pb.HealthCheckResponse(status=health.SERVING)
    await asyncio.sleep(5)


Test = Callable[[MemoryChannel, Any], Coroutine[Any, Any, None]]


def in_virtual_time(test: Test, service: object = None, **options: Any) -> None:
    """Run a test with a channel to a server that has a health service, unless it is None."""

    async def main() -> None:
        server = lbkit.Server()
        server.add(kinds_pb2, "Kinds", Kinds())
        if service is not None:
            server.add(pb, "Health", service)
        options.setdefault("service_config", CHECKED)
        options.setdefault("random", random.Random(1))
        async with memory_channel(server, **options) as channel:
            channel.get_state(try_to_connect=True)
            await test(channel, service)

    run_virtual(main())


async def state_is(channel: MemoryChannel, state: lbkit.ConnectivityState) -> Any:
    """Wait until the only subchannel is in a state; return it."""
    await until(lambda: [each.state for each in channel.subchannels()] == [state])
    return channel.subchannels()[0]


def test_ready_comes_with_the_first_answer() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        await until(lambda: service.asked)
        await asyncio.sleep(60)
        subchannel = await state_is(channel, CONNECTING)
        assert subchannel.connection is None
        assert [name for _, name in service.asked] == ["shop"]

    in_virtual_time(test, Scripted(silent))


def test_serving_is_ready_and_not_serving_is_transient_failure() -> None:
    async def test(channel: MemoryChannel, service: health.Health) -> None:
        subchannel = await state_is(channel, TRANSIENT_FAILURE)
        assert "its health check says SERVICE_UNKNOWN of 'shop'" in subchannel.describe_failure()
        service.set("shop", health.SERVING)
        await state_is(channel, READY)
        service.set("shop", health.NOT_SERVING)
        await state_is(channel, TRANSIENT_FAILURE)
        assert "its health check says NOT_SERVING of 'shop'" in subchannel.describe_failure()
        assert channel.network.dials == ["10.0.0.1:50051"]  # the connection has stayed
        service.set("shop", health.SERVING)
        await state_is(channel, READY)

    in_virtual_time(test, health.Health())


def test_failed_check_is_repeated_with_back_off() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        subchannel = await state_is(channel, TRANSIENT_FAILURE)
        assert "its health check of 'shop' failed: INTERNAL: no idea" in subchannel.describe_failure()
        await state_is(channel, READY)
        first, second, third = (when for when, _ in service.asked)
        assert 0.8 <= second - first <= 1.21
        assert 1.28 <= third - second <= 1.93

    in_virtual_time(test, Scripted(failing, failing, serving))


def test_check_that_ended_after_long_service_is_repeated_at_once() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        await state_is(channel, READY)
        await until(lambda: len(service.asked) == 2)
        assert service.asked[1][0] - service.asked[0][0] == pytest.approx(5, abs=0.1)
        await state_is(channel, READY)

    in_virtual_time(test, Scripted(served_for_a_while, serving))


def test_checks_that_end_quickly_do_not_spin() -> None:
    async def brief(context: Any) -> AsyncIterator[Any]:
        yield pb.HealthCheckResponse(status=health.SERVING)

    async def test(channel: MemoryChannel, service: Scripted) -> None:
        await until(lambda: service.asked)
        await asyncio.sleep(20)
        assert 10 <= len(service.asked) <= 30

    in_virtual_time(test, Scripted(*[brief] * 100))


def test_backend_without_health_service_is_healthy_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test(channel: MemoryChannel, service: None) -> None:
        await state_is(channel, READY)
        channel.network.cut()
        await until(lambda: len(channel.network.dials) == 2)
        await state_is(channel, READY)

    with caplog.at_level(logging.ERROR, "lbkit.health"):
        in_virtual_time(test)
    (record,) = caplog.records
    assert "has no health service, and is taken for healthy" in record.getMessage()


def test_pick_first_does_not_check() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        await state_is(channel, READY)
        assert not service.asked

    in_virtual_time(test, Scripted(), balancer="pick_first")


def test_connection_lost_while_unhealthy_is_made_again_and_asked() -> None:
    async def test(channel: MemoryChannel, service: health.Health) -> None:
        await state_is(channel, TRANSIENT_FAILURE)
        channel.network.cut()
        await until(lambda: len(channel.network.dials) == 2)
        await state_is(channel, TRANSIENT_FAILURE)
        service.set("shop", health.SERVING)
        await state_is(channel, READY)

    in_virtual_time(test, health.Health())


def test_connection_lost_while_asking_is_made_again() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        await until(lambda: service.asked)
        channel.network.cut()
        await state_is(channel, READY)

    in_virtual_time(test, Scripted(silent, serving))


def test_watch_is_no_call_and_lets_the_channel_go_idle() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        subchannel = await state_is(channel, READY)
        assert (subchannel.in_flight, subchannel.calls_started, channel.calls_started) == (0, 0, 0)
        assert not channel._dialler.in_use()
        await asyncio.sleep(100)
        assert channel.get_state() is lbkit.ConnectivityState.IDLE
        await channel.stub(kinds_pb2, "Kinds").UnaryUnary(Item(), timeout=5)
        assert len(service.asked) == 2

    in_virtual_time(test, Scripted(serving, serving), idle_timeout=60.0)


def test_watch_does_not_keep_a_channel_that_closes_waiting() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        await state_is(channel, READY)
        began = asyncio.get_running_loop().time()
        await channel.close(grace=60.0)
        assert asyncio.get_running_loop().time() - began < 1

    in_virtual_time(test, Scripted(serving))


def test_nothing_is_asked_without_a_config() -> None:
    async def test(channel: MemoryChannel, service: Scripted) -> None:
        await state_is(channel, READY)
        assert not service.asked

    in_virtual_time(test, Scripted(), service_config=None)


def test_watch_waits_for_room_as_calls_do() -> None:
    async def main() -> None:
        server = lbkit.Server(max_concurrent_streams=2)
        holding, checks = Holding(), Scripted(served_for_a_while, serving)
        server.add(kinds_pb2, "Kinds", holding)
        server.add(pb, "Health", checks)
        async with memory_channel(server, service_config=CHECKED) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
            running = [asyncio.ensure_future(call(Item(), timeout=60)) for _ in range(3)]
            await until(lambda: holding.calls == 2)  # the second has the room of the watch that ended
            await state_is(channel, TRANSIENT_FAILURE)
            await asyncio.sleep(20)
            assert len(checks.asked) == 1
            holding.open.set()
            await asyncio.gather(*running)
            await state_is(channel, READY)

    run_virtual(main())


def test_watch_gets_room_before_calls_where_there_is_little() -> None:
    async def main() -> None:
        server = lbkit.Server(max_concurrent_streams=2)
        server.add(kinds_pb2, "Kinds", Kinds())
        checks = health.add(server, "shop")
        async with memory_channel(server, service_config=CHECKED) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
            await asyncio.gather(*(call(Item(), timeout=5) for _ in range(20)))
            checks.set("shop", health.NOT_SERVING)
            await state_is(channel, TRANSIENT_FAILURE)

    run_virtual(main())


class Holding:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.calls = 0

    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        self.calls += 1
        await self.open.wait()
        return request


def test_oldest_of_several_connections_is_watched_and_the_next_when_it_goes() -> None:
    config = {**CHECKED, "connectionScaling": {"maxConnectionsPerSubchannel": 2}}

    async def main() -> None:
        server = lbkit.Server(max_concurrent_streams=3)
        holding = Holding()
        server.add(kinds_pb2, "Kinds", holding)
        checks = health.add(server, "shop")
        async with memory_channel(server, service_config=config) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
            running = [asyncio.ensure_future(call(Item(), timeout=60)) for _ in range(4)]
            await until(lambda: holding.calls == 4)
            subchannel = await state_is(channel, READY)
            oldest, other = subchannel.connections()
            assert (oldest.background, other.background) == (1, 0)
            checks.set("shop", health.NOT_SERVING)
            await state_is(channel, TRANSIENT_FAILURE)
            assert subchannel.connections() == [oldest, other]
            oldest.abort("the test cuts it")
            await until(lambda: other.background == 1)
            assert subchannel.state is TRANSIENT_FAILURE
            checks.set("shop", health.SERVING)
            await state_is(channel, READY)
            assert subchannel.connection is other
            other.abort("the test cuts it, too")
            await until(lambda: len(channel.network.dials) == 3)
            await state_is(channel, READY)
            assert len(subchannel.connections()) == 1
            holding.open.set()
            answers = await asyncio.gather(*running, return_exceptions=True)
            assert all(isinstance(answer, lbkit.RpcError) for answer in answers)
            await call(Item(), timeout=5)

    run_virtual(main())


def test_no_further_connection_is_made_to_a_backend_that_does_not_serve() -> None:
    config = {**CHECKED, "connectionScaling": {"maxConnectionsPerSubchannel": 2}}

    async def main() -> None:
        server = lbkit.Server(max_concurrent_streams=2)
        holding = Holding()
        server.add(kinds_pb2, "Kinds", holding)
        checks = health.add(server, "shop")
        async with memory_channel(server, service_config=config, backoff=lbkit.BackoffPolicy(5.0)) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
            await until(lambda: channel.get_state(try_to_connect=True) is READY)
            channel.network.refuse("10.0.0.1:50051")
            running = [asyncio.ensure_future(call(Item(), timeout=60)) for _ in range(3)]
            await until(lambda: len(channel.network.dials) == 2)  # for more room, in vain
            checks.set("shop", health.NOT_SERVING)
            subchannel = await state_is(channel, TRANSIENT_FAILURE)
            await asyncio.sleep(30)
            assert len(channel.network.dials) == 2
            assert subchannel.state is TRANSIENT_FAILURE
            checks.set("shop", health.SERVING)
            await state_is(channel, READY)
            holding.open.set()
            await asyncio.gather(*running)

    run_virtual(main())
