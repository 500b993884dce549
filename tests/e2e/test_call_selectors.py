"""Call selectors (gRFC A31): what a resolution may decide for each call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from tests.support.servers import (
    PATIENCE_S,
    Item,
    failure,
    serving,
    unary,
)


async def test_call_selector_sets_timeouts_and_hears_of_each_calls_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from lbkit.resolution import CallConfig, MethodConfig

    ended: list[str] = []

    def on_commit() -> None:
        ended.append("once")
        raise LookupError("the selector is broken")

    class Selector:
        def select(self, call: lbkit.CallInfo) -> CallConfig:
            slow = ("x-slow", "1") in call.metadata
            return CallConfig(MethodConfig(timeout_s=0.05 if slow else None), on_commit=on_commit)

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        if request.number:
            await asyncio.get_running_loop().create_future()  # for ever
        return request

    class Selecting(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            endpoints = (lbkit.Endpoint(backend.address),)
            sink.update(lbkit.Resolution(endpoints, selector=Selector()))

    async with serving(behaviour) as backend:
        resolver = Selecting(lbkit.Target.parse("anything:///x", {"anything"}))
        async with lbkit.Channel("anything:///x", resolver=resolver) as channel:
            await channel.ready(PATIENCE_S)
            assert await unary(channel)(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")
            error = await failure(unary(channel)(Item(number=1), metadata=iter([("x-slow", "1")])))
            assert error.code() is StatusCode.DEADLINE_EXCEEDED
            assert await unary(channel)(Item(text="b"), timeout=PATIENCE_S) == Item(text="b")
            assert len(channel._dialler._connections) == 1
    assert ended == ["once"] * 3
    assert len(caplog.records) == 3


async def test_call_selector_that_raises_fails_the_call_only(caplog: pytest.LogCaptureFixture) -> None:
    from lbkit.resolution import NOTHING, CallConfig, MethodConfig

    class Selector:
        def select(self, call: lbkit.CallInfo) -> CallConfig:
            if call.metadata:
                raise LookupError("no route")
            return CallConfig(MethodConfig(), NOTHING)

    class Selecting(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            sink.update(lbkit.Resolution((lbkit.Endpoint(backend.address),), selector=Selector()))

    async with serving() as backend:
        resolver = Selecting(lbkit.Target.parse("anything:///x", {"anything"}))
        async with lbkit.Channel("anything:///x", resolver=resolver) as channel:
            await channel.ready(PATIENCE_S)
            error = await failure(unary(channel)(Item(), metadata=(("x-any", "1"),), timeout=1.0))
            assert error.code() is StatusCode.INTERNAL
            assert "LookupError: no route" in error.details()
            assert await unary(channel)(Item(text="a"), timeout=PATIENCE_S) == Item(text="a")
    assert "no route" in caplog.text
