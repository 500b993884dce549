"""retryPolicy (gRFC A6): what is tried again, where, how often, and what the application gets to see of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import lbkit
from lbkit import EOF, StatusCode
from lbkit.http2.frames import ErrorCode
from lbkit.retry import RetryThrottle, RetryThrottling
from tests.support.retrying import channel_with, kinds_with, retry
from tests.support.servers import (
    GROWING_S,
    PATIENCE_S,
    Item,
    RawPeer,
    failure,
    raw_server,
    serving,
    unary,
    until,
)
from tests.support.wire import data_frame, reset_frame


class Failing:
    """Fails so many calls, then echoes."""

    def __init__(self, failures: int, code: StatusCode = StatusCode.UNAVAILABLE, *pushback: str) -> None:
        self.failures = failures
        self.code = code
        self.pushback = pushback
        self.previous: list[str | None] = []

    async def __call__(self, request: Any, context: lbkit.ServicerContext) -> Any:
        fields = context._head.fields  # type: ignore[attr-defined]  # a name that applications do not see
        self.previous.append(
            next((v.decode() for k, v in fields if k == b"grpc-previous-rpc-attempts"), None)
        )
        if len(self.previous) <= self.failures:
            trailing = [("grpc-retry-pushback-ms", value) for value in self.pushback]
            await context.abort(self.code, f"failure {len(self.previous)}", trailing)
        return request


async def test_a_failed_call_is_tried_again_and_the_server_is_told() -> None:
    behaviour = Failing(2)
    async with serving(behaviour) as backend, channel_with(retry(), backend) as channel:
        call = unary(channel)(Item(text="a"), timeout=PATIENCE_S)
        assert await call == Item(text="a")
    assert behaviour.previous == [None, "1", "2"]
    assert [(attempt.kind, attempt.status and attempt.status.code) for attempt in call.attempts] == [
        ("first", StatusCode.UNAVAILABLE),
        ("retry", StatusCode.UNAVAILABLE),
        ("retry", StatusCode.OK),
    ]
    assert [attempt.backend for attempt in call.attempts] == [backend.address] * 3
    started = [attempt.started_s for attempt in call.attempts]
    assert started == sorted(started)


async def test_attempts_end_with_the_policys_number_and_the_last_status() -> None:
    behaviour = Failing(10)
    async with serving(behaviour) as backend, channel_with(retry(3), backend) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert (error.code(), error.details()) == (StatusCode.UNAVAILABLE, "failure 3")
    assert len(error.attempts) == len(behaviour.previous) == 3
    assert "3 attempts" in str(error)


async def test_each_attempt_is_a_new_pick() -> None:
    counts: list[str] = []

    def behaviour(name: str) -> Any:
        async def handle(request: Any, context: lbkit.ServicerContext) -> Any:
            counts.append(name)
            await context.abort(StatusCode.UNAVAILABLE, "")

        return handle

    async with (
        serving(behaviour("a")) as one,
        serving(behaviour("b")) as two,
        channel_with(retry(4), one, two) as channel,
    ):
        await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert sorted(counts) == ["a", "a", "b", "b"]


async def test_a_code_that_the_policy_does_not_name_ends_the_call() -> None:
    behaviour = Failing(1, StatusCode.INTERNAL)
    async with serving(behaviour) as backend, channel_with(retry(), backend) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert error.code() is StatusCode.INTERNAL
    assert len(behaviour.previous) == 1


@pytest.mark.parametrize(("said", "attempts"), [(["0"], 2), (["-1"], 1), (["soon"], 1), (["1", "1"], 1)])
async def test_pushback_of_the_server_is_obeyed(said: list[str], attempts: int) -> None:
    behaviour = Failing(1, StatusCode.UNAVAILABLE, *said)
    # With a back-off that nobody would wait for: only push-back makes it quick.
    async with serving(behaviour) as backend, channel_with(retry(3, 1000.0), backend) as channel:
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        assert await call.code() is (StatusCode.OK if attempts == 2 else StatusCode.UNAVAILABLE)
    assert len(behaviour.previous) == attempts


async def test_after_response_headers_nothing_is_tried_again() -> None:
    entered = 0

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        nonlocal entered
        entered += 1
        await context.send_initial_metadata([("began", "1")])
        await context.abort(StatusCode.UNAVAILABLE, "too late")

    async with serving(behaviour) as backend, channel_with(retry(), backend) as channel:
        assert (await failure(unary(channel)(Item(), timeout=PATIENCE_S))).details() == "too late"
    assert entered == 1


async def test_the_deadline_covers_all_attempts_and_says_what_the_last_one_came_to() -> None:
    behaviour = Failing(10)
    async with serving(behaviour) as backend, channel_with(retry(3, 1000.0), backend) as channel:
        for timeout in GROWING_S:
            error = await failure(unary(channel)(Item(), timeout=timeout))
            assert error.code() is StatusCode.DEADLINE_EXCEEDED
            if error.attempts and error.attempts[0].status:
                break
        else:
            pytest.fail("no attempt ended before any of these deadlines")
    assert f"failure {len(behaviour.previous)}" in error.details()
    assert [attempt.status and attempt.status.code for attempt in error.attempts] == [StatusCode.UNAVAILABLE]


async def test_cancelling_between_two_attempts_ends_the_call() -> None:
    behaviour = Failing(10)
    async with serving(behaviour) as backend, channel_with(retry(3, 1000.0), backend) as channel:
        call = unary(channel)(Item())
        await until(lambda: channel.retrying)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not channel.retrying
    assert len(behaviour.previous) == 1


async def test_closing_the_channel_ends_calls_between_two_attempts() -> None:
    behaviour = Failing(10)
    async with serving(behaviour) as backend, channel_with(retry(3, 1000.0), backend) as channel:
        call = unary(channel)(Item())
        await until(lambda: channel.retrying)
        await channel.close(grace=PATIENCE_S)
        assert await call.code() is StatusCode.CANCELLED


async def test_a_broken_connection_is_a_failure_like_any_other() -> None:
    async with (
        raw_server(lambda peer, stream: None) as bad,
        serving() as good,
        channel_with(retry(5), bad.port, good) as channel,
    ):
        for _ in range(4):
            assert await unary(channel)(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")


async def test_a_refused_stream_is_tried_again_at_once_and_only_then_by_the_policy() -> None:
    def refuse(peer: RawPeer, stream: int) -> bytes:
        return reset_frame(stream, ErrorCode.REFUSED_STREAM)

    async with raw_server(refuse) as server, channel_with(retry(2), server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert error.code() is StatusCode.UNAVAILABLE
    assert [attempt.kind for attempt in error.attempts] == ["first", "transparent retry", "retry"]


async def test_an_http_error_of_a_proxy_is_tried_again() -> None:
    def answer(peer: RawPeer, stream: int) -> bytes:
        head = peer.headers(stream, [(b":status", b"503"), (b"content-type", b"text/html")])
        return head + data_frame(stream, b"no healthy upstream", end=True)

    async with raw_server(answer) as server, channel_with(retry(3), server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert error.code() is StatusCode.UNAVAILABLE
    assert "no healthy upstream" in error.details()
    assert len(server.heads) == 3


async def test_throttled_channels_try_nothing_again() -> None:
    behaviour = Failing(1000)
    async with serving(behaviour) as backend, channel_with(retry(5), backend) as channel:
        channel.retry_throttle = RetryThrottle(RetryThrottling(10, 0.1))
        for _ in range(20):
            await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert len(behaviour.previous) == 20 + 4  # four failures leave six tokens, the fifth leaves half


async def test_the_budget_bounds_retries_to_a_share_of_the_calls() -> None:
    behaviour = Failing(1000)
    budget = lbkit.RetryBudget(0.2, minimum_per_s=0)
    async with serving(behaviour) as backend, channel_with(retry(5), backend, retry_budget=budget) as channel:
        for _ in range(50):
            await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert len(behaviour.previous) == 60


async def test_the_picks_of_all_attempts_are_given_back() -> None:
    behaviour = Failing(3)
    async with (
        serving(behaviour) as one,
        serving(behaviour) as two,
        channel_with(retry(5), one, two) as channel,
    ):
        await asyncio.gather(
            *(unary(channel)(Item(), timeout=PATIENCE_S) for _ in range(20)), return_exceptions=True
        )
        assert [subchannel.in_flight for subchannel in channel.subchannels()] == [0, 0]


class Streams:
    """Fails the first calls of each method after it has read so many messages."""

    def __init__(self, failures: int, reads: int = 0) -> None:
        self.failures = failures
        self.reads = reads
        self.calls = 0

    async def StreamStream(self, requests: Any, context: lbkit.ServicerContext) -> AsyncIterator[Any]:
        self.calls += 1
        failing = self.calls <= self.failures
        read = 0
        async for request in requests:
            read += 1
            if failing and read >= self.reads:
                await context.abort(StatusCode.UNAVAILABLE, "not today")
            if not failing:
                yield request

    async def StreamUnary(self, requests: Any, context: lbkit.ServicerContext) -> Any:
        numbers = [request.number async for request in self.StreamStream(requests, context)]
        return Item(number=sum(numbers))

    async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> Any:
        self.calls += 1
        if self.calls <= self.failures:
            await context.abort(StatusCode.UNAVAILABLE, "not today")
        for number in range(request.number):
            yield Item(number=number)


async def test_streams_are_written_again_from_the_beginning() -> None:
    async with kinds_with(retry(3), Streams(2, reads=3)) as stub:
        call = stub.StreamStream(iter([Item(number=n) for n in range(5)]), timeout=PATIENCE_S)
        assert [item.number async for item in call] == [0, 1, 2, 3, 4]
        assert [attempt.kind for attempt in call.attempts] == ["first", "retry", "retry"]


async def test_a_server_stream_is_asked_for_again() -> None:
    async with kinds_with(retry(3), Streams(2)) as stub:
        call = stub.UnaryStream(Item(number=3), timeout=PATIENCE_S)
        assert [(await call.read()).number for _ in range(3)] == [0, 1, 2]
        assert await call.read() is EOF


async def test_a_client_stream_is_summed_once() -> None:
    streams = Streams(1, reads=2)
    async with kinds_with(retry(3), streams) as stub:
        call = stub.StreamUnary(timeout=PATIENCE_S)
        for number in (1, 2, 3):
            await call.write(Item(number=number))
        await call.done_writing()
        assert (await call).number == 6
    assert streams.calls == 2


async def test_a_stream_that_wrote_more_than_is_kept_is_not_tried_again() -> None:
    streams = Streams(1, reads=40)
    async with kinds_with(retry(3), streams) as stub:
        requests = iter([Item(text="x" * 10_000)] * 50)
        call = stub.StreamStream(requests, timeout=PATIENCE_S)
        assert await call.code() is StatusCode.UNAVAILABLE
    assert streams.calls == 1
