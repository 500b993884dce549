"""Service configs over real connections: what they do to calls, and what becomes of calls when they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import lbkit
from lbkit import Endpoint, Resolution, ServiceConfigError, StatusCode
from lbkit_resolvers.manual import Manual
from tests.support.servers import (
    PATIENCE_S,
    QUICK,
    Backend,
    Item,
    channel_to,
    failure,
    fleet,
    serving,
    silence,
    unary,
    until,
)

METHOD = {"service": "lbkit.tests.Kinds", "method": "UnaryUnary"}
BAD = {"methodConfig": [{"name": [{}], "timeout": 5}]}


def methods(**fields: Any) -> dict[str, Any]:
    """A config for ``UnaryUnary``."""
    return {"methodConfig": [{"name": [METHOD], **fields}]}


def answer(*backends: Backend, config: Any = None) -> Resolution:
    return Resolution(tuple(Endpoint(backend.address) for backend in backends), config)


async def hang(request: Any, context: lbkit.ServicerContext) -> Any:
    await asyncio.get_running_loop().create_future()


async def big(request: Any, context: lbkit.ServicerContext) -> Any:
    return Item(text="x" * request.number)


@pytest.fixture
def manual(request: pytest.FixtureRequest) -> Manual:
    return Manual(request.node.name)


def manual_channel(manual: Manual, **options: Any) -> lbkit.Channel:
    return lbkit.Channel(manual.target, backoff=QUICK, **options)


# Methods


async def test_wrong_config_is_an_error_where_the_channel_is_made() -> None:
    with pytest.raises(
        ServiceConfigError, match=r'methodConfig\[0\]\.timeout: 5 is not a duration like "1\.5s"'
    ):
        lbkit.Channel("static:///127.0.0.1:1", service_config=BAD)
    with pytest.raises(ServiceConfigError, match="not JSON: line 2, column 1"):
        lbkit.Channel("static:///127.0.0.1:1", service_config="{\n")


async def test_smaller_timeout_of_config_and_call_counts() -> None:
    async with serving(hang) as backend:
        async with channel_to(backend, service_config=methods(timeout="0.05s")) as channel:
            for timeout in (None, PATIENCE_S):
                error = await failure(unary(channel)(Item(), timeout=timeout))
                assert error.code() is StatusCode.DEADLINE_EXCEEDED
        async with channel_to(backend, service_config=methods(timeout="100s")) as channel:
            error = await failure(unary(channel)(Item(), timeout=0.05))
            assert error.code() is StatusCode.DEADLINE_EXCEEDED


async def test_server_is_told_the_methods_timeout() -> None:
    left: list[float | None] = []

    async def look(request: Any, context: lbkit.ServicerContext) -> Any:
        left.append(context.time_remaining())
        return request

    config = methods(timeout="30s")
    async with serving(look) as backend, channel_to(backend, service_config=config) as channel:
        await unary(channel)(Item())  # begins before the resolver has answered
        await unary(channel)(Item())
    assert all(seconds is not None and 20 < seconds <= 30 for seconds in left)
    assert len(left) == 2


async def test_timeout_of_zero_ends_calls_before_they_begin() -> None:
    async with serving() as backend, channel_to(backend, service_config=methods(timeout="0s")) as channel:
        for _ in range(2):  # before the resolver has answered, and after
            assert (await failure(unary(channel)(Item()))).code() is StatusCode.DEADLINE_EXCEEDED
        assert backend.calls == 0


async def test_method_waits_for_ready_unless_the_call_says_otherwise() -> None:
    async with channel_to("127.0.0.1:1", service_config=methods(waitForReady=True)) as channel:
        for _ in range(2):  # before the resolver has answered, and after
            error = await failure(unary(channel)(Item(), timeout=0.2))
            assert error.code() is StatusCode.DEADLINE_EXCEEDED
            error = await failure(unary(channel)(Item(), timeout=PATIENCE_S, wait_for_ready=False))
            assert error.code() is StatusCode.UNAVAILABLE


async def test_call_may_wait_for_ready_where_the_method_does_not() -> None:
    async with channel_to("127.0.0.1:1", service_config=methods(waitForReady=False)) as channel:
        assert (await failure(unary(channel)(Item()))).code() is StatusCode.UNAVAILABLE
        error = await failure(unary(channel)(Item(), timeout=0.1, wait_for_ready=True))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("config", "channels", "calls", "most"),
    [
        (100, None, None, 100),
        (100, 50, None, 50),
        (100, 200, None, 100),
        (100, None, 50, 50),
        (100, None, 200, 100),
        (100, 50, 80, 80),  # a call's own limit replaces the channel's, and the config's counts all the same
        (100, 50, 200, 100),
        (None, 50, 80, 80),
    ],
)
async def test_smaller_size_of_config_and_call_or_channel_counts(
    config: int | None, channels: int | None, calls: int | None, most: int
) -> None:
    fields = {"maxRequestMessageBytes": config, "maxResponseMessageBytes": config}
    options: dict[str, Any] = {"max_request_bytes": channels, "max_response_bytes": channels}
    limits = {"max_request_bytes": calls, "max_response_bytes": calls}
    overhead = Item(text="x" * 60).ByteSize() - 60
    async with (
        serving(big) as backend,
        channel_to(backend, service_config=methods(**fields), **options) as channel,
    ):
        for _ in range(2):  # before the resolver has answered, and after
            await unary(channel)(Item(number=most - overhead), **limits)
            error = await failure(unary(channel)(Item(number=most - overhead + 1), **limits))
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED
            await unary(channel)(Item(text="x" * (most - overhead)), **limits)
            error = await failure(unary(channel)(Item(text="x" * (most - overhead + 1)), **limits))
            assert error.details() == f"request of {most + 1} bytes is larger than the limit of {most}"


async def test_config_may_raise_the_usual_limit_for_responses() -> None:
    config = methods(maxResponseMessageBytes=6 << 20)
    async with serving(big) as backend, channel_to(backend, service_config=config) as channel:
        for _ in range(2):  # before the resolver has answered, and after
            assert len((await unary(channel)(Item(number=5 << 20))).text) == 5 << 20
    async with serving(big) as backend, channel_to(backend, max_response_bytes=8 << 20) as channel:
        await unary(channel)(Item(number=5 << 20))


async def test_other_methods_are_left_alone() -> None:
    config = {"methodConfig": [{"name": [{"service": "another.Service"}], "timeout": "0s"}]}
    async with serving() as backend, channel_to(backend, service_config=config) as channel:
        for _ in range(2):
            assert await unary(channel)(Item(text="a")) == Item(text="a")


# Calls that begin before the resolver has answered


async def test_early_call_gets_what_the_resolvers_first_answer_says(manual: Manual) -> None:
    async with serving(hang) as backend, manual_channel(manual) as channel:
        call = unary(channel)(Item())
        limited = unary(channel)(Item(text="x" * 100))
        await asyncio.sleep(0.01)
        assert not call.done()
        config = methods(timeout="0.05s", maxRequestMessageBytes=50)
        assert manual.update(answer(backend, config=config)).accepted
        assert (await failure(call)).code() is StatusCode.DEADLINE_EXCEEDED
        assert (await failure(limited)).code() is StatusCode.RESOURCE_EXHAUSTED
        assert backend.calls <= 1  # none where the time was over before there was a connection


async def test_early_stream_gets_what_the_resolvers_first_answer_says(manual: Manual) -> None:
    async with serving() as backend, manual_channel(manual) as channel:
        sums: Any = channel.stream_unary("/lbkit.tests.Kinds/StreamUnary")

        async def requests() -> AsyncIterator[bytes]:
            yield b"x"
            yield b"x" * 100
            await asyncio.get_running_loop().create_future()

        call = sums(requests())
        await asyncio.sleep(0.01)
        config = {"methodConfig": [{"name": [{}], "maxRequestMessageBytes": 50}]}
        manual.update(answer(backend, config=config))
        error = await failure(call)
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_earlier_deadline_of_an_early_call_and_its_method_counts(manual: Manual) -> None:
    async with serving(hang) as backend, manual_channel(manual) as channel:
        calls = [unary(channel)(Item(), timeout=timeout) for timeout in (20.0, 100.0, None)]
        await asyncio.sleep(0.01)
        manual.update(answer(backend, config=methods(timeout="50s")))
        own, methods_, none = [call.time_remaining() for call in calls]
        assert own < 20
        assert 40 < methods_ <= 50
        assert 40 < none <= 50
        await until(lambda: backend.calls == 3)
        for call in calls:
            call.cancel()


async def test_early_call_is_retried_as_the_resolvers_first_answer_says(manual: Manual) -> None:
    async def flaky(request: Any, context: lbkit.ServicerContext) -> Any:
        if backend.calls < 3:
            await context.abort(StatusCode.UNAVAILABLE, "not yet")
        return request

    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    async with serving(flaky) as backend, manual_channel(manual) as channel:
        call = unary(channel)(Item(text="a"), timeout=PATIENCE_S)
        await asyncio.sleep(0.01)
        manual.update(answer(backend, config=methods(retryPolicy=policy)))
        assert await call == Item(text="a")
        assert backend.calls == 3


async def test_early_call_waits_for_ready_if_the_default_says_so_and_the_resolver_fails(
    manual: Manual,
) -> None:
    config = methods(waitForReady=True)
    async with serving() as backend, manual_channel(manual, service_config=config) as channel:
        call = unary(channel)(Item(text="a"), timeout=PATIENCE_S)
        refusing = unary(channel)(Item(), wait_for_ready=False)
        await asyncio.sleep(0.01)
        manual.fail(OSError("the registry is down"))
        assert "the registry is down" in (await failure(refusing)).details()
        manual.update(answer(backend))
        assert await call == Item(text="a")


async def test_early_call_whose_selector_raises_ends_alone(manual: Manual) -> None:
    class Selector:
        def select(self, call: lbkit.CallInfo) -> Any:
            if call.metadata:
                raise LookupError("no route")
            return CallConfig(MethodConfig())

    from lbkit.resolution import CallConfig, MethodConfig

    async with serving() as backend, manual_channel(manual) as channel:
        good = unary(channel)(Item(text="a"))
        bad = unary(channel)(Item(), metadata=(("x-any", "1"),))
        await asyncio.sleep(0.01)
        manual.update(Resolution((Endpoint(backend.address),), selector=Selector()))
        assert await good == Item(text="a")
        error = await failure(bad)
        assert error.code() is StatusCode.INTERNAL
        assert "LookupError: no route" in error.details()


# What the resolver says


async def test_resolvers_config_replaces_the_default(manual: Manual) -> None:
    default = methods(timeout="0.05s")
    async with serving(hang) as backend, manual_channel(manual, service_config=default) as channel:
        manual.update(answer(backend, config=methods(waitForReady=True)))
        await channel.ready(PATIENCE_S)
        assert channel.service_config.json == methods(waitForReady=True)
        call = unary(channel)(Item())
        await asyncio.sleep(0.2)
        assert not call.done()
        call.cancel()
        manual.update(answer(backend))
        assert channel.service_config.json == default
        assert (await failure(unary(channel)(Item()))).code() is StatusCode.DEADLINE_EXCEEDED


async def test_resolvers_config_can_be_ignored(manual: Manual) -> None:
    async with serving() as backend, manual_channel(manual, resolver_service_config=False) as channel:
        manual.update(answer(backend, config=methods(timeout="0s")))
        assert await unary(channel)(Item(text="a")) == Item(text="a")
        assert manual.update(answer(backend, config="{")).accepted
        assert repr(channel.service_config) == "ServiceConfig({})"


async def test_wrong_config_keeps_the_last_good_one_and_the_answers_endpoints(
    manual: Manual, caplog: pytest.LogCaptureFixture
) -> None:
    async with fleet(2) as (first, second), manual_channel(manual) as channel:
        good = methods(maxRequestMessageBytes=50)
        manual.update(answer(first, config=good))
        await channel.ready(PATIENCE_S)
        verdict = manual.update(answer(second, config='{"methodConfig": [{"timeout": "1"}]}'))
        assert not verdict.accepted
        reason = """methodConfig[0].timeout: '1' is not a duration like "1.5s\""""
        assert verdict.reason == f"the resolver's service config is wrong: {reason}"
        assert channel.service_config.json == good
        error = await failure(unary(channel)(Item(text="x" * 100)))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "backend 1"
        (record,) = [record for record in caplog.records if record.name == "lbkit.service_config"]
        assert record.levelno == logging.WARNING
        assert reason in record.getMessage()


