"""How calls between lbkit and other implementations end: statuses, deadlines, cancellations, deaths."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

import lbkit
from lbkit import StatusCode
from tests.support.peers import FOREIGN, PeerProcess, peer
from tests.support.protos import kinds_pb2_grpc
from tests.support.servers import PATIENCE_S, Item, all_connected, channel_to, failure, serving, unary

pytestmark = pytest.mark.interop

FAILURES = [code for code in StatusCode if code is not StatusCode.OK]
DETAILS = "50 % ± naïve\r\n\t日本語 🎉"
SHORT_S = 0.2
LONG_S = 100.0
LATE_S = 2.0  # far later than any of these should take, far earlier than anything else that would end it

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Died(Exception):
    """What a handler raises."""


# Statuses


async def test_every_status_of_their_server_arrives(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        found = []
        for code in FAILURES:
            item = Item(text="abort", number=code.number, body=DETAILS.encode())
            error = await failure(unary(channel)(item, timeout=PATIENCE_S))
            found.append((error.code(), error.details()))
        assert found == [(code, DETAILS) for code in FAILURES]


async def test_their_handlers_mistake_is_unknown(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        error = await failure(unary(channel)(Item(text="abort", number=99), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNKNOWN
        assert await unary(channel)(Item(text="next"), timeout=PATIENCE_S) == Item(text="next")


async def aborting(code: Any, context: Any) -> None:
    await context.abort(code, DETAILS)


async def setting(code: Any, context: Any) -> None:
    context.set_code(code)
    context.set_details(DETAILS)


async def setting_and_raising(code: Any, context: Any) -> None:
    await setting(code, context)
    raise Died


@pytest.mark.parametrize("codes", [lbkit.StatusCode, grpc.StatusCode], ids=["lbkit", "grpc"])
@pytest.mark.parametrize("end", [aborting, setting, setting_and_raising])
async def test_servicer_may_use_the_status_codes_of_either_library(
    foreign: PeerProcess, codes: Any, end: Callable[[Any, Any], Awaitable[None]]
) -> None:
    class Servicer(kinds_pb2_grpc.KindsServicer):
        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            await end(codes[request.text], context)
            return request

    server = lbkit.Server()
    kinds_pb2_grpc.add_KindsServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        names = [code.name for code in FAILURES]
        answer = await foreign.ask("endings", port=port, requests=[{"text": name} for name in names])
    finally:
        await server.stop(None)
    assert answer["endings"] == [[name, DETAILS, 0] for name in names]


async def test_our_handlers_mistake_is_unknown_to_their_client(
    foreign: PeerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def behaviour(request: Any, context: Any) -> Any:
        if request.number:
            raise Died
        return request

    async with serving(behaviour) as backend:
        answer = await foreign.ask("endings", port=backend.port, requests=[{"number": 1}, {}])
    (code, details, _), after = answer["endings"]
    assert code == "UNKNOWN"
    assert "Died" in details
    assert after == ["OK", "", 0]
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [Died]


# Deadlines


async def test_our_deadline_ends_a_call_to_their_server_in_time(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        await unary(channel)(Item(), timeout=PATIENCE_S)  # the connection is there
        error = await failure(unary(channel)(Item(text="wait"), timeout=SHORT_S))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert SHORT_S <= error.elapsed_s < LATE_S
        assert await unary(channel)(Item(text="next"), timeout=PATIENCE_S) == Item(text="next")


async def test_their_handler_knows_our_deadline(foreign: PeerProcess, foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        await unary(channel)(Item(), timeout=LONG_S)
    assert LONG_S - LATE_S < (await foreign.ask("seen"))["remaining"] <= LONG_S


async def test_their_deadline_ends_a_call_to_our_server_in_time(foreign: PeerProcess) -> None:
    cancelled = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        if request.text != "wait":
            return request
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    async with serving(behaviour) as backend:
        requests: list[Any] = [{}, {"text": "wait", "timeout": SHORT_S}, {}]
        began = asyncio.get_running_loop().time()
        answer = await foreign.ask("endings", port=backend.port, requests=requests)
        took = asyncio.get_running_loop().time() - began
        assert [code for code, _, _ in answer["endings"]] == ["OK", "DEADLINE_EXCEEDED", "OK"]
        assert SHORT_S <= took < SHORT_S + LATE_S
        async with asyncio.timeout(LATE_S):
            await cancelled.wait()


async def test_our_handler_knows_their_deadline(foreign: PeerProcess) -> None:
    remaining: list[float | None] = []

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        remaining.append(context.time_remaining())
        return request

    async with serving(behaviour) as backend:
        requests = [{"timeout": LONG_S}, {"timeout": None}]
        await foreign.ask("endings", port=backend.port, requests=requests)
    limited, unlimited = remaining
    assert limited is not None
    assert LONG_S - LATE_S < limited <= LONG_S
    assert unlimited is None


# Cancellations


async def test_cancelling_some_calls_leaves_the_others_on_the_connection(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        calls = [unary(channel)(Item(number=number), timeout=PATIENCE_S) for number in range(60)]
        waiting = [unary(channel)(Item(text="wait"), timeout=PATIENCE_S) for _ in range(10)]
        async with asyncio.timeout(PATIENCE_S):
            for call in waiting:
                await call.initial_metadata()
        for call in waiting:
            assert call.cancel()
        assert [(await call).number for call in calls] == list(range(60))
        assert [await call.code() for call in waiting] == [StatusCode.CANCELLED] * 10
        assert await unary(channel)(Item(text="next"), timeout=PATIENCE_S) == Item(text="next")
        assert len(channel._dialler._connections) == 1


# Deaths


@pytest.mark.parametrize("name", FOREIGN)
async def test_death_of_their_server_is_unavailable_at_once(name: str) -> None:
    with peer(name) as dying:
        port = (await dying.ask("serve"))["port"]
        async with channel_to(port) as channel:
            running = unary(channel)(Item(text="wait"), timeout=PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S):
                await running.initial_metadata()
            dying.kill()
            async with asyncio.timeout(LATE_S):
                error = await failure(running)
            assert error.code() is StatusCode.UNAVAILABLE
            assert error.backend == f"127.0.0.1:{port}"
            after = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
            assert after.code() is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("foreign", ["grpclib"], indirect=True)
async def test_death_of_their_server_sends_later_calls_to_the_other_one(foreign_port: int) -> None:
    with peer("grpcio_aio") as dying:
        port = (await dying.ask("serve"))["port"]
        async with channel_to(port, foreign_port) as channel:
            await all_connected(channel, 2)
            running = [unary(channel)(Item(text="wait"), timeout=PATIENCE_S) for _ in range(4)]
            async with asyncio.timeout(PATIENCE_S):
                for call in running:
                    await call.initial_metadata()
            dying.kill()
            doomed = [call for call in running if call.backend == f"127.0.0.1:{port}"]
            assert len(doomed) == 2
            async with asyncio.timeout(LATE_S):
                assert [await call.code() for call in doomed] == [StatusCode.UNAVAILABLE] * 2
            for number in range(10):
                assert (await unary(channel)(Item(number=number), timeout=PATIENCE_S)).number == number
            assert [call.done() for call in running if call not in doomed] == [False] * 2


async def test_death_of_our_server_is_unavailable_to_their_client_at_once(foreign: PeerProcess) -> None:
    with peer("lbkit") as dying:
        port = (await dying.ask("serve"))["port"]
        asking = asyncio.create_task(foreign.ask("endings", port=port, requests=[{}, {"text": "wait"}]))
        await dying.ask("waiting")
        dying.kill()
        async with asyncio.timeout(LATE_S):
            answer = await asking
    assert [code for code, _, _ in answer["endings"]] == ["OK", "UNAVAILABLE"]
