"""hedgingPolicy (gRFC A6): attempts side by side, the first good answer wins; grpcio ignores such a policy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import lbkit
from lbkit import EOF, StatusCode
from lbkit.retry import RetryThrottle, RetryThrottling
from tests.support.retrying import channel_with, hedge, kinds_with
from tests.support.servers import PATIENCE_S, Item, failure, serving, unary, until


class Scripted:
    """Answers the calls of all backends in order of arrival, each as the script says.

    ``"answer"``, ``"hang"``, ``"begin"`` (headers, then hang), or a code to fail with.
    """

    def __init__(self, *script: str | StatusCode, pushback: str = "") -> None:
        self.script = script
        self.pushback = pushback
        self.arrived = 0
        self.previous: list[str | None] = []
        self.cancelled = 0
        self.release = asyncio.Event()

    async def __call__(self, request: Any, context: lbkit.ServicerContext) -> Any:
        number = self.arrived
        self.arrived += 1
        fields = context._head.fields  # type: ignore[attr-defined]  # a name that applications do not see
        said = [value.decode() for key, value in fields if key == b"grpc-previous-rpc-attempts"]
        self.previous.append(said[0] if said else None)
        what = self.script[number]
        if isinstance(what, StatusCode):
            trailing = [("grpc-retry-pushback-ms", self.pushback)] if self.pushback else []
            await context.abort(what, f"failure {number}", trailing)
        try:
            if what == "begin":
                await context.send_initial_metadata([("number", str(number))])
            if what != "answer":
                await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Item(number=number)


NEVER_S = 1000.0


async def test_without_delay_all_attempts_go_out_at_once_and_the_first_answer_wins() -> None:
    behaviour = Scripted("hang", "hang", "answer")
    async with (
        serving(behaviour) as one,
        serving(behaviour) as two,
        serving(behaviour) as three,
        channel_with(hedge(3), one, two, three) as channel,
    ):
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        assert (await call).number == 2
        await until(lambda: behaviour.cancelled == 2)
        assert [subchannel.in_flight for subchannel in channel.subchannels()] == [0, 0, 0]
    assert behaviour.previous == [None, "1", "2"]
    story = {attempt.backend: (attempt.kind, attempt.status) for attempt in call.attempts}
    assert len(story) == 3
    assert sorted(kind for kind, _ in story.values()) == ["first", "hedge", "hedge"]
    assert sorted(status.code.name for _, status in story.values() if status) == [
        "CANCELLED",
        "CANCELLED",
        "OK",
    ]


async def test_the_first_answer_spares_the_rest_when_it_comes_before_the_delay() -> None:
    behaviour = Scripted("answer")
    async with serving(behaviour) as backend, channel_with(hedge(3, NEVER_S), backend) as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).number == 0
    assert behaviour.arrived == 1


async def test_a_failure_that_is_not_fatal_brings_the_next_attempt_at_once() -> None:
    behaviour = Scripted(StatusCode.UNAVAILABLE, StatusCode.UNAVAILABLE, "answer")
    async with serving(behaviour) as backend, channel_with(hedge(3, NEVER_S), backend) as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).number == 2
    assert behaviour.previous == [None, "1", "2"]


async def test_a_fatal_failure_ends_the_call_and_the_other_attempts() -> None:
    behaviour = Scripted("hang", StatusCode.PERMISSION_DENIED, "hang")
    async with serving(behaviour) as backend, channel_with(hedge(3), backend) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        await until(lambda: behaviour.cancelled == behaviour.arrived - 1)
    assert error.code() is StatusCode.PERMISSION_DENIED


async def test_when_all_attempts_fail_the_last_status_is_the_calls() -> None:
    behaviour = Scripted(*[StatusCode.UNAVAILABLE] * 4)
    async with serving(behaviour) as backend, channel_with(hedge(4), backend) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert error.code() is StatusCode.UNAVAILABLE
    assert behaviour.arrived == len(error.attempts) == 4


async def test_response_headers_decide_the_race() -> None:
    behaviour = Scripted("hang", "begin")
    async with serving(behaviour) as backend, channel_with(hedge(2), backend) as channel:
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        assert (await call.initial_metadata())["number"] == "1"
        await until(lambda: behaviour.cancelled == 1)
        behaviour.release.set()
        assert (await call).number == 1


@pytest.mark.parametrize(("pushback", "arrivals"), [("0", 2), ("-1", 1), ("later", 1)])
async def test_pushback_decides_on_the_next_attempt(pushback: str, arrivals: int) -> None:
    behaviour = Scripted(StatusCode.UNAVAILABLE, "answer", pushback=pushback)
    async with serving(behaviour) as backend, channel_with(hedge(2, NEVER_S), backend) as channel:
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        assert await call.code() is (StatusCode.OK if arrivals == 2 else StatusCode.UNAVAILABLE)
        assert not channel.retrying
    assert behaviour.arrived == arrivals


async def test_calls_that_wait_for_their_next_attempt_end_with_their_deadline_or_channel() -> None:
    behaviour = Scripted(StatusCode.UNAVAILABLE, pushback="1000000")
    async with serving(behaviour) as backend, channel_with(hedge(2, NEVER_S), backend) as channel:
        error = await failure(unary(channel)(Item(), timeout=0.03))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert not channel.retrying
    behaviour = Scripted(StatusCode.UNAVAILABLE, pushback="1000000")
    async with serving(behaviour) as backend, channel_with(hedge(2, NEVER_S), backend) as channel:
        call = unary(channel)(Item())
        await until(lambda: channel.retrying)
        await channel.close()
        assert await call.code() is StatusCode.CANCELLED


async def test_cancelling_the_call_cancels_every_attempt() -> None:
    behaviour = Scripted("hang", "hang", "hang")
    async with serving(behaviour) as backend, channel_with(hedge(3), backend) as channel:
        call = unary(channel)(Item())
        await until(lambda: behaviour.arrived == 3)
        assert call.cancel()
        await until(lambda: behaviour.cancelled == 3)
        assert [subchannel.in_flight for subchannel in channel.subchannels()] == [0]


async def test_tokens_and_budgets_bound_hedges_too() -> None:
    behaviour = Scripted("answer", "answer", "answer")
    budget = lbkit.RetryBudget(0.0, minimum_per_s=0.0)
    async with serving(behaviour) as backend:
        async with channel_with(hedge(3), backend, retry_budget=budget) as channel:
            await unary(channel)(Item(), timeout=PATIENCE_S)
        async with channel_with(hedge(3), backend) as channel:
            channel.retry_throttle = RetryThrottle(RetryThrottling(2, 0.1))
            channel.retry_throttle.failed()
            await unary(channel)(Item(), timeout=PATIENCE_S)
    assert behaviour.arrived == 2


class Streams:
    """A servicer that hangs, or fails, after so many requests; or echoes."""

    def __init__(self, what: str, after: int = 0) -> None:
        self.what = what
        self.after = after
        self.read: list[int] = []
        self.cancelled = asyncio.Event()

    async def StreamStream(self, requests: Any, context: lbkit.ServicerContext) -> Any:
        try:
            async for request in requests:
                self.read.append(request.number)
                if len(self.read) == self.after and self.what == "fail":
                    await context.abort(StatusCode.UNAVAILABLE, "no")
                if self.what == "echo" and len(self.read) > self.after:
                    yield request
            if self.what == "hang":
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def UnaryStream(self, request: Any, context: lbkit.ServicerContext) -> Any:
        if self.what == "hang":
            await self.cancelled.wait()
        for number in range(request.number):
            yield Item(number=number)


async def test_streams_go_to_every_attempt_and_one_goes_on() -> None:
    slow, good = Streams("hang"), Streams("echo", after=2)
    async with kinds_with(hedge(2), slow, good) as stub:
        call = stub.StreamStream(timeout=PATIENCE_S)
        await call.write(Item(number=1))
        await call.write(Item(number=2))
        await until(lambda: slow.read == good.read == [1, 2])
        await call.write(Item(number=3))
        assert (await call.read()).number == 3
        await slow.cancelled.wait()
        await call.write(Item(number=4))
        await call.done_writing()
        assert [(await call.read()).number, await call.read()] == [4, EOF]
    assert slow.read[:2] == [1, 2]
    assert good.read == [1, 2, 3, 4]


async def test_a_stream_whose_own_attempt_failed_is_written_on_to_the_others() -> None:
    bad, good = Streams("fail", after=1), Streams("echo", after=2)
    async with kinds_with(hedge(2, NEVER_S), bad, good) as stub:
        for _ in range(2):  # whichever of the two is asked first
            bad.read.clear()
            good.read.clear()
            call = stub.StreamStream(timeout=PATIENCE_S)
            for number in (1, 2, 3):
                await call.write(Item(number=number))
            await call.done_writing()
            assert [item.number async for item in call] == [3]


async def test_a_stream_that_wrote_too_much_keeps_one_attempt() -> None:
    one, two = Streams("hang"), Streams("hang")
    async with kinds_with(hedge(2), one, two) as stub:
        call = stub.StreamStream(timeout=PATIENCE_S)
        await call.write(Item(number=0))
        await until(lambda: one.read == two.read == [0])
        for number in range(1, 60):
            await call.write(Item(number=number, text="x" * 10_000))
        await call.done_writing()
        await until(lambda: max(len(one.read), len(two.read)) == 60)
        assert sorted([one.cancelled.is_set(), two.cancelled.is_set()]) == [False, True]
        call.cancel()


async def test_a_server_stream_is_the_first_ones_that_begins() -> None:
    slow, good = Streams("hang"), Streams("echo")
    async with kinds_with(hedge(2), slow, good) as stub:
        for _ in range(2):
            call = stub.UnaryStream(Item(number=3), timeout=PATIENCE_S)
            assert [item.number async for item in call] == [0, 1, 2]
