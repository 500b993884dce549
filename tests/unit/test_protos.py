"""The messages of others that lbkit brings in its own pool are theirs: same names, numbers, types; or fewer of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import status_pb2
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from lbkit.protos import POOL, channelz, health, reflection, reflection_v1alpha, rpc_status

PUBLIC = Path(__file__).parents[2] / "lbkit/protos/public"
PAIRS: list[tuple[Any, Any]] = [
    (health, health_pb2),
    (reflection, reflection_pb2),
    (reflection_v1alpha, reflection_pb2),
    (channelz, channelz_pb2),
    (rpc_status, status_pb2),
]


def described(file: Any) -> Iterator[str]:
    """Every field, enum value and method of a file, as a line of text; without the package."""

    def of_message(message: Any) -> Iterator[str]:
        for field in message.fields:
            kind = field.message_type or field.enum_type
            of = kind.full_name if kind is not None else field.type
            one = field.containing_oneof
            yield f"{message.full_name}.{field.name} = {field.number}: {of} {field.is_repeated} {one and one.name}"
        for enum in message.enum_types:
            yield from (f"{enum.full_name}.{value.name} = {value.number}" for value in enum.values)
        for nested in message.nested_types:
            yield from of_message(nested)

    lines = [line for message in file.message_types_by_name.values() for line in of_message(message)]
    for service in file.services_by_name.values():
        for method in service.methods:
            streams = method.client_streaming, method.server_streaming
            types = method.input_type.full_name, method.output_type.full_name
            lines.append(f"{method.full_name} {types} {streams}")
    yield from (line.replace(file.package, "pkg") for line in lines)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda module: module.__name__)
def test_fields_are_those_of_the_original(ours: Any, theirs: Any) -> None:
    # ErrorResponse and others have the same fields in v1 and v1alpha of reflection.
    assert set(described(ours.DESCRIPTOR)) <= set(described(theirs.DESCRIPTOR))
    methods = [set(file.services_by_name) for file in (ours.DESCRIPTOR, theirs.DESCRIPTOR)]
    assert methods[0] == methods[1]


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS], ids=lambda module: module.__name__)
def test_messages_are_in_a_pool_of_their_own_under_their_public_path(ours: Any) -> None:
    name = ours.DESCRIPTOR.name
    assert POOL.FindFileByName(name) is ours.DESCRIPTOR
    assert (PUBLIC / name).exists()
    for message in ours.DESCRIPTOR.message_types_by_name:
        assert getattr(ours, message).DESCRIPTOR is ours.DESCRIPTOR.message_types_by_name[message]


def test_messages_of_either_pool_read_each_other() -> None:
    sent = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
    got = health.HealthCheckResponse.FromString(sent.SerializeToString())
    assert got.status == health.HealthCheckResponse.NOT_SERVING
