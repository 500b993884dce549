"""Only ever type-checked: what mypy-protobuf's stubs make of a blocking channel and server.

What is ignored is meant to be an error; see ``generated_stubs.py``.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import grpc

import lbkit
from lbkit import sync
from tests.support.protos.gencode.v1_85.kinds_pb2_grpc import (
    KindsServicer,
    KindsStub,
    add_KindsServicer_to_server,
)
from tests.support.protos.kinds_pb2 import Item


def items() -> Iterator[Item]:
    yield Item()


def calls_are_those_of_the_blocking_stub(channel: sync.Channel) -> None:
    stub = KindsStub(channel)
    assert_type(stub, KindsStub)
    assert_type(stub.UnaryUnary(Item(), timeout=1.0, metadata=(("a", "b"),)), Item)
    assert_type(stub.StreamUnary(items()), Item)
    assert_type([item for item in stub.UnaryStream(Item())], list[Item])  # noqa: C416
    response, call = stub.UnaryUnary.with_call(Item())
    assert_type(response, Item)
    assert_type(call.details(), str)


def mistakes_in_calls_are_found(channel: sync.Channel) -> None:
    stub = KindsStub(channel)
    stub.UnaryUnary("text")  # type: ignore[arg-type]
    stub.UnaryUnary(Item()).txt  # type: ignore[attr-defined]
    stub.UnaryUnari  # type: ignore[attr-defined]


def channel_and_server_are_those_of_grpc_and_more(
    channel: sync.Channel, server: sync.Server, servicer: KindsServicer
) -> None:
    theirs: grpc.Channel = channel
    theirs.close()
    assert_type(channel.get_state(), lbkit.ConnectivityState)
    channel.unari_unary  # type: ignore[attr-defined]
    blocking: grpc.Server = server
    add_KindsServicer_to_server(servicer, blocking)
    assert_type(server.bind("127.0.0.1:0"), int)
