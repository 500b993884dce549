"""Only ever type-checked: what mypy-protobuf's stubs make of an lbkit channel and server.

What is ignored is meant to be an error. mypy and pyright complain when it is none; test_types.py looks closer.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

import grpc
import grpc.aio

import lbkit
from tests.support.protos.gencode.v1_85.kinds_pb2_grpc import (
    KindsAsyncStub,
    KindsServicer,
    KindsStub,
    add_KindsServicer_to_server,
)
from tests.support.protos.kinds_pb2 import Item


async def items() -> AsyncIterator[Item]:
    yield Item()


async def calls_are_those_of_the_asynchronous_stub(channel: lbkit.Channel) -> None:
    stub = KindsStub(channel)
    assert_type(stub, KindsAsyncStub)
    assert_type(await stub.UnaryUnary(Item(), timeout=1.0, metadata=(("a", "b"),)), Item)
    assert_type(await stub.StreamUnary(items()), Item)
    assert_type([item async for item in stub.UnaryStream(Item())], list[Item])
    assert_type([item async for item in stub.StreamStream(items())], list[Item])
    call = stub.UnaryUnary(Item(), wait_for_ready=True)
    assert_type(call, grpc.aio.UnaryUnaryCall[Item, Item])
    assert_type(await call.details(), str)


async def mistakes_in_calls_are_found(channel: lbkit.Channel) -> None:
    stub = KindsStub(channel)
    stub.UnaryUnary("text")  # type: ignore[arg-type]
    stub.UnaryUnary(Item(), deadline=1.0)  # type: ignore[call-arg]
    stub.UnaryStream(items())  # type: ignore[arg-type]
    (await stub.UnaryUnary(Item())).txt  # type: ignore[attr-defined]
    stub.UnaryUnari  # type: ignore[attr-defined]


async def channel_is_that_of_grpc_aio_and_more(channel: lbkit.Channel) -> None:
    theirs: grpc.aio.Channel = channel
    await theirs.close(grace=1.0)
    assert_type(channel.get_state(), lbkit.ConnectivityState)
    assert_type(channel.subchannels(), tuple[lbkit.Subchannel, ...])
    assert_type(await channel.unary_unary("/a.B/C")(b""), Any)
    channel.unari_unary  # type: ignore[attr-defined]
    blocking: grpc.Channel = channel  # type: ignore[assignment]
    del blocking


class Kinds(KindsServicer):
    async def UnaryUnary(self, request: Item, context: grpc.aio.ServicerContext[Item, Item]) -> Item:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")

    async def UnaryStream(self, request: Item, context: Any) -> AsyncIterator[Item]:
        yield request

    async def StreamUnary(self, request_iterator: AsyncIterator[Item], context: Any) -> Item:
        return Item(number=sum([item.number async for item in request_iterator]))

    async def StreamStream(self, request_iterator: AsyncIterator[Item], context: Any) -> AsyncIterator[Item]:
        async for item in request_iterator:
            yield item


def servicers_are_added_to_a_server(server: lbkit.Server) -> None:
    add_KindsServicer_to_server(Kinds(), server)
    add_KindsServicer_to_server(object(), server)  # type: ignore[arg-type]


def errors_are_caught_by_either_name(error: Exception) -> None:
    if isinstance(error, lbkit.RpcError):
        assert_type(error.code(), lbkit.StatusCode)
        assert_type(error.backend, str | None)
        error.cod()  # type: ignore[attr-defined]
