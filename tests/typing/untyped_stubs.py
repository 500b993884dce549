"""Only ever type-checked: a stub of grpcio-tools alone has no types, and takes an lbkit channel as it takes any.

What is ignored is meant to be an error, as in ``generated_stubs.py``.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import lbkit
from tests.support.protos import kinds_pb2_grpc
from tests.support.protos.kinds_pb2 import Item


async def reply_gets_its_type_by_hand(channel: lbkit.Channel) -> None:
    stub = kinds_pb2_grpc.KindsStub(channel)
    reply: Item = await stub.UnaryUnary(Item())
    text: str = reply.text
    text.txt  # type: ignore[attr-defined]


async def stub_from_descriptors_has_no_types_either(channel: lbkit.Channel) -> None:
    stub = channel.stub(kinds_pb2_grpc, "Kinds")
    reply: Item = await stub.UnaryUnary(Item())
    text: str = reply.text
    text.txt  # type: ignore[attr-defined]
