"""Policies, selectors and resolvers that speak as if they were the server: C30 of the catalogue, gRFC A54.

What the application reads as the server's word about its request (not found, aborted, even OK) must not come from what
only chooses a server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lbkit
from lbkit import Drop, Fail, Status, StatusCode
from lbkit.resolution import CallConfig
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Item, calling, channel_to, failure, serving, unary

ALL = list(StatusCode)
SERVERS_ONLY = [
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ABORTED,
    StatusCode.OUT_OF_RANGE,
    StatusCode.DATA_LOSS,
]


def expected(code: StatusCode) -> StatusCode:
    """What the application must be told instead of a code, or the code."""
    return StatusCode.INTERNAL if code in SERVERS_ONLY else code


def judge(error: lbkit.RpcError, code: StatusCode, who: str) -> None:
    """Check that the code was rewritten if it had to be, and who said it is told then."""
    assert error.code() is expected(code)
    rewritten = f"{who} said {code.name}: no way"
    assert error.details() == (rewritten if code in SERVERS_ONLY else "no way")


def answering(answer: Any) -> dict[str, Any]:
    """Channel options for a policy that gives every pick the same answer, once a backend is there."""
    lbkit.balancer("tests_control_plane")(lambda ready, call: answer)
    return {"balancer": "tests_control_plane"}


@pytest.mark.parametrize("make", [Fail, Drop])
@pytest.mark.parametrize("code", ALL, ids=lambda code: code.name)
async def test_c30_codes_of_a_policy_are_not_the_servers(
    make: Callable[[Status], Any], code: StatusCode
) -> None:
    served: list[str] = []

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        served.append(request.text)
        return request

    async with calling(behaviour, channel=answering(make(Status(code, "no way")))) as call:
        judge(await failure(call(Item(), timeout=PATIENCE_S)), code, "the balancing policy")
    assert not served


@pytest.mark.parametrize("code", SERVERS_ONLY, ids=lambda code: code.name)
async def test_c30_a_drop_ends_calls_that_wait_for_ready_as_well(code: StatusCode) -> None:
    async with calling(channel=answering(Drop(Status(code, "no way")))) as call:
        error = await failure(call(Item(), wait_for_ready=True, timeout=PATIENCE_S))
        judge(error, code, "the balancing policy")


@pytest.mark.parametrize("code", SERVERS_ONLY, ids=lambda code: code.name)
async def test_c30_codes_of_a_policy_are_not_the_servers_in_any_kind_of_call(code: StatusCode) -> None:
    options = answering(Fail(Status(code, "no way")))
    async with serving() as backend, channel_to(backend, **options) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        for call in (
            stub.UnaryUnary(Item(), timeout=PATIENCE_S),
            stub.StreamUnary(iter([Item()]), timeout=PATIENCE_S),
            stub.UnaryStream(Item(), timeout=PATIENCE_S).read(),
            stub.StreamStream(iter([Item()]), timeout=PATIENCE_S).read(),
        ):
            judge(await failure(call), code, "the balancing policy")


@pytest.mark.parametrize("code", ALL, ids=lambda code: code.name)
async def test_c30_codes_of_a_call_selector_are_not_the_servers(code: StatusCode) -> None:
    class Selector:
        def select(self, call: lbkit.CallInfo) -> CallConfig:
            raise lbkit.RpcError(code, "no way")

    class Selecting(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            sink.update(lbkit.Resolution((lbkit.Endpoint(backend.address),), selector=Selector()))

    async with serving() as backend:
        resolver = Selecting(lbkit.Target.parse("anything:///x", {"anything"}))
        async with lbkit.Channel("anything:///x", resolver=resolver) as channel:
            await channel.ready(PATIENCE_S)
            judge(await failure(unary(channel)(Item(), timeout=PATIENCE_S)), code, "the call selector")


@pytest.mark.parametrize("code", ALL, ids=lambda code: code.name)
@pytest.mark.parametrize("how", ["raised", "reported"])
async def test_c30_a_resolver_that_fails_is_unavailable_whatever_it_was_told(
    how: str, code: StatusCode
) -> None:
    """A registry's own answer, NOT_FOUND for a missing service, says nothing about the request."""

    class Failing(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            error = lbkit.RpcError(code, "no way")
            if how == "raised":
                raise error
            sink.fail(error)
            await sink.wanted()

    resolver = Failing(lbkit.Target.parse("anything:///x", {"anything"}))
    async with lbkit.Channel("anything:///x", resolver=resolver) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "no way" in error.details()
