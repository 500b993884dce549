"""Credentials of calls: what is asked when, and what happens if they cannot be had."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

import lbkit
from lbkit import CredentialsContext, StatusCode
from lbkit.testing import memory_channel
from tests.support.protos import kinds_pb2
from tests.support.secured import secure_channel, secured
from tests.support.servers import PATIENCE_S, Item, channel_to, failure, serving, unary, until


async def metadata_seen(request: Any, context: lbkit.ServicerContext) -> Any:
    """Answer with the metadata that credentials make in these tests."""
    shown = [f"{key}={value!s}" for key, value in context.invocation_metadata() if key != "user-agent"]
    return Item(text=" ".join(shown))


async def soon(context: CredentialsContext) -> Any:
    await asyncio.sleep(0)
    return {"late": "1"}


def at_once(context: CredentialsContext) -> Any:
    return (("early", "1"),)


async def text_of(channel: lbkit.Channel, **options: Any) -> str:
    answer: str = (await unary(channel)(Item(), timeout=PATIENCE_S, **options)).text
    return answer


async def test_a_plain_function_and_a_coroutine_function() -> None:
    async with secured(metadata_seen) as backend, secure_channel(backend) as channel:
        assert await text_of(channel) == ""
        assert await text_of(channel, credentials=at_once) == "early=1"
        assert await text_of(channel, credentials=soon) == "late=1"
        assert await text_of(channel, credentials=at_once, metadata=(("mine", "1"),)) == "mine=1 early=1"


async def test_the_channels_come_before_the_calls() -> None:
    for first, second in ((at_once, soon), (soon, at_once), (soon, soon)):
        async with (
            secured(metadata_seen) as backend,
            secure_channel(backend, call_credentials=first) as channel,
        ):
            names = {at_once: "early=1", soon: "late=1"}
            assert await text_of(channel) == names[first]
            assert await text_of(channel, credentials=second) == f"{names[first]} {names[second]}"


async def test_what_credentials_are_told() -> None:
    seen: list[CredentialsContext] = []

    def look(context: CredentialsContext) -> Any:
        seen.append(context)
        return ()

    async with secured() as backend:
        async with secure_channel(backend, call_credentials=look) as channel:
            await text_of(channel)
        async with secure_channel(backend, call_credentials=look, authority="localhost:443") as channel:
            await text_of(channel)
    assert seen == [
        CredentialsContext(f"https://localhost:{backend.port}/lbkit.tests.Kinds", "UnaryUnary"),
        CredentialsContext("https://localhost/lbkit.tests.Kinds", "UnaryUnary"),
    ]


async def test_access_tokens_and_composites() -> None:
    both = lbkit.composite_credentials(lbkit.access_token("secret"), soon, at_once)
    async with secured(metadata_seen) as backend, secure_channel(backend) as channel:
        assert await text_of(channel, credentials=both) == "authorization=Bearer secret late=1 early=1"


async def test_all_kinds_of_call() -> None:
    async def gather(requests: AsyncIterator[Any], context: Any) -> Any:
        count = len([each async for each in requests])
        return Item(text=(await metadata_seen(None, context)).text, number=count)

    async def spread(request: Any, context: Any) -> AsyncIterator[Any]:
        yield await metadata_seen(request, context)

    async def chat(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            yield await metadata_seen(None, context)

    servicer = SimpleNamespace(StreamUnary=gather, UnaryStream=spread, StreamStream=chat)
    items = [Item(), Item()]
    async with secured(servicer=servicer) as backend, secure_channel(backend) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        for credentials, said in ((at_once, "early=1"), (soon, "late=1")):
            answer = await stub.StreamUnary(iter(items), credentials=credentials)
            assert (answer.text, answer.number) == (said, 2)
            assert [each.text async for each in stub.UnaryStream(Item(), credentials=credentials)] == [said]
            assert [each.text async for each in stub.StreamStream(iter(items), credentials=credentials)] == [
                said
            ] * 2


async def test_context_variables_of_the_caller_are_there() -> None:
    user = contextvars.ContextVar[str]("user")
    user.set("ann")

    async def named(context: CredentialsContext) -> Any:
        return {"user": user.get()}

    async with secured(metadata_seen) as backend, secure_channel(backend) as channel:
        assert await text_of(channel, credentials=named) == "user=ann"


# Refusals


async def test_a_channel_without_tls_refuses_and_sends_nothing() -> None:
    asked: list[Any] = []
    async with serving() as backend, channel_to(backend) as channel:
        await text_of(channel)
        error = await failure(unary(channel)(Item(), credentials=asked.append))
        assert error.code() is StatusCode.UNAUTHENTICATED
        assert "make the channel with tls=lbkit.tls(...)" in error.details()
        assert backend.calls == 1
        assert asked == []


@pytest.mark.parametrize("target", ["localhost:1", "unix:/run/app.sock"])
def test_call_credentials_of_a_channel_without_tls_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match="call_credentials= without tls="):
        lbkit.Channel(target, call_credentials=at_once)


async def test_what_is_no_credentials_is_refused_at_the_call() -> None:
    async with secured() as backend, secure_channel(backend) as channel:
        for nonsense in ("a token", 7):
            with pytest.raises(TypeError, match=r"a function of lbkit\.CredentialsContext"):
                unary(channel)(Item(), credentials=nonsense)


async def test_memory_is_private() -> None:
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", SimpleNamespace(UnaryUnary=metadata_seen))
    async with memory_channel(server, call_credentials=at_once) as channel:
        assert await text_of(channel, credentials=soon) == "early=1 late=1"


def _raise(error: Exception) -> Any:
    def plain(context: CredentialsContext) -> Any:
        raise error

    async def later(context: CredentialsContext) -> Any:
        await asyncio.sleep(0)
        raise error

    return plain, later


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (LookupError("no token"), StatusCode.UNAUTHENTICATED, "the call's credentials raised LookupError: no token"),
        (lbkit.RpcError(StatusCode.UNAVAILABLE, "later"), StatusCode.UNAVAILABLE, "later"),
        (lbkit.RpcError(StatusCode.NOT_FOUND, "gone"), StatusCode.INTERNAL, "the call's credentials said NOT_FOUND: gone"),
    ],
)  # fmt: skip
async def test_credentials_that_raise_end_the_call(error: Exception, code: StatusCode, text: str) -> None:
    async with secured() as backend, secure_channel(backend) as channel:
        for credentials in _raise(error):
            found = await failure(unary(channel)(Item(), credentials=credentials))
            assert (found.code(), found.details()) == (code, text)
        assert backend.calls == 0
        await text_of(channel)


async def test_metadata_that_must_not_go_on_the_wire_ends_the_call() -> None:
    async def later(context: CredentialsContext) -> Any:
        return {"te": "x"}

    async with secured() as backend, secure_channel(backend) as channel:
        for credentials in (lambda _: {"Upper": "x"}, later):
            error = await failure(unary(channel)(Item(), credentials=credentials))
            assert error.code() is StatusCode.INTERNAL
            assert "the call's credentials: metadata key" in error.details()


# Waiting


class Slow:
    """Credentials that wait until they are told, or cancelled."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0
        self.cancelled = 0

    async def __call__(self, context: CredentialsContext) -> Any:
        self.asked += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"late": "1"}


