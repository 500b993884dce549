"""The interceptors of ``lbkit.interceptors``: logging, bearer tokens, error mapping, timing."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit import interceptors
from lbkit.testing import memory_channel
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Item, failure, raw_client, request_fields, until
from tests.support.wire import data_frame

PATH = "/lbkit.tests.Kinds/UnaryUnary"
Code = lbkit.StatusCode


class OutOfStock(LookupError):
    """What a handler may raise."""


class Servicer:
    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        match request.text:
            case "stock":
                raise OutOfStock("no apples")
            case "value":
                raise ValueError("secret")
            case "type":
                raise TypeError("a mistake")
            case "code":
                context.set_code(Code.ABORTED)
                raise OutOfStock("said otherwise")
            case "abort":
                await context.abort(Code.ALREADY_EXISTS, "twice")
            case "wait":
                await asyncio.Event().wait()
            case _:
                pass
        return Item(text=str(interceptors.identity()))

    async def UnaryStream(self, request: Any, context: Any) -> Any:
        yield Item(text=str(interceptors.identity()))
        if request.text:
            raise OutOfStock("no more")

    async def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        return Item(number=len([request async for request in request_iterator]))

    async def StreamStream(self, request_iterator: Any, context: Any) -> Any:
        async for request in request_iterator:
            yield request


async def items(count: int) -> AsyncGenerator[Any, None]:
    for number in range(count):
        yield Item(number=number)


@asynccontextmanager
async def served(*server: Any, client: Any = ()) -> AsyncGenerator[Any, None]:
    """A stub, with interceptors on both sides."""
    made = lbkit.Server(interceptors=server)
    made.add(kinds_pb2, "Kinds", Servicer())
    async with memory_channel(made, interceptors=client) as channel:
        stub: Any = channel.stub(kinds_pb2, "Kinds")
        stub.channel = channel
        yield stub


async def call_all(stub: Any) -> None:
    await stub.UnaryUnary(Item())
    assert [item async for item in stub.UnaryStream(Item())]
    await stub.StreamUnary(items(2))
    assert [item async for item in stub.StreamStream(items(2))]


# Bearer tokens

check = interceptors.known_tokens({"letmein": "ann", "metoo": "bob"})


async def check_later(token: str) -> Any:
    await asyncio.sleep(0)
    return check(token)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.mark.parametrize("by", [check, check_later], ids=["function", "coroutine"])
async def test_bearer_token_says_who_calls(by: Any) -> None:
    async with served(interceptors.BearerAuthentication(by)) as stub:
        for token, owner in (("letmein", "ann"), ("metoo", "bob")):
            assert (await stub.UnaryUnary(Item(), metadata=bearer(token))).text == owner
            assert (
                await stub.UnaryUnary(Item(), metadata=(("authorization", f"bEARER {token}"),))
            ).text == owner
            assert [item.text async for item in stub.UnaryStream(Item(), metadata=bearer(token))] == [owner]
    assert interceptors.identity() is None


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ((), "needs metadata"),
        ((("authorization", "Basic abc"),), "needs metadata"),
        ((("authorization", "Bearer"),), "needs metadata"),
        ((*bearer("letmein"), *bearer("letmein")), "needs metadata"),
        (bearer("letmeim"), "not accepted"),
        (bearer("letmein2"), "not accepted"),
    ],
)
async def test_calls_without_a_good_token_are_refused(metadata: Any, why: str) -> None:
    async with served(interceptors.BearerAuthentication(check)) as stub:
        error = await failure(stub.UnaryUnary(Item(), metadata=metadata))
        assert error.code() is Code.UNAUTHENTICATED
        assert why in error.details()
        assert error.trailing_metadata()["www-authenticate"] == "Bearer"
        assert await stub.StreamStream(items(1), metadata=metadata).code() is Code.UNAUTHENTICATED


@pytest.mark.parametrize("exempt", [PATH, "/lbkit.tests.Kinds/"])
async def test_exempt_methods_need_no_token(exempt: str) -> None:
    async with served(interceptors.BearerAuthentication(check, exempt=[exempt])) as stub:
        assert (await stub.UnaryUnary(Item())).text == "None"
        assert (await failure(stub.channel.unary_unary("/no/where")(b""))).code() is Code.UNAUTHENTICATED


# Error mapping

CODES: dict[type[Exception], Any] = {
    LookupError: Code.NOT_FOUND,
    OutOfStock: Code.RESOURCE_EXHAUSTED,
    ValueError: lambda error: lbkit.Status(Code.INVALID_ARGUMENT, f"a {type(error).__name__}"),
}


@pytest.mark.parametrize(
    ("text", "code", "details"),
    [
        ("stock", Code.RESOURCE_EXHAUSTED, "no apples"),
        ("value", Code.INVALID_ARGUMENT, "a ValueError"),
        ("type", Code.UNKNOWN, "the handler raised TypeError; see the server's log"),
        ("abort", Code.ALREADY_EXISTS, "twice"),
        ("code", Code.ABORTED, ""),
    ],
)
async def test_exceptions_end_calls_with_the_status_of_the_nearest_class(
    text: str, code: lbkit.StatusCode, details: str
) -> None:
    async with served(interceptors.ErrorMapping(CODES)) as stub:
        error = await failure(stub.UnaryUnary(Item(text=text)))
        assert (error.code(), error.details()) == (code, details)


async def test_exceptions_in_streams_are_mapped_behind_what_was_sent() -> None:
    mapping = interceptors.ErrorMapping(CODES, details=lambda error: type(error).__name__)
    async with served(mapping) as stub:
        call = stub.UnaryStream(Item(text="x"))
        assert (await call.read()).text == "None"
        with pytest.raises(lbkit.RpcError, match="RESOURCE_EXHAUSTED: OutOfStock"):
            await call.read()


def test_bad_mappings_are_refused() -> None:
    with pytest.raises(TypeError, match="its keys are classes of exceptions"):
        interceptors.ErrorMapping({"LookupError": Code.NOT_FOUND})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="codes= has OK"):
        interceptors.ErrorMapping({LookupError: Code.OK})


# Logging


async def test_both_sides_log_each_call_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lbkit.access")
    async with served(interceptors.ServerLogging(), client=[interceptors.ClientLogging()]) as stub:
        await call_all(stub)
        await failure(stub.UnaryUnary(Item(text="abort")))
        await failure(stub.UnaryUnary(Item(text="type")))
        await until(lambda: len(caplog.records) >= 13)  # one is of the handler that raised
    for side in ("client", "server"):
        records: list[Any] = [r for r in caplog.records if r.name == f"lbkit.access.{side}"]
        assert [record.code for record in records] == ["OK", "OK", "OK", "OK", "ALREADY_EXISTS", "UNKNOWN"]
        assert [record.levelname for record in records] == ["INFO"] * 4 + ["WARNING", "ERROR"]
        assert {record.method for record in records[4:]} == {PATH}
        assert all(0 <= record.elapsed_s < PATIENCE_S for record in records)
        where = records[0].backend if side == "client" else records[0].peer
        assert where
        line = rf"{PATH} {re.escape(where)} ALREADY_EXISTS in \d+\.\d{{4}} s: twice"
        assert re.fullmatch(line, records[4].getMessage())


async def test_client_logs_the_deadline_that_it_meets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lbkit.access")
    async with served(client=[interceptors.ClientLogging()]) as stub:
        await failure(stub.UnaryUnary(Item(text="wait"), timeout=0.05))
    records: list[Any] = caplog.records
    assert [(record.code, record.levelname) for record in records] == [("DEADLINE_EXCEEDED", "WARNING")]


async def test_server_logs_the_deadline_that_it_meets(caplog: pytest.LogCaptureFixture) -> None:
    """The client keeps silent: one of lbkit's resets the stream at the same moment, and may be first."""
    caplog.set_level(logging.INFO, "lbkit.access")
    wait = Item(text="wait").SerializeToString()
    server = lbkit.Server(interceptors=[interceptors.ServerLogging()])
    server.add(kinds_pb2, "Kinds", Servicer())
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with raw_client(port) as client:
        client.writer.write(client.headers(1, request_fields((b"grpc-timeout", b"50m"))))
        client.writer.write(data_frame(1, bytes(4) + bytes([len(wait)]) + wait, end=True))
        await until(lambda: caplog.records)
    await server.stop(None)
    records: list[Any] = caplog.records
    assert [(record.code, record.levelname) for record in records] == [("DEADLINE_EXCEEDED", "WARNING")]