async def test_wrong_first_config_fails_calls_until_there_is_a_good_one(manual: Manual) -> None:
    async with serving() as backend, manual_channel(manual) as channel:
        early = unary(channel)(Item())
        waiting = unary(channel)(Item(text="a"), wait_for_ready=True, timeout=PATIENCE_S)
        await asyncio.sleep(0.01)
        assert not manual.update(answer(backend, config=BAD)).accepted
        for error in (await failure(early), await failure(unary(channel)(Item()))):
            assert error.code() is StatusCode.UNAVAILABLE
            assert "the resolver's service config is wrong: methodConfig[0].timeout: 5 is" in error.details()
        assert channel.get_state() is lbkit.ConnectivityState.TRANSIENT_FAILURE
        assert manual.update(answer(backend, config={})).accepted
        assert await waiting == Item(text="a")
        assert await unary(channel)(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")


async def test_wrong_first_config_falls_back_to_the_default(manual: Manual) -> None:
    config = methods(maxRequestMessageBytes=50)
    async with serving() as backend, manual_channel(manual, service_config=config) as channel:
        await asyncio.gather(failure(unary(channel)(Item(), timeout=0.01)))
        assert not manual.update(answer(backend, config=BAD)).accepted
        assert await unary(channel)(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")
        error = await failure(unary(channel)(Item(text="x" * 100)))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_polling_resolver_is_asked_again_after_a_wrong_config() -> None:
    asked: list[float] = []

    class Polling(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            asked.append(sink.clock.time())
            config = {} if len(asked) > 1 else BAD
            verdict = sink.update(answer(backend, config=config))
            if not verdict.accepted:
                raise lbkit.ResolverError(verdict.reason)

    async with serving() as backend:
        resolver = Polling(lbkit.Target.parse("poll:///x", {"poll"}))
        async with lbkit.Channel("poll:///x", resolver=resolver, backoff=QUICK) as channel:
            call = unary(channel)(Item(text="a"), wait_for_ready=True, timeout=PATIENCE_S)
            assert await call == Item(text="a")
    assert len(asked) == 2


async def test_selector_of_the_answer_overrides_the_config(manual: Manual) -> None:
    from lbkit.resolution import CallConfig, MethodConfig

    class Selector:
        def select(self, call: lbkit.CallInfo) -> CallConfig:
            return CallConfig(MethodConfig(max_request_bytes=100))

    async with serving() as backend, manual_channel(manual) as channel:
        config = methods(maxRequestMessageBytes=10)
        manual.update(Resolution((Endpoint(backend.address),), config, selector=Selector()))
        assert (await unary(channel)(Item(text="x" * 50))).text == "x" * 50
        assert (await failure(unary(channel)(Item(text="x" * 150)))).code() is StatusCode.RESOURCE_EXHAUSTED


async def test_selector_of_a_rejected_answer_is_not_used(manual: Manual) -> None:
    class Selector:
        def select(self, call: lbkit.CallInfo) -> Any:
            raise NotImplementedError

    async with serving() as backend, manual_channel(manual) as channel:
        manual.update(answer(backend))
        await channel.ready(PATIENCE_S)
        assert not manual.update(Resolution((), selector=Selector())).accepted
        error = await failure(unary(channel)(Item()))
        assert error.code() is StatusCode.UNAVAILABLE


async def test_health_checks_and_connections_are_handed_to_the_subchannels(manual: Manual) -> None:
    config = {
        "healthCheckConfig": {"serviceName": "x"},
        "connectionScaling": {"maxConnectionsPerSubchannel": 3},
    }
    async with serving() as backend, manual_channel(manual, service_config=config) as channel:
        channel.get_state(try_to_connect=True)
        assert channel._dialler.health_checks is not None
        assert channel._dialler.max_connections == 3
        manual.update(answer(backend, config={}))
        await until(lambda: channel._dialler.health_checks is None)
        assert channel._dialler.max_connections == 1


# Policies


async def test_policy_of_the_default_config_wins_over_the_channels(manual: Manual) -> None:
    config: dict[str, Any] = {"loadBalancingConfig": [{"of_the_future": {}}, {"pick_first": {}}]}
    async with (
        fleet(2) as backends,
        manual_channel(manual, balancer="random", service_config=config) as channel,
    ):
        manual.update(answer(*backends))
        await channel.ready(PATIENCE_S)
        names = {(await unary(channel)(Item())).text for _ in range(10)}
        assert len(names) == 1
        assert channel.balancer == "pick_first"
        assert "pick_first" in repr(channel)


async def test_policy_of_the_resolvers_config_wins_over_all(manual: Manual) -> None:
    default: dict[str, Any] = {"loadBalancingConfig": [{"random": {}}]}
    async with fleet(2) as backends, manual_channel(manual, service_config=default) as channel:
        manual.update(answer(*backends, config={"loadBalancingConfig": [{"pick_first": {}}]}))
        await channel.ready(PATIENCE_S)
        assert channel.balancer == "pick_first"
        manual.update(answer(*backends, config={}))
        await until(lambda: channel.balancer == "round_robin")
        manual.update(answer(*backends))
        await until(lambda: channel.balancer == "random")


async def test_no_call_fails_while_policies_and_configs_change(manual: Manual) -> None:
    policies: list[dict[str, Any]] = [
        {"round_robin": {}},
        {"pick_first": {}},
        {"pick_first": {"shuffleAddressList": True}},
        {"weighted_round_robin": {}},
        {"random": {}},
    ]

    async def slow(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.sleep(0.002)
        return request

    served = 0
    running = True

    def served_more(calls: int) -> Callable[[], bool]:
        wanted = served + calls
        return lambda: served >= wanted

    async def call_on(channel: lbkit.Channel) -> None:
        nonlocal served
        method = unary(channel)
        while running:
            assert await method(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")
            served += 1

    async with (
        serving(slow) as first,
        serving(slow) as second,
        serving(slow) as third,
        manual_channel(manual) as channel,
    ):
        manual.update(answer(first, second))
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(call_on(channel))
            for number in range(40):
                config = {
                    "loadBalancingConfig": [policies[number % len(policies)]],
                    "methodConfig": [{"name": [{}], "timeout": f"{10 + number}s"}],
                }
                backends = (first, second, third)[number % 2 :][:2]
                assert manual.update(answer(*backends, config=config)).accepted
                await until(served_more(10))
            running = False
        assert channel.balancer == "random"
        assert channel.service_config.method("/a/b").timeout_s == 49.0
        await until(lambda: len(list(channel.subchannels())) == 2)
    assert served > 400


async def test_old_policy_serves_while_the_new_one_cannot_connect(manual: Manual) -> None:
    config: dict[str, Any] = {"loadBalancingConfig": [{"random": {}}]}
    async with silence() as port, serving() as backend, manual_channel(manual) as channel:
        manual.update(answer(backend))
        await channel.ready(PATIENCE_S)
        assert manual.update(Resolution((Endpoint(f"127.0.0.1:{port}"),), config)).accepted
        for _ in range(20):
            assert await unary(channel)(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")
        assert channel.balancer == "round_robin"
        manual.update(answer(backend, config=config))
        await until(lambda: channel.balancer == "random")
        assert await unary(channel)(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")