async def test_the_deadline_counts_while_credentials_are_waited_for() -> None:
    slow = Slow()
    async with secured() as backend, secure_channel(backend) as channel:
        await channel.ready(PATIENCE_S)
        error = await failure(unary(channel)(Item(), credentials=slow, timeout=0.05))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        await until(lambda: slow.cancelled == 1)
        assert backend.calls == 0


async def test_a_call_can_be_cancelled_while_credentials_are_waited_for() -> None:
    slow = Slow()
    async with secured() as backend, secure_channel(backend) as channel:
        call = unary(channel)(Item(), credentials=slow)
        await until(lambda: slow.asked)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: slow.cancelled == 1)
        assert backend.calls == 0


async def test_closing_the_channel_ends_calls_that_wait_for_credentials() -> None:
    slow = Slow()
    async with secured() as backend:
        async with secure_channel(backend) as channel:
            call = unary(channel)(Item(), credentials=slow)
            await until(lambda: slow.asked)
        error = await failure(call)
        assert error.code() is StatusCode.CANCELLED
        await until(lambda: slow.cancelled == 1)
        assert backend.calls == 0


async def test_credentials_whose_work_was_cancelled_elsewhere_end_the_call() -> None:
    async def cancelled(context: CredentialsContext) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async with secured() as backend, secure_channel(backend) as channel:
        error = await failure(unary(channel)(Item(), credentials=cancelled))
        assert error.code() is StatusCode.UNAUTHENTICATED
        assert "were cancelled" in error.details()


async def test_each_call_is_asked_for_once_though_it_is_sent_again() -> None:
    asked = 0

    def count(context: CredentialsContext) -> Any:
        nonlocal asked
        asked += 1
        return {"asked": str(asked)}

    config = {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
    failures = 2

    async def flaky(request: Any, context: lbkit.ServicerContext) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            await context.abort(StatusCode.UNAVAILABLE, "not yet")
        return await metadata_seen(request, context)

    async with (
        secured(flaky) as backend,
        secure_channel(backend, service_config=config, call_credentials=count) as channel,
    ):
        assert "asked=1" in await text_of(channel)
        assert (asked, backend.calls) == (1, 3)


async def test_hedges_carry_the_credentials_too() -> None:
    slow = Slow()
    seen: list[Any] = []

    async def behave(request: Any, context: lbkit.ServicerContext) -> Any:
        seen.append(context.invocation_metadata().get("late"))
        if len(seen) == 1:
            await asyncio.sleep(PATIENCE_S)
        return request

    policy = {"maxAttempts": 2, "hedgingDelay": "0.01s"}
    config = {"methodConfig": [{"name": [{}], "hedgingPolicy": policy}]}
    async with secured(behave) as backend, secure_channel(backend, service_config=config) as channel:
        call = unary(channel)(Item(), credentials=slow)
        await until(lambda: slow.asked)
        await asyncio.sleep(0.05)  # longer than the delay of the hedge
        assert seen == []
        slow.go.set()
        await call
        assert seen == ["1", "1"]