async def test_error_that_another_interceptor_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Awaits(lbkit.ClientInterceptor):
        async def intercept(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await (await continuation(client_call_details, request))

    timings: list[interceptors.Timing] = []
    caplog.set_level(logging.INFO, "lbkit.access")
    client = [interceptors.ClientLogging(), interceptors.ClientTiming(timings.append), Awaits()]
    async with served(client=client) as stub:
        await failure(stub.UnaryUnary(Item(text="abort")))
        await stub.UnaryUnary(Item())
    assert [record.getMessage().split()[2] for record in caplog.records] == ["ALREADY_EXISTS", "OK"]
    assert [timing.code for timing in timings] == [Code.ALREADY_EXISTS, Code.OK]


async def test_log_of_the_server_sees_context_variables_of_the_call() -> None:
    seen: list[Any] = []

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            seen.append(interceptors.identity())
            return False

    logger = logging.getLogger("lbkit.tests.apart")
    by = Filter()
    logger.addFilter(by)
    logger.setLevel(logging.INFO)
    surrounding = [interceptors.ServerLogging(logger), interceptors.BearerAuthentication(check)]
    async with served(*surrounding) as stub:
        await stub.UnaryUnary(Item(), metadata=bearer("letmein"))
        await until(lambda: seen)
    logger.removeFilter(by)
    assert seen == ["ann"]


# Timing


async def test_both_sides_take_the_time_of_each_call() -> None:
    client: list[interceptors.Timing] = []
    server: list[interceptors.Timing] = []
    timing = interceptors.ServerTiming(server.append)
    async with served(timing, client=[interceptors.ClientTiming(client.append)]) as stub:
        await call_all(stub)
        await failure(stub.UnaryUnary(Item(text="abort")))
        await until(lambda: len(client) == len(server) == 5)
    for timings in (client, server):
        kinds = ["unary_unary", "unary_stream", "stream_unary", "stream_stream", "unary_unary"]
        assert [timing.kind for timing in timings] == kinds
        assert [timing.code for timing in timings] == [Code.OK] * 4 + [Code.ALREADY_EXISTS]
        assert timings[0].method == PATH
        assert all(0 <= timing.seconds < PATIENCE_S for timing in timings)
