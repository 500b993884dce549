"""Reflection v1alpha with grpcio-reflection's client, and v1 with our own messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import lbkit
from lbkit.protos import channelz as channelz_pb
from lbkit.protos import health as health_pb
from lbkit.protos import reflection as v1
from lbkit.protos import reflection_v1alpha as v1alpha
from lbkit.services import reflection
from lbkit.testing import memory_channel
from tests.support.protos import kinds_pb2, kinds_pb2_grpc
from tests.support.servers import PATIENCE_S

KINDS = "lbkit.tests.Kinds"
BOTH = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]

# A program's own pool, with extensions (which proto3 files do not have).
EXTENDED = descriptor_pb2.FileDescriptorProto(name="extended.proto", package="ext", syntax="proto2")
EXTENDED.message_type.add(name="Open").extension_range.add(start=100, end=200)
for number in (120, 110):
    EXTENDED.extension.add(name=f"more_{number}", number=number, label=1, type=5, extendee=".ext.Open")


class Kinds:
    async def UnaryUnary(self, request: Any, context: lbkit.ServicerContext) -> Any:
        return request


def reflected(*pools: DescriptorPool) -> lbkit.Server:
    server = lbkit.Server()
    reflection.add(server, *pools)
    server.add(kinds_pb2, "Kinds", Kinds())
    return server


@asynccontextmanager
async def asking(pb: Any, server: lbkit.Server) -> AsyncGenerator[Callable[..., Any], None]:
    """Give what asks one question on a stream, and the answer."""
    async with memory_channel(server) as channel:
        call = channel.stub(pb, "ServerReflection").ServerReflectionInfo(timeout=PATIENCE_S)

        async def ask(**question: Any) -> Any:
            await call.write(pb.ServerReflectionRequest(host="here", **question))
            return await call.read()

        yield ask
        await call.done_writing()
        assert await call.read() is lbkit.EOF
        assert await call.code() is lbkit.StatusCode.OK


def files(answer: Any) -> list[str]:
    """The names of the files in an answer."""
    protos = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(each).name for each in protos]


versions = pytest.mark.parametrize("pb", [v1, v1alpha], ids=["v1", "v1alpha"])


@versions
async def test_services_are_listed_those_added_by_name_only_included(pb: Any) -> None:
    server = reflected()
    server.add_registered_method_handlers(
        "by.Name", {"Do": grpc.unary_unary_rpc_method_handler(Kinds().UnaryUnary)}
    )
    generic: Any = grpc.method_handlers_generic_handler("by.Generic", {})
    server.add_generic_rpc_handlers([generic])
    async with asking(pb, server) as ask:
        answer = await ask(list_services="*")
        assert [each.name for each in answer.list_services_response.service] == [
            "by.Generic",
            "by.Name",
            *BOTH,
            KINDS,
        ]
        assert (answer.valid_host, answer.original_request.list_services) == ("here", "*")
        missing = await ask(file_containing_symbol="by.Name")
        assert missing.error_response.error_code == lbkit.StatusCode.NOT_FOUND.number
        assert missing.error_response.error_message == "no descriptor of by.Name here"


@versions
async def test_symbols_of_every_kind_lead_to_their_file(pb: Any) -> None:
    async with asking(pb, reflected()) as ask:
        for symbol in (KINDS, f"{KINDS}.UnaryUnary", "lbkit.tests.Item", "lbkit.tests.Item.text"):
            assert kinds_pb2.DESCRIPTOR.name in files(await ask(file_containing_symbol=symbol))


@versions
async def test_lbkits_own_protos_are_described(pb: Any) -> None:
    async with asking(pb, reflected()) as ask:
        for name in BOTH:
            assert files(await ask(file_containing_symbol=name))
        found = await ask(file_by_filename="grpc/health/v1/health.proto")
        assert files(found) == [health_pb.DESCRIPTOR.name]


@versions
async def test_imported_files_come_once_in_a_stream(pb: Any) -> None:
    async with asking(pb, reflected()) as ask:
        name = "grpc/channelz/v1/channelz.proto"
        assert channelz_pb.DESCRIPTOR.name == name
        first = files(await ask(file_by_filename=name))
        assert first[0] == name
        assert sorted(first[1:]) == [
            "google/protobuf/any.proto",
            "google/protobuf/timestamp.proto",
            "google/protobuf/wrappers.proto",
        ]
        assert files(await ask(file_by_filename=name)) == [name]
        assert files(await ask(file_by_filename=first[1])) == [first[1]]


@versions
async def test_extensions_of_a_pool_of_the_program_are_found(pb: Any) -> None:
    pool = DescriptorPool()
    pool.AddSerializedFile(EXTENDED.SerializeToString())
    async with asking(pb, reflected(pool)) as ask:
        answer = (await ask(all_extension_numbers_of_type="ext.Open")).all_extension_numbers_response
        assert (answer.base_type_name, list(answer.extension_number)) == ("ext.Open", [110, 120])
        found = await ask(
            file_containing_extension=pb.ExtensionRequest(containing_type="ext.Open", extension_number=110)
        )
        assert files(found) == ["extended.proto"]
        wrong = pb.ExtensionRequest(containing_type="ext.Open", extension_number=7)
        error = (await ask(file_containing_extension=wrong)).error_response
        assert error.error_message == "no descriptor of extension 7 of ext.Open here"


@versions
@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nope.proto"},
        {"file_containing_symbol": "no.such.Thing"},
        {"file_containing_symbol": f"{KINDS}.NoSuchMethod"},
        {"file_containing_symbol": "lbkit.tests.Item.no_such_field"},
        {"file_containing_symbol": ""},
        {"all_extension_numbers_of_type": "no.such.Type"},
        {"all_extension_numbers_of_type": ""},
    ],
)
async def test_what_is_not_there_is_not_found_and_the_stream_goes_on(
    pb: Any, question: dict[str, str]
) -> None:
    async with asking(pb, reflected()) as ask:
        answer = await ask(**question)
        assert answer.error_response.error_code == lbkit.StatusCode.NOT_FOUND.number
        assert await ask(list_services="")


async def test_empty_question_is_an_error_and_the_stream_goes_on() -> None:
    async with asking(v1, reflected()) as ask:
        assert (await ask()).error_response.error_code == lbkit.StatusCode.INVALID_ARGUMENT.number
        assert await ask(list_services="")


async def test_client_of_grpcio_reads_services_and_messages() -> None:
    server = reflected()
    kinds_pb2_grpc.add_KindsServicer_to_server(kinds_pb2_grpc.KindsServicer(), server)
    port = server.bind("127.0.0.1:0")
    await server.start()

    def look() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database: Any = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            service = pool.FindServiceByName(KINDS)
            return list(database.get_services()), [method.name for method in service.methods]

    try:
        services, methods = await asyncio.to_thread(look)
        assert services == [*BOTH, KINDS]
        assert methods == [method.name for method in kinds_pb2.DESCRIPTOR.services_by_name["Kinds"].methods]
    finally:
        await server.stop()
